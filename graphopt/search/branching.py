"""Branch and bound: regions are cut until no bound is below the best candidate, or the work is done.

A region whose minimum has another peak than the least of the region is cut at a peak between the two; else one decision
in which its last minima differ is split off.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from graphopt.search.budget import Budget
from graphopt.search.goal import PEAK
from graphopt.search.relaxation import Region, Relaxation, Solved
from graphopt.search.strategy import ROUNDING
from graphopt.space.table import Candidates


class Branching:
    """The regions that are open.

    Attributes:
        best: the best candidate known, ``None`` without a feasible one.
        score: its score, or one that is known to be reached; infinite without.
        root: what is known of the whole space.
    """

    def __init__(self, relaxation: Relaxation, score: float = math.inf) -> None:
        """Solve the root; ``score`` is that of a feasible candidate, if one is known."""
        self._relaxation = relaxation
        self._scorer = relaxation.scorer
        self.score = score if self._scorer.feasible(score) else math.inf
        self.best: Candidates | None = None
        self._numbers = itertools.count()
        self._dropped = math.inf
        self._open: list[tuple[float, int, Solved]] = []
        self.root = self._add(relaxation.root, None)

    @property
    def bound(self) -> float:
        """No feasible candidate scores less; infinite where none exists."""
        return min(self.score, self._dropped, self._open[0][0] if self._open else math.inf)

    @property
    def closed(self) -> bool:
        """Whether nothing is left to prove."""
        return not self._open or self._within(self._open[0][0])

    def _within(self, bound: float) -> bool:
        """Whether a bound is the best score, but for rounding."""
        return math.isfinite(self.score) and self.score - bound <= ROUNDING * abs(self.score)

    def offer(self, rows: Candidates) -> None:
        """Tell of candidates."""
        if not len(rows):
            return
        scores = self._scorer(rows)
        first = int(scores.argmin())
        if self._scorer.feasible(float(scores[first])) and scores[first] < self.score:
            self.best, self.score = rows[first], float(scores[first])

    def run(self, budget: Budget, cuts: float = math.inf) -> None:
        """Cut the region with the lowest bound, again and again, so often at most."""
        while not (self.closed or self._relaxation.spent or budget.spent(self._scorer.evaluations)) and cuts > 0:
            cuts -= 1
            _, _, solved = heapq.heappop(self._open)
            for region in self._cut(solved):
                self._add(region, solved)

    def _add(self, region: Region, parent: Solved | None) -> Solved:
        solved = self._relaxation.solve(region, upper=self.score, parent=parent)
        if parent is not None and parent.bound > solved.bound:
            solved = replace(solved, bound=parent.bound)
        self.offer(solved.rows)
        if self._within(solved.bound):
            self._dropped = min(self._dropped, solved.bound)
        elif solved.bound < math.inf:
            heapq.heappush(self._open, (solved.bound, next(self._numbers), solved))
        return solved

    def _cut(self, solved: Solved) -> Iterator[Region]:
        """Parts that together are the region."""
        region = solved.region
        rows = solved.rows
        if not len(rows):
            return
        if self._sums_peak:
            peak = float(self._relaxation.table.peak_bytes(rows[-1:])[0])
            if region.low + 1 < peak <= region.high:
                middle = math.floor((region.low + peak) / 2)
                yield replace(region, high=float(middle))
                yield replace(region, low=float(middle) + 1.0)
                return
        variable = self._variable(solved)
        if variable is None:
            return
        options = int(self._relaxation.table.sizes[variable])
        here = region.allowed.get(variable, np.ones(options, bool))
        chosen = np.arange(options) == rows[-1][variable]
        for part in (here & chosen, here & ~chosen):
            if part.any():
                yield replace(region, allowed={**region.allowed, variable: part})

    @property
    def _sums_peak(self) -> bool:
        """Whether the peak counts in a sum, and not only under a ceiling."""
        sums = [self._scorer.weights, *(bound.weights for bound in self._scorer.bounds if len(bound.weights) > 1)]
        return any(PEAK in weights for weights in sums)

    def _variable(self, solved: Solved) -> int | None:
        """The decision to split: of those in which the last two minima differ, the one that moves the score most."""
        rows, allowed = solved.rows, solved.region.allowed
        sizes = self._relaxation.table.sizes
        free = [v for v in range(len(sizes)) if (allowed[v].sum() if v in allowed else sizes[v]) > 1]
        if not free:
            return None
        last = rows[-1]
        other = next((row for row in rows[-2::-1] if (row[free] != last[free]).any()), None)
        if other is None:
            return free[0]
        differ = [v for v in free if other[v] != last[v]]
        swapped = np.repeat(last[None], len(differ), axis=0)
        swapped[np.arange(len(differ)), differ] = other[differ]
        values = self._scorer.values(swapped)
        here = self._scorer.values(last[None])
        moved = sum(abs(bound.off(values) - bound.off(here)) for bound in self._scorer.bounds)
        return differ[int(np.argmax(moved))]
