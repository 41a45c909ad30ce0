"""Input size as a knob of a job: which size is taken, what the plan says, what is compared with what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.errors import ConfigError, PlanError
from graphopt.pipeline import apply_plan, optimize, scan
from graphopt.plan import plan_from_toml, plan_to_toml
from graphopt.prepare import at_resolution, open_subject
from graphopt.resources import sample_models_dir
from graphopt.results import OptimizeResult, Options
from graphopt.search.objective import Constraints
from graphopt.verification.session import Session
from graphopt.weights.calibration import calibration_from_arrays
from graphopt.weights.sized import Frame, fit
from tests.resolution.cases import Net, detector_rows, view_by_chain, whole_pool

FASHION = sample_models_dir() / "fashion_classifier.onnx"
CALIBRATION = str(FASHION.with_name("fashion_calibration.npz"))
EXACT = Options(allow="retrain", packs=("exact",), max_evaluations=500)
SIZES = {"": ((28, 28), (24, 24), (20, 20))}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the test images."""
    path = tmp_path_factory.mktemp("labelled") / "test.npz"
    with np.load(FASHION.with_name("fashion_test.npz")) as file:
        np.savez(path, image=file["image"][:300], label=file["label"][:300])
    return path


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory, labelled: Path) -> OptimizeResult:
    """The classifier at 24x24, with samples and labels."""
    out = tmp_path_factory.mktemp("smaller") / "out.onnx"
    options = replace(EXACT, resolutions={"image": ((24, 24),)}, calibration=CALIBRATION, evaluate=str(labelled))
    return optimize(FASHION, out, options)


def test_the_result_says_what_changed_and_what_was_compared(smaller: OptimizeResult) -> None:
    assert (smaller.outcome, smaller.safety) == ("optimized", "retrain")
    assert smaller.resolution is not None
    assert smaller.before is not None
    assert smaller.after is not None
    (image,), (logits,) = smaller.resolution.inputs, smaller.resolution.outputs
    assert (image.before, image.after) == ((1, 1, 28, 28), (1, 1, 24, 24))
    assert logits.before == logits.after
    assert smaller.after.macs < 0.8 * smaller.before.macs
    assert smaller.verification is not None
    assert smaller.verification.verdict == "equal"
    assert smaller.changes[0].text == "28x28 -> 24x24 pixels"
    declared = onnx.load(smaller.output).graph.input[0].type.tensor_type.shape.dim  # type: ignore[arg-type]
    assert [dim.dim_value for dim in declared][1:] == [1, 24, 24]


def test_drift_and_metric_are_from_the_original_at_its_own_size(smaller: OptimizeResult, labelled: Path) -> None:
    """Both must be what two plain runs on the test images say, each at its own size."""
    assert smaller.evaluation is not None
    assert smaller.drift is not None
    assert smaller.output is not None
    with np.load(labelled) as file:
        images, labels = file["image"], file["label"]
    frames = {"image": Frame((2, 3), (24, 24))}
    before = Session(FASHION).run({"image": images})["logits"].argmax(1)
    after = Session(smaller.output).run(fit({"image": images}, frames))["logits"].argmax(1)
    assert dict(smaller.evaluation[0].metrics)["top1"] == pytest.approx((before == labels).mean())
    assert dict(smaller.evaluation[1].metrics)["top1"] == pytest.approx((after == labels).mean())
    with np.load(CALIBRATION) as file:
        _, held_out = calibration_from_arrays(file, {"image": ((None, 1, 28, 28), np.dtype(np.float32))}).split(0.25, 0)
        images = file["image"][held_out]
    before = Session(FASHION).run({"image": images})["logits"].argmax(1)
    after = Session(smaller.output).run(fit({"image": images}, frames))["logits"].argmax(1)
    assert smaller.drift.top1_agreement == pytest.approx((before == after).mean(), abs=1e-9)
    assert smaller.drift.value > 0.01


def test_a_size_that_drifts_too_far_by_itself_is_out(smaller: OptimizeResult) -> None:
    """Under a bound on drift the objective decides among the sizes that can keep it."""
    assert smaller.drift is not None
    asked = replace(EXACT, resolutions=SIZES, calibration=CALIBRATION, verify=False)
    between = optimize(FASHION, None, replace(asked, max_drift=smaller.drift.value * 1.01))
    assert between.plan.resolution == (("image", (24, 24)),)
    none = optimize(FASHION, None, replace(asked, max_drift=1e-4, resolutions={"": ((24, 24), (20, 20))}))
    assert none.outcome == "failed"
    assert none.reason.startswith("at 20 the drift is ")


