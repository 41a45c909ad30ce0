"""The whole way on real models: from a file to a rewritten file, its plan and its proof."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from graphopt import candidates
from graphopt.errors import ConfigError, ModelError, PlanError
from graphopt.onnx_io.load import load
from graphopt.pipeline import apply_plan, estimate, optimize, scan
from graphopt.plan import KEEP, WidthChoice, plan_from_toml
from graphopt.resources import sample_models_dir
from graphopt.results import Options
from graphopt.search.local import Found
from graphopt.search.objective import Constraints
from graphopt.space.memory import MemoryTable
from graphopt.space.site import Knob
from graphopt.space.table import INVALID, METRICS, CostTable, Variable
from tests.targets.energy import telling

SAMPLE = sample_models_dir() / "fashion_classifier.onnx"
CALIBRATION = str(sample_models_dir() / "fashion_calibration.npz")
LOSSY = Options(allow="retrain", depth_multipliers=(0.75,))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def efficientnet(real_models: tuple[Path, ...]) -> Path:
    found = [path for path in real_models if "efficientnet" in path.name]
    if not found:
        pytest.skip("EfficientNet-Lite0 is not among the real models")
    return found[0]


def depthwise_convs(path: Path) -> set[str]:
    """First outputs of the grouped convolutions that are left."""
    graph = load(path)
    return {op.key for op in graph.ops() if op.op_type == "Conv" and op.attribute("group", 1) > 1}


def test_exact_plan_is_proved_and_written_with_its_provenance(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    result = optimize(SAMPLE, out, Options(target="npu-32-no-depthwise"))
    assert result.outcome == "optimized"
    assert result.safety == "exact"
    assert result.after.latency_us < 0.8 * result.before.latency_us
    assert result.verification is not None
    assert result.verification.verdict == "equal"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx"]
    keys = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert keys["graphopt.plan"] == result.plan.digest
    assert keys["graphopt.target"] == "npu-32-no-depthwise"
    assert "swap-depthwise-for" in keys["graphopt.ops"]


def test_lossy_plan_shrinks_lands_on_multiples_and_runs(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    result = optimize(SAMPLE, out, replace(LOSSY, calibration=CALIBRATION))
    assert result.outcome == "optimized"
    assert result.safety == "retrain"
    assert result.capacity_kept < 1
    changed = [width for width in result.plan.widths if width.width != width.size]
    assert changed
    assert all(width.width % 32 == 0 for width in changed)
    session = ort.InferenceSession(out)
    image = np.load(CALIBRATION)["image"][:4].astype(np.float32)
    assert session.run(None, {"image": image})[0].shape == (4, 10)


def test_nothing_shrinks_unasked() -> None:
    result = optimize(SAMPLE, None, Options(allow="retrain", verify=False))
    for width in result.plan.widths:
        assert abs(width.width - width.size) < 32


def test_latency_that_is_bought_with_much_memory_is_told() -> None:
    dense, sparse = (
        optimize(SAMPLE, None, Options(target=target, verify=False)) for target in ("npu-32-no-depthwise", "npu-16")
    )
    grown = dense.after.parameter_bytes / dense.before.parameter_bytes - 1
    assert grown > 1
    assert any(f"parameter memory grows by {grown:.0%}" in note for note in dense.notes)
    assert not any("parameter memory" in note for note in sparse.notes)


def test_plan_replays_to_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    result = optimize(SAMPLE, first, LOSSY)
    plan = tmp_path / "plan.toml"
    plan.write_text(result.plan_text, encoding="utf-8")
    replayed = apply_plan(SAMPLE, plan, second)
    assert digest(first) == digest(second)
    assert replayed.plan.digest == result.plan.digest
    assert replayed.after == result.after


def test_same_seed_same_plan_in_two_processes(tmp_path: Path) -> None:
    code = (
        "from graphopt.pipeline import optimize; from graphopt.results import Options;"
        f"print(optimize({str(SAMPLE)!r}, None, Options(allow='retrain', verify=False, depth_multipliers=(1.0, 0.5),"
        "seed=3)).plan_text)"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]


def test_experts_choice_is_applied_and_nothing_else(tmp_path: Path) -> None:
    offered = scan(SAMPLE, Options(allow="retrain"))
    assert offered.plan.changes == 0
    site = next(d for d in offered.decisions if any(o.label == "fuse-inverted-bottleneck" for o in d.options))
    edited = plan_from_toml(
        offered.plan_text.replace(
            f'id = "{site.id}"\nchoice = "keep"', f'id = "{site.id}"\nchoice = "fuse-inverted-bottleneck"'
        )
    )
    out = tmp_path / "out.onnx"
    result = apply_plan(SAMPLE, edited, out)
    assert [change.place for change in result.changes] == [site.id]
    assert len(depthwise_convs(out)) == len(depthwise_convs(SAMPLE)) - 1
    gain = next(option.gain_us for option in site.options if option.label == "fuse-inverted-bottleneck")
    assert result.before.latency_us - result.after.latency_us == pytest.approx(gain)


def test_expert_may_write_a_width_that_no_rule_offers(tmp_path: Path) -> None:
    plan = scan(SAMPLE, Options(allow="retrain")).plan
    width = plan.widths[0]
    odd = replace(plan, widths=(WidthChoice(width.group, width.size, width.size - 3),))
    result = apply_plan(SAMPLE, odd, tmp_path / "out.onnx")
    assert result.changes[0].rule == "by-hand"
    assert result.safety == "retrain"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda p: replace(p, model_digest="sha256:0"), "is for"),
        (lambda p: replace(p, sites=(replace(p.sites[0], site="nowhere", choice="fuse"),)), "no such site"),
        (lambda p: replace(p, sites=(replace(p.sites[0], choice="melt"),)), "no option 'melt'"),
        (lambda p: replace(p, widths=(replace(p.widths[0], group="nothing"),)), "no such channel group"),
        (lambda p: replace(p, widths=(replace(p.widths[0], size=5),)), "not 5"),
        (lambda p: replace(p, widths=(replace(p.widths[0], width=10**9),)), "times as many"),
        (lambda p: replace(p, rules=(replace(p.rules[0], rewrite="magic"),)), "no rewrite 'magic'"),
    ],
)
def test_impossible_plans_are_refused_and_nothing_is_written(edit: object, message: str, tmp_path: Path) -> None:
    plan = scan(SAMPLE, Options(allow="retrain")).plan
    assert callable(edit)
    with pytest.raises(PlanError, match=message):
        apply_plan(SAMPLE, edit(plan), tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_constraints_hold_or_the_job_says_that_it_failed(tmp_path: Path) -> None:
    options = Options(allow="retrain", depth_multipliers=(1.0, 0.75, 0.5), verify=False)
    free = optimize(SAMPLE, None, replace(options, objective="parameters"))
    bound = (free.before.parameter_bytes + free.after.parameter_bytes) // 2
    kept = optimize(SAMPLE, tmp_path / "kept.onnx", replace(options, constraints=Constraints(parameter_bytes=bound)))
    assert kept.after.parameter_bytes <= bound
    peak = optimize(SAMPLE, None, replace(options, objective="peak-memory"))
    assert peak.after.peak_activation_bytes <= peak.before.peak_activation_bytes
    missed = optimize(SAMPLE, tmp_path / "missed.onnx", replace(options, constraints=Constraints(latency_us=0.001)))
    assert missed.outcome == "failed"
    assert "--max-latency-us 0.001" in missed.reason
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.onnx"]


def test_a_share_bounds_as_the_amount_that_it_comes_to() -> None:
    options = Options(allow="retrain", depth_multipliers=(1.0, 0.75, 0.5), objective="parameters", verify=False)
    before = estimate(SAMPLE, "npu-32")
    for quantity, name, value in (
        ("latency", "latency_us", before.latency_us),
        ("memory", "memory_bytes", before.memory_bytes),
        ("macs", "macs", before.macs),
    ):
        bound = 0.6 * value if quantity == "latency" else int(0.6 * value)
        amount = optimize(SAMPLE, None, replace(options, constraints=Constraints(**{name: bound})))
        share = optimize(SAMPLE, None, replace(options, shares={quantity: 0.6}))
        assert share.outcome == amount.outcome == "optimized"
        assert share.plan == amount.plan
        assert getattr(share.after, name) <= bound < value
    costs = replace(before, latency_us=10.0, macs=25, energy_uj=3.0)
    bounded = Options(shares={"latency": 0.5, "macs": 0.5, "energy": 0.5}, constraints=Constraints(latency_us=4.0))
    assert bounded.bounded(costs).constraints == Constraints(latency_us=4.0, macs=12, energy_uj=1.5)
    tighter = replace(options, constraints=Constraints(latency_us=0.001), shares={"latency": 0.6})
    assert "--max-latency-us 0.001" in optimize(SAMPLE, None, tighter).reason


def test_energy_is_minimised_and_bound_where_the_target_tells_it(tmp_path: Path) -> None:
    options = Options(target=str(telling(tmp_path)), allow="retrain", verify=False)
    fast = optimize(SAMPLE, None, options)
    frugal = optimize(SAMPLE, None, replace(options, objective="energy", certify=True))
    assert fast.before is not None
    assert fast.after is not None
    assert frugal.after is not None
    assert fast.before.energy_uj == pytest.approx(0.3e-6 * fast.before.macs + 160e-6 * fast.before.dram_bytes)
    assert frugal.after.energy_uj < min(fast.after.energy_uj, fast.before.energy_uj)
    assert fast.after.latency_us < frugal.after.latency_us
    assert frugal.certificate is not None
    assert frugal.certificate.gap == 0
    bounded = optimize(SAMPLE, None, replace(options, shares={"energy": 1.0}))
    assert bounded.after is not None
    assert bounded.after.energy_uj <= fast.before.energy_uj < fast.after.energy_uj
    missed = optimize(SAMPLE, None, replace(options, constraints=Constraints(energy_uj=0.5)))
    assert "--max-energy-uj 0.5" in missed.reason
    for wish in ({"objective": "energy"}, {"shares": {"energy": 0.5}}, {"constraints": Constraints(energy_uj=1.0)}):
        with pytest.raises(ConfigError, match="energy_pj_per_mac"):
            optimize(SAMPLE, None, Options(**wish))


def test_multiplier_is_chosen_under_a_constraint() -> None:
    options = Options(allow="retrain", depth_multipliers=(1.0, 0.75, 0.5), verify=False)
    loose = optimize(SAMPLE, None, replace(options, objective="parameters", constraints=Constraints()))
    assert dict(loose.plan.knobs)["depth-multiplier"] == 0.5


def test_of_several_multipliers_the_largest_that_keeps_the_bound_is_taken() -> None:
    options = Options(allow="retrain", no_rules=("fuse-*", "merge-*"), verify=False)

    def fastest(multiplier: float) -> float:
        alone = optimize(SAMPLE, None, replace(options, depth_multipliers=(multiplier,)))
        assert alone.after is not None
        return alone.after.latency_us

    full, three_quarters, half = map(fastest, (1.0, 0.75, 0.5))
    assert half < three_quarters < full
    for bound, expected in ((full + 1, 1.0), ((full + three_quarters) / 2, 0.75), ((three_quarters + half) / 2, 0.5)):
        bounded = replace(options, depth_multipliers=(0.5, 1.0, 0.75), constraints=Constraints(latency_us=bound))
        result = optimize(SAMPLE, None, bounded)
        assert result.outcome == "optimized" or expected == 1.0
        assert dict(result.plan.knobs)["depth-multiplier"] == expected
        assert result.after is not None
        assert result.after.latency_us <= bound


def test_the_multiplier_is_fixed_wherever_it_stands_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that numbers a site before the knob; the second of two multipliers is the largest."""
    variables = (Variable("site", "a", ("keep", "fuse", "swap")), Variable("knob", "m", ("0.5", "1.0")))
    table = CostTable(variables, [], np.zeros(METRICS), MemoryTable([], [], [], np.zeros((0, 0)), []))
    tables: list[CostTable] = []

    def search_once(job: object, table: CostTable, *_: object) -> tuple[Found, object, bool]:
        tables.append(table)
        return Found(table.default(), 1.0, (), 1), None, True

    monkeypatch.setattr(candidates, "search_once", search_once)
    job = SimpleNamespace(space=SimpleNamespace(knobs=(Knob("m", (0.5, 1.0)),)))
    candidates.search(job, table, Constraints(macs=1), None)
    every = np.array(list(itertools.product(range(3), range(2))))
    forbidden = tables[0].evaluate(every, [INVALID])[0] > 0
    assert forbidden.tolist() == (every[:, 1] != 1).tolist()


