"""Vela's cycles: what they add up to, whose they are, and that the bundled targets fuse what Vela fuses."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graphopt.cost.estimate import estimate
from graphopt.cost.kernels import decompose
from graphopt.errors import ConfigError
from graphopt.ir.graph import Graph
from graphopt.measure.backend import Backend, Measurement
from graphopt.measure.join import join
from graphopt.measure.tflite import Converted, convert
from graphopt.measure.vela import Vela
from graphopt.measure.vela_compiler import ACCELERATORS, Failure, Report, compile_by_command, compile_files
from graphopt.onnx_io.load import load
from graphopt.onnx_io.normalise import normalise
from graphopt.rewrites.rewrite import Refusal
from graphopt.targets.target import ACTIVATIONS, load_target
from tests.measure.nets import net

pytest.importorskip("ethosu.vela", reason="ethos-u-vela (graphopt[measure]) is not installed")

TARGETS = ("ethos-u55-128", "ethos-u55-256", "ethos-u65-512", "ethos-u85-256")

BLOCKS = """
    s = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w16_8_3_3, w16) sr = Clip(s, c0, c6)
    e = Conv(sr, w48_16_1_1) er = Clip(e, c0, c6)
    d = Conv<pads=[1,1,1,1], group=48>(er, w48_1_3_3) dr = Clip(d, c0, c6)
    g = GlobalAveragePool(dr) q = Conv(g, w12_48_1_1) qr = Relu(q)
    u = Conv(qr, w48_12_1_1) h = Sigmoid(u) m = Mul(dr, h)
    p = Conv(m, w16_48_1_1) a = Add(p, sr) k = Concat<axis=1>(a, sr) o = GlobalAveragePool(k) f = Flatten(o)
    y = Gemm(f, w32_10, w10)
"""


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """Stem, inverted bottleneck with squeeze-excite and residual, concatenation, classifier."""
    return net("float[1,8,32,32] x", BLOCKS, tmp_path_factory.mktemp("blocks"))


def measured(name: str, graph: Graph) -> Measurement:
    backend: Backend = Vela(name)
    (answer,) = backend.measure([graph])
    assert isinstance(answer, Measurement), answer
    return answer


@pytest.mark.parametrize("name", TARGETS)
def test_rows_add_up_to_the_total_and_each_tensor_has_one(name: str, blocks: Graph) -> None:
    found = measured(name, blocks)
    assert found.total_us > 0
    assert sum(row.latency_us for row in found.rows) == pytest.approx(found.total_us)
    tensors = [tensor for row in found.rows for tensor in row.tensors]
    assert len(tensors) == len(set(tensors))
    # all that moves data: a Flatten of one pixel is no work
    assert set(tensors) == {op.key for op in blocks.ops()} - {"f"}
    assert found == measured(name, blocks)
    for row in found.rows:  # an operator takes as long as its slowest unit, to the cycle
        busy = dict(row.busy_us)
        assert busy.keys() == {"compute", "on-chip", "off-chip"}
        assert max(busy.values()) == pytest.approx(row.latency_us)
    assert len({us for row in found.rows for _, us in row.busy_us}) > len(found.rows)


@pytest.mark.parametrize("name", TARGETS)
def test_the_target_file_fuses_what_vela_fuses(name: str, blocks: Graph) -> None:
    kernels = decompose(blocks, load_target(name))
    rows = measured(name, blocks).rows
    groups = join(blocks, kernels, rows)
    assert all(group.is_single and group.latency_us > 0 for group in groups)
    assert len(rows) == len(groups)
    # the residual Add is a row of its own but on the U85
    assert any(set(row.tensors) == {"a"} for row in rows) != ("u85" in name)


CURVES = {
    **{name: f"y = {name}(a)" for name in ACTIVATIONS},
    "Clip": "y = Clip(a, c0, c6)",
    "PRelu": "y = PRelu(a, w16_1_1)",
    "Pow": "y = Pow(a, c2)",
}


@pytest.mark.parametrize("front", ["Conv", "Add"])
@pytest.mark.parametrize("name", ["ethos-u55-256", "ethos-u65-512", "ethos-u85-256"])
def test_the_listed_activations_are_those_that_vela_fuses(name: str, front: str, tmp_path: Path) -> None:
    head = {"Conv": "a = Conv(x, w16_16_1_1)", "Add": "a = Add(x, x2)"}[front]
    inputs = "float[1,16,12,12] x, float[1,16,12,12] x2"
    graphs = [net(inputs, f"{head} {body}", tmp_path, opset=20) for body in CURVES.values()]
    answers = dict(zip(CURVES, Vela(name).measure(graphs), strict=True))
    fused = {kind for kind, answer in answers.items() if isinstance(answer, Measurement) and len(answer.rows) == 1}
    assert fused == load_target(name).fusion.activations
    refused = {kind for kind, answer in answers.items() if isinstance(answer, Refusal)}
    assert refused & load_target(name).fusion.activations == set()


HARD_SWISH = """
    a = Conv(x, w16_16_1_1) ah = HardSigmoid<alpha=0.16666667>(a) b = Mul(a, ah)
    d = Conv<pads=[1,1,1,1], group=16>(b, w16_1_3_3) dh = HardSigmoid<alpha=0.16666667>(d) e = Mul(dh, d)
    g = GlobalAveragePool(e) q = Conv(g, w16_16_1_1) u = HardSigmoid<alpha=0.16666667>(q) y = Mul(e, u)
