"""The whole job with calibration data, on the sample classifier: what is repaired, how drift and proof are measured."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest

from graphopt import ConfigError, OptimizeResult, Options, Plan, apply_plan, optimize, scan
from graphopt.plan import SiteChoice, plan_to_toml
from graphopt.resources import sample_models_dir
from graphopt.verification.interface import input_types, read_interface
from graphopt.weights.calibration import open_calibration

MODEL = sample_models_dir() / "fashion_classifier.onnx"
IMAGES = 24
FUSE = "fuse-inverted-bottleneck"

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Data:
    """Files that the tests share: unlabelled images, and other ones with labels."""

    calibration: str
    labelled: str


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("data")
    with np.load(sample_models_dir() / "fashion_calibration.npz") as file:
        np.savez(folder / "calibration.npz", image=file["image"][:IMAGES])
    with np.load(sample_models_dir() / "fashion_test.npz") as file:
        np.savez(folder / "test.npz", image=file["image"][:500], label=file["label"][:500])
    return Data(str(folder / "calibration.npz"), str(folder / "test.npz"))


def fused(*, last: int | None = None) -> Plan:
    """A plan that fuses every inverted bottleneck, or only the ``last`` ones."""
    found = scan(MODEL, Options(allow="retrain"))
    sites = [decision for decision in found.decisions if decision.kind == "site"]
    offers = {decision.id: [option.label for option in decision.options] for decision in sites}
    places = [one.site for one in found.plan.sites if FUSE in offers[one.site]]
    assert len(places) > 4
    chosen = set(places[-last:] if last else places)
    choices = (SiteChoice(one.site, FUSE if one.site in chosen else one.choice) for one in found.plan.sites)
    return replace(found.plan, sites=tuple(choices))


@dataclass(frozen=True)
class Pair:
    """The same plan with first-method weights and repaired, and the repaired model's file."""

    naive: OptimizeResult
    repaired: OptimizeResult
    path: Path


@pytest.fixture(scope="module")
def pair(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    options = Options(calibration=data.calibration, evaluate=data.labelled)
    path = tmp_path_factory.mktemp("pair") / "repaired.onnx"
    plan = fused()
    naive = apply_plan(MODEL, plan, None, replace(options, repair=False))
    return Pair(naive, apply_plan(MODEL, plan, path, options), path)


def top1(result: OptimizeResult) -> tuple[float, float]:
    assert result.evaluation is not None
    before, after = (dict(one.metrics)["top1"] for one in result.evaluation)
    return before, after


def run(path: Path, images: Floats) -> npt.NDArray[np.float64]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": images})[0], np.float64)


def kl(original: npt.NDArray[np.float64], rewritten: npt.NDArray[np.float64]) -> float:
    p, q = (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)) for scores in (original, rewritten))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def test_repair_wins_back_most_of_what_fusing_every_block_costs(pair: Pair) -> None:
    before, naive = top1(pair.naive)
    again, repaired = top1(pair.repaired)
    assert before == again > 0.9
    assert naive < 0.5
    assert before - repaired < (before - naive) / 4
    assert pair.naive.drift is not None
    assert pair.repaired.drift is not None
    assert pair.repaired.drift.value < pair.naive.drift.value / 10
    assert pair.naive.repaired == ()
    assert pair.repaired.verification is None  # drift says more


def test_every_repaired_op_is_better_than_it_was(pair: Pair) -> None:
    kept = [unit for unit in pair.repaired.repaired if unit.kept]
    assert len(kept) >= 10
    assert all(unit.error_after < unit.error_before for unit in kept)
    left = [unit for unit in pair.repaired.repaired if not unit.kept]
    assert all(unit.note for unit in left)


