"""Every rewrite that promises equality keeps it: random shapes, kernels, strides, pads, biases and opsets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphopt.ir.op import Array
from graphopt.rewrites.fold_space_to_depth_stem import FoldSpaceToDepthStem
from graphopt.rewrites.fuse_inverted_bottleneck import FuseInvertedBottleneck
from graphopt.rewrites.merge_linear_convs import MergeLinearConvs, MergeParams
from graphopt.rewrites.rewrite import Match, Refusal
from graphopt.rewrites.swap_depthwise_for_dense import SwapDepthwiseForDense
from graphopt.rewrites.swap_depthwise_for_grouped import SwapDepthwiseForGrouped, SwapForGroupedParams
from tests.rewrites.models import apply, error, look, model, run, to_graph, to_proto

ROUNDING = 1e-5
"""float32 carries 6e-8; sums here have at most a few hundred terms."""

FEW = settings(max_examples=60, deadline=None, derandomize=True)
OPSETS = st.sampled_from((7, 11, 13, 17, 18, 22))


@dataclass(frozen=True)
class Geometry:
    """Kernel and the attributes that go with it, in ONNX text."""

    kernel: tuple[int, int]
    attributes: str
    is_padded: bool


@st.composite
def geometries(draw: st.DrawFn, strides: tuple[tuple[int, int], ...] = ((1, 1), (2, 2), (2, 1), (1, 3))) -> Geometry:
    kernel = draw(st.sampled_from(((1, 1), (3, 3), (5, 5), (2, 2), (3, 1), (1, 5), (7, 7), (4, 3))))
    stride = draw(st.sampled_from(strides))
    parts = [f"strides = [{stride[0]}, {stride[1]}]"]
    if draw(st.booleans()):
        parts.append(f"kernel_shape = [{kernel[0]}, {kernel[1]}]")
    mode = draw(st.sampled_from(("", "pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID")))
    dilation = 1
    if mode in ("", "pads", "VALID"):
        dilation = draw(st.sampled_from((1, 1, 2)))
    if dilation > 1:
        parts.append("dilations = [2, 2]")
    pads = [0, 0, 0, 0]
    if mode == "pads":
        pads = draw(st.lists(st.integers(0, 3), min_size=4, max_size=4))
        parts.append(f"pads = {pads}")
    elif mode:
        parts.append(f'auto_pad = "{mode}"')
    padded = any(pads) or (mode.startswith("SAME") and kernel != (1, 1))
    return Geometry(kernel, ", ".join(parts), padded)


def values(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


@st.composite
def swaps(draw: st.DrawFn) -> tuple[str, dict[str, Array], int, int]:
    """A depthwise convolution between two elementwise ops: text, weights, channels, opset."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    channels = draw(st.sampled_from((2, 3, 4, 6, 8, 12)))
    shape = draw(geometries())
    height, width = draw(st.integers(13, 16)), draw(st.integers(13, 16))
    bias = draw(st.booleans())
    text = f"""m (float[2,{channels},{height},{width}] x) => (float[?,?,?,?] y) {{
        a = Relu(x)
        d = Conv<group = {channels}, {shape.attributes}>(a, w{", b" if bias else ""})
        y = Relu(d)
    }}"""
    weights = {"w": values(rng, channels, 1, *shape.kernel)} | ({"b": values(rng, channels)} if bias else {})
    return text, weights, channels, draw(OPSETS)


@FEW
@given(swaps())
def test_depthwise_as_dense(case: tuple[str, dict[str, Array], int, int]) -> None:
    text, weights, channels, opset = case
    proto = model(text, weights, opset)
    graph = to_graph(proto)
    after = apply(graph, SwapDepthwiseForDense())
    assert after.op("d").attribute("group", 1) == 1
    assert after.weights[after.op("d").inputs[1]].shape[1] == channels
    feeds = {"x": values(np.random.default_rng(1), *graph.static_shape("x") or ())}
    assert error(run(to_proto(after), feeds), run(proto, feeds)) < ROUNDING


@FEW
@given(swaps(), st.sampled_from((2, 3, 4)))
def test_depthwise_as_groups(case: tuple[str, dict[str, Array], int, int], width: int) -> None:
    text, weights, channels, opset = case
    proto = model(text, weights, opset)
    graph = to_graph(proto)
    params = SwapForGroupedParams(width)
    (found,) = look(graph, SwapDepthwiseForGrouped(), params)
    if channels <= width:
        assert isinstance(found, Refusal)
        return
    assert isinstance(found, Match)
    (condition,) = found.conditions
    assert (condition.tensor, condition.axis) == ("d", 1)
    assert [size for size in range(1, 13) if not condition.refusal(size)] == [*range(2 * width, 13, width)]
    assume(channels % width == 0)
    after = apply(graph, SwapDepthwiseForGrouped(), params)
    assert after.op("d").attribute("group", 1) == channels // width
    feeds = {"x": values(np.random.default_rng(1), *graph.static_shape("x") or ())}
    assert error(run(to_proto(after), feeds), run(proto, feeds)) < ROUNDING


