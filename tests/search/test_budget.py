"""Time, interrupts and the file that a search goes on from."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import ConfigError
from graphopt.search.budget import Budget, current_watch, watched
from graphopt.search.objective import Constraints, Scorer
from graphopt.search.run import run_search
from graphopt.search.state import SearchState, key_of
from graphopt.search.strategies import STRATEGIES
from graphopt.search.strategy import SearchName
from graphopt.space.table import CostTable
from tests.search.tables import chain, random_table


def hard() -> tuple[CostTable, Scorer]:
    table = chain(150)
    parameters = table.evaluate(table.default()[None], (2,))[0, 0]
    return table, Scorer(table, "latency", Constraints(parameter_bytes=int(0.7 * parameters), macs=10**9))


@pytest.mark.parametrize("name", STRATEGIES)
def test_time_and_a_stop_end_every_search_with_its_best(name: SearchName) -> None:
    table, scorer = hard()
    start = run_search("greedy", table, scorer, budget=Budget(8_000)).best
    reached = float(scorer(start[None])[0])
    for seconds, asked in ((0.2, False), (60.0, True)):
        began = time.monotonic()
        with watched(seconds) as watch:
            watch.asked = asked
            found = run_search(name, table, scorer, budget=Budget(10**9), start=start)
        assert found.score <= reached
        assert watch.cut_short
        assert time.monotonic() - began < 10
    assert not current_watch().over


def test_only_searching_takes_time() -> None:
    with watched(0.05) as watch:
        time.sleep(0.1)
        assert not watch.over
        with watch.searching():
            assert not watch.over
            time.sleep(0.1)
            assert watch.over


def test_a_search_goes_on_where_it_stopped(tmp_path: Path) -> None:
    table, scorer = hard()
    file = tmp_path / "state.json"
    scores = []
    for _ in range(3):
        found = run_search(
            "greedy",
            table,
            Scorer(table, "latency", scorer.constraints),
            budget=Budget(10_000),
            state=SearchState.open(file),
        )
        scores.append(found.score)
    assert scores[0] > scores[1] > scores[2]
    other = random_table(3, sites=3, widths=2)
    assert SearchState.open(file).get(key_of("greedy", other, Scorer(other, "latency", Constraints()), 0), other) == (
        0,
        None,
    )
    keys = {
        key_of("local", table, Scorer(table, o, c), s)
        for o in ("latency", "macs")
        for c in (Constraints(), Constraints(macs=5))
        for s in (0, 1)
    }
    assert len(keys) == 8


def test_evolution_goes_on_with_its_front(tmp_path: Path) -> None:
    table = random_table(7, sites=6, widths=5)
    file = tmp_path / "state.json"
    first, second = (
        run_search(
            "evolve", table, Scorer(table, "latency", Constraints()), budget=Budget(300), state=SearchState.open(file)
        )
        for _ in range(2)
    )
    points = [table.evaluate(np.array(found.front), (0, 2)).T for found in (first, second)]
    assert all((points[1] <= point).all(axis=1).any() for point in points[0])


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "[" * 100_000,
        lambda text: text.replace('"runs": 1', '"runs": 2'),
        lambda text: json.dumps({**json.loads(text), "more": 1}),
        lambda text: json.dumps({**json.loads(text), "format": 2}),
    ],
)
def test_a_damaged_state_is_refused_and_left_alone(damage: object, tmp_path: Path) -> None:
    table = random_table(7, sites=3, widths=2)
    file = tmp_path / "state.json"
    run_search("local", table, Scorer(table, "latency", Constraints()), state=SearchState.open(file))
    assert callable(damage)
    text = damage(file.read_text())
    file.write_text(text)
    with pytest.raises(ConfigError, match="no state of a search"):
        SearchState.open(file)
    assert file.read_text() == text


def test_candidates_that_a_table_cannot_have_are_refused(tmp_path: Path) -> None:
    table = random_table(7, sites=3, widths=2)
    for row in ([9] * 5, [0] * 4):
        state = SearchState(tmp_path / "state.json", {"key": (1, [row])})
        with pytest.raises(ConfigError, match="no state of a search"):
            state.get("key", table)


def test_ctrl_c_ends_the_search_and_twice_ends_all(capsys: pytest.CaptureFixture[str]) -> None:
    from graphopt.cli.interrupt import stoppable

    table, scorer = hard()
    before = signal.getsignal(signal.SIGINT)
    with stoppable(None):
        with current_watch().searching():
            signal.raise_signal(signal.SIGINT)
            assert current_watch().over
        assert run_search("local", table, scorer).score <= scorer(table.default()[None])[0]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert capsys.readouterr().err.count("Ctrl-C") == 1
    with stoppable(None), pytest.raises(KeyboardInterrupt):  # nothing is searched
        signal.raise_signal(signal.SIGINT)
