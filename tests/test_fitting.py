"""Fitting into memory: it fits by the estimate of the written file and loses no more than it must, or says why not."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.draft import Job
from graphopt.errors import ConfigError
from graphopt.loss import capacity_loss
from graphopt.pipeline import apply_plan, estimate, optimize
from graphopt.resources import sample_models_dir
from graphopt.results import Options
from graphopt.search.objective import Constraints

SAMPLE = sample_models_dir() / "fashion_classifier.onnx"
RETRAIN = Options(allow="retrain", verify=False, max_evaluations=20_000)

BRANCHES = """
<ir_version: 8, opset_import: ["": 17]>
branches (float[1,8,16,16] x) => (float[1,12,16,16] y)
<float[64,8,1,1] wa, float[64,8,1,1] wb, float[4,64,1,1] wc, float[4,64,1,1] wd, float[4,8,1,1] we>
{
    a = Conv(x, wa)
    b = Conv(x, wb)
    e = Conv(x, we)
    c = Conv(a, wc)
    d = Conv(b, wd)
    y = Concat<axis=1>(c, d, e)
}
"""


@pytest.fixture
def branches(tmp_path: Path) -> Path:
    """Two branches, both wide parts first: in this order both are alive at once."""
    proto = onnx.parser.parse_model(BRANCHES)
    rng = np.random.default_rng(0)
    for info in proto.graph.value_info:
        values = rng.standard_normal([dim.dim_value for dim in info.type.tensor_type.shape.dim]).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, info.name))
    del proto.graph.value_info[:]
    path = tmp_path / "branches.onnx"
    onnx.save(proto, path)
    return path


def memory(path: Path) -> int:
    after = estimate(path, "npu-32")
    return after.parameter_bytes + after.peak_activation_bytes


def test_the_written_model_fits_and_more_room_costs_less(tmp_path: Path) -> None:
    kept = []
    for size in (120_000, 220_000):
        out = tmp_path / f"{size}.onnx"
        result = optimize(SAMPLE, out, replace(RETRAIN, fit_memory=size))
        assert result.outcome == "optimized"
        assert result.fit is not None
        assert memory(out) == result.fit.after.total_bytes <= size
        assert result.fit.before.total_bytes == memory(SAMPLE)
        kept.append(result.capacity_kept)
    assert kept[0] < kept[1] < 1
    apply_plan(SAMPLE, result.plan, tmp_path / "again.onnx", Options(verify=False))
    assert (tmp_path / "again.onnx").read_bytes() == out.read_bytes()


def test_depth_multipliers_are_what_widths_are_chosen_from(tmp_path: Path) -> None:
    options = replace(RETRAIN, fit_memory=200_000, depth_multipliers=(1.0, 0.75, 0.5, 0.35))
    result = optimize(SAMPLE, tmp_path / "out.onnx", options)
    assert result.outcome == "optimized"
    (knob,) = result.plan.knobs
    assert knob[1] < 1
    assert memory(tmp_path / "out.onnx") <= 200_000
    assert {change.rule for change in result.changes} & {"curate-widths"} == set()


def test_out_of_reach_says_the_smallest_and_what_to_allow(tmp_path: Path) -> None:
    result = optimize(SAMPLE, tmp_path / "out.onnx", Options(fit_memory=150_000))
    assert result.outcome == "failed"
    assert list(tmp_path.iterdir()) == []
    smallest = optimize(SAMPLE, None, Options(objective="memory", verify=False)).after
    assert smallest is not None
    total = smallest.parameter_bytes + smallest.peak_activation_bytes
    assert f"with --allow exact the smallest is {total:,} bytes" in result.reason
    assert "fits with --allow repaired" in result.reason
    assert "\n" not in result.reason
    never = optimize(SAMPLE, tmp_path / "out.onnx", replace(RETRAIN, fit_memory=30_000))
    found = re.search(r"the smallest is ([\d,]+) bytes", never.reason)
    assert found is not None
    reached = optimize(SAMPLE, tmp_path / "out.onnx", replace(RETRAIN, fit_memory=int(found[1].replace(",", ""))))
    assert reached.outcome == "optimized"


def test_options_that_say_something_else_are_refused() -> None:
    for other in ({"objective": "macs"}, {"constraints": Constraints(memory_bytes=1)}):
        with pytest.raises(ConfigError, match="leave --objective and --max-memory-bytes out"):
            optimize(SAMPLE, None, replace(RETRAIN, fit_memory=200_000, **other))


def test_capacity_is_lost_by_share_and_faster_than_channels() -> None:
    job = Job(SAMPLE, replace(RETRAIN, curate_widths=True))
    lost = capacity_loss(job)
    shares = []
    for width in job.space.widths:
        losses = lost[job.table.index("width", width.group.id)]
        by_width = dict(zip((option.width for option in width.options), losses, strict=True))
        assert by_width[width.group.size] == 0
        assert all(loss == 0 for size, loss in by_width.items() if size >= width.group.size)
        own = [loss / (width.group.size / size - 1) for size, loss in by_width.items() if size < width.group.size]
        assert own == pytest.approx(own[:1] * len(own))
        shares += own[:1]
    assert 0.5 < sum(shares) < 1  # some groups have no other width


def test_order_alone_fits(branches: Path, tmp_path: Path) -> None:
    before = estimate(branches, "npu-32")
    assert before.peak_activation_bytes == 256 * (8 + 64 + 64 + 4)  # x, both branches, e
    out = tmp_path / "out.onnx"
    bounds = Constraints(peak_bytes=256 * (8 + 64 + 4 + 4))  # x, one branch, e and the end of the other
    result = optimize(branches, out, Options(constraints=bounds, no_rules=("*",)))
    assert result.outcome == "optimized"
    assert result.plan.op_order == "memory"
    assert result.plan.changes == 1
    assert result.verification is not None
    assert result.verification.verdict == "equal"
    assert estimate(out, "npu-32").peak_activation_bytes == bounds.peak_bytes
    assert result.order is not None
    assert result.order.bytes == result.order.alone_bytes < result.order.file_bytes
    again = tmp_path / "again.onnx"
    plan = tmp_path / "plan.toml"
    plan.write_text(result.plan_text)
    apply_plan(branches, plan, again)
    assert again.read_bytes() == out.read_bytes()
    kept = optimize(branches, None, Options(constraints=bounds, no_rules=("*",), op_order="file"))
    assert kept.outcome == "failed"