@st.composite
def bottlenecks(draw: st.DrawFn) -> tuple[str, dict[str, Array], int, bool]:
    """Expand + depthwise with no activation between: text, weights, opset, and whether fusing them is exact."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    inside, expanded = draw(st.integers(1, 5)), draw(st.integers(2, 7))
    shape = draw(geometries())
    size = draw(st.integers(13, 16))
    expand_bias = draw(st.sampled_from(("none", "zero", "some")))
    norm = draw(st.sampled_from(("none", "centred", "some")))
    bias = draw(st.booleans())
    weights = {"we": values(rng, expanded, inside, 1, 1), "wd": values(rng, expanded, 1, *shape.kernel)}
    if expand_bias != "none":
        weights["be"] = values(rng, expanded) if expand_bias == "some" else np.zeros(expanded, np.float32)
    if bias:
        weights["bd"] = values(rng, expanded)
    lines = [f"e = Conv(x, we{', be' if expand_bias != 'none' else ''})"]
    if norm != "none":
        centred = norm == "centred"
        weights["gamma"], weights["var"] = values(rng, expanded), values(rng, expanded) ** 2 + np.float32(0.1)
        weights["beta"] = np.zeros(expanded, np.float32) if centred else values(rng, expanded)
        weights["mean"] = np.zeros(expanded, np.float32) if centred else values(rng, expanded)
        lines.append("n = BatchNormalization<epsilon = 0.01>(e, gamma, beta, mean, var)")
    source = "n" if norm != "none" else "e"
    lines.append(f"d = Conv<group = {expanded}, {shape.attributes}>({source}, wd{', bd' if bias else ''})")
    lines.append("y = Relu(d)")
    body = "\n".join(lines)
    text = f"m (float[2,{inside},{size},{size + 1}] x) => (float[?,?,?,?] y) {{ {body} }}"
    is_centred = expand_bias != "some" and norm != "some"
    return text, weights, draw(OPSETS), is_centred or not shape.is_padded


@settings(FEW, max_examples=120)
@given(bottlenecks())
def test_bottleneck_without_activation(case: tuple[str, dict[str, Array], int, bool]) -> None:
    text, weights, opset, is_exact = case
    proto = model(text, weights, opset)
    graph = to_graph(proto)
    (found,) = look(graph, FuseInvertedBottleneck())
    assert isinstance(found, Match)
    assert (found.safety == "exact") == is_exact
    after = apply(graph, FuseInvertedBottleneck())
    assert [op.op_type for op in after.ops()] == ["Conv", "Relu"]
    feeds = {"x": values(np.random.default_rng(1), *graph.static_shape("x") or ())}
    found_outputs, wanted = run(to_proto(after), feeds), run(proto, feeds)
    if is_exact:
        assert error(found_outputs, wanted) < ROUNDING
    else:
        assert found_outputs["y"].shape == wanted["y"].shape


@st.composite
def stems(draw: st.DrawFn) -> tuple[str, dict[str, Array], int]:
    """A stride-2 convolution over few channels and even sizes: text, weights, opset."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    inside, outside = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    shape = draw(geometries(strides=((2, 2),)))
    assume("dilations" not in shape.attributes and shape.kernel != (1, 1))
    height, width = 2 * draw(st.integers(4, 8)), 2 * draw(st.integers(4, 8))
    bias = draw(st.booleans())
    text = f"""m (float[2,{inside},{height},{width}] x) => (float[?,?,?,?] y) {{
        s = Conv<{shape.attributes}>(x, w{", b" if bias else ""})
        y = Relu(s)
    }}"""
    weights = {"w": values(rng, outside, inside, *shape.kernel)} | ({"b": values(rng, outside)} if bias else {})
    return text, weights, draw(OPSETS)


@settings(FEW, max_examples=150)
@given(stems())
def test_stem_as_space_to_depth(case: tuple[str, dict[str, Array], int]) -> None:
    text, weights, opset = case
    proto = model(text, weights, opset)
    graph = to_graph(proto)
    after = apply(graph, FoldSpaceToDepthStem())
    assert [op.op_type for op in after.ops()] == ["SpaceToDepth", "Conv", "Relu"]
    assert all(after.static_shape(tensor) for op in after.ops() for tensor in op.outputs[:1] if tensor != "y")
    feeds = {"x": values(np.random.default_rng(1), *graph.static_shape("x") or ())}
    assert error(run(to_proto(after), feeds), run(proto, feeds)) < ROUNDING


