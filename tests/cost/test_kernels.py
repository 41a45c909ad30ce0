"""What runs as one kernel, on targets that fuse much and little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.cost.kernels import Kernel, decompose
from graphopt.ir.graph import Graph
from graphopt.ir.liveness import constant_tensors, is_view
from graphopt.ir.op import Op, TensorInfo
from graphopt.onnx_io.load import load
from graphopt.targets.target import Target, bundled_targets, load_target
from tests.cost.builder import Builder

NPU = load_target("npu-32")
CPU = load_target("cpu-x86-64")


def types(graph: Graph, target: Target = NPU) -> list[str]:
    return ["+".join(graph.op(key).op_type for key in kernel.ops) for kernel in decompose(graph, target)]


def check_partition(graph: Graph, kernels: tuple[Kernel, ...]) -> None:
    """Every op in one kernel or free; kernels read what is there, and outside reads only what they write."""
    members = [key for kernel in kernels for key in kernel.ops]
    assert len(members) == len(set(members))
    constants = constant_tensors(graph)
    for op in graph.ops():
        free = is_view(op) or all(tensor in constants for tensor in op.outputs if tensor)
        assert free or op.key in members, op
    ready = {*graph.inputs, *constants, ""}

    def look_through_views() -> None:
        for op in graph.ops():
            if is_view(op) and op.key not in members and op.inputs[0] in ready:
                ready.update(op.outputs)

    for kernel in kernels:
        look_through_views()
        assert set(kernel.reads) <= ready, kernel
        assert not set(kernel.reads) & constants
        assert set(kernel.weights) <= constants
        own = {tensor for key in kernel.ops for tensor in graph.op(key).outputs}
        last = graph.op(kernel.ops[-1])
        assert kernel.writes[-1] in last.outputs
        assert kernel.key == kernel.anchor == graph.op(kernel.anchor).key
        for tensor in own - set(kernel.writes) - {""}:
            assert not graph.is_output(tensor)
            assert {use.op.key for use in graph.uses(tensor)} <= set(kernel.ops)
        ready |= set(kernel.writes)
    look_through_views()
    assert set(graph.outputs) <= ready


def test_conv_takes_normalisation_and_activation() -> None:
    m = Builder()
    y = m.unary("Relu", m.batch_norm(m.conv(m.input(1, 8, 8, 8), 16)))
    graph = m.graph(y)
    (kernel,) = decompose(graph, NPU)
    assert types(graph) == ["Conv+BatchNormalization+Relu"]
    assert (kernel.category, kernel.key, kernel.writes, kernel.reads) == ("conv-kxk", "conv0", (y,), ("in0",))
    assert types(graph, CPU) == ["Conv+BatchNormalization+Relu"]


def test_normalisation_after_an_activation_does_not_fold() -> None:
    m = Builder()
    assert types(m.graph(m.batch_norm(m.unary("Relu", m.conv(m.input(1, 8, 8, 8), 16))))) == [
        "Conv+Relu",
        "BatchNormalization",
    ]


def test_hard_swish_spelled_out_is_one_kernel_where_the_target_says_so() -> None:
    m = Builder()
    graph = m.graph(m.hard_swish(m.conv(m.input(1, 8, 8, 8), 16)))
    assert types(graph) == ["Conv+Add+Clip+Mul+Div"]
    assert types(graph, CPU) == ["Conv", "Add", "Clip", "Mul", "Div"]


def test_silu_and_gelu_spelled_out() -> None:
    m = Builder()
    x = m.conv(m.input(1, 8, 8, 8), 16)
    x = m.conv(m.binary("Mul", x, m.unary("Sigmoid", x)), 16)
    half = m.binary("Mul", x, m.weight())
    erf = m.unary("Erf", m.binary("Div", x, m.weight()))
    graph = m.graph(m.binary("Mul", half, m.binary("Add", erf, m.weight())))
    assert types(graph) == ["Conv+Sigmoid+Mul", "Conv+Mul+Div+Erf+Add+Mul"]


def test_squeeze_excite_gate_is_no_activation() -> None:
    m = Builder()
    x = m.conv(m.input(1, 8, 8, 8), 16)
    gate = m.unary("Sigmoid", m.conv(m.op("GlobalAveragePool", [x], (1, 16, 1, 1)), 16, 1))
    assert types(m.graph(m.binary("Mul", x, gate))) == ["Conv", "GlobalAveragePool", "Conv+Sigmoid", "Mul"]


def test_residual_add_and_the_activation_behind_it() -> None:
    m = Builder()
    x = m.input(1, 16, 8, 8)
    y = m.conv(m.unary("Relu", m.conv(x, 16)), 16)
    graph = m.graph(m.unary("Relu", m.binary("Add", x, y)))
    kernels = decompose(graph, NPU)
    assert types(graph) == ["Conv+Relu", "Conv+Add+Relu"]
    assert kernels[1].reads == ("relu1", "in0")


def test_adding_a_constant_is_no_residual() -> None:
    m = Builder()
    graph = m.graph(m.binary("Add", m.unary("Relu", m.conv(m.input(1, 16, 8, 8), 16)), m.weight(1, 16, 8, 8)))
    assert types(graph, CPU) == ["Conv+Relu", "Add"]


def test_of_two_convolutions_the_later_takes_the_add() -> None:
    m = Builder()
    x = m.input(1, 16, 8, 8)
    first, second = m.conv(x, 32, 1), m.conv(x, 32, 3)
    graph = m.graph(m.binary("Add", first, second))
    assert types(graph) == ["Conv", "Conv+Add"]
    assert decompose(graph, NPU)[1].reads == ("in0", first)


def test_a_convolution_before_the_other_operand_runs_late_enough() -> None:
    m = Builder()
    x = m.input(1, 16, 8, 8)
    early = m.conv(x, 16)
    pooled = m.op("MaxPool", [x], (1, 16, 8, 8), kernel_shape=(3, 3))
    graph = m.graph(m.binary("Add", early, pooled))
    assert types(graph) == ["MaxPool", "Conv+Add"]
    check_partition(graph, decompose(graph, NPU))


def test_what_others_read_or_the_caller_asks_for_is_written() -> None:
    m = Builder()
    conv = m.conv(m.input(1, 16, 8, 8), 16)
    relu = m.unary("Relu", conv)
    assert types(m.graph(conv, relu)) == ["Conv", "Relu"]
    assert types(m.graph(relu, m.unary("Neg", conv))) == ["Conv", "Relu", "Neg"]


def test_add_that_broadcasts_the_convolution_is_another_kernel() -> None:
    m = Builder()
    small = m.conv(m.input(1, 16, 1, 1), 16, 1)
    large = m.input(1, 16, 8, 8)
    grown = m.binary("Add", small, m.weight(1, 16, 4, 4))
    assert types(m.graph(m.binary("Add", m.conv(large, 16), large), grown)) == ["Conv", "Add", "Conv+Add"]


def test_views_break_no_chain_and_are_free_elsewhere() -> None:
    m = Builder()
    x = m.op("Reshape", [m.input(1, 64), m.weight(4, dtype="int64")], (1, 16, 2, 2))
    inner = m.op("Flatten", [m.conv(x, 16)], (1, 64))
    y = m.op("Identity", [m.unary("Relu", inner)], (1, 64))
    graph = m.graph(y)
    assert types(graph) == ["Conv+Flatten+Relu"]
    (kernel,) = decompose(graph, NPU)
    assert (kernel.reads, kernel.writes) == ((x,), ("relu3",))


def test_matrix_product_takes_its_bias_and_activation() -> None:
    m = Builder()
    product = m.op("MatMul", [m.input(1, 9, 32), m.weight(32, 64)], (1, 9, 64))
    graph = m.graph(m.unary("Relu", m.binary("Add", product, m.weight(64))))
    assert types(graph) == ["MatMul+Add+Relu"]
    assert decompose(graph, NPU)[0].category == "matmul"


def test_constants_and_shapes_are_free() -> None:
    m = Builder()
    x = m.input(1, 16, 8, 8)
    shape = m.op("Shape", [x], (4,), "int64")
    target = m.op("Concat", [m.op("Gather", [shape, m.weight(1, dtype="int64")], (1,), "int64")] * 2, (2,), "int64")
    scaled = m.binary("Mul", m.weight(16, 16, 1, 1), m.weight(1))
    y = m.op("Conv", [m.op("Reshape", [x, target], (1, 16, 8, 8)), scaled], (1, 16, 8, 8))
    graph = m.graph(y)
    (kernel,) = decompose(graph, NPU)
    assert kernel.ops == (y,)
    assert kernel.weights == (scaled,)


def test_random_and_foreign_ops_on_constants_are_not_constant() -> None:
    m = Builder()
    noise = m.op("RandomNormalLike", [m.weight(4)], (4,))
    m.tensors["z"] = TensorInfo(np.dtype(np.float32), (4,))
    m.ops.append(Op("Twice", (m.weight(4),), ("z",), domain="com.example"))
    assert types(m.graph(noise, "z")) == ["RandomNormalLike", "Twice"]


def test_activation_behind_other_ops_is_free_only_with_elementwise_chains() -> None:
    m = Builder()
    graph = m.graph(m.unary("Relu", m.binary("Add", m.input(1, 16, 8, 8), m.input(1, 16, 8, 8))))
    assert types(graph) == ["Add+Relu"]
    assert types(graph, CPU) == ["Add", "Relu"]


def test_unknown_ops_and_foreign_domains_are_kernels_of_category_other() -> None:
    m = Builder()
    x = m.input(1, 16, 8, 8)
    m.tensors["z"] = TensorInfo(np.dtype(np.float32), (1, 16, 8, 8))
    m.ops.append(Op("Conv", (x,), ("z",), domain="com.example"))
    graph = m.graph(m.unary("NeverHeardOf", "z"))
    assert [kernel.category for kernel in decompose(graph, NPU)] == ["other", "other"]


@pytest.mark.parametrize(
    ("group", "kernel", "category"),
    [(1, 1, "conv-1x1"), (1, 3, "conv-kxk"), (16, 3, "depthwise"), (2, 3, "grouped"), (16, 1, "depthwise")],
)
def test_categories_of_convolutions(group: int, kernel: int, category: str) -> None:
    m = Builder()
    assert decompose(m.graph(m.conv(m.input(1, 16, 8, 8), 32, kernel, group=group)), NPU)[0].category == category


def test_shared_weights_are_owned_once() -> None:
    m = Builder()
    x, weight = m.input(1, 16, 8, 8), m.weight(16, 16, 3, 3)
    y = m.op("Conv", [m.op("Conv", [x, weight], (1, 16, 8, 8)), weight], (1, 16, 8, 8))
    assert [kernel.owns_weights for kernel in decompose(m.graph(y), NPU)] == [True, False]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Random graphs of ops that fuse, with several uses of most tensors."""
    m = Builder()
    tensors = [m.input(1, 8, 4, 4), m.input(1, 8, 4, 4)]
    steps = ("conv", "depthwise", "bn", "Relu", "Sigmoid", "bias", "Add", "Mul", "hswish", "Identity", "Softmax")
    for _ in range(draw(st.integers(1, 14))):
        step = draw(st.sampled_from(steps))
        x = tensors[-1] if draw(st.booleans()) else draw(st.sampled_from(tensors))
        if step in ("conv", "depthwise"):
            y = m.conv(x, 8, group=8 if step == "depthwise" else 1)
        elif step == "bn":
            y = m.batch_norm(x)
        elif step == "bias":
            y = m.binary("Add", x, m.weight(8, 1, 1))
        elif step in ("Add", "Mul"):
            y = m.binary(step, x, draw(st.sampled_from(tensors)))
        elif step == "hswish":
            y = m.hard_swish(x)
        else:
            y = m.unary(step, x)
        tensors.append(y)
    extra = draw(st.lists(st.sampled_from(tensors[2:]), max_size=2))
    used = {tensor for op in m.ops for tensor in op.inputs}
    loose = [op.key for op in m.ops if op.key not in used]
    return m.graph(*dict.fromkeys([*loose, *extra]))


@settings(max_examples=150, deadline=None)
@given(graphs(), st.sampled_from(bundled_targets()))
def test_every_op_is_in_exactly_one_kernel(graph: Graph, target: str) -> None:
    kernels = decompose(graph, load_target(target))
    check_partition(graph, kernels)
    assert kernels == decompose(graph, load_target(target))


@pytest.mark.parametrize("target", ["npu-32", "cpu-x86-64"])
def test_every_op_of_the_real_models_is_in_exactly_one_kernel(real_models: tuple[Path, ...], target: str) -> None:
    for path in real_models:
        graph = load(path)
        kernels = decompose(graph, load_target(target))
        check_partition(graph, kernels)
        assert len(kernels) > 10
