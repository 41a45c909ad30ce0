"""The problem with its constraints priced instead of kept: bounds from below, and candidates near the optimum.

Whatever the Lagrange multipliers are, the minimum of objective + multipliers x (metrics / bounds - 1) is a lower bound
for every feasible candidate. The best multipliers are found by following the cuts that each minimum gives (one at a
time), then by subgradient steps (Polyak's length).

Peak memory does not add up; it is the largest of the instants of a model, and each depends on a few decisions. So a
ceiling is kept exactly, and where the peak is part of a sum it counts with the least that a region has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from graphopt.search.budget import current_watch
from graphopt.search.elimination import CHANGES, MAX_ENTRIES, Elimination, Prices
from graphopt.search.goal import PEAK
from graphopt.search.objective import CHANGE, Bound, Scorer
from graphopt.search.strategy import ROUNDING
from graphopt.space.table import Candidates, CostTable

WORK = 200_000_000
"""Entries that all minimisations together go through, about; it decides how many there are."""

DECISION = 5_000
"""Entries that one decision takes as long as."""

LEAST = 16
"""Minimisations in any case."""

CUTS = 40
"""Minimisations for one multiplier at most."""

STEPS = 100
"""Subgradient steps at most."""

STEEPEST = 1e9
"""A multiplier above this only says that its constraint is out of reach."""

PATIENCE = 5
"""Subgradient steps without a better bound after which they become shorter."""


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the space.

    Attributes:
        allowed: which options some variables may take.
        low, high: peak memory is neither below nor above, bytes.
    """

    allowed: Mapping[int, npt.NDArray[np.bool_]] = field(default_factory=dict)
    low: float = 0.0
    high: float = math.inf


@dataclass(frozen=True)
class Solved:
    """The relaxed problem in one region.

    Attributes:
        region: where.
        bound: no feasible candidate there scores less; infinite where there is none.
        multipliers: that gave it.
        rows: the minima met, the last ones nearest to it, shape (minima, variables).
    """

    region: Region
    bound: float
    multipliers: Prices
    rows: Candidates


