"""Local search against brute force on spaces small enough to enumerate, and its promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.search.budget import Budget
from graphopt.search.local import local_search
from graphopt.search.objective import Constraints, Scorer
from graphopt.search.pareto import non_dominated, ranks_of
from graphopt.space.table import INVALID, LATENCY, METRICS, PARAMETER_BYTES, CostTable, Factor, Variable
from tests.search.tables import every_candidate, no_memory, random_table


@given(seed=st.integers(0, 10_000), sites=st.integers(1, 4), widths=st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_evaluate_is_the_sum_of_the_factors(seed: int, sites: int, widths: int) -> None:
    table = random_table(seed, sites, widths)
    rows = every_candidate(table)
    found = table.evaluate(rows)
    for row, prices in zip(rows[:50], found.T[:50], strict=True):
        expected = table.constant.copy()
        for factor in table.factors:
            address = sum(int(o[row[v]]) for v, o in zip(factor.variables, factor.offsets, strict=True))
            expected += factor.table[:, address]
        np.testing.assert_allclose(prices, expected)


@pytest.mark.parametrize("objective", ["latency", "parameters"])
def test_reaches_the_optimum_of_small_spaces(objective: str) -> None:
    reached = worst = 0.0
    for seed in range(40):
        table = random_table(seed, sites=4, widths=3)
        best = Scorer(table, objective, Constraints())(every_candidate(table)).min()  # type: ignore[arg-type]
        found = local_search(table, Scorer(table, objective, Constraints()), seed=0)  # type: ignore[arg-type]
        assert found.score >= best - 1e-12
        reached += found.score <= best + 1e-12
        worst = max(worst, found.score / best - 1)
    assert reached >= 36, f"optimum reached in {reached} of 40 spaces"
    assert worst < 0.1  # prices are drawn at random: no real space is as rugged


def test_keeps_a_constraint_that_can_be_kept() -> None:
    checked = 0
    for seed in range(30):
        table = random_table(seed, sites=4, widths=3)
        rows = every_candidate(table)
        latency, parameters, invalid = table.evaluate(rows, (LATENCY, PARAMETER_BYTES, INVALID))
        bound = float(np.quantile(parameters[invalid == 0], 0.3))
        possible = (invalid == 0) & (parameters <= bound)
        scorer = Scorer(table, "latency", Constraints(parameter_bytes=int(bound)))
        found = local_search(table, scorer, seed=1)
        assert scorer.feasible(found.score)
        mine = table.evaluate(found.best[None], (LATENCY, PARAMETER_BYTES, INVALID))[:, 0]
        assert mine[1] <= int(bound)
        assert mine[2] == 0
        checked += mine[0] <= latency[possible].min() * 1.000001
    assert checked >= 25


def test_says_when_a_constraint_is_out_of_reach() -> None:
    table = random_table(3, sites=3, widths=2)
    scorer = Scorer(table, "latency", Constraints(macs=1))
    assert not scorer.feasible(local_search(table, scorer).score)


def test_changes_nothing_without_a_gain() -> None:
    flat = np.zeros((METRICS, 3))
    flat[LATENCY] = 7.0
    table = CostTable(
        [Variable("site", "a", ("keep", "x", "y"))],
        [Factor((0,), (np.arange(3),), flat)],
        np.zeros(METRICS),
        no_memory(),
    )
    assert local_search(table, Scorer(table, "latency", Constraints())).best.tolist() == [0]


def test_same_seed_same_answer_and_the_budget_holds() -> None:
    table = random_table(11, sites=9, widths=8)
    first, second = (local_search(table, Scorer(table, "latency", Constraints()), seed=5) for _ in range(2))
    assert first.best.tolist() == second.best.tolist()
    assert [row.tolist() for row in first.front] == [row.tolist() for row in second.front]
    short = Scorer(table, "latency", Constraints())
    local_search(table, short, seed=5, budget=Budget(100))
    assert short.evaluations < 1000


def test_an_empty_space_has_one_candidate() -> None:
    table = CostTable([], [], np.ones(METRICS), no_memory())
    found = local_search(table, Scorer(table, "latency", Constraints()))
    assert found.best.shape == (0,)


@given(points=st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=30))
@settings(deadline=None)
def test_front_is_what_nothing_dominates(points: list[tuple[int, int, int]]) -> None:
    array = np.array(points, float)
    front = non_dominated(array)
    assert sorted(np.flatnonzero(ranks_of(array) == 0)) == sorted(
        i for i, point in enumerate(array) if any((array[j] == point).all() for j in front)
    )
    for i, point in enumerate(array):
        beaten = ((array <= point).all(axis=1) & (array < point).any(axis=1)).any()
        assert beaten or any((array[j] == point).all() for j in front)
        assert not (beaten and i in front)