@pytest.mark.parametrize(
    ("attributes", "kernel", "folded", "pads"),
    [
        ("pads = [1, 1, 1, 1]", 3, 2, (1, 1, 0, 0)),
        ("pads = [2, 2, 2, 2]", 5, 3, (1, 1, 1, 1)),
        ("pads = [3, 3, 3, 3]", 7, 4, (2, 2, 1, 1)),
        ("pads = [0, 0, 1, 1]", 3, 2, (0, 0, 1, 1)),
        ('auto_pad = "SAME_UPPER"', 3, 2, (0, 0, 1, 1)),
        ('auto_pad = "SAME_LOWER"', 3, 2, (1, 1, 0, 0)),
    ],
)
def test_known_stems(attributes: str, kernel: int, folded: int, pads: tuple[int, ...]) -> None:
    text = f"m (float[1,3,16,16] x) => (float[?,?,?,?] y) {{ y = Conv<{attributes}, strides = [2, 2]>(x, w) }}"
    weights = {"w": values(np.random.default_rng(0), 4, 3, kernel, kernel)}
    stem = apply(to_graph(model(text, weights)), FoldSpaceToDepthStem()).op("y")
    assert stem.attribute("kernel_shape") == (folded, folded)
    assert stem.attribute("pads") == pads


@st.composite
def chains(draw: st.DrawFn) -> tuple[str, dict[str, Array], int, str]:
    """Two or three convolutions in a row: text, weights, opset, and why they cannot all be merged."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    length = draw(st.integers(2, 3))
    spatial = draw(st.integers(0, length - 1))
    shape = draw(geometries())
    widths = draw(st.lists(st.integers(1, 6), min_size=length + 1, max_size=length + 1))
    biases = draw(st.lists(st.booleans(), min_size=length, max_size=length))
    weights: dict[str, Array] = {}
    lines = []
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    widths[0] *= groups
    widths[1] *= groups
    for i in range(length):
        group = groups if i == 0 else 1
        weights[f"w{i}"] = values(rng, widths[i + 1], widths[i] // group, *(shape.kernel if i == spatial else (1, 1)))
        if biases[i]:
            weights[f"b{i}"] = values(rng, widths[i + 1])
        attributes = f"<group = {group}{f', {shape.attributes}' if i == spatial else ''}>"
        lines.append(f"t{i + 1} = Conv{attributes}(t{i}, w{i}{f', b{i}' if biases[i] else ''})")
    body = "\n".join(lines)
    text = f"""m (float[1,{widths[0]},14,15] t0) => (float[?,?,?,?] y) {{ {body} y = Relu(t{length}) }}"""
    border = shape.is_padded and any(biases[:spatial])
    return text, weights, draw(OPSETS), "a bias would meet padded zeros" if border else ""


@settings(FEW, max_examples=120)
@given(chains())
def test_linear_chain(case: tuple[str, dict[str, Array], int, str]) -> None:
    text, weights, opset, refusal = case
    proto = model(text, weights, opset)
    graph = to_graph(proto)
    answers = look(graph, MergeLinearConvs())
    matches = [answer for answer in answers if isinstance(answer, Match)]
    if refusal:
        assert all(len(match.removes) < len(graph) - 1 for match in matches)
        assert matches or refusal in {answer.reason for answer in answers if isinstance(answer, Refusal)}
    else:
        assert len(matches[0].removes) == len(graph) - 1
    assume(matches)
    after = graph.edited([MergeLinearConvs().rewrite(graph, matches[0], MergeParams())])
    feeds = {"t0": values(np.random.default_rng(1), *graph.static_shape("t0") or ())}
    assert error(run(to_proto(after), feeds), run(proto, feeds)) < ROUNDING


def test_the_measure_sees_a_fault() -> None:
    text = "m (float[1,4,8,8] x) => (float[?,?,?,?] y) { y = Conv<group = 4>(x, w) }"
    weights = {"w": values(np.random.default_rng(0), 4, 1, 3, 3)}
    proto = model(text, weights)
    after = to_proto(apply(to_graph(proto), SwapDepthwiseForDense()))
    tensor = after.graph.initializer[0]
    spread = np.frombuffer(tensor.raw_data, np.float32).copy()
    spread[np.abs(spread).argmax()] *= 1.001
    tensor.raw_data = spread.tobytes()
    feeds = {"x": values(np.random.default_rng(1), 1, 4, 8, 8)}
    assert error(run(after, feeds), run(proto, feeds)) > 10 * ROUNDING
