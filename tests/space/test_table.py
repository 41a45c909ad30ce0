"""The promise that search stands on: a candidate's price in the table is the estimate of the model it leads to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.apply import apply_actions
from graphopt.cost.estimate import estimate
from graphopt.cost.kernels import decompose
from graphopt.cost.learned import Learned
from graphopt.cost.memory import activation_lifetimes
from graphopt.cost.workload import tensor_bytes
from graphopt.decide import actions_of
from graphopt.ir.graph import Graph
from graphopt.onnx_io.save import save
from graphopt.prepare import find_catalog, find_rules, open_space, open_subject
from graphopt.resources import sample_models_dir
from graphopt.results import Options
from graphopt.search.exact import exact_search
from graphopt.search.objective import Constraints, Scorer
from graphopt.space.compiler import compile_table
from graphopt.space.space import Space
from graphopt.space.table import DRAM_BYTES, ENERGY, INVALID, LATENCY, MACS, PARAMETER_BYTES, CostTable
from graphopt.targets.target import Target, load_target
from tests.cost.learner import learned, stumps, target_file
from tests.cost.learner import model as model_of
from tests.cost.live_set import live_set
from tests.targets.energy import telling
from tests.weights.nets import net

SAMPLE = sample_models_dir() / "fashion_classifier.onnx"

SHAPES = {
    "ch_PP-OCRv3_det_infer.onnx": {"x": (1, 3, 64, 64)},
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": {"x": (1, 3, 48, 192)},
}


def priced(model: Path, options: Options) -> tuple[Space, CostTable, Target]:
    subject = open_subject(model, options.target or "npu-32", input_shapes=options.input_shapes)
    catalog = find_catalog(options)
    space = open_space(subject, find_rules(catalog, subject.target, options), catalog, options)
    return space, compile_table(space, subject.target), subject.target


def peak(graph: Graph, target: Target) -> int:
    spans = activation_lifetimes(graph, decompose(graph, target))
    shapes = [graph.static_shape(span.tensor) or () for span in spans]
    dtypes = [graph.dtype(span.tensor) for span in spans]
    return live_set(spans, [int(tensor_bytes(d, shape, target)) for d, shape in zip(dtypes, shapes, strict=True)])


def random_candidates(table: CostTable, seed: int, count: int) -> list[np.ndarray]:
    """Valid candidates, from nearly unchanged to wild."""
    generator = np.random.default_rng(seed)
    found: list[np.ndarray] = [table.default()]
    while len(found) < count:
        row = generator.integers(0, table.sizes)
        row = np.where(generator.random(len(row)) < generator.choice([0.1, 0.5, 1.0]), row, table.default())
        for gate in table.gates:
            allowed = gate.allowed[row[gate.knob]]
            if row[gate.width] not in allowed:
                row[gate.width] = generator.choice(allowed)
        if table.evaluate(row[None], (INVALID,))[0, 0] == 0:
            found.append(row)
    return found


def check_prices(model: Path, options: Options, count: int) -> None:
    space, table, target = priced(model, options)
    assert space.decisions
    for row in random_candidates(table, seed=7, count=count):
        sites, widths, _ = actions_of(space, table, row)
        graph = apply_actions(space.graph, space.channels, sites, widths)
        real = estimate(graph, target)
        price = table.evaluate(row[None])[:, 0]
        assert price[LATENCY] == pytest.approx(real.latency_us, rel=1e-9)
        assert price[MACS] == real.macs
        assert price[DRAM_BYTES] == real.dram_bytes
        assert price[ENERGY] == pytest.approx(real.energy_uj or 0.0)
        assert table.peak_bytes(row[None])[0] == peak(graph, target)
        assert price[PARAMETER_BYTES] == real.parameter_bytes


@pytest.mark.parametrize("target", ["npu-32", "npu-16", "npu-32-no-depthwise", "cpu-x86-64"])
def test_table_is_the_estimate_on_the_sample_model(target: str) -> None:
    check_prices(SAMPLE, Options(target=target, allow="retrain", depth_multipliers=(1.0, 0.75, 0.5)), count=12)


def test_table_is_the_estimate_of_a_learned_target(tmp_path: Path) -> None:
    target = target_file(tmp_path, learned("matmul"))
    options = Options(target=str(target), allow="retrain", depth_multipliers=(1.0, 0.75, 0.5))
    check_prices(SAMPLE, options, count=12)
    space, table, _ = priced(SAMPLE, options)
    analytic = compile_table(space, load_target("npu-32"))
    assert table.evaluate(table.default()[None])[LATENCY] != analytic.evaluate(analytic.default()[None])[LATENCY]


def test_table_is_the_estimate_of_energy(tmp_path: Path) -> None:
    check_prices(SAMPLE, Options(target=str(telling(tmp_path)), allow="retrain"), count=12)


def test_table_is_the_estimate_on_real_models(real_models: tuple[Path, ...]) -> None:
    for model in real_models:
        shapes = SHAPES.get(model.name, {})
        check_prices(model, Options(allow="retrain", depth_multipliers=(1.0, 0.75), input_shapes=shapes), count=5)


SHARED = (
    '<ir_version: 8, opset_import: ["": 17]> m (float[1,8,8,8] x) => (float[1,8,8,8] y) '
    "<float[8,8,1,1] w1, float[16,8,1,1] w2, float[16,16,1,1] w3, float[24,16,1,1] w4, float[24,24,1,1] w5, "
    "float[32,24,1,1] w6, float[8,32,1,1] w7, float[1,8,8,8] zeros> {"
    "a = Conv (x, w1) a1 = Concat <axis = 1> (a, zeros) a2 = Conv (a, w2) a3 = Add (a1, a2) a4 = Relu (a3) "
    "b = Conv (a4, w3) b1 = Concat <axis = 1> (b, zeros) b2 = Conv (b, w4) b3 = Add (b1, b2) b4 = Relu (b3) "
    "c = Conv (b4, w5) c1 = Concat <axis = 1> (c, zeros) c2 = Conv (c, w6) c3 = Add (c1, c2) c4 = Relu (c3) "
    "y = Conv (c4, w7) }"
)
"""One constant beside three maps, as BlazeFace has them: each part of a concatenation is a group of its own."""


def test_a_shared_constant_counts_as_often_as_widths_cut_it_apart(tmp_path: Path) -> None:
    model = tmp_path / "shared.onnx"
    save(net(SHARED, tmp_path / "made.onnx"), model)
    check_prices(model, Options(allow="retrain"), count=20)
    check_prices(model, Options(allow="retrain", curate_widths=True), count=40)


JOINED = (
    '<ir_version: 8, opset_import: ["": 17]> m (float[1,16,8,8] x) => (float[1,8,8,8] y) '
    "<float[32,16,1,1] w1, float[32,1,3,3] d1, float[16,32,1,1] w2, float[16,16,3,3] w3, float[8,32,1,1] w4> {"
    "a = Conv (x, w1) a1 = Relu (a) a2 = Conv <group = 32, pads = [1, 1, 1, 1]> (a1, d1) a3 = Relu (a2) "
    "a4 = Conv (a3, w2) b = Conv <pads = [1, 1, 1, 1]> (x, w3) c = Concat <axis = 1> (a4, b) y = Conv (c, w4) }"
)


def test_a_part_of_a_concatenation_costs_the_same_cut_out_of_its_model(tmp_path: Path) -> None:
    """On a target where it is dear to write into one, sites that are priced alone know what reads them."""
    trees = stumps({"joined_parts": 0.5}, 1.0)
    dear = Learned({name: model_of(trees) for name in ("conv-1x1", "conv-kxk", "depthwise", "copy")})
    target = target_file(tmp_path, dear)
    model = tmp_path / "joined.onnx"
    save(net(JOINED, tmp_path / "made.onnx"), model)
    options = Options(target=str(target), allow="retrain")
    check_prices(model, options, count=30)
    space, table, _ = priced(model, options)
    assert any(site.options for site in space.sites)
    plain = target_file(tmp_path, Learned({name: model_of(stumps({}, 1.0)) for name in dear.categories}))
    indifferent = compile_table(space, load_target(plain))
    assert table.evaluate(table.default()[None])[LATENCY] > indifferent.evaluate(table.default()[None])[LATENCY]


def test_the_cheapest_candidate_costs_what_its_model_costs(real_models: tuple[Path, ...]) -> None:
    """An entry that is too cheap is what a search finds first (widths that only move together, on BlazeFace)."""
    for model in real_models:
        options = Options("npu-32-no-depthwise", allow="retrain", input_shapes=SHAPES.get(model.name, {}))
        space, table, target = priced(model, options)
        best = exact_search(table, Scorer(table, "latency", Constraints())).best
        sites, widths, _ = actions_of(space, table, best)
        graph = apply_actions(space.graph, space.channels, sites, widths)
        assert table.evaluate(best[None])[LATENCY, 0] == pytest.approx(estimate(graph, target).latency_us, rel=1e-9)


def test_default_keeps_everything_and_costs_what_the_model_costs() -> None:
    options = Options(allow="retrain")
    space, table, target = priced(SAMPLE, options)
    assert not table.default().any()
    assert table.evaluate(table.default()[None])[LATENCY, 0] == pytest.approx(estimate(space.graph, target).latency_us)


def test_without_a_multiplier_only_the_neighbouring_multiples_are_on_offer() -> None:
    space, _, target = priced(SAMPLE, Options(allow="retrain"))
    step = target.parallelism
    assert space.widths
    for width in space.widths:
        for option in width.options:
            assert abs(option.width - width.group.size) < step
            assert option.width == width.group.size or option.width % step == 0


def test_safety_decides_what_is_on_offer() -> None:
    for allow in ("exact", "repaired"):
        space, _, _ = priced(SAMPLE, Options(allow=allow))  # type: ignore[arg-type]
        offered = {option.safety for site in space.sites for option in site.options}
        offered |= {option.safety for width in space.widths for option in width.options}
        assert offered == ({"exact"} if allow == "exact" else {"exact", "repaired"})


def test_protected_ops_do_not_change_and_say_so() -> None:
    free, _, _ = priced(SAMPLE, Options(allow="retrain"))
    site = free.sites[0]
    guarded, _, _ = priced(SAMPLE, Options(allow="retrain", protect=(site.id,)))
    assert site.id not in {
        s.id for s in guarded.sites if any(site.id in f.match.removes for o in s.options for f in o.fired)
    }
    assert any("--protect" in refused.refusal.reason for refused in guarded.refused)
    everything, _, _ = priced(SAMPLE, Options(allow="retrain", protect=("*",)))
    assert everything.decisions == 0
