"""onnxruntime as a device: which ops it runs as one, that time is counted once, and what it refuses."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from graphopt.cost.kernels import decompose
from graphopt.errors import ConfigError
from graphopt.ir.graph import Graph
from graphopt.measure.backend import Measurement, Refusal
from graphopt.measure.nets import random_net
from graphopt.measure.onnxruntime_backend import OnnxRuntime
from graphopt.measure.onnxruntime_profile import IN_A_NET, node_times, without_notes
from graphopt.measure.stopwatch import MOST_RUNS, WARM_RUNS, Run, Stopwatch, Timing, typical
from graphopt.onnx_io.load import load
from graphopt.onnx_io.normalise import normalise
from graphopt.resources import sample_models_dir
from graphopt.targets.target import load_target

CPU = load_target("onnxruntime-cpu")

HEAD = '<ir_version: 8, opset_import: ["": 17]> net (float[1,16,20,20] x) => (float y) <{weights}> {{ {body} }}'


AFFINITY = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
"""Before anything was measured: measuring pins the thread, and lets it go."""


def quick() -> OnnxRuntime:
    """As few runs as there can be: for what does not depend on time."""
    return OnnxRuntime(nominal_us=100.0, seconds=0.0)


def net(body: str, folder: Path, **weights: tuple[int, ...]) -> Graph:
    """The normalised graph of ``body``, which makes ``y`` from ``x``; weights are seeded by their shapes."""
    names = {"lo": (), "hi": (), **weights}
    declared = ", ".join(f"float{list(shape) or ''} {name}".replace("[]", "") for name, shape in names.items())
    model = onnx.parser.parse_model(HEAD.format(weights=declared, body=body))
    rng = np.random.default_rng(0)
    for name, shape in names.items():
        values = np.array({"lo": 0.0, "hi": 6.0}.get(name)) if not shape else rng.random(shape) / np.prod(shape[1:])
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    del model.graph.value_info[:]
    path = folder / "net.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return normalise(load(path)).graph


def kernels(graph: Graph) -> list[tuple[str, ...]]:
    """What onnxruntime runs, each as the types of its ops."""
    found = quick().kernels(graph)
    assert not isinstance(found, Refusal)
    return [tuple(graph.producer(tensor).op_type for tensor in kernel.tensors) for kernel in found]


STEM = "s = Conv<pads=[1,1,1,1]>(x, ws)  a = Relu(s)"


def test_convolution_batch_norm_clip_and_add_are_what_they_are_for_decompose(tmp_path: Path) -> None:
    body = f"""{STEM}
        e = Conv(a, we)  b = BatchNormalization(e, scale, bias, mean, var)  c = Clip(b, lo, hi)
        d = Conv<pads=[1,1,1,1], group=32>(c, wd)  f = Relu(d)
        p = Conv(f, wp)  y = Add(p, a)"""
    shapes = dict.fromkeys(("scale", "bias", "mean", "var"), (32,))
    convs = {"ws": (16, 16, 3, 3), "we": (32, 16, 1, 1), "wd": (32, 1, 3, 3), "wp": (16, 32, 1, 1)}
    graph = net(body, tmp_path, **convs, **shapes)
    assert kernels(graph) == [("Conv", "Relu"), ("Conv", "Clip"), ("Conv", "Relu"), ("Conv", "Add")]
    assert [kernel.ops[-1] for kernel in decompose(graph, CPU)] == ["a", "c", "f", "y"]


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("h = HardSigmoid<alpha=0.16666667, beta=0.5>(p)  m = Mul(p, h)  y = Conv(m, wq)",
         [("Conv", "HardSigmoid", "Mul"), ("Conv",)]),
        ("h = Sigmoid(p)  m = Mul(p, h)  y = Conv(m, wq)", [("Conv",), ("Sigmoid", "Mul"), ("Conv",)]),
        ("q = Conv(p, wq)  m = Add(q, p)  r = Relu(m)  y = Conv(r, wq)",
         [("Conv",), ("Conv", "Add", "Relu"), ("Conv",)]),
        ("g = GlobalAveragePool(p)  h = Conv(g, wq)  i = Sigmoid(h)  y = Mul(p, i)",
         [("Conv",), ("GlobalAveragePool",), ("Conv", "Sigmoid"), ("Mul",)]),
        ("y = MaxPool<kernel_shape=[2,2]>(p)", [("Conv",), ("MaxPool",)]),
        ("t = Add(p, hi)  c = Clip(t, lo, hi)  m = Mul(p, c)  y = Div(m, hi)",
         [("Conv",), ("Add",), ("Clip",), ("Mul",), ("Div",)]),
    ],
)  # fmt: skip
def test_the_fusion_table_says_what_onnxruntime_does(
    tail: str, expected: list[tuple[str, ...]], tmp_path: Path
) -> None:
    graph = net(f"{STEM} p = Conv(a, wq)  {tail}", tmp_path, ws=(16, 16, 3, 3), wq=(16, 16, 1, 1))
    assert kernels(graph) == [("Conv", "Relu"), *expected]
    ours = [tuple(graph.op(key).op_type for key in kernel.ops) for kernel in decompose(graph, CPU)]
    assert ours == [("Conv", "Relu"), *expected]


def compared(graph: Graph) -> tuple[int, Counter[str]]:
    """Number of kernels that onnxruntime and the target agree on, and the types of those that they do not."""
    found = quick().kernels(graph)
    assert not isinstance(found, Refusal)
    theirs = {frozenset(kernel.tensors) for kernel in found}
    ours = {frozenset(t for key in k.ops for t in graph.op(key).outputs if t) for k in decompose(graph, CPU)}
    different = Counter("+".join(sorted(graph.producer(t).op_type for t in kernel)) for kernel in theirs - ours)
    return len(theirs & ours), different


EXCEPTIONS = {
    # a residual Add whose other operand is not in blocked channels, or comes from a convolution that is later in the
    # file; then also the activation behind it
    "Add", "Add+Conv", "Conv", "Add+Conv+Relu", "Relu", "Add+Clip+Conv", "Clip", "LeakyRelu", "Conv+Relu",
    # hard-swish behind a convolution whose channels onnxruntime does not block
    "HardSigmoid", "Mul", "Add+Conv+HardSigmoid+Mul",
    # a transpose that onnxruntime moves into its neighbour
    "Conv+Transpose",
    # nothing is fused into a transposed convolution but its bias
    "ConvTranspose", "BatchNormalization", "Sigmoid",
}  # fmt: skip
"""Kernels of onnxruntime that the target's table does not tell."""


