"""Accuracy with labels and metrics of one's own: right numbers, and one line for every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest

from graphopt.errors import ConfigError, VerificationError
from graphopt.resources import sample_models_dir
from graphopt.verification.evaluate import Evaluation, open_evaluator
from graphopt.verification.interface import input_types, read_interface

SAMPLE = sample_models_dir()


def model(text: str) -> bytes:
    return bytes(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}').SerializeToString())


def classifier(classes: int) -> bytes:
    return model(f"m (float[N,{classes}] x) => (float[N,{classes}] y) {{ y = Identity(x) }}")


def inputs(*shape: Any) -> dict[str, Any]:
    return {"x": (shape, np.dtype(np.float32))}


def labelled(tmp_path: Path, x: Any, **arrays: Any) -> str:
    np.savez(tmp_path / "data.npz", x=np.array(x, np.float32), **{name: np.array(v) for name, v in arrays.items()})
    return str(tmp_path / "data.npz")


def test_the_sample_models_accuracy(tmp_path: Path) -> None:
    path = SAMPLE / "fashion_classifier.onnx"
    with np.load(SAMPLE / "fashion_test.npz") as whole:
        np.savez(tmp_path / "some.npz", image=whole["image"][:400], label=whole["label"][:400])
    evaluator = open_evaluator(str(tmp_path / "some.npz"), input_types(read_interface(path)))
    found = evaluator.evaluate(path)
    assert found.samples == 400
    assert [name for name, _ in found.metrics] == ["top1", "top5"]
    top1, top5 = (value for _, value in found.metrics)
    assert 0.85 < top1 < 0.95 < top5 <= 1
    assert evaluator.evaluate(path.read_bytes()) == found


def test_top1_and_top5_by_hand(tmp_path: Path) -> None:
    scores = [[9, 1, 2, 3, 4, 5, 6], [0, 9, 8, 7, 6, 5, 4], [0, 9, 8, 7, 6, 5, 4]]
    evaluator = open_evaluator(labelled(tmp_path, scores, label=[0, 5, 6]), inputs(None, 7))
    found = evaluator.evaluate(classifier(7))
    assert found == Evaluation((("top1", 1 / 3), ("top5", 2 / 3)), 3, found.hits)
    assert found.hits == (("top1", (True, False, False)), ("top5", (True, True, False)))
    few = open_evaluator(labelled(tmp_path, [[1, 2], [2, 1]], labels=[[1], [1]]), inputs(None, 2))
    assert few.evaluate(classifier(2)) == Evaluation((("top1", 0.5),), 2, (("top1", (True, False)),))


def shares(*hits: int) -> Evaluation:
    return Evaluation((("top1", float(np.mean(hits))),), len(hits), (("top1", tuple(map(bool, hits))),))


def test_standard_errors_by_hand() -> None:
    before, after = shares(1, 1, 0, 0), shares(1, 0, 0, 1)
    assert before.standard_errors == {"top1": pytest.approx(np.sqrt(0.5 * 0.5 / 4))}
    assert before.paired_errors(after) == {"top1": pytest.approx(np.sqrt(0.5 / 4))}
    assert before.paired_errors(before) == {"top1": 0.0}
    own = Evaluation((("mean", 3.0),), 4)
    assert own.standard_errors == own.paired_errors(own) == own.paired_errors(after) == {}


def test_the_paired_error_is_what_resampling_finds() -> None:
    rng = np.random.default_rng(0)
    before = rng.random(400) < 0.9
    after = np.where(rng.random(400) < 0.9, before, rng.random(400) < 0.5)
    again = rng.integers(0, 400, (4000, 400))
    found = (after[again].mean(axis=1) - before[again].mean(axis=1)).std()
    paired = shares(*before).paired_errors(shares(*after))["top1"]
    assert paired == pytest.approx(found, rel=0.05)
    apart = np.hypot(shares(*before).standard_errors["top1"], shares(*after).standard_errors["top1"])
    assert paired < 0.8 * apart


def test_scores_behind_other_outputs_and_with_ones_behind(tmp_path: Path) -> None:
    text = """m (float[N,2] x) => (int64[N] best, float[N,1] sure, float[N,2,1,1] y)
        <int64[2] axes = {2, 3}> { best = ArgMax<axis=1, keepdims=0>(x) sure = ReduceMax<axes=[1]>(x)
        y = Unsqueeze(x, axes) }"""
    evaluator = open_evaluator(labelled(tmp_path, [[1, 2], [2, 1]], label=[1, 0]), inputs(None, 2))
    assert evaluator.evaluate(model(text)).metrics == (("top1", 1.0),)


def test_a_fixed_batch_leaves_out_what_does_not_fill_one(tmp_path: Path) -> None:
    evaluator = open_evaluator(labelled(tmp_path, [[1, 2], [2, 1], [9, 0]], label=[1, 0, 1]), inputs(2, 2))
    fixed = model("m (float[2,2] x) => (float[2,2] y) { y = Identity(x) }")
    assert evaluator.evaluate(fixed) == Evaluation((("top1", 1.0),), 2, (("top1", (True, True)),))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"lacks class labels \('label' or 'labels'\); besides the inputs it holds nothing"),
        ({"y": [1, 1]}, "besides the inputs it holds y"),
        ({"label": [0.0, 1.0]}, r"'label' must be 2 whole numbers, one for each sample, and is float64 \(2,\)"),
        ({"label": [0, 1, 1]}, "must be 2 whole numbers"),
        ({"label": [[0, 1], [1, 0]]}, "must be 2 whole numbers"),
        ({"label": [[0, 1]]}, "must be 2 whole numbers"),
        ({"label": [0, -1]}, "holds the class -1; classes begin at 0"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, arrays: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_evaluator(labelled(tmp_path, [[1, 2], [2, 1]], **arrays), inputs(None, 2))


def test_labels_and_models_that_do_not_fit(tmp_path: Path) -> None:
    evaluator = open_evaluator(labelled(tmp_path, [[1, 2], [2, 1]], label=[0, 2]), inputs(None, 2))
    with pytest.raises(ConfigError, match=r"data\.npz: holds the class 2, and the model knows 0 to 1"):
        evaluator.evaluate(classifier(2))
    total = model("m (float[N,2] x) => (float y) { y = ReduceSum<keepdims=0>(x) }")
    with pytest.raises(ConfigError, match=r"class scores, \(samples, classes\), and the model has y \(\)"):
        evaluator.evaluate(total)


METRICS = """
from __future__ import annotations
from dataclasses import dataclass
import numpy as np

