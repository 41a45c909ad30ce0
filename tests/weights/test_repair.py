"""Repair from end to end: what a change took away comes back, nothing else moves, and nothing gets worse."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.errors import ConfigError
from graphopt.ir.channels import channel_groups
from graphopt.ir.graph import Graph, Patch
from graphopt.ir.resize import Selection, resize
from graphopt.resources import sample_models_dir
from graphopt.rewrites.fuse_inverted_bottleneck import FuseInvertedBottleneck, FuseParams
from graphopt.weights.importance import select
from graphopt.weights.kept import kept_positions
from graphopt.weights.repair import Repaired, repair
from graphopt.weights.units import find_unit
from tests.benchmarks.repair import Images, accuracy, open_model, rewritten, widths_of
from tests.weights.nets import BLOCK, Arrays, net, noise, outputs, spoiled

SAMPLES = noise(300, 8, 12, 12)
FRESH = noise(64, 8, 12, 12, seed=77)


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return net(BLOCK, tmp_path_factory.mktemp("block") / "block.onnx")


def distance(one: Graph, other: Graph, folder: Path, samples: Arrays = FRESH) -> float:
    """Relative L2 of the first output."""
    wanted, got = outputs(one, samples, folder), outputs(other, samples, folder)
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted - wanted.mean(0)))


def cut(graph: Graph, widths: dict[str, int]) -> tuple[Graph, dict[str, np.ndarray]]:
    channels = channel_groups(graph)
    selections = select(graph, channels, widths)
    return graph.edited([resize(graph, channels, selections)]), kept_positions(channels, selections)


def fused(graph: Graph, key: str) -> Graph:
    rewrite, params = FuseInvertedBottleneck(), FuseParams()
    match = rewrite.match(graph, graph.op(key), params)
    return graph.edited([rewrite.rewrite(graph, match, params)])


def by_op(done: Repaired) -> dict[str, str]:
    return {unit.op: unit.method for unit in done.units}


def check_never_worse(done: Repaired) -> None:
    for unit in done.units:
        assert not unit.error_after > unit.error_before
        assert unit.kept == (unit.method != "unchanged")
        assert unit.kept or unit.note


@pytest.mark.parametrize("key", ["s", "e", "d", "p", "l", "scores"])
def test_spoiled_weights_come_back(key: str, block: Graph, tmp_path: Path) -> None:
    """The input still says it all, so the fit finds the original's function; what follows needs no repair."""
    broken = spoiled(block, key)
    done = repair(block, broken, {}, SAMPLES)
    check_never_worse(done)
    assert distance(block, done.graph, tmp_path) < 0.02 < 0.05 < distance(block, broken, tmp_path)
    assert by_op(done)[key] != "unchanged"


def test_an_untouched_model_stays(block: Graph) -> None:
    done = repair(block, block, {}, SAMPLES)
    assert done.graph is block
    assert done.units == ()


def test_an_exact_change_needs_no_repair(block: Graph, tmp_path: Path) -> None:
    """Padding, and another spelling of a depthwise convolution: new weights, same outputs."""
    channels = channel_groups(block)
    group = next(group for group in channels.groups if "e" in group.makers)
    selections = {group.id: Selection(tuple(range(group.size)), 8)}
    padded = block.edited([resize(block, channels, selections)])
    done = repair(block, padded, kept_positions(channels, selections), SAMPLES)
    assert done.units == ()
    assert done.graph is padded


def test_padded_channels_are_held_while_others_are_repaired(block: Graph, tmp_path: Path) -> None:
    channels = channel_groups(block)
    group = next(group for group in channels.groups if "e" in group.makers)
    selections = {group.id: Selection(tuple(range(group.size)), 8)}
    padded = spoiled(block.edited([resize(block, channels, selections)]), "s")
    done = repair(block, padded, kept_positions(channels, selections), SAMPLES)
    check_never_worse(done)
    assert distance(block, done.graph, tmp_path) < 0.02


def test_removed_channels_are_made_up_for(block: Graph, tmp_path: Path) -> None:
    narrow, kept = cut(block, {"e": 20})
    assert (kept["d"] >= 0).all()
    assert len(kept["dr"]) == 20
    done = repair(block, narrow, kept, SAMPLES)
    check_never_worse(done)
    assert by_op(done)["p"] == "least-squares"
    assert "e" not in by_op(done)
    assert distance(block, done.graph, tmp_path) < 0.6 * distance(block, narrow, tmp_path)


def test_a_cut_residual_is_repaired_on_both_sides(block: Graph, tmp_path: Path) -> None:
    narrow, kept = cut(block, {"s": 6})
    done = repair(block, narrow, kept, SAMPLES)
    check_never_worse(done)
    assert {"e", "l"} <= set(by_op(done))
    assert distance(block, done.graph, tmp_path) < 0.8 * distance(block, narrow, tmp_path)


def test_a_fused_block_is_repaired(block: Graph, tmp_path: Path) -> None:
    dense = fused(block, "d")
    done = repair(block, dense, {}, SAMPLES)
    check_never_worse(done)
    assert by_op(done)["d"] == "majorise-minimise"
    assert list(by_op(done)) == ["d", "p", "l", "scores"]  # what reads the changed op's answers, too
    assert distance(block, done.graph, tmp_path) < 0.5 * distance(block, dense, tmp_path)


