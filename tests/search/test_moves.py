"""Moves are priced where they touch the table, windows chosen by elimination: both against whole candidates."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.search.budget import Budget
from graphopt.search.local import local_search
from graphopt.search.moves import Moves, blocks_of, macros_of
from graphopt.search.objective import Constraints, Scorer
from graphopt.search.strategies import STRATEGIES
from graphopt.search.windows import Windows
from graphopt.space.table import CostTable
from tests.search.tables import chain, grid, random_table, tangled_table, with_memory


def drawn(table: CostTable, seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, table.sizes, (count, len(table.sizes)))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("constraints", [Constraints(), Constraints(macs=900, drift=0.5), Constraints(memory_bytes=99)])
def test_a_move_costs_what_the_candidate_after_it_costs(seed: int, constraints: Constraints) -> None:
    table = with_memory(tangled_table(seed) if seed % 2 else random_table(seed, sites=4, widths=3))
    if seed % 4 < 2:
        table = table.with_drift({1: np.array([0.0, np.inf, 1.0])[: table.sizes[1]]})
    scorer = Scorer(table, "latency", constraints)
    for at in drawn(table, seed, 3):
        for moves in (Moves(table, blocks_of(table)), Moves(table, macros_of(table))):
            rows = moves.after(at, np.arange(moves.count))
            expected, found = scorer.values(rows), moves.values(scorer, at)
            assert expected.keys() == found.keys()
            for metric, line in expected.items():
                np.testing.assert_allclose(found[metric], line, rtol=1e-12, atol=1e-9)
            assert moves.changes(at).tolist() == (rows != table.default()).sum(axis=1).tolist()


@pytest.mark.parametrize("seed", range(6))
def test_a_part_of_the_table_costs_what_the_whole_costs(seed: int) -> None:
    table = with_memory(tangled_table(seed))
    at = drawn(table, seed, 1)[0]
    for window in ([3], [4, 1], [0, 5, 2, 3], list(range(len(table.variables)))):
        part = table.within(window, at)
        rows = drawn(part, seed, 20)
        whole = np.repeat(at[None], 20, axis=0)
        whole[:, window] = rows
        np.testing.assert_allclose(part.evaluate(rows), table.evaluate(whole))
        np.testing.assert_allclose(part.peak_bytes(rows), table.peak_bytes(whole))
        assert part.default().tolist() == table.default()[window].tolist()


def test_windows_find_what_moves_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.search.windows.MAX_ENTRIES", 300)  # the whole needs 3**9
    monkeypatch.setattr("graphopt.search.windows.LARGEST", 24)
    for seed in range(4):
        table = grid(8, seed)
        scorer = Scorer(table, "latency", Constraints())
        moves = local_search(table, scorer, budget=Budget(3000), windows=False)
        best, score = Windows(table, scorer, Budget()).improve(moves.best, moves.score)
        assert score == scorer(best[None])[0]
        optimum = STRATEGIES["exact"](table, Scorer(table, "latency", Constraints())).score
        assert moves.score > 1.02 * optimum
        assert score <= 1.02 * optimum


def test_a_long_chain_is_searched_to_the_optimum() -> None:
    table = chain(600)
    found = local_search(table, Scorer(table, "latency", Constraints()))
    assert found.score == STRATEGIES["exact"](table, Scorer(table, "latency", Constraints())).score
