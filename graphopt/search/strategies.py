"""The strategies by name."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.search.evolve import evolve_search
from graphopt.search.exact import exact_search
from graphopt.search.greedy import greedy_search
from graphopt.search.local import local_search
from graphopt.search.strategy import SearchName, Strategy

STRATEGIES: Mapping[SearchName, Strategy] = {
    "local": local_search,
    "exact": exact_search,
    "evolve": evolve_search,
    "greedy": greedy_search,
}
