"""`graphopt estimate --measure`: the real thing beside the estimate."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from graphopt.cli import app
from graphopt.errors import ConfigError
from graphopt.measure.beside import choose
from graphopt.measure.choice import Choice
from graphopt.targets.target import EstimatorFile, Target, load_target

NPU = load_target("npu-16")
CPU = load_target("onnxruntime-cpu")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["estimate", *(str(argument) for argument in arguments)])


def prints(text: str) -> str:
    """A command that prints ``text`` for any model."""
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(f'print({text!r})')} {{model}}"


def test_onnxruntime_kernel_by_kernel(small_model: Path) -> None:
    done = run(small_model, "--target", "onnxruntime-cpu", "--measure", "--per-kernel", "--json")
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    measured = answer["measurement"]
    assert (answer["kind"], measured["kind"], measured["backend"]) == ("estimate", "measurement", "onnxruntime")
    assert measured["reason"] == ""
    assert measured["latency_us"] > 0
    assert measured["estimate_error"] == pytest.approx(answer["latency_us"] / measured["latency_us"] - 1)
    kernels = measured["kernels"]
    assert [key for kernel in kernels for key in kernel["keys"]] == [kernel["key"] for kernel in answer["kernels"]]
    assert sum(kernel["latency_us"] for kernel in kernels) == pytest.approx(measured["latency_us"])
    assert sum(kernel["estimate_us"] for kernel in kernels) == pytest.approx(answer["latency_us"])


def test_estimate_and_measurement_stand_side_by_side(small_model: Path) -> None:
    done = run(small_model, "--target", "npu-16", "--measure", "--backend", "totals", "--config", prints("12.5 ms"))
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    head = next(line for line in lines if line.lstrip().startswith("whole model"))
    assert head.split()[2:4] == ["estimate", "measurement"]
    row = lines[lines.index(head) + 2]
    assert row.split()[-4:-2] == ["12.5", "ms"]
    assert row.split()[-2].startswith("-99.")
    assert any(line.startswith("measured by totals: ") for line in lines)


def test_without_a_measurement_the_answer_is_no(small_model: Path) -> None:
    done = run(small_model, "--target", "npu-16", "--measure", "-b", "totals", "-c", prints("no board"), "--json")
    assert done.exit_code == 1
    answer = json.loads(done.stdout)
    assert answer["latency_us"] > 0
    assert "printed 'no board', not one number" in answer["measurement"]["reason"]
    assert "latency_us" not in answer["measurement"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--backend", "vela"), "add --measure"),
        (("--measure",), "nothing says how the target 'npu-16' is measured"),
        (("--measure", "--backend", "velo"), "no backend 'velo'"),
        (("--measure", "--backend", "vela"), "names no accelerator; name one: --config ethos-u55-256"),
        (("--measure", "--backend", "totals"), "the backend totals needs a command with {model}"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], reason: str, small_model: Path) -> None:
    done = run(small_model, "--target", "npu-16", *arguments)
    assert done.exit_code == 2
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


def learned(target: Target, backend: str, tool: str) -> Target:
    file = EstimatorFile("e.npz", "0" * 64, backend, tool, "2026-11-21", 100, 1000, "0" * 64, "e.npz")
    return replace(target, estimator=file)


@pytest.mark.parametrize(
    ("target", "choice"),
    [
        (replace(CPU, estimator=None), Choice("onnxruntime")),
        (replace(NPU, name="ethos-u55-128"), Choice("vela", "ethos-u55-128")),
        (learned(NPU, "vela", "ethos-u-vela 5.2.0 ethos-u65-512 Ethos_U65 Shared"), Choice("vela", "ethos-u65-512")),
        # measured by the reference of the target's own measurements: the same microseconds
        (learned(CPU, "onnxruntime", "onnxruntime 1.31.1 CPU, 1 thread, X, reference 98.7 us"),
         Choice("onnxruntime", nominal_us=98.7)),
    ],
)  # fmt: skip
def test_the_target_says_what_measures_it(target: Target, choice: Choice) -> None:
    assert choose(target) == choice


def test_what_is_asked_for_comes_first() -> None:
    ethos = replace(NPU, name="ethos-u55-128")
    assert choose(ethos, "onnxruntime") == Choice("onnxruntime")
    assert choose(ethos, None, "ethos-u85-256") == Choice("vela", "ethos-u85-256")
    assert choose(NPU, "my:Chip", "fast") == Choice("my:Chip", "fast")
    with pytest.raises(ConfigError, match="--backend onnxruntime or totals or vela"):
        choose(NPU)
    with pytest.raises(ConfigError, match="--config 'bench"):  # a target file names no command that would be run
        choose(learned(NPU, "totals", "totals: rm {model}"))
