"""Elimination against brute force, and its bound where it may not look at everything."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.search.elimination import CHANGES, Elimination
from graphopt.search.objective import CHANGE
from graphopt.space.table import DRIFT, INVALID, LATENCY, MACS, METRICS, CostTable, Factor, Variable
from tests.search.tables import every_candidate, random_table, tangled_table

WEIGHTS = {LATENCY: 1.0, MACS: 0.3, CHANGES: CHANGE}


def prices(table: CostTable) -> np.ndarray:
    rows = every_candidate(table)
    latency, macs, invalid = table.evaluate(rows, (LATENCY, MACS, INVALID))
    changes = (rows != table.default()).sum(axis=1)
    return np.where(invalid > 0, np.inf, latency + 0.3 * macs + CHANGE * changes)


@pytest.mark.parametrize("seed", range(40))
def test_the_minimum_is_the_minimum(seed: int) -> None:
    table = tangled_table(seed) if seed % 2 else random_table(seed, sites=4, widths=3)
    elimination = Elimination(table)
    value, row = elimination.minimise(WEIGHTS)
    expected = prices(table)
    assert elimination.complete
    assert value == pytest.approx(expected.min(), rel=1e-12)
    assert expected[(every_candidate(table) == row).all(axis=1)] == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("max_entries", "max_total"), [(1, 1000), (6, 1000), (20, 1000), (60, 1000), (1000, 60)])
def test_too_little_room_gives_a_bound_from_below(
    max_entries: int, max_total: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphopt.search.elimination.MAX_TOTAL", max_total)
    cut = gained = 0
    for seed in range(30):
        table = tangled_table(seed)
        elimination = Elimination(table, max_entries)
        value, row = elimination.minimise(WEIGHTS)
        optimum = prices(table).min()
        assert value <= optimum * (1 + 1e-12)
        assert ((row >= 0) & (row < table.sizes)).all()
        cut += not elimination.complete
        gained += value > 0
    assert gained == 30
    assert cut > 0


def test_a_metric_that_is_infinite_is_kept_out_only_where_it_counts() -> None:
    table = random_table(5, sites=3, widths=2)
    _, row = Elimination(table).minimise(WEIGHTS)
    variable = int(np.flatnonzero(row)[0])
    drift = np.zeros(table.sizes[variable])
    drift[row[variable]] = np.inf
    table = table.with_drift({variable: drift})
    assert Elimination(table).minimise(WEIGHTS)[1].tolist() == row.tolist()
    assert Elimination(table).minimise(WEIGHTS, [DRIFT])[1][variable] != row[variable]


@pytest.mark.parametrize("knob", [False, True])
def test_a_long_chain_stays_narrow(knob: bool) -> None:
    """With a knob that every width depends on, too: its turn comes last."""
    table = random_table(1, sites=1000, widths=999)
    if knob:
        last = len(table.variables)
        gates = []
        for v, variable in enumerate(table.variables):
            options = len(variable.options)
            invalid = np.zeros((METRICS, 2 * options))
            invalid[INVALID, -1] = 1
            gates.append(Factor((last, v), (np.arange(2) * options, np.arange(options)), invalid))
        variables = [*table.variables, Variable("knob", "m", ("1.0", "0.5"))]
        table = CostTable(variables, [*table.factors, *gates], table.constant, table.memory)
    elimination = Elimination(table)
    assert elimination.complete
    assert elimination.entries < 100 * len(table.variables)
