"""What every strategy promises, and what only the exact one does."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from graphopt.search.branching import Branching
from graphopt.search.budget import Budget
from graphopt.search.exact import certify
from graphopt.search.goal import PEAK
from graphopt.search.objective import Constraints, Scorer
from graphopt.search.pareto import non_dominated, points_of, ranks_of
from graphopt.search.relaxation import Relaxation
from graphopt.search.strategies import STRATEGIES
from graphopt.search.strategy import Certificate, Strategy
from graphopt.space.table import LATENCY, MACS, METRICS, PARAMETER_BYTES, CostTable, Factor, Variable
from tests.search.tables import chain, every_candidate, no_memory, random_table, tangled_table, with_memory

MEMORY = -1
"""Parameters and peak together, where shares of metrics are named."""


def bounded(table: CostTable, shares: dict[int, float]) -> Constraints:
    """Constraints at quantiles of the feasible candidates' metrics."""
    rows = every_candidate(table)
    rows = rows[Scorer(table, "latency", Constraints())(rows) < Scorer.INFEASIBLE]
    names = {MACS: "macs", PARAMETER_BYTES: "parameter_bytes", PEAK: "peak_bytes", MEMORY: "memory_bytes"}
    macs, parameters = table.evaluate(rows, (MACS, PARAMETER_BYTES))
    peak = table.peak_bytes(rows)
    values = {MACS: macs, PARAMETER_BYTES: parameters, PEAK: peak, MEMORY: parameters + peak}
    return Constraints(**{names[metric]: int(np.quantile(values[metric], share)) for metric, share in shares.items()})


def optimum(table: CostTable, constraints: Constraints, objective: str = "latency") -> float:
    return float(Scorer(table, objective, constraints)(every_candidate(table)).min())


@pytest.mark.parametrize("name", STRATEGIES)
class TestEveryStrategy:
    @pytest.fixture
    def search(self, name: str) -> Strategy:
        return STRATEGIES[name]  # type: ignore[index]

    def test_the_answer_is_valid_and_never_worse_than_the_start(self, search: Strategy) -> None:
        for seed in range(10):
            table = tangled_table(seed)
            scorer = Scorer(table, "latency", Constraints())
            found = search(table, scorer)
            assert found.score == scorer(found.best[None])[0]
            assert found.score <= scorer(table.default()[None])[0]
            assert scorer.feasible(found.score)
            first, best = table.evaluate(np.array([found.front[0], found.best]), (LATENCY,))[0]
            assert first <= best  # the front begins with the fastest, and the best is on offer to it

    def test_it_finds_its_way_into_the_bounds(self, search: Strategy, name: str) -> None:
        kept = 0
        for seed in range(10):
            table = random_table(seed, sites=4, widths=3)
            scorer = Scorer(table, "latency", bounded(table, {PARAMETER_BYTES: 0.3}))
            kept += scorer.feasible(search(table, scorer).score)
        assert kept >= (7 if name == "greedy" else 10)

    def test_same_seed_same_answer(self, search: Strategy) -> None:
        table = random_table(11, sites=9, widths=8)
        first, second = (search(table, Scorer(table, "parameters", Constraints()), seed=5) for _ in range(2))
        assert first.best.tolist() == second.best.tolist()
        assert [row.tolist() for row in first.front] == [row.tolist() for row in second.front]

    def test_a_start_is_never_left_for_something_worse(self, search: Strategy) -> None:
        for seed in range(10):
            table = tangled_table(seed)
            scorer = Scorer(table, "latency", Constraints())
            rows = every_candidate(table)
            start = rows[scorer(rows).argsort()[1]]
            assert search(table, scorer, start=start, budget=Budget(1)).score <= scorer(start[None])[0]

    def test_no_candidate_of_the_front_beats_another(self, search: Strategy) -> None:
        for seed in range(4):
            table = with_memory(random_table(seed, sites=5, widths=4), scale=200)
            scorer = Scorer(table, "latency", bounded(table, {PEAK: 0.7}))
            found = search(table, scorer, budget=Budget(5000))
            if not scorer.feasible(found.score):
                continue
            rows = np.array(found.front)
            assert (scorer(rows) < Scorer.INFEASIBLE).all()
            assert (ranks_of(points_of(table, rows)) == 0).all()

    def test_without_a_gain_nothing_changes(self, search: Strategy) -> None:
        flat = np.zeros((METRICS, 3))
        flat[LATENCY] = 7.0
        site = Variable("site", "a", ("keep", "x", "y"))
        table = CostTable([site], [Factor((0,), (np.arange(3),), flat)], np.zeros(METRICS), no_memory())
        assert search(table, Scorer(table, "latency", Constraints())).best.tolist() == [0]

    def test_the_budget_holds(self, search: Strategy) -> None:
        table = random_table(12, sites=9, widths=8)
        short = Scorer(table, "latency", bounded_roughly(table))
        search(table, short, budget=Budget(100))
        assert short.evaluations < 1000  # what was begun may be finished

    def test_an_empty_space_has_one_candidate(self, search: Strategy) -> None:
        table = CostTable([], [], np.ones(METRICS), no_memory())
        assert search(table, Scorer(table, "latency", Constraints())).best.shape == (0,)


