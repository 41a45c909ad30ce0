"""Objectives as people write them, and what a score is made of."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.errors import ConfigError
from graphopt.search.goal import parse_objective
from graphopt.search.objective import Constraints, Scorer
from graphopt.search.run import run_search
from graphopt.space.table import LATENCY, MACS, METRICS, PARAMETER_BYTES, CostTable, Factor, Variable
from tests.search.tables import every_candidate, no_memory, random_table, with_memory


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("latency", [("latency", 0.0)]),
        ("latency=4, macs=1", [("latency=0.8,macs=0.2", 0.0)]),
        ("latency>parameters", [("latency", 0.01), ("parameters", 0.0)]),
        ("latency+2.5% > memory=1,drift=1", [("latency", 0.025), ("memory=0.5,drift=0.5", 0.0)]),
    ],
)
def test_an_objective_is_read(text: str, levels: list[tuple[str, float]]) -> None:
    assert [(str(level), level.tolerance) for level in parse_objective(text).levels] == levels


@pytest.mark.parametrize(
    "text",
    ["", "latncy", "latency=", "latency=0", "latency=nan", "latency=1,latency=2", "latency,macs", "a>b", "latency>",
     "latency+1%", "latency+x%>macs", "latency=1e99", ">latency"],
)  # fmt: skip
def test_an_objective_that_cannot_be_read_says_how_one_is_written(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write one of latency, .*latency\+1%>parameters"):
        parse_objective(text)


def test_a_sum_is_what_its_quantities_are_to_the_original() -> None:
    table = with_memory(random_table(4, sites=4, widths=3))
    rows = every_candidate(table)
    latency, macs, parameters = table.evaluate(rows, (LATENCY, MACS, PARAMETER_BYTES))
    peak = table.peak_bytes(rows)
    scorer = Scorer(table, "latency=3,memory=1", Constraints())
    expected = 0.75 * latency / latency[0] + 0.25 * (parameters + peak) / (parameters[0] + peak[0])
    np.testing.assert_allclose(scorer.parts(rows)[1], expected, atol=1e-6)
    bound = float(np.median(parameters + peak))
    off, _ = Scorer(table, "macs", Constraints(memory_bytes=int(bound))).parts(rows)
    plain, score = Scorer(table, "macs", Constraints()).parts(rows)
    assert ((off > 0) == ((parameters + peak > int(bound)) | (plain > 0))).all()
    np.testing.assert_allclose(score, macs / macs[0], atol=1e-5)


@pytest.mark.parametrize("name", ["local", "exact"])
def test_levels_give_up_no_more_than_the_tolerance(name: str) -> None:
    gained = 0
    for seed in range(12):
        table = random_table(seed, sites=4, widths=3)
        rows = every_candidate(table)
        plain = Scorer(table, "latency", Constraints())
        rows = rows[plain(rows) < Scorer.INFEASIBLE]
        latency, parameters = table.evaluate(rows, (LATENCY, PARAMETER_BYTES))
        best = latency.min()
        within = latency <= best * 1.2 * (1 + 1e-12)
        found = run_search(name, table, Scorer(table, "latency+20%>parameters", Constraints()), prove=True)  # type: ignore[arg-type]
        mine, its = table.evaluate(found.best[None], (LATENCY, PARAMETER_BYTES))[:, 0]
        assert mine <= best * 1.2 * (1 + 1e-6)
        assert its == pytest.approx(parameters[within].min())
        assert found.certificate is not None
        assert found.certificate.value == pytest.approx(mine, rel=1e-6)
        assert found.certificate.bound == pytest.approx(best, rel=1e-6)
        gained += its < parameters[latency.argmin()]
    assert gained > 2


def test_levels_end_where_a_constraint_is_out_of_reach() -> None:
    table = random_table(3, sites=3, widths=2)
    scorer = Scorer(table, "latency>parameters", Constraints(macs=1))
    found = run_search("local", table, scorer)
    assert not scorer.feasible(found.score)
    assert found.front == ()


def test_an_original_without_parameters_can_be_scored() -> None:
    prices = np.zeros((METRICS, 2))
    prices[LATENCY] = 1
    factors = [Factor((0,), (np.arange(2),), prices)]
    table = CostTable([Variable("site", "a", ("keep", "x"))], factors, prices[:, 0], no_memory())
    assert np.isfinite(Scorer(table, "parameters", Constraints())(every_candidate(table))).all()
