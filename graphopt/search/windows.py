"""Large neighbourhoods: many decisions that meet, chosen together by elimination while all others stay.

A window grows from one decision along the prices that it shares with others, as far as elimination stays cheap. Where
that is the whole table, one window is the optimum, or nearly so where constraints ask for a little branching; where too
many decisions meet, windows overlap and go round until nothing improves.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphopt.search.branching import Branching
from graphopt.search.budget import Budget
from graphopt.search.objective import Scorer
from graphopt.search.relaxation import Relaxation
from graphopt.space.table import Candidates, CostTable

MAX_ENTRIES = 200_000
"""Entries of one array of a window's elimination at most."""

WORK = 10_000_000
"""Entries that the minimisations of one window go through, about."""

CUTS = 12
"""Times that the space is cut where its relaxation leaves a gap."""

LARGEST, SMALLEST = 256, 4
"""Decisions of a window that is not the whole table."""

BUSY = 32
"""A decision in more factors than this (a knob) is in no window but the whole."""


class Windows:
    """The windows of a table.

    Attributes:
        met: candidates met on the way that were better than where they came from.
        proved: whether the last answer is the optimum.
    """

    def __init__(self, table: CostTable, scorer: Scorer, budget: Budget) -> None:
        self._table = table
        self._scorer = scorer
        self._budget = budget
        self._whole = Relaxation(table, scorer, MAX_ENTRIES, WORK)
        self.met: list[Candidates] = []
        self.proved = False

    def improve(self, at: Candidates, score: float) -> tuple[Candidates, float]:
        """Choose window after window anew until none improves, and return the candidate and its score."""
        if self._whole.complete:
            tree = Branching(self._whole, score)
            tree.run(self._budget, CUTS)
            self.proved = tree.closed
            return (at, score) if tree.best is None else self._better(at, score, tree.best[None])
        improved = True
        while improved and not self._budget.spent(self._scorer.evaluations):
            improved = False
            for window in self._all():
                if self._budget.spent(self._scorer.evaluations):
                    break
                rows = self._chosen(window, at)
                moved, value = self._better(at, score, rows)
                improved = improved or value < score
                at, score = moved, value
        return at, score

    def _better(self, at: Candidates, score: float, rows: Candidates) -> tuple[Candidates, float]:
        values = self._scorer(rows)
        first = int(values.argmin())
        if not values[first] < score:
            return at, score
        self.met.append(rows[first])
        return rows[first], float(values[first])

    def _chosen(self, window: list[int], at: Candidates) -> Candidates:
        """Whole candidates with the minima of a window, as large a part of it as can be eliminated."""
        while True:
            part = self._table.within(window, at)
            relaxed = Relaxation(part, self._scorer.within(part), MAX_ENTRIES, WORK)
            if relaxed.complete or len(window) <= SMALLEST:
                break
            window = window[: len(window) // 2]
        minima = relaxed.solve(relaxed.root).rows
        rows = np.repeat(at[None], len(minima), axis=0)
        rows[:, window] = minima
        return rows

    def _all(self) -> Iterator[list[int]]:
        """Windows that together hold every decision, each beginning with those that meet its centre."""
        meetings, factors = self._table.meetings, self._table.factors
        free = {v for v, options in enumerate(self._table.sizes) if options > 1 and len(meetings[v]) <= BUSY}
        waiting = dict.fromkeys(sorted(free))
        while waiting:
            centre = next(iter(waiting))
            window, seen = [centre], {centre}
            for variable in window:
                near = {v for number in meetings[variable] for v in factors[number].variables}
                for other in sorted((near & free) - seen):
                    if len(window) < LARGEST:
                        window.append(other)
                        seen.add(other)
            for variable in window[: max(len(window) // 2, 1)]:  # the outer half is another window's inner one
                waiting.pop(variable, None)
            yield window