"""


@pytest.mark.parametrize("name", TARGETS)
def test_hard_swish_is_part_of_what_makes_its_input_and_a_gate_is_not(name: str, tmp_path: Path) -> None:
    graph = net("float[1,16,24,24] x", HARD_SWISH, tmp_path)
    rows = measured(name, graph).rows
    groups = join(graph, decompose(graph, load_target(name)), rows)
    assert {"a", "ah", "b"} in [set(row.tensors) for row in rows]
    assert len(groups) == len(rows)
    assert all(group.is_single for group in groups)


SPELLED_OUT = """
    a = Conv(x, w16_16_1_1) b = Add(a, c3) d = Clip(b, c0, c6) e = Mul(a, d) f = Div(e, c6)
    g = Conv<pads=[1,1,1,1], group=16>(f, w16_1_3_3) h = Add(g, c3) i = Clip(h, c0, c6) j = Div(i, c6) y = Mul(j, g)
"""


@pytest.mark.parametrize("name", TARGETS)
def test_a_hard_swish_spelled_out_is_one_op_as_tflites_converter_has_it(name: str, tmp_path: Path) -> None:
    graph = net("float[1,16,24,24] x", SPELLED_OUT, tmp_path)
    rows = measured(name, graph).rows
    assert [set(row.tensors) for row in rows] == [{*"abdef"}, {*"ghijy"}]
    kernels = decompose(graph, load_target(name))
    assert [set(kernel.ops) for kernel in kernels] == [{*"abdef"}, {*"ghijy"}]


@pytest.mark.parametrize("name", ["ethos-u55-256", "ethos-u85-256"])
def test_a_model_that_asks_for_its_shapes_is_compiled_at_those_it_is_priced_for(name: str, tmp_path: Path) -> None:
    """Exported with open shapes, models compute sizes from Shape; at one size nothing of that is left."""
    asking = """
        a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w16_8_3_3, w16)
        s = Shape<start=2>(x) n = Shape<end=2>(a) z = Concat<axis=0>(n, s)
        u = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(a, , , z)
        y = Conv(u, w8_16_1_1)
    """
    told = net("float[1,8,H,W] x", asking, tmp_path, input_shapes={"x": (1, 8, 24, 32)})
    assert {"Shape", "Concat"} <= {op.op_type for op in told.ops()}
    (tmp_path / "fixed").mkdir()
    same = normalise(net("float[1,8,24,32] x", asking, tmp_path / "fixed")).graph
    assert not {"Shape", "Concat"} & {op.op_type for op in same.ops()}
    assert measured(name, told) == measured(name, same)


@pytest.mark.parametrize("name", ["ethos-u55-128", "ethos-u85-256"])
def test_the_command_says_what_the_compiler_in_the_worker_says(name: str, blocks: Graph) -> None:
    written = convert(blocks)
    assert isinstance(written, Converted)
    (inside,) = compile_files([written.content], ACCELERATORS[name])
    outside = compile_by_command(written.content, ACCELERATORS[name])
    assert isinstance(inside, Report)
    assert isinstance(outside, Report)
    assert inside.total_cycles == outside.total_cycles
    assert all(inside.tables[table] == outside.tables[table] for table in ("perf", "source", "group"))


def test_every_size_of_the_family_compiles(blocks: Graph) -> None:
    totals = {name: measured(name, blocks).total_us for name in ACCELERATORS}
    assert totals["ethos-u55-32"] > totals["ethos-u55-64"] > totals["ethos-u55-128"] > totals["ethos-u55-256"]
    assert totals["ethos-u65-256"] > totals["ethos-u65-512"]


@pytest.mark.faults
def test_a_file_that_crashes_the_compiler_fails_alone(blocks: Graph) -> None:
    written = convert(blocks)
    assert isinstance(written, Converted)
    first, second, third = compile_files([written.content, b"nonsense", written.content], ACCELERATORS["ethos-u55-128"])
    assert isinstance(first, Report)
    assert isinstance(second, Failure)
    assert first.tables == third.tables if isinstance(third, Report) else False


def test_what_is_left_to_the_cpu_is_a_refusal_with_velas_reason(
    tmp_path: Path, blocks: Graph, capfd: pytest.CaptureFixture[str]
) -> None:
    alone = net("float[1,8,12,10] x", "y = SpaceToDepth<blocksize=2>(x)", tmp_path)
    unwritable = net("float[1,8,12,10] x", "y = Erf(x)", tmp_path)
    refused, fine, unwritten = Vela("ethos-u55-128").measure([alone, blocks, unwritable])
    assert isinstance(fine, Measurement)
    assert isinstance(refused, Refusal)
    assert refused.place == "y"
    assert "SPACE_TO_DEPTH is left to the CPU (Unsupported opType)" in refused.reason
    assert isinstance(unwritten, Refusal)
    assert "Erf" in unwritten.reason
    assert capfd.readouterr() == ("", "")


def test_version_names_tool_accelerator_and_configuration() -> None:
    version = importlib.metadata.version("ethos-u-vela")
    assert Vela("ethos-u65-512").version() == f"ethos-u-vela {version} ethos-u65-512 Ethos_U65_High_End Shared_Sram"


def test_an_unknown_accelerator_or_a_missing_compiler_says_what_would_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"ethos-u55-127.*nearest: ethos-u55-128"):
        Vela("ethos-u55-127")

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ConfigError, match=r"pip install 'graphopt\[measure\]'"):
        Vela("ethos-u55-128")


def test_importing_the_backend_loads_no_compiler() -> None:
    code = "import sys, graphopt.measure.vela; sys.exit(any(name.startswith('ethosu') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", TARGETS)
def test_the_target_orders_kernels_about_as_vela_does(name: str) -> None:
    model = Path(__file__).resolve().parents[2] / "sample_models" / "fashion_classifier.onnx"
    graph = normalise(load(model)).graph
    target = load_target(name)
    groups = join(graph, decompose(graph, target), measured(name, graph).rows)
    kernels = estimate(graph, target).kernels
    guessed = [sum(kernels[number].latency_us for number in group.kernels) for group in groups]
    ranks = [np.argsort(np.argsort(values)) for values in (guessed, [group.latency_us for group in groups])]
    assert np.corrcoef(*ranks)[0, 1] > 0.75
