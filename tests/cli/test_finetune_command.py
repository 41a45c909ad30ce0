"""`graphopt finetune`: better on samples that no step saw, or as before; the same every time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt.train
from graphopt.onnx_io.load import load
from graphopt.onnx_io.save import save
from graphopt.pipeline import optimize
from graphopt.resources import sample_models_dir
from graphopt.results import Options
from graphopt.verification.session import Session
from graphopt.weights.calibration import calibration_from_arrays
from graphopt.weights.sized import Frame, fit
from tests.weights.nets import net, spoiled

pytest.importorskip("torch", reason="needs PyTorch: pip install 'graphopt[train]'")

TEXT = (
    '<ir_version: 8, opset_import: ["": 17]> m (float[N,3,6,6] x) => (float[N,4] y) '
    "<float[5,3,3,3] w, float[4,5] v> {"
    "a = Conv (x, w) b = Relu (a) c = GlobalAveragePool (b) d = Flatten (c) y = Gemm <transB = 1> (d, v) }"
)


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "original.onnx"
    save(net(TEXT, tmp_path / "made.onnx"), path)
    return path


@pytest.fixture
def start(original: Path, tmp_path: Path) -> Path:
    """The original with other weights in its convolution, and metadata of its own."""
    path = tmp_path / "start.onnx"
    save(spoiled(load(original), "a", amount=0.8), path, metadata={"graphopt.plan": "sha256:1"})
    return path


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    x = 3 * np.random.default_rng(0).standard_normal((120, 3, 6, 6)).astype(np.float32)
    scores = Session(original).run({"x": x})["y"]
    np.savez(tmp_path / "data.npz", x=x, label=scores.argmax(1))
    return tmp_path / "data.npz"


@pytest.mark.parametrize("learn", ["teacher", "labels", "both"])
def test_what_was_spoiled_comes_nearer_and_the_same_every_time(
    learn: str, run, original: Path, start: Path, data: Path, tmp_path: Path
) -> None:
    given = ["--calibration", data, "--evaluate", data, "--learning-rate", "0.02", "--seed", "1", "--json"]
    given += ["--teacher", original] if learn != "labels" else []
    given += ["--labels"] if learn == "both" else []
    out, again = tmp_path / "out.onnx", tmp_path / "again.onnx"
    done = run("finetune", start, "-o", out, *given)
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["loss"] == {"teacher": "distillation", "labels": "labels", "both": "both"}[learn]
    assert (values["kept"], values["samples"], values["held_out"], values["steps"]) == (True, 90, 30, 40)
    assert values["after"]["value"] < 0.9 * values["before"]["value"]
    assert (values["after"]["drift"] is None) == (learn == "labels")
    accuracy = [values["evaluation"][when]["metrics"]["top1"] for when in ("before", "after")]
    assert accuracy[1] > accuracy[0]
    run("finetune", start, "-o", again, *given)
    assert again.read_bytes() == out.read_bytes()
    metadata = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert metadata["graphopt.plan"] == "sha256:1"
    assert metadata["graphopt.finetuned"].startswith(f"{values['loss']}; seed 1; 20 epochs; data sha256:")


@pytest.mark.slow
def test_the_defaults_help_where_samples_are_few(run, tmp_path: Path) -> None:
    """The classifier at three quarters of its channels, repaired: a rate that is too high makes it worse than that."""
    model, data = sample_models_dir() / "fashion_classifier.onnx", sample_models_dir() / "fashion_calibration.npz"
    options = Options(allow="retrain", depth_multipliers=(0.75,), calibration=str(data), max_evaluations=500)
    optimize(model, tmp_path / "small.onnx", options)
    given = ("--teacher", model, "--calibration", data, "-o", tmp_path / "out.onnx", "--json")
    values = json.loads(run("finetune", tmp_path / "small.onnx", *given).stdout)
    assert values["kept"]
    assert values["after"]["value"] < 0.95 * values["before"]["value"]


@pytest.mark.parametrize("learn", ["teacher", "both"])
def test_the_teacher_sees_the_images_at_its_own_size(
    learn: str, run, original: Path, data: Path, tmp_path: Path
) -> None:
    small, out = tmp_path / "small.onnx", tmp_path / "out.onnx"
    save(spoiled(net(TEXT.replace("6,6", "4,4"), tmp_path / "made4.onnx"), "a", amount=0.8), small)
    given = ["--calibration", data, "--teacher", original, "--learning-rate", "0.02", "--evaluate", data, "--json"]
    done = run("finetune", small, "-o", out, *given, *(["--labels"] if learn == "both" else []))
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["kept"]
    assert "of 4, the teacher its own size; compared in y" in values["notes"][0]
    with np.load(data) as file:
        x = file["x"]
    _, held_out = calibration_from_arrays({"x": x}, {"x": ((None, 3, 6, 6), np.dtype(np.float32))}).split(0.25, 0)
    wanted = Session(original).run({"x": x[held_out]})["y"]
    for path, judged in ((small, values["before"]), (out, values["after"])):
        scores = Session(path).run(fit({"x": x[held_out]}, {"x": Frame((2, 3), (4, 4))}))["y"]
        assert judged["drift"]["value"] == pytest.approx(divergence(wanted, scores), rel=1e-3)
        if learn == "both":  # the loss that was learned from: labels, and the teacher at temperature 2
            entropy = -np.log(softmax(scores)[np.arange(len(scores)), wanted.argmax(1)]).mean()
            assert judged["value"] == pytest.approx(entropy + 4 * divergence(wanted / 2, scores / 2), rel=1e-3)


def divergence(wanted: np.ndarray, found: np.ndarray) -> float:
    p, q = softmax(wanted), softmax(found)
    return float((p * (np.log(p) - np.log(q))).sum(1).mean())


def softmax(scores: np.ndarray) -> np.ndarray:
    shares = np.exp(scores - scores.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def test_outputs_of_other_sizes_cannot_be_compared(run, tmp_path: Path) -> None:
    """A map that becomes a smaller one: only labels say what it should be."""
    for side in (6, 4):
        text = f'<ir_version: 8, opset_import: ["": 17]> m (float[N,3,{side},{side}] x) => (float[N,5,{side},{side}] y)'
        save(net(f"{text} <float[5,3,1,1] w> {{ y = Conv (x, w) }}", tmp_path / "made.onnx"), tmp_path / f"{side}.onnx")
    np.save(tmp_path / "x.npy", np.zeros((20, 3, 6, 6), np.float32))
    given = ("--calibration", tmp_path / "x.npy", "-o", tmp_path / "out.onnx")
    done = run("finetune", tmp_path / "4.onnx", "--teacher", tmp_path / "6.onnx", *given)
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert "leave it out and learn from labels" in done.stderr


def test_weights_that_training_spoils_are_not_written(
    run, original: Path, start: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    given = ("--teacher", original, "--calibration", data, "-o", out, "--learning-rate", "50", "--epochs", "2")
    done = run("finetune", start, *given)
    assert done.exit_code == 0, done.stderr
    assert "training made it no better" in done.stdout
    for name, weight in load(start).weights.items():
        np.testing.assert_array_equal(load(out).weights[name].array(), weight.array())
    taken = run("finetune", start, *given)
    assert (taken.exit_code, "exists already; --force replaces it" in taken.stderr) == (2, True)


def test_what_cannot_be_done_is_one_line(run, original: Path, start: Path, data: Path, tmp_path: Path) -> None:
    with np.load(data) as file:
        np.savez(tmp_path / "plain.npz", x=file["x"])
        np.save(tmp_path / "plain.npy", file["x"])
    for given, message in (
        (("--calibration", tmp_path / "plain.npz"), "lacks class labels"),
        (("--calibration", tmp_path / "plain.npy"), "name the original: --teacher ORIGINAL.onnx"),
        (("--calibration", data, "--teacher", tmp_path / "no.onnx"), "no.onnx"),
        (("--calibration", data, "--epochs", "nan"), "must be a number over 0"),
        (("--calibration", data, "--epochs", "0.01"), "the recipe asks for no step"),
        (("--calibration", data, "--memory-limit", "400"), "not one batch of samples fits"),
        ((), "Missing option '--calibration'"),
    ):
        done = run("finetune", start, "-o", tmp_path / "out.onnx", *given)
        assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "out.onnx").exists()


def test_without_pytorch_one_line_says_what_to_install(
    run, original: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphopt.train, "find_spec", lambda name: None)
    done = run("finetune", original, "--calibration", data)
    assert (done.exit_code, "fine-tuning needs PyTorch: pip install 'graphopt[train]'" in done.stderr) == (2, True)