def test_multiplier_needs_leave() -> None:
    with pytest.raises(ConfigError, match="--allow retrain"):
        optimize(SAMPLE, None, Options(depth_multipliers=(0.5,)))


def test_a_model_without_convolutions_comes_out_as_it_went_in(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Softmax", ["x"], ["y"])
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in "xy"]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [info[0]], [info[1]]), ir_version=8,
        opset_imports=[onnx.helper.make_opsetid("", 17)],
    )  # fmt: skip
    source, out = tmp_path / "softmax.onnx", tmp_path / "out.onnx"
    onnx.save(model, source)
    result = optimize(source, out)
    assert result.outcome == "unchanged"
    assert "no convolution" in result.reason
    assert digest(source) == digest(out)


def test_output_over_the_input_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(SAMPLE.read_bytes())
    with pytest.raises(ConfigError, match="another output"):
        optimize(model, model)
    assert digest(model) == digest(SAMPLE)


def test_dynamic_shapes_ask_for_the_very_option(real_models: tuple[Path, ...]) -> None:
    detector = next((path for path in real_models if "_det_" in path.name), None)
    if detector is None:
        pytest.skip("PP-OCR det is not among the real models")
    with pytest.raises(ModelError, match="--input-shape x:1,3,"):
        estimate(detector)
    assert estimate(detector, "npu-32", input_shapes={"x": (1, 3, 64, 64)}).latency_us > 0


def test_efficientnet_as_the_articles_have_it(real_models: tuple[Path, ...], tmp_path: Path) -> None:
    model = efficientnet(real_models)
    out = tmp_path / "out.onnx"
    result = optimize(model, out, replace(LOSSY, target="npu-32", verify=False))
    assert result.after.latency_us < 0.75 * result.before.latency_us
    fused = [choice.site for choice in result.plan.sites if "fuse" in choice.choice]
    kept = [choice.site for choice in result.plan.sites if choice.choice == KEEP]
    order = [choice.site for choice in result.plan.sites]
    assert fused
    assert kept
    assert max(map(order.index, fused)) < max(map(order.index, kept)), "late blocks are not fused"
    assert all(width.width % 32 == 0 for width in result.plan.widths if width.width != width.size)
    image = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    assert np.isfinite(ort.InferenceSession(out).run(None, {"input": image})[0]).all()


def test_efficientnet_exact_where_depthwise_starves(real_models: tuple[Path, ...]) -> None:
    result = optimize(efficientnet(real_models), None, Options(target="npu-32-no-depthwise"))
    assert result.after.latency_us < 0.7 * result.before.latency_us
    assert result.verification is not None
    assert result.verification.verdict == "equal"