class Relaxation:
    """The relaxed problem of a table and a scorer, prepared once.

    Attributes:
        root: the whole space.
    """

    def __init__(self, table: CostTable, scorer: Scorer, max_entries: int = MAX_ENTRIES, work: int = WORK) -> None:
        """``max_entries`` bounds the arrays (see :class:`Elimination`), ``work`` what all minimisations go through."""
        self._table = table
        self._scorer = scorer
        self._elimination = Elimination(table, max_entries, peak=scorer.peak)
        self._left = max(work // (self._elimination.entries + DECISION * len(table.variables) + 1), LEAST)
        ceilings = [bound.limit / bound.weights[PEAK] for bound in scorer.bounds if PEAK in bound.weights]
        floor = max((float(instant.live.min()) for instant in table.instants), default=0.0) if scorer.peak else 0.0
        self.root = Region(low=floor, high=min(ceilings, default=math.inf))

    @property
    def complete(self) -> bool:
        """Whether the minima are minima, and not only bounds."""
        return self._elimination.complete

    @property
    def spent(self) -> bool:
        """Whether the work is done, or has to end."""
        return self._left <= 0 or current_watch().over

    def solve(self, region: Region, *, upper: float = math.inf, parent: Solved | None = None) -> Solved:
        """Raise the bound in a region.

        Args:
            region: where.
            upper: score of a feasible candidate, if one is known.
            parent: what is known of a region around it; then less is tried.
        """
        return _Dual(self, region).maximise(upper, None if parent is None else parent.multipliers)

    def minimise(self, region: Region, weights: Mapping[int, float], finite: list[int]) -> tuple[float, Candidates]:
        """One minimisation (see :meth:`Elimination.minimise`)."""
        self._left -= 1
        ceiling = region.high if self._scorer.peak else math.inf
        return self._elimination.minimise(weights, finite, ceiling=ceiling, allowed=region.allowed)

    @property
    def scorer(self) -> Scorer:
        """Objective and constraints."""
        return self._scorer

    @property
    def table(self) -> CostTable:
        """The prices."""
        return self._table


class _Dual:
    """One region's multipliers."""

    def __init__(self, relaxation: Relaxation, region: Region) -> None:
        scorer = relaxation.scorer
        self._relaxation = relaxation
        self._region = region
        self._weights = {**_adding(scorer.weights), CHANGES: CHANGE}
        self._least = scorer.weights.get(PEAK, 0.0) * region.low
        parts = [Bound(_adding(b.weights), b.limit - b.weights.get(PEAK, 0.0) * region.low) for b in scorer.bounds]
        self._bounds = [bound for bound in parts if bound.weights]
        self._finite = sorted({metric for bound in self._bounds for metric in bound.weights})
        self._met: dict[bytes, Candidates] = {}
        self._best = -math.inf
        self._at_best = np.zeros(len(self._bounds))

    def maximise(self, upper: float, known: Prices | None) -> Solved:
        """Raise the bound, from the multipliers that are known for a larger region if there are any."""
        if any(bound.limit <= 0 for bound in self._bounds) or self._region.low > self._region.high:
            return self._solved(math.inf)
        multipliers = np.zeros(len(self._bounds)) if known is None else known.copy()
        _, off = self._at(multipliers)
        if known is None and (off <= 0).all():
            return self._solved(self._best)
        for _ in range(2 if len(off) > 1 and known is None else 1):
            for constraint in range(len(off)):
                if self._best < upper:
                    multipliers = self._follow_cuts(multipliers, constraint)
        if len(off) > 1 and known is None:
            self._step(multipliers, upper)
        return self._solved(self._best)

    def _solved(self, bound: float) -> Solved:
        if bound >= Scorer.INFEASIBLE:  # no feasible candidate scores that much
            bound = math.inf
        rows = np.array([*self._met.values()], np.int64).reshape(len(self._met), len(self._relaxation.table.variables))
        return Solved(self._region, bound, self._at_best, rows)

    def _at(self, multipliers: Prices) -> tuple[float, Prices]:
        """The relaxed minimum (or a bound below it), and how far its candidate is off each constraint."""
        weights = dict(self._weights)
        for bound, price in zip(self._bounds, multipliers, strict=True):
            for metric, weight in bound.weights.items():
                weights[metric] = weights.get(metric, 0.0) + float(price) * weight / bound.limit
        value, row = self._relaxation.minimise(self._region, weights, self._finite)
        value += self._least - float(multipliers.sum())
        if math.isfinite(value):
            self._met.pop(row.tobytes(), None)
            self._met[row.tobytes()] = row
        if value > self._best:
            self._best, self._at_best = value, multipliers.copy()
        prices = self._relaxation.table.evaluate(row[None], self._finite)
        values = dict(zip(self._finite, prices, strict=True))
        return value, np.array([float(bound.off(values)[0]) for bound in self._bounds])

    def _follow_cuts(self, multipliers: Prices, constraint: int) -> Prices:
        """The best value of one multiplier: where the lines that two minima draw cross, as long as that is new."""

        def line(price: float) -> tuple[float, float, float]:
            here = multipliers.copy()
            here[constraint] = price
            value, off = self._at(here)
            return price, value, float(off[constraint])

        low, price = line(0.0), float(multipliers[constraint]) or 1.0
        if low[2] <= 0:
            return _with(multipliers, constraint, 0.0)
        high = line(price)
        while high[2] > 0 and price < STEEPEST and not self._relaxation.spent:
            low, price = high, price * 8
            high = line(price)
        for _ in range(CUTS):
            if high[2] > 0 or self._relaxation.spent:
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
        scorer = self._relaxation.scorer
        if self._met:
            upper = min(upper, float(scorer(np.array([*self._met.values()])).min()))
        if not scorer.feasible(upper):
            return
        length, waited = 1.0, 0
        for _ in range(STEPS):
            if upper - self._best <= ROUNDING * upper or self._relaxation.spent:
                break
            before = self._best
            value, off = self._at(multipliers)
            multipliers = np.maximum(0.0, multipliers + length * (upper - value) / max(float(off @ off), 1e-12) * off)
            waited = 0 if self._best > before else waited + 1
            if waited == PATIENCE:
                length, waited = length / 2, 0


def _adding(weights: Mapping[int, float]) -> dict[int, float]:
    """The part of a weighted sum that adds up over the factors."""
    return {metric: weight for metric, weight in weights.items() if metric != PEAK}


def _with(multipliers: Prices, constraint: int, price: float) -> Prices:
    changed = multipliers.copy()
    changed[constraint] = price
    return changed