def test_the_sum_is_the_target_of_what_goes_into_it(block: Graph) -> None:
    unit = find_unit(block, block, block.op("p"), {})
    assert (unit.target, unit.skip) == ("sum", "sr")
    unit = find_unit(block, block, block.op("d"), {})
    assert (unit.target, unit.skip, unit.activation.kind) == ("d", "", "relu6")


def test_positions_are_those_of_the_channel_axis_only(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        m (float[N,4,8,8] image) => (float[N,8,8,3] y) <float[4,4,1,1] ws, float[6,4,1,1] w, float[6,3] v>
        { s = Conv(image, ws) c = Conv(s, w) t = Transpose<perm=[0,2,3,1]>(c) y = MatMul(t, v) }"""
    graph = net(text, tmp_path / "m.onnx")
    channels = channel_groups(graph)
    kept = kept_positions(channels, {"c": Selection((0, 2, 5), 0)})
    assert {tensor: list(take) for tensor, take in kept.items()} == {"c": [0, 2, 5]}


def test_a_shared_weight_is_not_overwritten(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        m (float[N,4,8,8] image) => (float[N,4,8,8] y) <float[4,4,1,1] w, float[4] b>
        { a = Conv(image, w, b) r = Relu(a) y = Conv(r, w, b) }"""
    graph = net(text, tmp_path / "m.onnx")
    broken = spoiled(graph, "a")
    samples = noise(64, 4, 8, 8)
    done = repair(graph, broken, {}, samples)
    assert done.graph.op("y").inputs[1] == "w"
    np.testing.assert_array_equal(done.graph.weights["w"].array(), graph.weights["w"].array())
    assert done.graph.op("a").inputs[1] not in (*graph.weights, *broken.weights)
    assert distance(graph, done.graph, tmp_path, samples) < 0.01


def test_an_op_keeps_the_rule_that_made_it(block: Graph) -> None:
    dense = fused(block, "d")
    signed = dense.edited([Patch(("d",), (replace(dense.op("d"), rule="fuse"),))])
    done = repair(block, signed, {}, SAMPLES)
    assert done.graph.op("d").rule == "fuse"
    assert done.graph.op("p").rule == ""


def test_only_the_heads_bias_is_fitted_with_few_samples(block: Graph) -> None:
    few = Arrays({"image": SAMPLES.arrays["image"][:40]})
    broken = spoiled(block, "scores")
    done = repair(block, broken, {}, few)
    (unit,) = done.units
    assert (unit.op, unit.method, unit.kept) == ("scores", "shifted", True)
    assert "needs 256 samples to solve, there are 40" in unit.note
    before, after = (g.weights[g.op("scores").inputs[1]].array() for g in (broken, done.graph))
    np.testing.assert_array_equal(after, before)


def test_too_few_samples_are_an_error(block: Graph) -> None:
    with pytest.raises(ConfigError, match="3 calibration samples are too few"):
        repair(block, spoiled(block, "e"), {}, Arrays({"image": SAMPLES.arrays["image"][:3]}))


@pytest.mark.parametrize(
    ("limit", "method"), [(20_000, "unchanged"), (400_000, "rescaled"), (1 << 30, "majorise-minimise")]
)
def test_a_small_memory_limit_is_held_and_said(limit: int, method: str, block: Graph) -> None:
    few = Arrays({"image": SAMPLES.arrays["image"][:40]})
    done = repair(block, fused(block, "d"), {}, few, memory_limit_bytes=limit)
    unit = next(unit for unit in done.units if unit.op == "d")
    assert unit.method == method
    assert ("memory limit" in unit.note) == (method != "majorise-minimise")


def test_the_order_of_the_samples_is_no_division(block: Graph, tmp_path: Path) -> None:
    """The last fifth is blank: judged on that part alone, spoiled weights would look as good as the original's."""
    images = SAMPLES.arrays["image"].copy()
    images[-len(images) // 5 :] = 0.0
    broken = spoiled(block, "s")
    done = repair(block, broken, {}, Arrays({"image": images}))
    assert by_op(done)["s"] != "unchanged"
    assert distance(block, done.graph, tmp_path) < 0.02


def test_the_seed_says_which_samples_judge(block: Graph) -> None:
    """The head has one row for each sample, so no drawn position makes a difference: only what is held out does."""
    broken = spoiled(block, "scores")
    first, again, other = (repair(block, broken, {}, SAMPLES, seed=seed).units for seed in (0, 0, 1))
    assert first == again
    assert first[0].error_before != pytest.approx(other[0].error_before, rel=1e-6)


def test_progress_counts_the_linear_ops(block: Graph) -> None:
    calls: list[tuple[int, int, str]] = []
    repair(block, block, {}, SAMPLES, progress=lambda *call: calls.append(call))
    assert [call[0] for call in calls] == list(range(7))
    assert {call[1] for call in calls} == {6}


ACTIVATIONS = {
    "relu": "{o} = Relu({i})",
    "relu6": "{o} = Clip({i}, zero, six)",
    "hard-swish": "{o} = HardSwish({i})",
    "silu": "{o}_s = Sigmoid({i}) {o} = Mul({i}, {o}_s)",
    "leaky": "{o} = LeakyRelu<alpha=0.1>({i})",
}


def random_net(kind: str, kernel: int, stride: int, groups: int, joins: str, seed: int) -> str:
    """Two branches from a stem, joined, with an activation of some kind everywhere."""
    act = ACTIVATIONS[kind].format
    pad = kernel // 2
    join = "j = Add(b2, c2)" if joins == "Add" else "j = Concat<axis=1>(b2, c2)"
    width = 12 if joins == "Add" else 24
    tail = act(i="j", o="jr")
    return f"""<ir_version: 8, opset_import: ["": 17]>
    m (float[N,6,9,7] image) => (float[N,4,h,w] y)
    <float[8,6,3,3] w0, float[8] b0, float[12,{8 // groups},{kernel},{kernel}] w1, float[12] b1, float[12,1,3,3] w2,
     float[12,8,1,1] w3, float[12] b3, float[4,{width},1,1] w4, float[4] b4, float six = {{6.0}}, float zero = {{0.0}}>
    {{
        s = Conv<pads=[1,1,1,1], strides=[{stride},1]>(image, w0, b0)
        {act(i="s", o="sr")}
        b1x = Conv<pads=[{pad},{pad},{pad},{pad}], group={groups}>(sr, w1, b1)
        {act(i="b1x", o="b1r")}
        b2 = Conv<pads=[1,1,1,1], group=12>(b1r, w2)
        c2 = Conv(sr, w3, b3)
        {join}
        {tail}
        y = Conv(jr, w4, b4)
    }}"""


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(ACTIVATIONS)),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    groups=st.sampled_from([1, 2, 4]),
    joins=st.sampled_from(["Add", "Concat"]),
    broken=st.sets(st.sampled_from(["s", "b1x", "b2", "c2", "y"]), min_size=1),
    seed=st.integers(0, 99),
)
def test_random_nets_come_back(kind, kernel, stride, groups, joins, broken, seed, tmp_path: Path) -> None:
    text = random_net(kind, kernel, stride, groups, joins, seed)
    graph = net(text, tmp_path / "random.onnx", seed=seed)
    worse = graph
    for number, key in enumerate(sorted(broken)):
        worse = spoiled(worse, key, amount=0.3, seed=seed + number)
    samples = noise(48, 6, 9, 7, seed=seed)
    done = repair(graph, worse, {}, samples, seed=seed)
    check_never_worse(done)
    assert distance(graph, done.graph, tmp_path, noise(16, 6, 9, 7, seed=seed + 1)) < 0.05


