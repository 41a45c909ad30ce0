"""The front between latency and one other quantity, drawn by a sweep of bounds.

The ends come first: the fastest candidate, and the one with the least of the other quantity. Then, always in the widest
gap, latency is bound half-way and the other quantity minimised. Where that finds nothing new, the fastest candidate is
asked for that needs a little less of the other quantity than the gap's fast end: it is the next one on the front, or
the gap is closed. So a short front is drawn with few searches. Whatever a search met on its way counts.
"""

from __future__ import annotations

import heapq
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from graphopt.search.budget import Budget
from graphopt.search.goal import TERMS, Quantity
from graphopt.search.objective import Constraints, Scorer
from graphopt.search.pareto import non_dominated
from graphopt.search.run import run_search
from graphopt.search.strategy import SearchName
from graphopt.space.table import LATENCY, Candidates, CostTable

STEPS = 48
"""Searches at most."""

GRAIN = 1e-3
"""Points nearer than this, relative to the extent of the front, count as one."""

ENDS_SHARE = 10
"""The tenth part of the budget goes into each end of the front: everything else lies between them."""

Points = npt.NDArray[np.float64]
"""Latency (us) and the other quantity, shape (points, 2)."""


def sweep(
    table: CostTable,
    other: Quantity,
    constraints: Constraints,
    *,
    strategy: SearchName = "local",
    seed: int = 0,
    budget: Budget | None = None,
    steps: int = STEPS,
) -> tuple[Candidates, int]:
    """Return the candidates on the front, fastest first, shape (candidates, variables), and how many were priced.

    The front is empty where no candidate keeps the constraints.

    Args:
        table: the priced space.
        other: what is traded against latency.
        constraints: what must hold besides.
        strategy: what searches at each bound.
        seed: of everything that is drawn.
        budget: when to stop, all searches together.
        steps: searches at most.
    """
    searches = _Searches(table, constraints, strategy, seed, budget or Budget(), steps)
    fastest = searches.find("latency", constraints)
    least = searches.find(f"{other}>latency", constraints)
    if fastest is not None and least is not None:
        _close_gaps(searches, table, other, fastest, least)
    return front_of(table, other, np.array(searches.met), constraints), searches.spent


def _close_gaps(searches: _Searches, table: CostTable, other: Quantity, fastest: Candidates, least: Candidates) -> None:
    """Search between the ends until every gap is closed, or the searches are used up."""
    rows = [fastest, least]
    points = list(points_of(table, other, np.array(rows)))
    span = np.maximum(np.abs(points[1] - points[0]), 1e-12)

    def gap(left: int, right: int, *, halved: bool) -> tuple[float, int, int, bool]:
        far = even(np.abs(points[right] - points[left]) / span, other)
        return -float(np.linalg.norm(far)), left, right, halved

    gaps = [gap(0, 1, halved=True)]
    while gaps and not searches.are_used_up:
        _, left, right, halved = heapq.heappop(gaps)
        if halved:
            middle = float(points[left][0] + points[right][0]) / 2
            row = searches.find(other, searches.constraints.tightened({"latency": middle}), rows[left])
        else:
            below = float(points[left][1] - GRAIN * span[1])
            row = searches.find("latency", searches.constraints.tightened({other: below}), rows[right])
        point = None if row is None else points_of(table, other, row[None])[0]
        if row is None or point is None or any(np.allclose(point, points[end], rtol=1e-6) for end in (left, right)):
            if halved:
                heapq.heappush(gaps, gap(left, right, halved=False))
            continue
        rows.append(row)
        points.append(point)
        if halved:
            heapq.heappush(gaps, gap(left, len(rows) - 1, halved=True))
        heapq.heappush(gaps, gap(len(rows) - 1, right, halved=True))


class _Searches:
    """The searches of one sweep: after the ends each gets an equal part of what is left.

    Attributes:
        constraints: what must hold in all of them.
        met: every candidate that one found.
        spent: candidates priced.
    """

    def __init__(
        self, table: CostTable, constraints: Constraints, strategy: SearchName, seed: int, budget: Budget, left: int
    ) -> None:
        self.constraints = constraints
        self.met: list[Candidates] = []
        self.spent = 0
        self._table = table
        self._strategy = strategy
        self._seed = seed
        self._budget = budget
        self._left = left

    @property
    def are_used_up(self) -> bool:
        """Whether there is nothing left for another one."""
        return self._left <= 0 or self._budget.spent(self.spent)

    def find(self, objective: str, bounds: Constraints, start: Candidates | None = None) -> Candidates | None:
        """The best candidate under these bounds, ``None`` where none keeps them."""
        scorer = Scorer(self._table, objective, bounds)
        left = self._budget.max_evaluations - self.spent
        share = left // (ENDS_SHARE if start is None else max(self._left, 1))
        part = replace(self._budget, max_evaluations=max(share, 1))
        found = run_search(self._strategy, self._table, scorer, seed=self._seed, budget=part, start=start)
        self._left -= 1
        self.spent += found.evaluations
        self.met += [found.best, *found.front]
        return found.best if scorer.feasible(found.score) else None


def points_of(table: CostTable, other: Quantity, rows: Candidates) -> Points:
    """Latency and the other quantity of candidates."""
    metrics = [metric for metric in TERMS[other] if metric < len(table.constant)]
    values = table.evaluate(rows, (LATENCY, *metrics))
    total = values[1:].sum(axis=0)
    if len(metrics) < len(TERMS[other]):
        total = total + table.peak_bytes(rows)
    return np.stack([values[0], total], axis=1)


def even(points: Points, other: Quantity) -> Points:
    """Points on axes where equal steps count the same: of drift, which is the square of a distance, the root."""
    if other != "drift":
        return points
    scaled = points.copy()
    scaled[..., 1] = np.sqrt(scaled[..., 1])
    return scaled


def front_of(table: CostTable, other: Quantity, rows: Candidates, constraints: Constraints) -> Candidates:
    """Those of the candidates that keep the constraints and that no other one beats in both, fastest first."""
    rows = np.unique(rows, axis=0)
    scorer = Scorer(table, "latency", constraints)
    rows = rows[[scorer.feasible(float(score)) for score in scorer(rows)]]
    if not len(rows):
        return rows
    kept: Candidates = rows[non_dominated(points_of(table, other, rows))]
    return kept


def spread(points: Points, count: int) -> list[int]:
    """Choose well-spread points of a front: its ends, its knee, then always the one farthest from those chosen.

    The knee lies farthest from the straight line between the ends; alone, it is what is chosen. Distances are relative
    to the front's extent.

    Args:
        points: the front, sorted along it.
        count: how many to choose; all, where there are no more.

    Returns:
        Indices in order.
    """
    if len(points) <= count:
        return list(range(len(points)))
    span = points.max(axis=0) - points.min(axis=0)
    scaled = (points - points.min(axis=0)) / np.where(span > 0, span, 1.0)
    line = scaled[-1] - scaled[0]
    from_line = np.abs(line[0] * (scaled[:, 1] - scaled[0, 1]) - line[1] * (scaled[:, 0] - scaled[0, 0]))
    knee = int(from_line.argmax())
    chosen = [knee] if count == 1 else list(dict.fromkeys([0, len(points) - 1, knee]))[:count]
    while len(chosen) < count:
        distance = np.linalg.norm(scaled[:, None] - scaled[chosen][None], axis=2).min(axis=1)
        chosen.append(int(distance.argmax()))
    return sorted(chosen)
