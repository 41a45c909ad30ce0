"""Training is seeded, lowers the loss on the real sample, and what it learned is in the graph that comes back."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.errors import ConfigError, ModelError
from graphopt.ir.graph import Graph
from graphopt.ir.op import Array
from graphopt.onnx_io.load import load
from graphopt.onnx_io.save import save
from graphopt.plan import WidthChoice
from graphopt.resources import sample_models_dir
from graphopt.verification.drift import measure_drift
from graphopt.verification.interface import input_types, read_interface
from graphopt.weights.calibration import calibration_from_arrays
from tests.weights.nets import net

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'graphopt[train]'")

from graphopt.train.finetune import Recipe, cross_entropy, distillation, finetune, learning_rate_at  # noqa: E402

MODEL = sample_models_dir() / "fashion_classifier.onnx"
NARROWED = ("getitem_57", "getitem_66", "getitem_75")
"""Hidden channels of three late blocks of the sample: cheap steps, and a third of the channels cost much."""

TEXT = (
    '<ir_version: 8, opset_import: ["": 17]> m (float[N,3,6,6] x) => (float[N,4] y) '
    "<float[5,3,3,3] w, float[4,5] v> {"
    "a = Conv (x, w) b = Relu (a) c = GlobalAveragePool (b) d = Flatten (c) y = Gemm <transB = 1> (d, v) }"
)


def images(count: int) -> dict[str, Array]:
    with np.load(sample_models_dir() / "fashion_test.npz") as file:
        return {name: file[name][:count] for name in file.files}


@pytest.fixture(scope="module")
def narrowed(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """The sample with fewer channels and first-method weights."""
    plan = graphopt.scan(MODEL, graphopt.Options(allow="retrain")).plan
    widths = [w for w in plan.widths if w.group not in NARROWED] + [WidthChoice(g, 240, 160) for g in NARROWED]
    path = tmp_path_factory.mktemp("narrowed") / "narrowed.onnx"
    graphopt.apply_plan(MODEL, replace(plan, widths=tuple(widths)), path, graphopt.Options(verify=False))
    return load(path)


@pytest.mark.parametrize("kind", ["labels", "teacher"])
def test_training_brings_the_written_model_back(kind: str, narrowed: Graph, tmp_path: Path) -> None:
    data = images(320)
    seen = {name: values[:256] for name, values in data.items()}
    loss = cross_entropy("label") if kind == "labels" else distillation(load(MODEL))
    if kind == "teacher":
        del seen["label"]
    told: list[tuple[int, int]] = []
    done = finetune(
        narrowed, seen, loss, Recipe(steps=10, batch=24), lambda step, steps, value: told.append((step, steps))
    )
    assert told == [(step, 10) for step in range(1, 11)]
    assert np.mean(done.history[-5:]) < 0.7 * done.history[0]
    held_out = calibration_from_arrays({"image": data["image"][256:]}, input_types(read_interface(MODEL)))
    drifts = []
    for name, graph in (("before", narrowed), ("after", done.graph)):
        save(graph, tmp_path / f"{name}.onnx")
        drifts.append(measure_drift(MODEL, tmp_path / f"{name}.onnx", held_out, range(held_out.count)).value)
    assert drifts[1] < 0.6 * drifts[0]


def trained_digest(path: Path) -> str:
    """Digest of a small net's weights after a seeded training."""
    rng = np.random.default_rng(7)
    data = {"x": rng.standard_normal((40, 3, 6, 6)).astype(np.float32), "label": rng.integers(0, 4, 40)}
    graph = finetune(load(path), data, cross_entropy(), Recipe(epochs=1.5, batch=8, seed=3, learning_rate=0.01)).graph
    values = [graph.weights[name].array() for op in graph.ops() for name in op.inputs if name in graph.weights]
    return hashlib.sha256(b"".join(np.ascontiguousarray(value).tobytes() for value in values)).hexdigest()


def test_the_same_seed_gives_the_same_weights_in_two_processes(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    save(net(TEXT, tmp_path / "made.onnx"), path)
    code = f"from tests.train.test_finetune import *\nprint(trained_digest(Path({str(path)!r})))"
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert trained_digest(path) == other.stdout.strip()


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    rates = [learning_rate_at(step, 100) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001


def test_scores_and_their_probabilities_are_judged_alike() -> None:
    scores = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = {"label": torch.tensor([0, 1, 2, 3, 0, 1])}
    wanted = torch.nn.functional.cross_entropy(scores, labels["label"])
    torch.testing.assert_close(cross_entropy()({"y": scores}, labels), wanted)
    torch.testing.assert_close(cross_entropy()({"y": scores.softmax(1)}, labels), wanted)
    masks = scores.reshape(2, 4, 3, 1)
    torch.testing.assert_close(
        cross_entropy("mask", "y")({"x": scores, "y": masks}, {"mask": torch.zeros(2, 3, 1)}),
        torch.nn.functional.cross_entropy(masks, torch.zeros(2, 3, 1).long()),
    )


def test_what_cannot_be_trained_is_one_clear_line(tmp_path: Path) -> None:
    graph = net(TEXT, tmp_path / "net.onnx")
    x = np.zeros((8, 3, 6, 6), np.float32)
    labels = np.arange(8) % 4
    for data, recipe, message in (
        ({"z": x}, Recipe(), "the data lacks the input 'x'"),
        ({"x": x}, Recipe(batch=4), "the data lacks 'label'"),
        ({"x": x, "label": labels[:4]}, Recipe(batch=4), "arrays of different length: x 8, label 4"),
        ({"x": x, "label": labels}, Recipe(batch=16), "8 samples do not fill a batch of 16"),
        ({"x": x, "label": labels}, Recipe(batch=4, epochs=0.1), "the recipe asks for no step"),
        ({"x": x, "label": labels + 1}, Recipe(batch=8), "the model knows classes 0 to 3, and 'label' holds others"),
    ):
        with pytest.raises(ConfigError, match=message):
            finetune(graph, data, cross_entropy(), recipe)
    data = {"x": np.full((8, 3, 6, 6), np.inf, np.float32), "label": labels}
    with pytest.raises(ModelError, match="at step 1: a smaller learning rate would do"):
        finetune(graph, data, cross_entropy(), Recipe(batch=4))
    with pytest.raises(ModelError, match="the model does not run on a batch of 4"):
        finetune(graph, {"x": x[:, :2], "label": labels}, cross_entropy(), Recipe(batch=4))