DIGEST = """
import hashlib, sys, tempfile
from pathlib import Path
import numpy as np
from graphopt.weights.repair import repair
from tests.weights.nets import BLOCK, net
from tests.weights.test_repair import SAMPLES, cut, fused
digest = hashlib.sha256()
with tempfile.TemporaryDirectory() as folder:
    block = net(BLOCK, Path(folder) / "block.onnx")
    narrow, kept = cut(block, {"e": 24})
    done = repair(block, fused(narrow, "d"), kept, SAMPLES)
assert len(done.units) == 4
for name in sorted(name for name in done.graph.weights if "repaired" in name):
    digest.update(np.round(done.graph.weights[name].array(), 4).tobytes())
sys.stdout.write(digest.hexdigest())
"""


def repaired_sample(plan: str, images: int) -> tuple[Repaired, Graph, Path]:
    """The sample classifier repaired on its first calibration images, its naive version, and where it lies."""
    folder = sample_models_dir()
    samples = Images({"image": np.load(folder / "fashion_calibration.npz")["image"][:images]})
    space = open_model(folder / "fashion_classifier.onnx")
    first = rewritten(space, plan, None)
    kept = kept_positions(space.channels, select(space.graph, space.channels, widths_of(space, plan)))
    return repair(space.graph, first, kept, samples), first, folder


@pytest.mark.parametrize(
    ("plan", "least"), [pytest.param("fused", 80.0, marks=pytest.mark.slow), ("multiples of 16", 90.0)]
)
def test_the_sample_model_keeps_its_accuracy(plan: str, least: float) -> None:
    done, first, folder = repaired_sample(plan, 96)
    with np.load(folder / "fashion_test.npz") as file:
        test = {name: file[name][:500] for name in file.files}
    check_never_worse(done)
    assert accuracy(first, test) < 75.0
    assert accuracy(done.graph, test) > least


def test_two_processes_make_the_same_weights() -> None:
    runs = [
        subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert runs[0] != hashlib.sha256().hexdigest()


def test_another_seed_picks_other_rows(block: Graph) -> None:
    dense = fused(block, "d")
    one, other = (repair(block, dense, {}, SAMPLES, seed=seed).graph for seed in (0, 1))
    name = one.op("d").inputs[1]
    assert not np.array_equal(one.weights[name].array(), other.weights[name].array())
