"""Workloads by hand, and arrays of widths against one width at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.cost.kernels import decompose
from graphopt.cost.roofline import price
from graphopt.cost.workload import Count, Workload, tensor_bytes, workload
from graphopt.ir.graph import Graph
from graphopt.targets.target import bundled_targets, load_target
from tests.cost.builder import Builder, load_of

NPU = load_target("npu-32")
CPU = load_target("cpu-x86-64")


def only(graph: Graph) -> Workload:
    (kernel,) = decompose(graph, NPU)
    return load_of(graph, kernel)


def work(load: Workload) -> tuple[str, Count, Count, Count, Count, Count]:
    return (load.kind, load.groups, load.pixels, load.taps, load.channels_in, load.channels_out)


def test_strided_convolution_with_a_batch() -> None:
    m = Builder()
    x = m.input(2, 3, 32, 16)
    load = only(m.graph(m.unary("Relu", m.conv(x, 24, 3, stride=2, bias=True))))
    assert work(load) == ("convolution", 1, 2 * 16 * 8, 9, 3, 24)
    assert load.macs == 256 * 9 * 3 * 24
    assert load.activation_elements == 2 * 3 * 32 * 16 + 2 * 24 * 16 * 8
    assert (load.weight_elements, load.bias_elements) == (24 * 3 * 9, 24)
    assert load.weight_bytes(NPU) == load.parameter_bytes(NPU) == 24 * 27 + 4 * 24
    assert load.weight_bytes(CPU) == 4 * (24 * 27 + 24)


def test_what_only_a_concatenation_reads_is_one_of_its_parts() -> None:
    m = Builder()
    x = m.input(1, 8, 6, 6)
    alone, shared, high = m.unary("Relu", m.conv(x, 8)), m.conv(x, 4), m.conv(x, 12)
    longer = m.op("Concat", [alone, shared], (1, 12, 6, 6), axis=1)
    higher = m.op("Concat", [high, m.unary("Relu", longer)], (1, 12, 12, 6), axis=2)
    graph = m.graph(higher, m.unary("Sigmoid", shared))
    made = {kernel.writes[-1]: load_of(graph, kernel).joined_parts for kernel in decompose(graph, NPU)}
    assert [made[tensor] for tensor in (alone, shared, high)] == [2, 0, 0]
    (first,) = [kernel for kernel in decompose(graph, NPU) if alone in kernel.writes]
    part = graph.part(first.ops)
    (cut,) = decompose(part, NPU)
    shape_of = lambda tensor: graph.static_shape(tensor) or ()  # noqa: E731
    assert workload(cut, part, shape_of).joined_parts == 0
    assert workload(cut, part, shape_of, graph).joined_parts == 2


@pytest.mark.parametrize(("rank", "pixels", "taps"), [(1, 8, 3), (3, 512, 27)])
def test_convolutions_of_other_ranks(rank: int, pixels: int, taps: int) -> None:
    m = Builder()
    load = only(m.graph(m.conv(m.input(1, 4, *[8] * rank), 6)))
    assert work(load) == ("convolution", 1, pixels, taps, 4, 6)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, (0, 0)),
        ({"pads": (1, 2, 0, 2)}, (1, 4)),
        ({"pads": (1, 2, 0, 2), "auto_pad": "VALID"}, (0, 0)),
        ({"auto_pad": "SAME_UPPER", "strides": (2, 1)}, (1, 2)),
        ({"auto_pad": "SAME_LOWER", "strides": (4, 1), "dilations": (1, 3)}, (0, 6)),
    ],
)
def test_pads_of_a_window(attributes: dict[str, object], expected: tuple[int, int]) -> None:
    m = Builder()
    x, weight = m.input(1, 8, 32, 16), m.weight(8, 8, 3, 3)
    for op_type, inputs, more in (("Conv", [x, weight], {}), ("MaxPool", [x], {"kernel_shape": (3, 3)})):
        load = only(m.graph(m.op(op_type, inputs, (1, 8, 8, 16), **attributes, **more)))
        assert (load.pad_height, load.pad_width) == expected
        m.ops.clear()
    cropped = only(m.graph(m.op("ConvTranspose", [x, weight], (1, 8, 30, 14), pads=(2, 2, 2, 2))))
    assert (cropped.pad_height, cropped.pad_width) == (0, 0)


def test_depthwise_and_grouped() -> None:
    m = Builder()
    load = only(m.graph(m.conv(m.input(1, 32, 8, 8), 64, group=32)))
    assert work(load) == ("depthwise", 32, 64, 9, 1, 2)
    assert load.macs == 64 * 9 * 64
    m = Builder()
    load = only(m.graph(m.conv(m.input(1, 32, 8, 8), 64, group=4)))
    assert work(load) == ("convolution", 4, 64, 9, 8, 16)
    assert load.macs == 64 * 9 * 8 * 64


@pytest.mark.parametrize(("group", "expected"), [(1, (1, 16, 24 * 4)), (4, (4, 4, 24)), (16, (16, 1, 6 * 4))])
def test_transposed_convolution_is_a_product_at_each_input_position(group: int, expected: tuple[int, int, int]) -> None:
    m = Builder()
    out = 24 if group < 16 else 96
    weight = m.weight(16, out // group, 2, 2)
    y = m.op("ConvTranspose", [m.input(1, 16, 5, 5), weight, m.weight(out)], (1, out, 10, 10), group=group)
    load = only(m.graph(y))
    assert (load.groups, load.channels_in, load.channels_out) == expected
    assert load.pixels == 25
    assert load.macs == 25 * 16 * (out // group) * 4
    assert load.bias_elements == out


@pytest.mark.parametrize("trans", [0, 1])
def test_gemm(trans: int) -> None:
    m = Builder()
    weight = m.weight(10, 64) if trans else m.weight(64, 10)
    load = only(m.graph(m.op("Gemm", [m.input(3, 64), weight, m.weight(10)], (3, 10), transB=trans)))
    assert work(load) == ("product", 1, 3, 1, 64, 10)
    assert (load.weight_elements, load.bias_elements) == (640, 10)


def test_matrix_products() -> None:
    m = Builder()
    constant = only(m.graph(m.op("MatMul", [m.input(2, 7, 64), m.weight(64, 10)], (2, 7, 10))))
    assert work(constant) == ("product", 1, 14, 1, 64, 10)
    m = Builder()
    attention = only(m.graph(m.op("MatMul", [m.input(2, 4, 7, 16), m.input(2, 4, 16, 7)], (2, 4, 7, 7))))
    assert work(attention) == ("product", 8, 7, 1, 16, 7)
    assert (attention.weight_elements, attention.macs) == (0, 2 * 4 * 7 * 7 * 16)
    m = Builder()
    vector = only(m.graph(m.op("MatMul", [m.input(7, 64), m.weight(64)], (7,))))
    assert work(vector) == ("product", 1, 7, 1, 64, 1)


def test_folded_normalisation_leaves_one_bias() -> None:
    m = Builder()
    load = only(m.graph(m.batch_norm(m.conv(m.input(1, 8, 8, 8), 16))))
    assert (load.weight_elements, load.bias_elements) == (16 * 8 * 9, 16)
    m = Builder()
    x = m.conv(m.input(1, 8, 8, 8), 16)
    load = only(m.graph(m.op("PRelu", [x, m.weight(16, 1, 1)], (1, 16, 8, 8))))
    assert (load.weight_elements, load.bias_elements) == (16 * 8 * 9 + 16, 0)


def test_scalars_are_no_parameters_and_residuals_are_read() -> None:
    m = Builder()
    x = m.input(1, 8, 8, 8)
    load = only(m.graph(m.hard_swish(m.binary("Add", m.conv(x, 8), m.input(1, 8, 8, 8)))))
    assert (load.weight_elements, load.bias_elements) == (8 * 8 * 9, 0)
    assert load.activation_elements == 3 * 512


@pytest.mark.parametrize(
    ("op_type", "shape", "attributes", "ops"),
    [
        ("Softmax", (1, 8, 4, 4), {}, 3 * 128),
        ("MaxPool", (1, 8, 2, 2), {"kernel_shape": (3, 3)}, 32 * 9),
        ("GlobalAveragePool", (1, 8, 1, 1), {}, 128),
        ("Resize", (1, 8, 8, 8), {"mode": b"linear"}, 4 * 512),
        ("Resize", (1, 8, 8, 8), {"mode": "nearest"}, 512),
        ("Transpose", (1, 4, 4, 8), {}, 128),
        ("NeverHeardOf", (1, 8, 2, 2), {}, 128 + 32),
    ],
)
def test_vector_work(op_type: str, shape: tuple[int, ...], attributes: dict[str, object], ops: int) -> None:
    m = Builder()
    load = only(m.graph(m.op(op_type, [m.input(1, 8, 4, 4)], shape, **attributes)))
    assert (load.kind, load.vector_ops, load.macs) == ("vector", ops, 0)
    assert load.activation_elements == 128 + np.prod(shape)


def test_bytes_follow_the_targets_precision_for_floats_only() -> None:
    assert tensor_bytes(np.dtype(np.float32), (2, 3), NPU) == 6
    assert tensor_bytes(np.dtype(np.float16), (2, 3), CPU) == 24
    assert tensor_bytes(np.dtype(np.int64), (2, 3), NPU) == 48
    m = Builder()
    load = only(m.graph(m.op("ArgMax", [m.input(1, 8, 4, 4)], (1, 1, 4, 4), "int64")))
    assert (load.activation_elements, load.other_bytes) == (128, 128)
    assert load.activation_bytes(CPU) == 128 * 4 + 128


KINDS = ("dense", "depthwise", "grouped", "transposed", "gemm", "pool", "elementwise")


def sized(kind: str, width_in: int, width_out: int) -> Graph:
    """One kernel with the given widths (a depthwise or pooling kernel has the one of its input only)."""
    m = Builder()
    if kind == "gemm":
        return m.graph(m.op("Gemm", [m.input(1, width_in), m.weight(width_in, width_out)], (1, width_out)))
    x = m.input(1, width_in, 14, 14)
    if kind == "dense":
        return m.graph(m.unary("Relu", m.batch_norm(m.conv(x, width_out, 3, stride=2))))
    if kind == "depthwise":
        return m.graph(m.unary("Clip", m.conv(x, width_in, 5, group=width_in, bias=True)))
    if kind == "grouped":
        return m.graph(m.conv(x, width_out, 3, group=width_in // 8))
    if kind == "transposed":
        return m.graph(m.op("ConvTranspose", [x, m.weight(width_in, width_out, 2, 2)], (1, width_out, 28, 28)))
    if kind == "pool":
        return m.graph(m.op("MaxPool", [x], (1, width_in, 7, 7), kernel_shape=(3, 3)))
    return m.graph(m.binary("Mul", x, m.input(1, width_in, 1, 1)))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.lists(st.integers(1, 40), min_size=1, max_size=3, unique=True),
    st.lists(st.integers(1, 40), min_size=1, max_size=3, unique=True),
    st.sampled_from(bundled_targets()),
)
def test_arrays_of_widths_price_as_each_width_alone(kind: str, ins: list[int], outs: list[int], target: str) -> None:
    chip = load_target(target)
    widths_in = [8 * width for width in ins]
    # a grouped convolution's outputs are multiples of its groups at every pair of widths
    widths_out = [width * (int(np.lcm.reduce(ins)) if kind == "grouped" else 3) for width in outs]
    corners = [[sized(kind, i, o) for o in widths_out] for i in widths_in]
    base = corners[0][0]
    (kernel,) = decompose(base, chip)

    def shape_of(tensor: str) -> tuple[npt.NDArray[np.int64], ...]:
        """Each dimension over the grid of widths, as thin as it can be."""
        grid = np.array([[graph.static_shape(tensor) for graph in row] for row in corners], np.int64)
        dims = [grid[:, :, axis] for axis in range(grid.shape[2])]
        dims = [dim[:1] if (dim == dim[:1]).all() else dim for dim in dims]
        return tuple(dim[:, :1] if (dim == dim[:, :1]).all() else dim for dim in dims)

    load = workload(kernel, base, shape_of)
    cost = price(load, chip)

    def at(value: object, i: int, o: int) -> object:
        return np.broadcast_to(np.asarray(value), (len(ins), len(outs)))[i, o]

    for i, row in enumerate(corners):
        for o, graph in enumerate(row):
            (alone,) = decompose(graph, chip)
            single_load = load_of(graph, alone)
            single = price(single_load, chip)
            for name in ("latency_us", "macs", "dram_bytes", "bound"):
                assert at(getattr(cost, name), i, o) == getattr(single, name), (kind, name, i, o)
            assert at(load.parameter_bytes(chip), i, o) == single_load.parameter_bytes(chip)


def test_widths_that_nobody_takes_still_have_a_price() -> None:
    """A table prices all combinations, also fewer input channels than one group reads."""
    m = Builder()
    graph = m.graph(m.conv(m.input(1, 64, 8, 8), 64, group=2))
    (kernel,) = decompose(graph, NPU)
    narrow = {"in0": (1, np.array([16, 64]), 8, 8)}
    load = workload(kernel, graph, lambda t: narrow.get(t) or graph.static_shape(t) or ())
    assert np.isfinite(price(load, NPU).latency_us).all()