def test_drift_is_measured_on_samples_that_no_solve_has_seen(pair: Pair, data: Data) -> None:
    calibration = open_calibration(data.calibration, input_types(read_interface(MODEL)))
    solve, held_out = calibration.split(0.25, 0)
    assert not set(solve) & set(held_out)
    drift = pair.repaired.drift
    assert drift is not None
    assert drift.samples == len(held_out) < IMAGES
    with np.load(data.calibration) as file:
        images = file["image"]
    before, after = run(MODEL, images), run(pair.path, images)
    assert drift.worst.measure == "kl"
    assert drift.value == pytest.approx(kl(before[held_out], after[held_out]), rel=1e-3)
    assert drift.value != pytest.approx(kl(before, after), rel=1e-2)


def test_the_written_model_says_what_it_was_repaired_on(pair: Pair, data: Data) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(pair.path).metadata_props}
    digest = open_calibration(data.calibration, input_types(read_interface(MODEL))).digest
    assert metadata["graphopt.calibration"] == f"sha256:{digest}"
    assert metadata["graphopt.safety"] == "repaired"


def weights(path: Path) -> dict[str, Floats]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def test_same_seed_same_weights_in_another_process(data: Data, tmp_path: Path) -> None:
    with np.load(data.calibration) as file:
        np.savez(tmp_path / "few.npz", image=file["image"][:16])
    plan, few = tmp_path / "plan.toml", str(tmp_path / "few.npz")
    plan.write_text(plan_to_toml(fused(last=1)))
    here, there, other = (tmp_path / f"{name}.onnx" for name in ("here", "there", "other"))
    apply_plan(MODEL, plan, here, Options(calibration=few))
    apply_plan(MODEL, plan, other, Options(calibration=few, seed=5))
    arguments = ["apply", str(MODEL), str(plan), "-o", str(there), "--calibration", few]
    subprocess.run(
        [sys.executable, "-c", "from graphopt.cli import main; main()", *arguments],
        check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "7"}, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    first, same, unlike = weights(here), weights(there), weights(other)
    assert list(first) == list(same)
    assert any("repaired" in name for name in first)
    for name, values in first.items():
        np.testing.assert_allclose(same[name], values, rtol=1e-5, atol=1e-6, err_msg=name)
    assert any(not np.allclose(unlike[name], first[name], rtol=1e-3) for name in first.keys() & unlike.keys())


def test_calibration_data_allows_repaired_changes_and_nothing_else_does(data: Data) -> None:
    assert Options().allowed == "exact"
    assert Options(calibration=data.calibration).allowed == "repaired"
    assert Options(calibration=data.calibration, repair=False).allowed == "exact"
    assert Options(calibration=data.calibration, allow="exact").allowed == "exact"
    assert Options(allow="retrain").allowed == "retrain"


def test_an_exact_plan_stays_exact_and_is_proved_on_real_inputs(data: Data, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    options = Options(target="npu-32-no-depthwise", calibration=data.calibration, allow="exact", evaluate=data.labelled)
    result = optimize(MODEL, out, options)
    assert (result.outcome, result.safety) == ("optimized", "exact")
    assert (result.drift, result.repaired) == (None, ())
    proof = result.verification
    assert proof is not None
    assert (proof.verdict, proof.inputs) == ("equal", "given")
    before, after = top1(result)
    assert before == after
    with np.load(data.calibration) as file:
        np.testing.assert_allclose(run(out, file["image"]), run(MODEL, file["image"]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"image": (1, 1, 28, 28)}, ["1 calibration samples", "2 would do"]),
        ({"image": (6, 1, 28, 28)}, ["too few", "8 would do"]),
        ({"imag": (32, 1, 28, 28)}, ["'image'", "imag"]),
        ({"image": (32, 3, 28, 28)}, ["image", "(32, 3, 28, 28)"]),
    ],
)
def test_data_that_does_not_do_is_one_line_and_nothing_is_written(
    tmp_path: Path, arrays: dict[str, tuple[int, ...]], words: list[str]
) -> None:
    np.savez(tmp_path / "data.npz", **{name: np.zeros(shape, np.float32) for name, shape in arrays.items()})
    with pytest.raises(ConfigError) as caught:
        apply_plan(MODEL, fused(), tmp_path / "out.onnx", Options(calibration=str(tmp_path / "data.npz")))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz"]
