"""What a learned estimator sees of a workload."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphopt.cost.features import COLUMNS, FEATURES, INPUTS, TERMS, added, features, inputs, rows, terms
from graphopt.cost.kernels import decompose
from graphopt.cost.roofline import price
from graphopt.cost.workload import Workload
from graphopt.targets.target import load_target
from tests.cost.builder import Builder, load_of

NPU = load_target("npu-32")
CPU = load_target("cpu-x86-64")


def conv(ins: object, outs: object) -> Workload:
    return Workload(
        "convolution", pixels=196, taps=9, channels_in=ins, channels_out=outs, category="conv-kxk", op_type="Conv",
        kernel_height=3, kernel_width=3, output_height=14, output_width=14, input_elements=196 * ins,
        output_elements=196 * outs, weight_elements=9 * ins * outs,
    )  # type: ignore[arg-type]  # fmt: skip


def column(load: Workload, name: str) -> float:
    return float(rows([load], NPU).columns[0, COLUMNS.index(name)])


def test_bytes_are_the_targets() -> None:
    load = conv(3, 24)
    names = ("input_bytes", "output_bytes", "weight_bytes")
    at = [COLUMNS.index(name) for name in names]
    assert rows([load], NPU).columns[0, at].tolist() == [196 * 3, 196 * 24, 9 * 72]
    assert rows([load], CPU).columns[0, at].tolist() == [4 * 196 * 3, 4 * 196 * 24, 4 * 9 * 72]


def test_arrays_of_widths_are_the_rows_of_each_width() -> None:
    ins, outs = np.array([[8], [24]]), np.array([[16, 33, 64]])
    single = [conv(int(i), int(o)) for i in ins.ravel() for o in outs.ravel()]
    table = rows([conv(ins, outs), conv(4, 4)], NPU)
    assert table.shapes == ((2, 3), ())
    assert (table.columns == rows([*single, conv(4, 4)], NPU).columns).all()
    back = table.split(np.arange(7))
    assert back[0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert back[1].shape == ()
    assert back[1] == 6


def test_pads_are_seen_and_change_no_analytic_price() -> None:
    bare, padded = conv(16, 32), replace(conv(16, 32), pad_height=2, pad_width=1)
    seen = features(rows([bare, padded], NPU).columns, NPU)
    at = [FEATURES.index(name) for name in ("pad_height", "pad_width")]
    assert seen[:, at].tolist() == [[0, 0], [2, 1]]
    assert price(bare, NPU).latency_us == price(padded, NPU).latency_us


def test_padding_is_a_stair() -> None:
    load = conv(np.array([3, 8, 9]), np.array([17]))
    parts = terms(rows([load], NPU).columns, 8, 16)
    operations = 196 * 9 * 17 * np.array([3, 8, 9])
    assert parts[:, TERMS.index("padded operations")].tolist() == pytest.approx(
        (operations * (32 / 17) * np.array([8 / 3, 1, 16 / 9])).tolist()
    )
    assert parts[:, TERMS.index("tiles")].tolist() == [392, 392, 392]
    seen = features(rows([load], NPU).columns, NPU)
    assert seen[:, FEATURES.index("channels_in padded to 8")] == pytest.approx([8 / 3, 1, 16 / 9])
    assert seen[:, FEATURES.index("rows padded to 64")] == pytest.approx([64 / 27, 128 / 72, 128 / 81])
    assert seen[0, FEATURES.index("channels_out padded to 16")] == pytest.approx(32 / 17)


def test_what_a_padding_adds_is_seen() -> None:
    pad = Workload(
        "vector", category="copy", op_type="Pad", output_height=6, output_width=5,
        input_elements=30 * 20, output_elements=30 * 29,
    )  # fmt: skip
    for target in (NPU, CPU):  # channels, whatever a number takes
        seen = dict(zip(FEATURES, features(rows([pad], target).columns, target)[0].tolist(), strict=True))
        assert seen["log channels read"] == pytest.approx(np.log(21))
        assert seen["log channels added"] == pytest.approx(np.log(10))
        assert seen["channels added padded to 8"] == pytest.approx(16 / 9)
        assert seen["log elements added"] == pytest.approx(np.log(271))


def test_groups_of_one_channel_lie_side_by_side_and_wider_ones_do_not() -> None:
    depthwise = Workload("depthwise", groups=20, pixels=100, taps=9, channels_in=1, channels_out=1)
    grouped = Workload("convolution", groups=4, pixels=100, taps=9, channels_in=5, channels_out=5)
    parts = terms(rows([depthwise, grouped], NPU).columns, 8, 16)
    assert parts[:, TERMS.index("tiles")].tolist() == [200, 400]
    assert parts[:, TERMS.index("padded operations")].tolist() == pytest.approx([100 * 9 * 32, 4 * 100 * 9 * 8 * 16])


def test_what_the_roofline_is_made_of_is_seen() -> None:
    columns = rows([conv(8, 8), conv(64, 64)], NPU).columns
    parts = terms(columns, 8, 8) * np.arange(1.0, 1 + len(TERMS))
    seen = inputs(features(columns, NPU), parts)
    assert seen.shape == (2, len(INPUTS))
    assert (seen[:, : len(FEATURES)] == features(columns, NPU)).all()
    assert seen[:, len(FEATURES) : -1].sum(axis=1) == pytest.approx([1, 1])
    assert seen[:, -1] == pytest.approx(np.log(added(parts)))


def test_a_graph_says_what_its_kernels_look_like() -> None:
    m = Builder()
    x = m.input(1, 12, 9, 8)
    y = m.unary("Clip", m.op("Conv", [x, m.weight(24, 12, 3, 3)], (1, 24, 5, 4), strides=(2, 2)))
    z = m.unary("Relu", m.binary("Add", m.conv(y, 24, 1), y))
    p = m.op("MaxPool", [z], (1, 24, 2, 2), kernel_shape=(3, 2), strides=(2, 2))
    gate = m.unary("Sigmoid", m.op("GlobalAveragePool", [p], (1, 24, 1, 1)))
    graph = m.graph(m.binary("Mul", p, gate))
    loads = [load_of(graph, kernel) for kernel in decompose(graph, NPU)]
    assert [load.category for load in loads] == ["conv-kxk", "conv-1x1", "pool", "reduce", "elementwise"]
    assert [load.op_type for load in loads] == ["Conv", "Conv", "MaxPool", "GlobalAveragePool", "Mul"]
    assert [load.activation for load in loads] == ["clamp", "clamp", "none", "curve", "none"]
    assert [(load.kernel_height, load.kernel_width) for load in loads] == [(3, 3), (1, 1), (3, 2), (2, 2), (1, 1)]
    assert [(load.stride_height, load.stride_width) for load in loads] == [(2, 2), (1, 1), (2, 2), (1, 1), (1, 1)]
    assert [(load.output_height, load.output_width) for load in loads] == [(5, 4), (5, 4), (2, 2), (1, 1), (2, 2)]
    assert [load.input_elements for load in loads] == [864, 480, 480, 96, 96]
    assert [load.second_elements for load in loads] == [0, 480, 0, 0, 24]
    assert [load.output_elements for load in loads] == [480, 480, 96, 24, 96]
    assert column(loads[4], "channels_out") == 24


def test_spelled_out_gates_are_told_from_curves() -> None:
    m = Builder()
    hard = m.hard_swish(m.conv(m.input(1, 8, 4, 4), 8))
    conv = m.conv(hard, 8)
    graph = m.graph(m.unary("LeakyRelu", m.conv(m.binary("Mul", conv, m.unary("Sigmoid", conv)), 8)))
    assert [load_of(graph, kernel).activation for kernel in decompose(graph, NPU)] == ["hard-gate", "gate", "curve"]
