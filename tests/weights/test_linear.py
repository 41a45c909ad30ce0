"""Rows times a matrix equal what onnxruntime computes, whatever the convolution's geometry."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.weights.linear import Linear, read_linear
from tests.weights.nets import net, noise, outputs


def check(text: str, key: str, *shape: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        graph = net(text, folder / "model.onnx")
        samples = noise(3, *shape)
        linear = read_linear(graph, graph.op(key))
        assert isinstance(linear, Linear)
        wanted = outputs(graph, samples, folder)
        rng = np.random.default_rng(0)
        picked = np.stack([rng.permutation(linear.places)[: max(1, linear.places // 2)] for _ in range(3)])
        rows = linear.rows(samples.arrays["image"], picked)
        made = rows @ linear.matrix() + linear.offsets()
        flat = made.transpose(1, 0, 2).reshape(rows.shape[1], -1)
        np.testing.assert_allclose(flat, linear.answers(wanted, picked), rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(linear.stored(linear.matrix()), linear.weight.array())


@settings(max_examples=30, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.one_of(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]), st.tuples(*[st.integers(0, 2)] * 4)),
    groups=st.sampled_from([(1, 4, 6), (2, 4, 6), (4, 4, 4), (4, 4, 8)]),
    biased=st.booleans(),
)
def test_convolutions(kernel, stride, dilation, pads, groups, biased) -> None:
    group, before, after = groups
    if str(pads).startswith("SAME"):
        dilation = (1, 1)  # onnxruntime has no other
    padding = f'auto_pad="{pads}"' if isinstance(pads, str) else f"pads={list(pads)}"
    check(
        f"""<ir_version: 8, opset_import: ["": 17]>
        conv (float[3,{before},11,9] image) => (float[3,{after},h,w] y)
        <float[{after},{before // group},{kernel[0]},{kernel[1]}] w, float[{after}] b>
        {{ y = Conv<group={group}, strides={list(stride)}, dilations={list(dilation)}, {padding}>
               (image, w{", b" if biased else ""}) }}""",
        "y",
        before,
        11,
        9,
    )


@settings(max_examples=20, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 1)] * 4),
    more=st.booleans(),
)
def test_transposed_convolutions(kernel, stride, dilation, pads, more) -> None:
    extra = f"output_padding={[int(more and s > 1) for s in stride]}, " if more else ""
    check(
        f"""<ir_version: 8, opset_import: ["": 17]>
        up (float[3,4,6,5] image) => (float[3,5,h,w] y) <float[4,5,{kernel[0]},{kernel[1]}] w, float[5] b>
        {{ y = ConvTranspose<{extra}strides={list(stride)}, dilations={list(dilation)}, pads={list(pads)}>
               (image, w, b) }}""",
        "y",
        4,
        6,
        5,
    )


@pytest.mark.parametrize(
    ("body", "shape", "weights"),
    [
        ("y = MatMul(image, w)", (7, 6), "float[6,5] w"),
        ("y = MatMul(image, w)", (4, 3, 6), "float[6,5] w"),
        ("y = Gemm(image, w, b)", (6,), "float[6,5] w, float[5] b"),
        ("y = Gemm<transB=1>(image, w, b)", (6,), "float[5,6] w, float[5] b"),
        ("y = Conv<pads=[2,1], strides=[2]>(image, w, b)", (6, 13), "float[5,6,3] w, float[5] b"),
    ],
)
def test_products_and_other_ranks(body: str, shape: tuple[int, ...], weights: str) -> None:
    dims = ",".join(map(str, (3, *shape)))
    axes = ",".join("abcd"[: len(shape) + 1])
    head = f'<ir_version: 8, opset_import: ["": 17]> m (float[{dims}] image) => (float[{axes}] y)'
    check(f"{head} <{weights}> {{ {body} }}", "y", *shape)


def test_what_cannot_be_solved_says_why(tmp_path: Path) -> None:
    graph = net(
        """<ir_version: 8, opset_import: ["": 17]>
        m (float[3,6] image) => (float[3,5] y, float[3,5] z, float[3,2,1] t) <float[6,5] w, float[5] b, float[5,2,2] v>
        { y = Gemm<alpha=2.0>(image, w, b) z = Relu(y) axis = Constant<value = int64[1] {2}>()
          u = Unsqueeze(y, axis) t = ConvTranspose<auto_pad="SAME_UPPER">(u, v) }""",
        tmp_path / "m.onnx",
    )
    assert read_linear(graph, graph.op("y")) == "it scales or transposes its operands"
    assert read_linear(graph, graph.op("t")) == "it is a transposed convolution with groups or with padding of its own"
    assert read_linear(graph, graph.op("z")) is None