@dataclass
class Probe:
    rows: int

def mean(run):
    return run({"x": np.full((Probe(4).rows, 2), 3, np.float32)})["y"].mean()

def several(run):
    run({"x": np.ones((4, 2), np.float32)})
    run({"x": np.ones((1, 2), np.float32)})
    return {"b": 1, "a": np.float32(0.5)}

def nothing(run): return None
def empty(run): return {}
def infinite(run): return {"loss": float("inf")}
def broken(run): return 1 / 0
def starved(run): return run({})
number = 3
"""


@pytest.fixture
def metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_graphopt_metrics.py").write_text(METRICS)
    (tmp_path / "my_broken_metrics.py").write_text("import does_not_exist")
    return tmp_path


@pytest.mark.parametrize("module", ["my_graphopt_metrics", "my_graphopt_metrics.py"])
def test_a_metric_of_ones_own(metrics: Path, module: str) -> None:
    found = open_evaluator(f"{module}:mean", inputs(None, 2)).evaluate(classifier(2))
    assert found == Evaluation((("mean", 3.0),), 4)
    found = open_evaluator(f"{module}:several", inputs(None, 2)).evaluate(classifier(2))
    assert found == Evaluation((("b", 1.0), ("a", 0.5)), 5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("metrics", "takes a labelled .npz or module:function, not 'metrics'"),
        (":f", "takes a labelled"),
        ("my_graphopt_metrics:men", r"no function 'men' there \(nearest: mean"),
        ("my_graphopt_metrics:number", "no function 'number' there"),
        ("my_broken_metrics:f", "cannot be imported: ModuleNotFoundError: No module named 'does_not_exist'"),
        ("my_absent_metrics:f", "cannot be imported: ModuleNotFoundError"),
        ("absent.py:f", "cannot be imported: FileNotFoundError"),
        ("absent.npz", "no such file"),
    ],
)
def test_what_cannot_be_opened_is_said_in_one_line(metrics: Path, spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_evaluator(spec, inputs(None, 2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "returned NoneType for 'nothing'; a number is wanted"),
        ("empty", "returned no numbers"),
        ("infinite", "'loss' is inf"),
        ("broken", "raised ZeroDivisionError: division by zero"),
    ],
)
def test_what_a_metric_does_wrong_is_said_in_one_line(metrics: Path, function: str, message: str) -> None:
    evaluator = open_evaluator(f"my_graphopt_metrics:{function}", inputs(None, 2))
    with pytest.raises(ConfigError, match=f"--evaluate my_graphopt_metrics:{function}: {message}"):
        evaluator.evaluate(classifier(2))


def test_a_model_that_fails_is_the_models_fault(metrics: Path) -> None:
    with pytest.raises(VerificationError, match="does not run"):
        open_evaluator("my_graphopt_metrics:starved", inputs(None, 2)).evaluate(classifier(2))


def test_nothing_is_imported_that_was_not_named(metrics: Path) -> None:
    (metrics / "my_loud_metrics.py").write_text("raise RuntimeError('imported')")
    open_evaluator("my_graphopt_metrics:mean", inputs(None, 2))
    with pytest.raises(ConfigError, match="cannot be imported: RuntimeError: imported"):
        open_evaluator("my_loud_metrics:mean", inputs(None, 2))