def test_random_nets_decompose_as_onnxruntime_runs_them(tmp_path: Path) -> None:
    agreed, different = 0, Counter[str]()
    for seed in range(12):
        onnx.save(random_net(seed), tmp_path / "net.onnx")
        same, others = compared(load(tmp_path / "net.onnx"))
        agreed, different = agreed + same, different + others
    assert agreed > 0.85 * (agreed + different.total()), different
    assert set(different) <= EXCEPTIONS


def test_the_sample_model_decomposes_exactly() -> None:
    graph = normalise(load(sample_models_dir() / "fashion_classifier.onnx")).graph
    assert compared(graph) == (31, Counter())


@pytest.mark.slow
def test_real_models_decompose_as_onnxruntime_runs_them(real_models: tuple[Path, ...]) -> None:
    shapes = {"v3_det": {"x": (1, 3, 96, 96)}, "cls": {"x": (1, 3, 48, 192)}, "lite0": {"input": (1, 3, 224, 224)}}
    expected = {"lite0": 51, "cls": 140, "v3_det": 179}
    for model in real_models:
        name = next((part for part in shapes if part in model.name), "")
        same, different = compared(normalise(load(model, input_shapes=shapes.get(name))).graph)
        assert same >= expected.get(name, 0)
        assert set(different) <= EXCEPTIONS
        if name == "lite0":
            assert not different


