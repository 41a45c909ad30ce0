"""The swept front against every candidate there is, and the choice of points."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.search.budget import Budget
from graphopt.search.objective import Constraints
from graphopt.search.sweep import front_of, points_of, spread, sweep
from tests.search.tables import every_candidate, random_table, with_memory


def area(points: np.ndarray, corner: np.ndarray) -> float:
    """What the points dominate up to a corner."""
    total, last = 0.0, corner[1]
    for x, y in points[np.argsort(points[:, 0])]:
        if x < corner[0] and y < last:
            total += (corner[0] - x) * (last - y)
            last = y
    return total


@pytest.mark.parametrize("seed", range(2))
def test_the_swept_front_is_nearly_the_whole_one(seed: int) -> None:
    table = with_memory(random_table(seed, 4, 3))
    limit = float(np.median(points_of(table, "memory", every_candidate(table))[:, 1]))
    for constraints in (Constraints(), Constraints(memory_bytes=int(limit))):
        true = points_of(table, "memory", front_of(table, "memory", every_candidate(table), constraints))
        rows, spent = sweep(table, "memory", constraints, steps=40, budget=Budget(60_000))
        found = points_of(table, "memory", rows)
        assert spent <= 70_000
        assert {tuple(point) for point in found[[0, -1]]} == {tuple(point) for point in true[[0, -1]]}
        assert (np.diff(found[:, 0]) > 0).all()
        assert (np.diff(found[:, 1]) < 0).all()
        corner = true.max(axis=0) * 1.05
        assert area(found, corner) >= 0.99 * area(true, corner)


def test_a_front_out_of_reach_is_empty_and_a_short_one_is_cheap() -> None:
    table = with_memory(random_table(0, 4, 3))
    rows, _ = sweep(table, "memory", Constraints(latency_us=1e-3))
    assert rows.shape == (0, len(table.variables))
    narrow, spent = sweep(table, "memory", Constraints(latency_us=points_of(table, "memory", _fastest(table))[0, 0]))
    assert len(narrow) == 1
    assert spent < 100_000


def _fastest(table: object) -> np.ndarray:
    rows = every_candidate(table)
    return front_of(table, "memory", rows, Constraints())[:1]


def test_points_are_spread_from_the_ends_and_the_knee() -> None:
    # a quarter circle: the knee lies in its middle
    angle = np.linspace(0, np.pi / 2, 91)
    circle = np.stack([1000 * (1 - np.cos(angle)), 1 - np.sin(angle)], axis=1)
    assert spread(circle, 1) == [45]
    assert spread(circle, 2) == [0, 90]
    assert spread(circle, 3) == [0, 45, 90]
    four = spread(circle, 4)
    assert set(spread(circle, 3)) < set(four)
    gaps = np.diff(spread(circle, 9))
    assert gaps.max() <= 2.2 * gaps.min()
    assert spread(circle[:3], 5) == [0, 1, 2]
    assert spread(np.array([[1.0, 2.0], [1.0, 2.0]]), 1) == [0]