def bounded_roughly(table: CostTable) -> Constraints:
    parameters = table.evaluate(table.default()[None], (PARAMETER_BYTES,))
    return Constraints(parameter_bytes=int(0.6 * parameters[0, 0]))


def answers() -> str:
    """What every strategy finds, front and all, as text."""
    found = []
    for name, search in STRATEGIES.items():
        table = with_memory(random_table(7, sites=6, widths=5))
        result = search(table, Scorer(table, "latency=1,memory=1", bounded_roughly(table)), seed=3)
        found.append((name, result.best.tolist(), [row.tolist() for row in result.front], result.evaluations))
    return repr(found)


def test_another_process_finds_the_same() -> None:
    code = "from tests.search.test_strategies import answers; print(answers())"
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert other.stdout.strip() == answers()


@pytest.mark.parametrize("seed", range(20))
def test_exact_is_the_optimum_and_says_so(seed: int) -> None:
    table = tangled_table(seed)
    found = STRATEGIES["exact"](table, Scorer(table, "latency", Constraints()))
    assert found.score == pytest.approx(optimum(table, Constraints()), rel=1e-12)
    assert found.certificate is not None
    assert found.certificate.gap == 0


@pytest.mark.parametrize(
    "shares",
    [
        {PARAMETER_BYTES: 0.4},
        {MACS: 0.4, PARAMETER_BYTES: 0.4},
        {MACS: 0.95, PARAMETER_BYTES: 0.1},
        {PEAK: 0.3},
        {MEMORY: 0.2},
        {MEMORY: 0.5, PEAK: 0.5, MACS: 0.6},
    ],
)
@pytest.mark.parametrize("objective", ["latency", "peak-memory", "memory=1,macs=2"])
def test_branch_and_bound_closes_every_gap(shares: dict[int, float], objective: str) -> None:
    closed = branched = 0
    for seed in range(6):
        table = with_memory(tangled_table(seed) if seed % 2 else random_table(seed, sites=4, widths=3), scale=200)
        constraints = bounded(table, shares)
        best = optimum(table, constraints, objective)
        scorer = Scorer(table, objective, constraints)
        found = STRATEGIES["exact"](table, scorer)
        root = Branching(Relaxation(table, scorer))
        if best >= Scorer.INFEASIBLE:
            assert not scorer.feasible(found.score)
            assert found.certificate is None
            root.run(Budget())
            assert root.bound == np.inf
            continue
        assert found.score == pytest.approx(best, rel=2e-6)  # ties are broken below that
        assert found.certificate is not None
        assert found.certificate.gap == 0
        assert root.bound <= best * (1 + 1e-9)
        branched += root.bound < best * (1 - 1e-4)
        closed += 1
        certificate = certify(table, scorer, 1.2 * best)
        assert certificate is not None
        assert certificate.gap == pytest.approx(0.2, rel=1e-4)
    assert closed > 2
    assert branched > 0 or objective == "peak-memory" or shares == {PEAK: 0.3}  # a ceiling alone leaves no gap


