"""The Pareto front of the feasible candidates that a search met."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from graphopt.search.objective import Scorer
from graphopt.space.table import LATENCY, PARAMETER_BYTES, Candidates, CostTable

LIMIT = 512
"""Candidates kept between two prunings."""


class Front:
    """Collects candidates and keeps those that no other beats in latency, peak memory and parameters at once."""

    def __init__(self, table: CostTable, scorer: Scorer) -> None:
        self._table = table
        self._scorer = scorer
        self._rows: list[Candidates] = []

    def add(self, rows: Candidates) -> None:
        """Offer candidates."""
        self._rows += list(rows)
        if len(self._rows) > LIMIT:
            self._prune()

    def candidates(self) -> tuple[Candidates, ...]:
        """The front, fastest first."""
        self._prune()
        return tuple(self._rows)

    def _prune(self) -> None:
        if not self._rows:
            return
        rows = np.unique(np.array(self._rows), axis=0)
        evaluations = self._scorer.evaluations
        keep = self._scorer(rows) < self._scorer.INFEASIBLE
        self._scorer.evaluations = evaluations  # they were counted when they were met
        rows = rows[keep]
        self._rows = [rows[i] for i in non_dominated(points_of(self._table, rows))]


def points_of(table: CostTable, rows: Candidates) -> npt.NDArray[np.float64]:
    """What a front trades: latency (us), peak memory and parameters (bytes), shape (candidates, 3)."""
    latency, parameters = table.evaluate(rows, (LATENCY, PARAMETER_BYTES))
    return np.stack([latency, table.peak_bytes(rows), parameters], axis=1)


def non_dominated(points: npt.NDArray[np.float64]) -> list[int]:
    """Indices of the points that no other is at least as good as everywhere and better somewhere (smaller is
    better), sorted by the first column. Of equal points the first one stays.

    Args:
        points: shape (points, objectives).
    """
    front: list[int] = []
    best = np.empty_like(points)
    for i in np.lexsort(points.T[::-1]):
        if not (best[: len(front)] <= points[i]).all(axis=1).any():
            best[len(front)] = points[i]
            front.append(int(i))
    return front


def ranks_of(points: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The number of each point's front: 0 is not dominated, 1 only by points of front 0 and so on; shape (points,)."""
    no_worse = np.array((points[:, None] <= points[None]).all(axis=2))
    beats = no_worse & ~no_worse.T
    ranks = np.full(len(points), -1)
    for rank in range(len(points)):
        left = ranks < 0
        if not left.any():
            break
        ranks[left & ~beats[left].any(axis=0)] = rank
    return ranks