def test_every_node_is_paid_for_once_and_rows_add_up(tmp_path: Path) -> None:
    # 30 channels are not blocked: reorders stand on both sides, and are no kernels of their own
    body = f"""{STEM} b = Conv(a, wb)  c = Conv<pads=[1,1,1,1], group=30>(b, wc)  d = Conv(c, wd)
        t = Transpose<perm=[0,2,3,1]>(d)  y = Softmax<axis=-1>(t)"""
    graph = net(body, tmp_path, ws=(16, 16, 3, 3), wb=(30, 16, 1, 1), wc=(30, 1, 3, 3), wd=(16, 30, 1, 1))
    found = quick().measure([graph])[0]
    assert isinstance(found, Measurement)
    assert sorted(t for row in found.rows for t in row.tensors) == sorted(t for op in graph.ops() for t in op.outputs)
    assert sum(row.latency_us for row in found.rows) == pytest.approx(found.total_us)
    assert all(row.latency_us > 0 for row in found.rows)


def test_the_larger_convolution_takes_longer(tmp_path: Path) -> None:
    graph = net(f"{STEM} b = Conv(a, wb)  y = Conv<pads=[1,1,1,1]>(b, wc)", tmp_path, ws=(16, 16, 3, 3),
                wb=(16, 16, 1, 1), wc=(256, 16, 3, 3))  # fmt: skip
    found = quick().measure([graph])[0]
    assert isinstance(found, Measurement)
    stem, point, wide = (row.latency_us for row in found.rows)
    assert wide > 4 * stem > 4 * point


def test_one_bad_model_stops_no_other(tmp_path: Path) -> None:
    good = net(f"{STEM} y = Neg(a)", tmp_path, ws=(16, 16, 3, 3))
    text = '<ir_version: 8, opset_import: ["": 17]> t (string[2] x) => (string[2] y) { y = Identity(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "text.onnx")
    refused, measured = quick().measure([load(tmp_path / "text.onnx"), good])
    assert isinstance(refused, Refusal)
    assert "no array of numbers" in refused.reason
    assert isinstance(measured, Measurement)
    assert not AFFINITY or os.sched_getaffinity(0) == AFFINITY


def test_an_unknown_provider_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no provider 'CUDAProvider' here.*CPUExecutionProvider"):
        OnnxRuntime("CUDAProvider")


def test_the_version_tells_processor_and_reference() -> None:
    told = OnnxRuntime(nominal_us=123.44).version()
    assert told.startswith("onnxruntime ")
    assert told.endswith("reference 123.4 us")
    assert "CPUExecutionProvider, 1 thread, " in told


