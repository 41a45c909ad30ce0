"""A black box that tells one number: what it may print, how it may fail, and what its totals give away."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from graphopt.cost.features import rows, terms
from graphopt.cost.learned_file import packed, unpacked
from graphopt.cost.workload import Workload
from graphopt.errors import ConfigError, ModelError
from graphopt.ir.graph import Graph
from graphopt.measure.backend import Measurement, Refusal
from graphopt.measure.solve import MeasuredTotal, solve
from graphopt.measure.totals import Totals
from graphopt.onnx_io.load import load
from graphopt.targets.target import load_target

TARGET = load_target("npu-16")


@pytest.fixture
def graph(small_model: Path) -> Graph:
    return load(small_model)


def python(code: str) -> str:
    """A command template that runs ``code``, which finds the model in ``m``."""
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(f'import sys; m = sys.argv[1]; {code}')} {{model}}"


@pytest.mark.parametrize(
    ("code", "us"),
    [
        ("print(12.5)", 12.5),
        ("print('12.5 ms')", 12500.0),
        ("print('warming up'); print('done in'); print(' 3e2us')", 300.0),
        ("print('.5 S')", 500_000.0),
        ("import onnx; print(len(onnx.load(m).graph.node))", 10.0),
    ],
)
def test_the_last_line_is_the_latency(code: str, us: float, graph: Graph) -> None:
    assert Totals(python(code)).measure([graph]) == [Measurement(us, (), 0.0)]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("pass", "printed '', not one number"),
        ("print('fast')", "printed 'fast', not one number"),
        ("print('12 13')", "not one number"),
        ("print('12 minutes')", "not one number"),
        ("print(-1)", "a finite number greater than 0"),
        ("print(0)", "a finite number greater than 0"),
        ("print(float('nan'))", "a finite number greater than 0"),
        ("print('1e999')", "a finite number greater than 0"),
        ("print(5); sys.exit('no licence')", "ended with exit code 1 and said: no licence"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended with signal SIGKILL"),
    ],
)
def test_any_other_answer_refuses_the_model_in_one_line(code: str, reason: str, graph: Graph) -> None:
    (refusal,) = Totals(python(code)).measure([graph])
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason
    assert "\n" not in refusal.reason


def test_a_command_that_hangs_is_ended_with_all_that_it_started(graph: Graph, tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    grandchild = f"import time; time.sleep(2); open({str(alive)!r}, 'w')"
    code = f"import subprocess, time; subprocess.Popen([sys.executable, '-c', {grandchild!r}]); time.sleep(60)"
    start = time.monotonic()
    (refusal,) = Totals(python(code), timeout_s=1.0).measure([graph])
    assert isinstance(refusal, Refusal)
    assert "took longer than 1 s" in refusal.reason
    assert time.monotonic() - start < 10
    time.sleep(2)
    assert not alive.exists()


def test_no_shell_is_involved(graph: Graph, tmp_path: Path) -> None:
    template = f"{python('print(len(sys.argv))')} ; touch {tmp_path}/made"
    assert Totals(template).measure([graph]) == [Measurement(5.0, (), 0.0)]
    assert list(tmp_path.glob("made")) == []


@pytest.mark.parametrize(
    ("how", "options", "reason"),
    [
        ("no-such-tool-here {model}", {}, "no command 'no-such-tool-here'"),
        ("bench model.onnx", {}, "a command that holds {model}, or MODULE:FUNCTION"),
        ("'bench {model}", {}, "cannot be split into words"),
        ("no_such_module:measure", {}, "cannot be imported"),
        ("json:no_such", {}, "has no 'no_such'"),
        ("sys:path", {}, "is no function"),
        ("json:dumps", {"unit": "minutes"}, "must be one of us, ms, s"),
        ("json:dumps", {"repeats": 0}, "repeats must be 1 or more"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(how: str, options: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Totals(how, **options)  # type: ignore[arg-type]


def test_a_python_function_measures_and_repeats_show_the_spread(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "graphopt_my_chip.py").write_text(
        "times = iter([2.0, 1.0, 4.0])\n"
        "def measure(path):\n    open(path, 'rb').close()\n    return next(times)\n"
        "def broken(path):\n    raise OSError('no\\nboard')\n"
    )
    monkeypatch.chdir(tmp_path)
    assert Totals("graphopt_my_chip:measure", unit="ms", repeats=3).measure([graph]) == [Measurement(2000.0, (), 1.5)]
    (refusal,) = Totals("graphopt_my_chip:broken").measure([graph])
    assert refusal == Refusal("", "graphopt_my_chip:broken failed: OSError: no board")


def kernel(rng: np.random.Generator, pixels: int) -> Workload:
    """A random 1x1 or 3x3 convolution."""
    ins, outs = (int(rng.integers(4, 160)) for _ in range(2))
    side = int(rng.choice([1, 3]))
    return Workload(
        "convolution", pixels=pixels, taps=side * side, channels_in=ins, channels_out=outs, kernel_height=side,
        kernel_width=side, input_elements=pixels * ins, output_elements=pixels * outs,
        activation_elements=pixels * (ins + outs), weight_elements=side * side * ins * outs, op_type="Conv",
        category="conv-1x1" if side == 1 else "conv-kxk",
    )  # fmt: skip


def hidden_us(loads: tuple[Workload, ...]) -> np.ndarray:
    """A chip with tiles of 16, whose memory gets slower the larger the image is: no roofline says that."""
    columns = rows(loads, TARGET).columns
    roofline = terms(columns, 16, 16) @ np.array([1e-4, 1e-4, 0.0, 2e-4, 1e-4, 0.0, 1.0])
    return roofline * (1 + 0.15 * np.log10(columns[:, 0]))


@pytest.fixture(scope="module")
def nets() -> list[tuple[Workload, ...]]:
    rng = np.random.default_rng(3)
    return [tuple(kernel(rng, size * size) for size in (56, 56, 28, 28, 14, 14, 7, 7)) for _ in range(140)]


def test_kernels_are_solved_for_from_totals(nets: list[tuple[Workload, ...]]) -> None:
    totals = [MeasuredTotal(loads, float(hidden_us(loads).sum())) for loads in nets]
    learned = unpacked(packed(solve(totals[:100], TARGET)), "solved.npz")

    def latencies(loads: tuple[Workload, ...]) -> np.ndarray:
        return np.array([float(found.latency_us) for found in learned.predict(loads, TARGET) if found is not None])

    held_out = totals[100:]
    errors = np.array([latencies(one.loads).sum() / one.total_us - 1 for one in held_out])
    assert np.abs(errors).max() < 0.05
    # the widths are independent here, so even single kernels are found
    single = np.concatenate([latencies(one.loads) / hidden_us(one.loads) - 1 for one in held_out])
    assert np.median(np.abs(single)) < 0.05
    assert [tuple(model.units["whole"].tiles) for model in learned.categories.values()] == [(16, 16), (16, 16)]
    sigma = learned.predict(nets[0], TARGET)[0]
    assert sigma is not None
    assert 1e-3 <= float(sigma.uncertainty) < 0.05


def test_the_smoothness_prior_earns_its_place(
    nets: list[tuple[Workload, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    totals = [MeasuredTotal(loads, float(hidden_us(loads).sum())) for loads in nets]

    def error() -> float:
        learned = solve(totals[:100], TARGET)
        found = [sum(float(one.latency_us) for one in learned.predict(t.loads, TARGET) if one) for t in totals[100:]]
        return float(np.abs(np.array(found) / [t.total_us for t in totals[100:]] - 1).mean())

    with_factors = error()
    monkeypatch.setattr("graphopt.measure.solve._TIES", (1e9,))  # so tight that there are none
    assert with_factors < 0.5 * error()


def test_totals_that_cannot_be_used_are_refused(nets: list[tuple[Workload, ...]]) -> None:
    totals = [MeasuredTotal(loads, 10.0) for loads in nets[:30]]
    with pytest.raises(ModelError, match="19 totals are too few"):
        solve(totals[:19], TARGET)
    with pytest.raises(ModelError, match="no finite number greater than 0"):
        solve([*totals, MeasuredTotal(nets[0], float("nan"))], TARGET)
