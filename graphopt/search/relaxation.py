"""The problem with its constraints priced instead of kept: bounds from below, and candidates near the optimum.

Whatever the Lagrange multipliers are, the minimum of objective + multipliers x (metrics / bounds - 1) is a lower bound
for every feasible candidate. The best multipliers are found by following the cuts that each minimum gives (one at a
time), then by subgradient steps (Polyak's length). Peak memory does not add up: the bound leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphopt.search.elimination import CHANGES, MAX_ENTRIES, Elimination, Prices
from graphopt.search.goal import PEAK
from graphopt.search.objective import CHANGE, Bound, Scorer
from graphopt.search.strategy import ROUNDING, Certificate
from graphopt.space.table import Candidates, CostTable

WORK = 200_000_000
"""Entries that all minimisations together go through, about; it decides how many there are."""

CUTS = 40
"""Minimisations for one multiplier at most."""

STEEPEST = 1e9
"""A multiplier above this only says that its constraint is out of reach."""

PATIENCE = 5
"""Subgradient steps without a better bound after which they become shorter."""


class Relaxation:
    """The problem with its constraints priced instead of kept.

    Attributes:
        bound: the best lower bound so far, as a score.
    """

    def __init__(self, table: CostTable, scorer: Scorer, max_entries: int = MAX_ENTRIES, work: int = WORK) -> None:
        """``max_entries`` bounds the arrays (see :class:`Elimination`), ``work`` what all minimisations go through."""
        self._weights = {**_adding(scorer.weights), CHANGES: CHANGE}
        self._table = table
        self._scorer = scorer
        parts = [Bound(_adding(bound.weights), bound.limit) for bound in scorer.bounds]
        self._bounds = [bound for bound in parts if bound.weights]
        self._metrics = sorted({metric for bound in self._bounds for metric in bound.weights})
        self._elimination = Elimination(table, max_entries)
        self._left = max(work // max(self._elimination.entries, 1), 8)
        self._met: dict[bytes, Candidates] = {}
        self.bound = -np.inf

    @property
    def complete(self) -> bool:
        """Whether the minima are minima, and not only bounds."""
        return self._elimination.complete

    def candidates(self) -> Candidates:
        """The default and every minimum met, shape (candidates, variables)."""
        return np.array([self._table.default(), *self._met.values()])

    def certificate(self, score: float) -> Certificate:
        """A score and the bound in the objective's unit, and what may lie between them."""
        reasons = []
        if not self._elimination.complete:
            reasons.append("too many decisions meet for an exact answer")
        if self._bounds:
            reasons.append("the constraints are relaxed")
        if self._scorer.peak:
            reasons.append("the bound leaves peak memory out")
        unit = self._scorer.unit
        return Certificate(str(self._scorer.level), score * unit, float(self.bound) * unit, "; ".join(reasons))

    def maximise(self, upper: float = np.inf) -> None:
        """Raise the bound; ``upper`` is the score of a feasible candidate, if one is known."""
        multipliers = np.zeros(len(self._bounds))
        _, off = self._at(multipliers)
        if (off <= 0).all():
            return
        for _ in range(2 if len(off) > 1 else 1):
            for constraint in range(len(off)):
                multipliers = self._follow_cuts(multipliers, constraint)
        if len(off) > 1:
            self._step(multipliers, upper)

    def _at(self, multipliers: Prices) -> tuple[float, Prices]:
        """The relaxed minimum (or a bound below it), and how far its candidate is off each constraint."""
        self._left -= 1
        weights = dict(self._weights)
        for bound, price in zip(self._bounds, multipliers, strict=True):
            for metric, weight in bound.weights.items():
                weights[metric] = weights.get(metric, 0.0) + float(price) * weight / bound.limit
        value, row = self._elimination.minimise(weights, self._metrics)
        value -= float(multipliers.sum())
        self.bound = max(self.bound, value)
        self._met.setdefault(row.tobytes(), row)
        values = dict(zip(self._metrics, self._table.evaluate(row[None], self._metrics), strict=True))
        return value, np.array([float(bound.off(values)[0]) for bound in self._bounds])

    def _follow_cuts(self, multipliers: Prices, constraint: int) -> Prices:
        """The best value of one multiplier: where the lines that two minima draw cross, as long as that is new."""

        def line(price: float) -> tuple[float, float, float]:
            here = multipliers.copy()
            here[constraint] = price
            value, off = self._at(here)
            return price, value, float(off[constraint])

        low, price = line(0.0), 1.0
        if low[2] <= 0:
            return _with(multipliers, constraint, 0.0)
        high = line(price)
        while high[2] > 0 and price < STEEPEST and self._left > 0:
            low, price = high, price * 8
            high = line(price)
        for _ in range(CUTS):
            if high[2] > 0 or self._left <= 0:
                break
            crossing = (high[1] - low[1] + low[0] * low[2] - high[0] * high[2]) / (low[2] - high[2])
            promised = low[1] + (crossing - low[0]) * low[2]
            if not low[0] < crossing < high[0]:
                break
            middle = line(crossing)
            if middle[1] >= promised - ROUNDING * abs(promised) * 1e-3:
                return _with(multipliers, constraint, crossing)
            low, high = (middle, high) if middle[2] > 0 else (low, middle)
        best = max(low, high, key=lambda point: point[1])
        return _with(multipliers, constraint, best[0])

    def _step(self, multipliers: Prices, upper: float) -> None:
        """Subgradient steps for several multipliers at once, as long as a feasible candidate says how far to go."""
        upper = min(upper, float(self._scorer(self.candidates()).min()))
        if not self._scorer.feasible(upper):
            return
        length, waited = 1.0, 0
        for _ in range(min(self._left, 100)):
            before = self.bound
            value, off = self._at(multipliers)
            multipliers = np.maximum(0.0, multipliers + length * (upper - value) / max(float(off @ off), 1e-12) * off)
            waited = 0 if self.bound > before else waited + 1
            if waited == PATIENCE:
                length, waited = length / 2, 0
            if upper - self.bound <= ROUNDING * upper:
                break


def _adding(weights: Mapping[int, float]) -> dict[int, float]:
    """The part of a weighted sum that adds up over the factors; what is left out is never below 0."""
    return {metric: weight for metric, weight in weights.items() if metric != PEAK}


def _with(multipliers: Prices, constraint: int, price: float) -> Prices:
    changed = multipliers.copy()
    changed[constraint] = price
    return changed