class Moments:
    """A clock that stands still but for what runs on it, at a speed that can be changed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0
        self.slowdown = 1.0
        monkeypatch.setattr("graphopt.measure.stopwatch.time.thread_time_ns", lambda: self.now)

    def run(self, us: float) -> Run:
        def one() -> None:
            self.now += round(us * self.slowdown * 1000)

        return one


def test_time_is_counted_in_units_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = Moments(monkeypatch)
    watch = Stopwatch(moments.run(100.0), alone=True, nominal_us=50.0)
    timing = watch.timed(moments.run(300.0), 0.0)
    assert (timing.own_us, timing.reference_us, timing.speed, timing.us) == (300.0, 100.0, 0.5, 150.0)
    moments.slowdown = 1.5
    assert watch.timed(moments.run(300.0), 0.0).us == pytest.approx(150.0)


def test_the_nominal_time_is_that_of_quiet_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = Moments(monkeypatch)
    calls = 0

    def reference() -> None:
        nonlocal calls
        calls += 1
        # a neighbour stays for seven pieces of eight; a moment of luck does not count
        moments.now += 90_000 if calls == 300 else 100_000 if calls // MOST_RUNS % 8 == 0 else 117_000

    assert Stopwatch(reference, alone=True).nominal_us == 100.0


def test_a_moment_is_quiet_if_the_reference_takes_what_it_does_in_the_quietest_tenth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moments = Moments(monkeypatch)
    watch = Stopwatch(moments.run(100.0), alone=True, nominal_us=50.0)
    for moments.slowdown in (1.2, 1.3, 1.25, 1.2, 1.4):
        watch.timed(moments.run(300.0), 0.0)
    assert watch.is_quiet(120.0)  # nothing better is known yet
    for moments.slowdown in (1.0, 1.01):
        watch.timed(moments.run(300.0), 0.0)
    assert watch.is_quiet(102.0)
    assert not watch.is_quiet(120.0)


class Neighbour:
    """A stopwatch beside somebody who slows the net down more than the reference, for its first ``disturbed`` visits.

    A visit is a model as it is, its profile, and the same of the chain that tells what a profile costs.
    """

    def __init__(self, disturbed: int) -> None:
        self.disturbed = disturbed
        self.timings = 0

    def timed(self, run: Run, seconds: float, most_runs: int = 1) -> Timing:
        for _ in range(WARM_RUNS + 1):
            run()
        self.timings += 1
        slow = self.timings <= 4 * self.disturbed
        return Timing(1500.0, 120.0, 100.0) if slow else Timing(800.0, 100.0, 100.0)

    def is_quiet(self, reference_us: float) -> bool:
        return reference_us < 103.0


@pytest.mark.parametrize(("disturbed", "visits", "latency_us"), [(0, 5, 800.0), (3, 8, 800.0), (10, 10, 1250.0)])
def test_a_disturbed_visit_is_made_up_for(tmp_path: Path, disturbed: int, visits: int, latency_us: float) -> None:
    graph = net("y = Conv(x, w)", tmp_path, w=(4, 16, 1, 1))
    backend, neighbour = quick(), Neighbour(disturbed)
    vars(backend)["_watch"] = neighbour
    found = backend.measure([graph])[0]
    assert isinstance(found, Measurement)
    assert neighbour.timings == 4 * visits
    assert found.total_us == pytest.approx(latency_us)
    assert sum(row.latency_us for row in found.rows) == pytest.approx(found.total_us)


def test_the_typical_time_forgets_what_was_disturbed() -> None:
    assert typical([10, 12, 900, 14, 1000]) == 11
    assert typical([7]) == 7


def test_node_times_are_means_over_the_undisturbed_runs_behind_the_warm_ones() -> None:
    def event(name: str, dur: int, cat: str = "Node") -> dict[str, object]:
        return {"cat": cat, "name": name, "dur": dur}

    # two warm runs, then five; the processor was taken away once from each node
    runs = [(500, 9), (400, 9), (100, 4), (102, 3), (130, 3), (101, 90), (101, 4)]
    events = [event(f"{node}_kernel_time", dur) for run in runs for node, dur in enumerate(run)]
    events += [event("model_run", 7, "Session"), event("0_fence_before", 9)]
    # the profile cuts off half a microsecond
    assert node_times(json.loads(json.dumps(events)), 2) == {"0": 101.5, "1": 4.0}
    assert node_times(events[:2], 2) == {"0": 500.5, "1": 9.5}


def test_what_profiling_costs_is_taken_from_each_node() -> None:
    nodes = np.array([1, 1, 2])
    true = np.array([100.0, 1.0, 9.0])
    told = true + IN_A_NET * 2.0 * nodes
    assert without_notes(told, nodes, true.sum(), 2.0) == pytest.approx(true)
    assert without_notes(told * 1.7, nodes, true.sum(), 2.0) == pytest.approx(true)  # the machine was slower meanwhile
    assert without_notes(true, nodes, 2 * true.sum(), 0.0) == pytest.approx(2 * true)
    small = without_notes(np.array([50.0, 0.1]), np.array([1, 1]), 50.0, 2.0)
    assert small[1] > 0
    assert small.sum() == pytest.approx(50.0)


def test_profiling_adds_no_time_to_small_nodes(tmp_path: Path) -> None:
    """Twenty small nodes beside a large one: told to take three microseconds each, they take less than one."""
    small = "  ".join(f"t{i + 1} = {('Neg', 'Exp')[i % 2]}(t{i})" for i in range(20))
    graph = net(f"t0 = GlobalAveragePool(x)  {small}  c = Conv<pads=[3,3,3,3]>(x, w)  y = Add(c, t20)",
                tmp_path, w=(16, 16, 7, 7))  # fmt: skip
    found = OnnxRuntime(nominal_us=100.0, seconds=0.02).measure([graph])[0]
    assert isinstance(found, Measurement)
    took = [row.latency_us for row in found.rows if graph.producer(row.tensors[0]).op_type in ("Neg", "Exp")]
    assert len(took) == 20
    assert np.median(took) < 1.2
