"""`--repair-steps` from the command line to the report, and one line where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import graphopt.train
from graphopt.ir.graph import Graph
from graphopt.real_data import RealData
from graphopt.weights.repair import Repaired, RepairedUnit
from tests.weights.nets import spoiled


@pytest.fixture
def data(tmp_path: Path) -> Path:
    images = np.random.default_rng(0).standard_normal((40, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "real.npz", image=images)
    return tmp_path / "real.npz"


def test_the_blocks_are_in_json_summary_and_page_and_a_replay_makes_the_same(
    run, small_model: Path, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'graphopt[train]'")
    limit = (
        "--calibration",
        data,
        "--memory-limit",
        "3MB",
    )  # too little to solve for a wide kernel: steps have much to do
    common = (*limit, "--repair-steps", "40")
    first, again, page = tmp_path / "first.onnx", tmp_path / "again.onnx", tmp_path / "page.html"
    done = run("optimize", small_model, "-o", first, "--report", page, *common)
    assert done.exit_code == 0, done.stderr
    assert "gradient steps made" in " ".join(done.stdout.split())
    assert "Gradient steps</h2>" in page.read_text()
    replay = run("apply", small_model, first.with_suffix(".plan.toml"), "-o", again, "--json", *common)
    values = json.loads(replay.stdout)
    assert any(unit["method"] == "gradient" and unit["kept"] for unit in values["refined"])
    assert again.read_bytes() == first.read_bytes()
    plain = run("optimize", small_model, "-o", tmp_path / "plain.onnx", "--json", *limit)
    assert json.loads(plain.stdout)["refined"] is None
    assert json.loads(plain.stdout)["drift"]["value"] > values["drift"]["value"]
    assert (tmp_path / "plain.onnx").read_bytes() != first.read_bytes()


def test_steps_that_raise_the_drift_are_not_taken(
    run, small_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'graphopt[train]'")

    def worse(self: RealData, original: Graph, repaired: Graph, *rest: object, **options: object) -> Repaired:
        return Repaired(spoiled(repaired, "d", amount=2.0), (RepairedUnit("p", "gradient", 0.2, 0.1, True),))

    monkeypatch.setattr(RealData, "refine", worse)
    out = tmp_path / "out.onnx"
    done = run("optimize", small_model, "-o", out, "--json", "--calibration", data, "--repair-steps", "1")
    values = json.loads(done.stdout)
    assert values["refined"] is None
    assert any("gradient steps raised the drift" in note for note in values["notes"])
    plain = run("optimize", small_model, "-o", tmp_path / "plain.onnx", "--json", "--calibration", data)
    assert json.loads(plain.stdout)["drift"] == values["drift"]
    assert out.read_bytes() == (tmp_path / "plain.onnx").read_bytes()


@pytest.mark.parametrize("command", ["optimize", "zoo"])
def test_it_needs_real_inputs_and_repair(command: str, run, small_model: Path, data: Path, tmp_path: Path) -> None:
    subject = small_model if command == "optimize" else small_model.parent
    out = tmp_path / "elsewhere" / ("out.onnx" if command == "optimize" else "zoo")
    out.parent.mkdir()
    done = run(command, subject, "-o", out, "--repair-steps", "5")
    assert (done.exit_code, "--repair-steps trains on real inputs: add --calibration PATH" in done.stderr) == (2, True)
    done = run(command, subject, "-o", out, "--repair-steps", "5", "--calibration", data, "--no-repair")
    assert (done.exit_code, "leave --no-repair out" in done.stderr) == (2, True)


def test_without_pytorch_one_line_says_what_to_install(
    run, small_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphopt.train, "find_spec", lambda name: None)
    done = run("optimize", small_model, "-o", tmp_path / "o.onnx", "--calibration", data, "--repair-steps", "5")
    assert done.exit_code == 2
    assert "--repair-steps needs PyTorch: pip install 'graphopt[train]'" in done.stderr