def test_the_plan_replays_and_its_digest_covers_the_size(smaller: OptimizeResult, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(smaller.plan_text)
    assert 'resolution = { "image" = [24, 24] }\n#   height, width; the model\'s own: image 28x28' in smaller.plan_text
    again = apply_plan(FASHION, tmp_path / "plan.toml", tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == Path(smaller.output or "").read_bytes()
    assert again.plan.digest == smaller.plan.digest
    other = replace(smaller.plan, resolution=(("image", (24, 20)),))
    assert len({plan.digest for plan in (smaller.plan, other, replace(smaller.plan, resolution=()))}) == 3
    assert plan_from_toml(plan_to_toml(other)) == other


@pytest.mark.parametrize(
    ("edited", "wanted"),
    [
        ('"image" = [24, 24]', None),
        ('"imag" = [24, 24]', "knobs.resolution.imag: the model has no image input of that name"),
        ('"image" = [0, 24]', "knobs.resolution.image: must be positive whole numbers"),
        ('"image" = [24]', r"knobs.resolution.image: must be \[height, width\]"),
        ('"image" = [90000, 90000]', "knobs.resolution: 90000: .* at most"),
    ],
)
def test_a_plan_whose_size_does_not_fit(
    smaller: OptimizeResult, edited: str, wanted: str | None, tmp_path: Path
) -> None:
    (tmp_path / "plan.toml").write_text(smaller.plan_text.replace('"image" = [24, 24]', edited))
    if wanted is None:
        assert apply_plan(FASHION, tmp_path / "plan.toml").plan.resolution == (("image", (24, 24)),)
        return
    with pytest.raises(PlanError, match=wanted):
        apply_plan(FASHION, tmp_path / "plan.toml")


def test_a_bound_takes_the_largest_size_that_keeps_it(smaller: OptimizeResult) -> None:
    assert smaller.after is not None
    bound = Constraints(macs=smaller.after.macs)
    free = optimize(FASHION, None, replace(EXACT, resolutions=SIZES, verify=False))
    bounded = optimize(FASHION, None, replace(EXACT, resolutions=SIZES, verify=False, constraints=bound))
    loose = replace(bound, macs=10 * smaller.after.macs)
    own = optimize(FASHION, None, replace(EXACT, resolutions=SIZES, verify=False, constraints=loose))
    assert free.plan.resolution == (("image", (20, 20)),)
    assert bounded.plan.resolution == (("image", (24, 24)),)
    assert own.plan.resolution == ()
    assert own.resolution is None
    missed = optimize(FASHION, None, replace(EXACT, resolutions=SIZES, constraints=Constraints(macs=1000)))
    assert (missed.outcome, missed.plan.resolution) == ("failed", (("image", (20, 20)),))


def test_another_size_must_be_allowed() -> None:
    with pytest.raises(ConfigError, match="add --allow retrain"):
        optimize(FASHION, None, Options(resolutions=SIZES))


def test_scan_is_about_one_size() -> None:
    found = scan(FASHION, replace(EXACT, resolutions={"": ((24, 24),)}))
    assert found.plan.resolution == (("image", (24, 24)),)
    with pytest.raises(ConfigError, match="one size"):
        scan(FASHION, replace(EXACT, resolutions=SIZES))


def test_an_output_that_follows_has_no_teacher(tmp_path: Path) -> None:
    """A detector's rows change with the size: nothing of the original can be compared, the proof is at the new size."""
    onnx.save(detector_rows(32, 32), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).standard_normal((20, 3, 32, 32)).astype(np.float32))
    options = replace(EXACT, resolutions={"": ((48, 32),)}, calibration=str(tmp_path / "data.npz"))
    result = optimize(tmp_path / "model.onnx", tmp_path / "out.onnx", options)
    assert result.drift is None
    assert result.verification is not None
    assert result.verification.verdict == "equal"
    assert result.resolution is not None
    assert [(change.before, change.after) for change in result.resolution.outputs] == [((1, 960, 6), (1, 1440, 6))]


def left_open(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with heights and widths that its file does not say."""
    for value in (*model.graph.input, *model.graph.output):
        for dim, name in zip(value.type.tensor_type.shape.dim[2:], ("H", "W"), strict=False):
            dim.dim_param = name
    del model.graph.value_info[:]
    return model


def test_a_model_that_leaves_its_size_open_stays_open(tmp_path: Path) -> None:
    """Nothing in its file has to follow; it is priced, searched and proved at the size that was chosen."""
    onnx.save(left_open(view_by_chain(32, 32)), tmp_path / "model.onnx")
    own = {"x": (1, 3, 32, 32)}
    options = replace(EXACT, input_shapes=own, resolutions={"": ((16, 24),)})
    result = optimize(tmp_path / "model.onnx", tmp_path / "out.onnx", options)
    assert result.resolution is not None
    assert (result.resolution.open, result.plan.input_shapes) == (True, (("x", (1, 3, 32, 32)),))
    assert result.verification is not None
    assert result.verification.verdict == "equal"
    out = onnx.load(tmp_path / "out.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param for dim in out][2:] == ["H", "W"]
    again = apply_plan(tmp_path / "model.onnx", result.plan)
    assert again.after == result.after


def test_an_open_size_that_a_pool_contradicts(tmp_path: Path) -> None:
    """Its file leaves the size open, and a pool is over the whole map of one: it follows, in a file of its own."""
    onnx.save(left_open(whole_pool(32, 32)), tmp_path / "model.onnx")
    subject = open_subject(tmp_path / "model.onnx", "npu-32", input_shapes={"x": (1, 3, 32, 32)})
    for side in (24, 48):
        feed = {"x": np.random.default_rng(1).standard_normal((1, 3, side, side)).astype(np.float32)}
        (tmp_path / str(side)).mkdir()
        made = at_resolution(subject, {"x": (1, 3, side, side)}, tmp_path / str(side))
        assert made.resolution is not None
        assert (made.resolution.open, made.resolution.constants) == (False, 1)
        wanted = Session(whole_pool(side, side).SerializeToString()).run(feed)
        np.testing.assert_array_equal(Session(made.path).run(feed)["t2"], wanted["t2"])


@pytest.mark.parametrize(("kernel", "note"), [(7, True), (2, False)])
def test_a_pool_over_most_of_the_map_keeps_its_window_and_says_so(kernel: int, note: bool, tmp_path: Path) -> None:
    net = Net(16, 16)
    pooled = net.op("AveragePool", net.conv("x", 3, 4, stride=2), kernel_shape=[kernel] * 2, strides=[1, 1])
    onnx.save(net.model(pooled), tmp_path / "model.onnx")
    result = optimize(tmp_path / "model.onnx", None, replace(EXACT, resolutions={"": ((24, 24),)}))
    found = [text for text in result.notes if "keeps its 7x7 window: it read 8x8 positions, and 12x12 now" in text]
    assert bool(found) == note


def test_measured_drifts_of_other_sizes_are_kept_apart(tmp_path: Path) -> None:
    subject = open_subject(FASHION, "npu-32")
    smaller = at_resolution(subject, {"image": (1, 1, 24, 24)}, tmp_path)
    assert smaller.digest == subject.digest
    assert smaller.key != subject.key


def test_images_are_resized_by_their_axes_and_whole_numbers_stay_whole() -> None:
    rows = np.broadcast_to(np.arange(8, dtype=np.float32)[None, None, :, None], (2, 1, 8, 4))
    (made,) = fit({"x": rows}, {"x": Frame((2, 3), (4, 4))}).values()
    np.testing.assert_allclose(made[1, 0, 1:3, 0], [2.5, 4.5], atol=0.2)
    noise = np.random.default_rng(0).integers(0, 256, (1, 1, 9, 9)).astype(np.uint8)
    small = {"x": Frame((2, 3), (4, 5))}
    np.testing.assert_array_equal(fit({"x": noise}, small)["x"], np.rint(fit({"x": noise.astype("f4")}, small)["x"]))
    pixels = np.full((1, 6, 4, 3), 200, np.uint8)
    (made,) = fit({"x": pixels}, {"x": Frame((1, 2), (3, 8))}).values()
    assert (made.shape, made.dtype, set(made.flat)) == ((1, 3, 8, 3), np.dtype(np.uint8), {200})
    assert fit({"x": pixels}, {"x": Frame((1, 2), (6, 4))})["x"] is pixels