def test_evolution_draws_the_whole_front_of_a_small_space() -> None:
    for seed in range(3):
        table = with_memory(random_table(seed, sites=5, widths=4), scale=200)
        scorer = Scorer(table, "latency", bounded(table, {PEAK: 0.8}))
        rows = every_candidate(table)
        points = points_of(table, rows[scorer(rows) < Scorer.INFEASIBLE])
        whole = {tuple(point) for point in points[non_dominated(points)]}
        found = {tuple(point) for point in points_of(table, np.array(STRATEGIES["evolve"](table, scorer).front))}
        assert len(found & whole) >= 0.95 * len(whole)


def test_a_proof_that_ends_with_its_budget_says_so() -> None:
    table = chain(10)
    scorer = Scorer(table, "latency", bounded_roughly(table))
    found = STRATEGIES["exact"](table, scorer, budget=Budget(20))
    assert found.certificate is not None
    assert found.certificate.gap > 0
    assert "budget" in found.certificate.reason
    best = STRATEGIES["exact"](table, Scorer(table, "latency", bounded_roughly(table)))
    assert found.certificate.bound <= best.certificate.value  # type: ignore[union-attr]


def test_instants_that_are_cut_short_bound_from_below(monkeypatch: pytest.MonkeyPatch) -> None:
    table = with_memory(tangled_table(3), scale=200)
    rows = every_candidate(table)
    peaks = table.peak_bytes(rows)
    for most, whole in ((50_000, True), (4, False)):
        monkeypatch.setattr("graphopt.space.memory.MAX_INSTANT", most)
        instants = table.memory.instants(table.sizes.tolist())
        live = np.max([instant.live[tuple(rows[:, v] for v in instant.variables)] for instant in instants], axis=0)
        assert (live <= peaks).all()
        assert ((live == peaks).all(), all(instant.whole for instant in instants)) == (whole, whole)


def test_the_best_multiplier_is_found() -> None:
    """Options on a line: saving 1 in latency costs 1 in parameters, so the relaxed bound is the optimum."""
    lines = np.zeros((METRICS, 5))
    lines[LATENCY] = [5, 4, 3, 2, 1]
    lines[PARAMETER_BYTES] = [1, 2, 3, 4, 5]
    variables = [Variable("width", f"w{i}", tuple("abcde")) for i in range(4)]
    factors = [Factor((i,), (np.arange(5),), lines) for i in range(4)]
    table = CostTable(variables, factors, np.zeros(METRICS), no_memory())
    scorer = Scorer(table, "latency", Constraints(parameter_bytes=11))
    found = STRATEGIES["exact"](table, scorer)
    assert found.score == pytest.approx(13 / 20, rel=1e-6)
    assert found.certificate is not None
    assert found.certificate.gap == 0


def test_a_certificate_shows_what_a_search_missed() -> None:
    table = random_table(3, sites=4, widths=3)
    scorer = Scorer(table, "latency", Constraints())
    best = optimum(table, Constraints())
    certificate = certify(table, scorer, 1.1 * best)
    assert certificate is not None
    assert certificate.gap == pytest.approx(0.1, rel=1e-6)
    assert certificate.value == pytest.approx(1.1 * best * scorer.reference[LATENCY])
    assert replace(certificate, value=certificate.bound).gap == 0
    assert certify(table, scorer, Scorer.INFEASIBLE * 2) is None
    assert Certificate("latency", 1.0, -np.inf).gap == np.inf


def test_greedy_pays_least_for_what_a_constraint_asks() -> None:
    costs = np.zeros((2, METRICS, 2))
    costs[:, LATENCY] = [[10, 20], [10, 11]]
    costs[:, PARAMETER_BYTES] = [[10, 4], [10, 6]]
    variables = [Variable("site", name, ("keep", "swap")) for name in "ab"]
    factors = [Factor((i,), (np.arange(2),), costs[i]) for i in range(2)]
    table = CostTable(variables, factors, np.zeros(METRICS), no_memory())
    found = STRATEGIES["greedy"](table, Scorer(table, "latency", Constraints(parameter_bytes=16)))
    assert found.best.tolist() == [0, 1]  # the other change saves more, and costs ten times as much
