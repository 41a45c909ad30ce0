"""Drift: every number against one worked out by hand, and what cannot be compared."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx.parser
import pytest

from graphopt.errors import ConfigError, VerificationError
from graphopt.resources import sample_models_dir
from graphopt.verification.drift import Drift, drift_from, measure_drift, reference_outputs
from graphopt.verification.tally import OutputDrift, Tally
from graphopt.weights.calibration import Calibration, calibration_from_arrays, open_calibration

F32 = np.dtype(np.float32)
SAMPLE = sample_models_dir()


def model(text: str) -> bytes:
    return bytes(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}').SerializeToString())


SAME = model("m (float[N,3] x) => (float[N,3] y) { y = Identity(x) }")


def scaled(factor: float) -> bytes:
    return model(f"m (float[N,3] x) => (float[N,3] y) <float f = {{{factor}}}> {{ y = Mul(x, f) }}")


def rows(*values: list[float]) -> Calibration:
    return calibration_from_arrays({"x": np.array(values)}, {"x": ((None, len(values[0])), F32)})


def one(before: Any, after: Any, batch: int = 2, dtype: Any = np.float32) -> OutputDrift:
    """Tally two arrays in batches."""
    tally = Tally("y")
    a, b = np.array(before, dtype), np.array(after, dtype)
    for start in range(0, len(a), batch):
        tally.add(a[start : start + batch], b[start : start + batch], len(a[start : start + batch]))
    return tally.result()


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value) for value in row]
    return [power / sum(powers) for power in powers]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)


def test_logits_by_hand() -> None:
    before = [[3.0, 0.0, 0.0], [0.0, 4.0, 1.0], [0.0, 0.0, 5.0]]
    after = [[1.0, 0.0, 2.0], [0.0, 4.0, 1.0], [0.5, 0.0, 4.0]]
    found = one(before, after)
    parts = [kl(softmax(a), softmax(b)) for a, b in zip(before, after, strict=True)]
    mean = sum(parts) / 3
    assert found.measure == "kl"
    assert found.value == pytest.approx(mean)
    assert found.kl == found.value
    assert found.standard_error == pytest.approx(math.sqrt(sum((part - mean) ** 2 for part in parts) / 2 / 3))
    assert found.top1_agreement == pytest.approx(2 / 3)
    assert found.top5_agreement is None
    assert found.max_abs == 2.0
    assert found.relative_l2 == pytest.approx(math.sqrt((4 + 4 + 0.25 + 1) / (9 + 17 + 25)))
    dot, norm_a, norm_b = 3 + 17 + 20, 9 + 17 + 25, 5 + 17 + 16.25
    assert found.cosine == pytest.approx(dot / math.sqrt(norm_a * norm_b))


def test_probabilities_are_not_pushed_through_a_softmax_again() -> None:
    before, after = [[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.2, 0.8]]
    found = one(before, after)
    assert found.value == pytest.approx(kl(before[0], after[0]) / 2, rel=1e-6)
    certain = one([[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.0, 1.0]])
    assert certain.value == pytest.approx(math.log(2) / 2)
    wrong = one([[1.0, 0.0]], [[0.0, 1.0]])
    assert 80 < wrong.value < 90


def test_rows_that_turn_out_to_be_logits_in_a_later_batch_are_logits() -> None:
    before, after = [[0.9, 0.1], [5.0, 1.0]], [[0.5, 0.5], [5.0, 1.0]]
    mean = kl(softmax(before[0]), softmax(after[0])) / 2
    assert one(before, after, batch=1).value == pytest.approx(mean)
    assert one(before[::-1], after[::-1], batch=1).value == pytest.approx(mean)


def test_huge_logits_do_not_overflow() -> None:
    found = one([[1000.0, -1000.0]], [[-1000.0, 1000.0]])
    assert found.value == pytest.approx(2000.0)


def test_a_shift_of_all_logits_is_no_drift() -> None:
    found = one([[3.0, 0.0], [0.0, 2.0]], [[13.0, 10.0], [-10.0, -8.0]])
    assert found.value == pytest.approx(0.0, abs=1e-12)
    assert found.relative_l2 > 1


def test_top5_looks_for_the_originals_best_among_the_new_best_five() -> None:
    before = [[9.0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 9.0]]
    after = [[3.0, 4, 5, 6, 7, 0, 0], [6.0, 5, 4, 3, 2, 1, 0]]
    found = one(before, after)
    assert (found.top1_agreement, found.top5_agreement) == (0.0, 0.5)


@pytest.mark.parametrize(
    "before",
    [
        [[0.9, 0.8, 0.1], [0.1, 0.7, 0.9]],  # independent probabilities
        [[0.1, -0.1, 0.12], [-0.1, 0.1, 0.05]],  # a softmax that is nearly uniform
        [[[1.0, 2.0]], [[3.0, 4.0]]],  # rank 3
        [[1.0], [2.0]],  # one column
    ],
)
def test_other_floats_are_judged_by_relative_l2(before: Any) -> None:
    found = one(before, (1.5 * np.array(before)).tolist())
    assert (found.measure, found.kl) == ("relative-l2", None)
    assert found.value == pytest.approx(0.5, rel=1e-6)
    assert found.standard_error == pytest.approx(0.0, abs=1e-7)
    assert found.cosine == pytest.approx(1.0)


def test_standard_error_of_relative_l2_is_what_resampling_finds() -> None:
    rng = np.random.default_rng(0)
    before = rng.standard_normal((400, 4, 4))
    after = before + rng.standard_normal((400, 4, 4)) * rng.uniform(0, 1, (400, 1, 1))
    found = one(before, after, batch=16, dtype=np.float64)
    draws = [rng.integers(0, 400, 400) for _ in range(400)]
    again = [np.linalg.norm((after - before)[d]) / np.linalg.norm(before[d]) for d in draws]
    assert found.standard_error == pytest.approx(float(np.std(again)), rel=0.15)


def test_whole_numbers_count_what_differs() -> None:
    found = one([[1, 2], [3, 4]], [[1, 5], [3, 4]], dtype=np.int64)
    assert (found.measure, found.value, found.max_abs) == ("differing", 0.25, 3.0)
    assert one([["a"], ["b"]], [["a"], ["c"]], dtype=object).value == 0.5
    assert one([1, 2], [1, 2], dtype=np.int32).value == 0.0


def test_nothing_and_no_change() -> None:
    assert one([[0.0], [0.0]], [[0.0], [0.0]]).value == 0.0
    lost = one([[0.0], [0.0]], [[0.0], [1.0]])
    assert (lost.value, lost.reason) == (math.inf, "the original is zero throughout and the rewritten model is not")
    assert one([[5.0, 1.0]], [[5.0, 1.0]]).standard_error is None


@pytest.mark.filterwarnings("error")
def test_values_that_are_not_finite() -> None:
    broken = one([[1.0, 2.0]], [[1.0, math.nan]])
    assert (broken.value, broken.reason) == (math.inf, "it is not finite in the same places as the original")
    assert one([[1.0, -math.inf]], [[1.0, 0.0]]).value == math.inf
    same = one([[1.0, -math.inf, 1.0]], [[1.5, -math.inf, 1.0]])
    assert same.value == pytest.approx(0.5 / math.sqrt(2))
    assert same.reason == ""
    assert one([[1.0, math.nan]], [[1.0, math.nan]]).value == 0.0


def test_another_shape_is_a_lost_batch() -> None:
    tally = Tally("boxes")
    tally.add(np.ones((4, 2), np.float32), np.ones((4, 2), np.float32), 1)
    tally.add(np.ones((4, 2), np.float32), np.ones((5, 2), np.float32), 1)
    found = tally.result()
    assert found.value == pytest.approx(math.sqrt(0.5))
    assert found.max_abs == math.inf


def test_both_ways_through_onnxruntime_agree_and_repeat() -> None:
    path = SAMPLE / "fashion_classifier.onnx"
    calibration = open_calibration(SAMPLE / "fashion_calibration.npz", {"image": (("N", 1, 28, 28), F32)})
    bent = onnx.load(path)
    for tensor in bent.graph.initializer:
        if tensor.raw_data and len(tensor.dims) == 4:
            values = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.round(values * 8) / np.float32(8), tensor.name))
    indices = np.arange(3, 103)
    content = bytes(bent.SerializeToString())
    reference = reference_outputs(path, calibration, indices, batch_size=32)
    kept = drift_from(reference, content, calibration)
    assert kept == drift_from(reference, content, calibration)
    assert kept == measure_drift(path, content, calibration, indices, batch_size=32)
    assert kept.samples == 100
    assert reference.bytes == 100 * 10 * 4
    assert 0.001 < kept.value < 5
    assert 0.1 < (kept.top1_agreement or 0) < 1
    assert measure_drift(path, path, calibration, indices, batch_size=7).value == 0.0
    other = measure_drift(path, content, calibration, indices, batch_size=7)
    assert other.value == pytest.approx(kept.value, rel=1e-4)


def test_the_worst_output_decides() -> None:
    before = model("m (float[N,3] x) => (float[N,3] y, float[N,3] z) { y = Identity(x) z = Relu(x) }")
    after = model("m (float[N,3] x) => (float[N,3] z, float[N,3] y) { y = Identity(x) z = Neg(x) }")
    drift = measure_drift(before, after, rows([1.0, 5.0, 0.0], [4.0, 0.0, 0.0]), np.arange(2))
    assert [output.name for output in drift.outputs] == ["y", "z"]
    assert drift.outputs[0].value == 0.0
    assert drift.worst.name == "z"
    assert drift.value == drift.outputs[1].value > 1
    assert drift.standard_error == drift.outputs[1].standard_error
    assert drift.top1_agreement == 0.0
    assert Drift((OutputDrift("v", "relative-l2", 0.0, None, 0.0, 0.0, 1.0),), 1).top1_agreement is None


def test_an_output_without_a_sample_axis() -> None:
    mean = model("m (float[N,3] x) => (float y) { y = ReduceMean<keepdims=0>(x) }")
    double = model("m (float[N,3] x) => (float y) { s = ReduceMean<keepdims=0>(x) y = Add(s, s) }")
    drift = measure_drift(mean, double, rows(*[[1.0, 2.0, 3.0]] * 4), np.arange(4), batch_size=2)
    assert (drift.samples, drift.value) == (4, pytest.approx(1.0))


def test_what_goes_wrong_is_said(tmp_path: Any) -> None:
    samples = rows([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(VerificationError, match=r"bad\.onnx: does not load in onnxruntime: \S"):
        measure_drift(SAME, tmp_path / "bad.onnx", samples, np.arange(2))
    other = model("m (float[N,3] x) => (float[N,3] other) { other = Identity(x) }")
    with pytest.raises(VerificationError, match="the rewritten model lacks the output 'y'"):
        measure_drift(SAME, other, samples, np.arange(2))
    wide = model("m (float[N,4] x) => (float[N,4] y) { y = Identity(x) }")
    with pytest.raises(VerificationError, match="the model: does not run: "):
        measure_drift(SAME, wide, samples, np.arange(2))
    with pytest.raises(VerificationError, match="no samples"):
        measure_drift(SAME, scaled(2.0), samples, np.arange(0))
    fixed = calibration_from_arrays({"x": np.ones((2, 3))}, {"x": ((2, 3), F32)})
    with pytest.raises(ConfigError, match="batches of 2"):
        measure_drift(SAME, SAME, fixed, np.arange(1))
