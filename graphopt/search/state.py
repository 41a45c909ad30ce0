"""The best that searches found, kept in a file, so that another run goes on where one stopped.

The file is no plan: it holds option numbers, and counts only for the very same priced space, objective and bounds.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import ConfigError
from graphopt.outputs import write_text
from graphopt.search.objective import Scorer
from graphopt.search.strategy import Found, SearchName
from graphopt.space.table import Candidates, CostTable

FORMAT = 1

MAX_BYTES = 50_000_000
"""A file above this is no state of ours."""

MAX_SEARCHES = 64
"""Searches that a file remembers, the latest ones."""

MAX_ROWS = 512
"""Candidates kept of one search."""


@dataclass
class SearchState:
    """What a file knows.

    Attributes:
        path: the file.
        searches: for each key the number of runs and the candidates, the best one first.
    """

    path: Path
    searches: dict[str, tuple[int, list[list[int]]]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path) -> SearchState:
        """Read a file, or begin with nothing where there is none.

        Raises:
            ConfigError: it is something else, or damaged.
        """
        path = Path(path)
        if not path.exists():
            return cls(path)
        if path.stat().st_size > MAX_BYTES:
            raise _wrong(path)
        try:
            return cls(path, _searches(json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, RecursionError) as error:
            raise _wrong(path) from error

    def get(self, key: str, table: CostTable) -> tuple[int, Candidates | None]:
        """How often this search was run, and its candidates, the best first. A key only fits its own table.

        Raises:
            ConfigError: candidates that the table cannot have.
        """
        runs, rows = self.searches.get(key, (0, []))
        if not rows:
            return runs, None
        if any(len(row) != len(table.variables) for row in rows):
            raise _wrong(self.path)
        found = np.array(rows, np.int64).reshape(len(rows), len(table.variables))
        if ((found < 0) | (found >= table.sizes)).any():
            raise _wrong(self.path)
        return runs, found

    def put(self, key: str, found: Found) -> None:
        """Keep what a search found, and write the file."""
        runs, _ = self.searches.pop(key, (0, []))
        rows = [found.best.tolist(), *(row.tolist() for row in found.front[: MAX_ROWS - 1])]
        self.searches[key] = runs + 1, rows
        kept = dict(list(self.searches.items())[-MAX_SEARCHES:])
        body = {key: {"runs": runs, "candidates": rows} for key, (runs, rows) in kept.items()}
        text = {"format": FORMAT, "digest": _digest(body), "searches": body}
        write_text(self.path, json.dumps(text) + "\n")


def key_of(name: SearchName, table: CostTable, scorer: Scorer, seed: int) -> str:
    """What a search is about: strategy, prices, objective, bounds and seed."""
    digest = hashlib.sha256()
    variables = [(variable.kind, variable.id, variable.options) for variable in table.variables]
    parts = (name, seed, str(scorer.objective), str(scorer.constraints), variables, table.default().tolist())
    digest.update(repr(parts).encode())
    for factor in table.factors:
        digest.update(repr(factor.variables).encode())
        for offsets in factor.offsets:
            digest.update(np.ascontiguousarray(offsets, np.int64).tobytes())
    digest.update(np.ascontiguousarray(table.prices).tobytes() + table.constant.tobytes())
    if scorer.peak:
        for instant in table.instants:
            digest.update(repr(instant.variables).encode() + np.ascontiguousarray(instant.live).tobytes())
    return digest.hexdigest()


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _searches(read: Any) -> dict[str, tuple[int, list[list[int]]]]:
    """The searches in what was read. Raises ``ValueError`` for anything that :meth:`SearchState.put` does not write."""
    if not isinstance(read, dict) or set(read) != {"format", "digest", "searches"} or read["format"] != FORMAT:
        raise ValueError("no state")
    body = read["searches"]
    if not isinstance(body, dict) or read["digest"] != _digest(body) or len(body) > MAX_SEARCHES:
        raise ValueError("damaged")
    found = {}
    for key, one in body.items():
        if not isinstance(one, dict) or set(one) != {"runs", "candidates"} or not _is_count(one["runs"]):
            raise ValueError("damaged")
        rows = one["candidates"]
        if not isinstance(rows, list) or not all(isinstance(row, list) and all(map(_is_count, row)) for row in rows):
            raise ValueError("damaged")
        found[key] = one["runs"], rows
    return found


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _wrong(path: Path) -> ConfigError:
    return ConfigError(
        "is no state of a search, or damaged; name a file that --resume wrote, or a new one", file=str(path)
    )
