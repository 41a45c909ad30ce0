"""Several models along the front: each is what `apply` makes of its plan, none is beaten, all or nothing is written."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graphopt import fronts
from graphopt.errors import ConfigError
from graphopt.fronts import Front, pareto
from graphopt.pipeline import apply_plan, estimate
from graphopt.report.front import candidate_rows, html_front, svg_front
from graphopt.resources import sample_models_dir
from graphopt.results import Options
from graphopt.search.objective import Constraints

SAMPLE = sample_models_dir() / "fashion_classifier.onnx"
QUICK = Options(allow="retrain", verify=False, max_evaluations=40_000)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Front, Path]:
    folder = tmp_path_factory.mktemp("front")
    return pareto(SAMPLE, folder / "out.onnx", QUICK, count=4), folder


def test_every_candidate_is_what_its_plan_says(drawn: tuple[Front, Path]) -> None:
    front, folder = drawn
    assert front.outcome == "optimized"
    assert [one.label for one in front.candidates] == ["A", "B", "C", "D"]
    names = [f"out.{one.label}.{end}" for one in front.candidates for end in ("onnx", "plan.toml")]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    for one in front.candidates:
        assert one.result.output == str(folder / f"out.{one.label}.onnx")
        written = estimate(one.result.output, "npu-32")
        assert written.latency_us == pytest.approx(one.result.estimates[1].latency_us)
        assert written.latency_us == pytest.approx(one.latency_us)
    last = front.candidates[-1]
    again = folder.parent / "again.onnx"
    apply_plan(SAMPLE, folder / f"out.{last.label}.plan.toml", again, Options(verify=False))
    assert again.read_bytes() == Path(str(last.result.output)).read_bytes()


def test_candidates_are_on_the_front_with_its_ends(drawn: tuple[Front, Path]) -> None:
    front, _ = drawn
    latency, kept = front.points.T
    assert front.axis == "capacity"
    assert (np.diff(latency) < 0).all()
    own = [(one.latency_us, one.value) for one in front.candidates]
    assert latency[-1] <= own[-1][0] <= latency[-1] + 0.02 * (latency[0] - latency[-1])
    assert own[-1][0] == max(latency[latency <= latency[-1] + 0.02 * (latency[0] - latency[-1])])
    assert own[0] == tuple(front.points[0])
    assert all(pair in set(map(tuple, front.points)) for pair in own)
    assert all(one.result.capacity_kept == pytest.approx(one.value) for one in front.candidates)
    assert kept[0] == 1.0 > kept[-1]
    assert front.candidates[0].result.safety == "exact"  # a lossy change is not free where nobody can measure it
    assert any("--calibration measures the drift" in note for note in front.notes)


def test_exact_candidates_trade_memory_and_are_proved(tmp_path: Path) -> None:
    front = pareto(
        SAMPLE, tmp_path / "out.onnx", Options(target="npu-32-no-depthwise", max_evaluations=20_000), count=2
    )
    assert front.axis == "memory"
    for one in front.candidates:
        assert one.result.safety == "exact"
        assert one.result.verification is not None
        assert one.result.verification.verdict == "equal"
    a, b = (one.result.estimates[1] for one in front.candidates)
    assert b.latency_us < a.latency_us
    assert b.parameter_bytes + b.peak_activation_bytes > a.parameter_bytes + a.peak_activation_bytes


def test_a_front_of_memory_says_that_lossy_changes_are_not_measured() -> None:
    """No width on offer: memory is what is given up, beside what only real inputs can tell."""
    for rules, said in (((), True), (("fuse-*", "merge-*"), False)):
        options = replace(
            QUICK, allow="repaired", no_rules=("curate-widths", "round-channels*", *rules), max_evaluations=2_000
        )
        front = pareto(SAMPLE, None, options, count=2)
        assert front.axis == "memory"
        assert any("what lossy changes give up is not part of this front" in note for note in front.notes) == said


def test_a_candidate_that_is_not_proved_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = fronts.deliver, []

    def deliver(draft, result, output):
        calls.append(output)
        done = real(draft, result, output)
        return replace(done, outcome="failed", reason="differs") if len(calls) == 2 else done

    monkeypatch.setattr(fronts, "deliver", deliver)
    front = pareto(SAMPLE, tmp_path / "out.onnx", QUICK, count=3)
    assert (front.outcome, front.reason, front.candidates) == ("failed", "candidate B: differs", ())
    assert list(tmp_path.iterdir()) == []


def test_bounds_hold_and_what_is_out_of_reach_is_said() -> None:
    bounded = pareto(SAMPLE, None, replace(QUICK, constraints=Constraints(latency_us=120.0)), count=3)
    assert len(bounded.candidates) == 3
    assert all(one.result.estimates[1].latency_us <= 120.0 for one in bounded.candidates)
    never = pareto(SAMPLE, None, replace(QUICK, constraints=Constraints(latency_us=1.0)), count=3)
    assert never.outcome == "failed"
    assert never.reason.startswith("no plan keeps --max-latency-us 1: ")


@pytest.mark.parametrize(
    "other",
    [
        {"objective": "macs"},
        {"fit_memory": 100_000},
        {"certify": True},
        {"max_drift": 0.1},
    ],
)
def test_options_that_say_something_else_are_refused(other: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="front"):
        pareto(SAMPLE, None, replace(QUICK, **other))


def test_the_same_seed_draws_the_same_front_in_another_process(drawn: tuple[Front, Path], tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from graphopt.fronts import pareto; from graphopt.results import Options;"
        f"pareto({str(SAMPLE)!r}, pathlib.Path(sys.argv[1]),"
        f" Options(allow='retrain', verify=False, max_evaluations={QUICK.max_evaluations}), count=4)"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out.onnx")], check=True, env=env)

    def digests(folder: Path) -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}

    assert digests(tmp_path) == digests(drawn[1])


def test_picture_table_and_page(drawn: tuple[Front, Path]) -> None:
    front, _ = drawn
    picture = svg_front(front)
    assert picture.count('class="met" cx') >= len(front.points)
    assert [picture.count(f">{one.label}</text>") for one in front.candidates] == [1] * 4
    assert "estimated latency" in picture
    rows = candidate_rows(front)
    assert [row[0] for row in rows] == ["original", "A", "B", "C", "D"]
    hostile = replace(front, model="<script>x</script>.onnx")
    for text in (svg_front(hostile), html_front(hostile)):
        assert "<script>" not in text
    assert html_front(front).count("<details>") == 4
    empty = replace(front, points=np.zeros((0, 2)), candidates=(), outcome="failed", reason="out of reach")
    assert "out of reach" in svg_front(empty)
    assert "out of reach" in html_front(empty)
