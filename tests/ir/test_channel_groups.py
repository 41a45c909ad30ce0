"""What the walk finds on small models whose answer is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto, helper

from graphopt.errors import PlanError
from graphopt.ir.channels import ChannelGroup, Channels, channel_groups
from graphopt.ir.graph import Graph
from graphopt.ir.resize import Selection, resize
from tests.ir.builder import Builder
from tests.ir.oracle import assert_close, check_cut, check_padded, load_model, run

ONE = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
Grow = Callable[[Builder, str], str]


def look(b: Builder, *outputs: str) -> tuple[Graph, Channels]:
    b.outputs += outputs
    graph = load_model(b.model())
    return graph, channel_groups(graph)


def of(channels: Channels, tensor: str) -> ChannelGroup:
    """The one group on a tensor."""
    (name,) = channels.groups_of(tensor)
    return channels.group(name)


def start(size: int = 4, opset: int = 17) -> tuple[Builder, str]:
    """A stem of ``size`` channels on 4 x 4 pixels."""
    b = Builder(opset)
    return b, b.conv(b.input("x", 1, 3, 4, 4), 3, size)


def turned(b: Builder, x: str) -> str:
    """The channels where rows usually are."""
    return b.op("Transpose", x, perm=[0, 2, 1, 3])


def noise(graph: Graph) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(graph.static_shape(name) or ()).astype(np.float32) for name in graph.inputs}


def test_an_inverted_bottleneck() -> None:
    b, x = start(4)
    wide = b.op("Relu", b.conv(x, 4, 12, bias=False))
    deep = b.op("Relu", b.conv(wide, 12, 12, 3, group=12))
    y = b.op("Add", x, b.conv(deep, 12, 4))
    graph, channels = look(b, b.conv(y, 4, 2))

    stem, hidden = of(channels, x), of(channels, deep)
    assert (stem.size, stem.is_stem, stem.frozen, stem.unpaddable) == (4, True, "", "")
    assert (hidden.size, hidden.is_stem) == (12, False)
    assert hidden.id == graph.op(wide).inputs[0], "a group is named after the tensor where it first appears"
    assert stem.makers == (x, graph.op(y).inputs[1])
    assert hidden.makers == (hidden.id,)
    assert of(channels, y) is stem
    expand, depth, project = (graph.op(t).inputs[1] for t in (hidden.id, graph.op(deep).inputs[0], stem.makers[1]))
    assert [(m.weight, m.axis, m.role) for m in hidden.members] == [
        (expand, 0, "produce"),
        (depth, 0, "carry"),
        (graph.op(graph.op(deep).inputs[0]).inputs[2], 0, "carry"),
        (project, 1, "consume"),
    ]
    assert channels.axis_size(project, 1).at({hidden.id: 5, stem.id: 9}) == 5
    assert channels.axis_size(project, 0).at({hidden.id: 5, stem.id: 9}) == 9
    assert channels.axis_size(depth, 1).at({}) == 1
    assert channels.axis_size(deep, -1).at({}) == 4
    assert np.array_equal(channels.axis_size(deep, 1).at({hidden.id: np.array([3, 7])}), [3, 7])
    assert channels.groups[-1].frozen.endswith("is an output of the model")


def test_a_computed_weight_in_a_residual_makes_and_sums_over_the_same_channels() -> None:
    b, x = start(4)
    levels = b.const(np.random.default_rng(0).integers(-99, 99, (4, 4, 1, 1)), np.int8)
    weight = b.op("DequantizeLinear", levels, b.random(4, low=0.01, high=0.02), b.const(np.zeros(4), np.int8), axis=0)
    graph, channels = look(b, b.conv(b.op("Add", x, b.op("Conv", x, weight)), 4, 2))
    assert [(m.axis, m.role) for m in of(channels, x).members if m.weight == levels] == [(0, "produce"), (1, "consume")]
    check_cut(graph, channels, {of(channels, x).id: Selection((1, 3), pad=2)}, noise(graph))


def test_parts_of_a_split_have_widths_of_their_own() -> None:
    b, x = start(6)
    left, right = b.split(b.conv(x, 6, 6), [2, 4])
    y = b.op("Concat", right, b.op("Relu", left), right, axis=1)
    graph, channels = look(b, b.conv(y, 10, 1))
    whole = graph.op(left).inputs[0]
    assert channels.groups_of(whole) == (f"{whole}[0:2]", f"{whole}[2:6]")
    assert channels.axis_size(y, 1).terms == ((f"{whole}[0:2]", 1), (f"{whole}[2:6]", 2))
    padded = {f"{whole}[0:2]": Selection((0, 1), 3), f"{whole}[2:6]": Selection((0, 1, 2, 3), 1)}
    check_padded(graph, channels, padded, noise(graph))


def test_padding_and_removing_in_one_go() -> None:
    b, x = start(6)
    graph, channels = look(b, b.op("Gemm", b.op("Flatten", x), b.random(96, 3), b.random(3)))
    both = graph.edited([resize(graph, channels, {x: Selection((1, 4, 5), 5)})])
    cut = graph.edited([resize(graph, channels, {x: Selection((1, 4, 5))})])
    assert both.static_shape(x) == (1, 8, 4, 4)
    assert_close(run(both, noise(graph)), run(cut, noise(graph)))


def test_grouped_convolution_keeps_its_groups() -> None:
    b, x = start(6)
    y = b.conv(x, 6, 8, 3, group=2)
    graph, channels = look(b, b.conv(y, 8, 1))
    assert (of(channels, x).size, of(channels, y).size) == (3, 4)
    assert channels.axis_size(x, 1).terms == ((x, 2),)
    check_padded(graph, channels, {x: Selection((0, 1, 2), 2), y: Selection((0, 1, 2, 3), 1)}, noise(graph))
    check_cut(graph, channels, {x: Selection((0, 2)), y: Selection((3,))}, noise(graph))


def test_a_channel_last_model_through_transposes() -> None:
    b, x = start(5)
    last = b.op("Add", b.op("Transpose", x, perm=[0, 2, 3, 1]), b.random(5))
    flat = b.op("Reshape", last, b.ints(1, -1))
    graph, channels = look(b, b.op("MatMul", flat, b.random(80, 2)))
    group = of(channels, flat)
    assert (group.id, channels.axis_size(flat, 1).terms) == (x, ((x, 16),))
    assert not group.unpaddable
    check_padded(graph, channels, {x: Selection((0, 1, 2, 3, 4), 3)}, noise(graph))


def test_a_slice_between_the_repeats_of_a_channel_keeps_it_from_growing() -> None:
    """Two channels at a time are one to the normalisation; of the second and third pair one each is taken."""
    b, x = start(8)
    pairs = b.op("InstanceNormalization", b.op("Reshape", x, b.ints(1, 4, -1)), b.random(4), b.random(4))
    y = b.conv(b.op("Reshape", pairs, b.ints(1, 8, 4, 4)), 8, 2)
    taken = b.op("Slice", x, b.ints(3), b.ints(5), b.ints(1))
    graph, channels = look(b, y, b.conv(taken, 2, 2))
    group = of(channels, taken)
    assert (group.size, group.frozen) == (2, "")
    assert "between repeats of one channel" in group.unpaddable
    check_cut(graph, channels, {group.id: Selection((1,))}, noise(graph))


def test_one_flattened_channel_cannot_tell_where_the_next_would_go() -> None:
    b, x = start(1)
    _, channels = look(b, b.op("Gemm", b.op("Flatten", b.op("Relu", x)), b.random(16, 3), b.random(3)))
    assert of(channels, x).frozen or of(channels, x).unpaddable


@pytest.mark.parametrize(
    ("reason", "grow"),
    [
        ("works across the channels", lambda b, x: b.op("Softmax", x, axis=1)),
        ("pads along the channels", lambda b, x: b.pad(x, [0, 1, 0, 0, 0, 1, 0, 0])),
        ("reduces over it", lambda b, x: b.op("Sub", x, b.with_axes("ReduceMean", 18, x, [1], keepdims=1))),
        (
            "reads the number of channels",
            lambda b, x: b.op("Add", x, b.op("Cast", b.op("Size", x), to=TensorProto.FLOAT)),
        ),
        ("has no transfer function", lambda b, x: b.op("Einsum", x, equation="nchw->ncwh")),
        ("more than one output", lambda b, x: b.ops("MaxPool", x, kernel_shape=[1, 1], outputs=2)[0]),
        ("whose size is fixed", lambda b, x: b.op("Add", x, b.input("y", 1, 4, 4, 4))),
        ("whose size is fixed", lambda b, x: b.op("Concat", x, b.input("y", 1, 2, 4, 4), axis=1)),
        ("not constant", lambda b, x: b.op("Conv", x, b.input("w", 4, 4, 1, 1))),
        ("spreads one channel", lambda b, x: b.op("Mul", x, b.conv(x, 4, 1))),
        ("a step other than 1", lambda b, x: b.op("Slice", x, b.ints(3), b.ints(-9), b.ints(1), b.ints(-1))),
    ],
)
def test_what_freezes_says_so(reason: str, grow: Grow) -> None:
    b, x = start(4)
    y = grow(b, x)
    _, channels = look(b, b.op("GlobalAveragePool", y))
    found = [freeze for freeze in channels.freezes if reason in freeze.reason]
    assert found, channels.freezes
    assert all(channels.group(name).frozen and channels.group(name).unpaddable for name in found[0].groups)


def test_a_subgraph_that_reads_a_tensor_freezes_it() -> None:
    b, x = start(4)
    inner = helper.make_graph(
        [helper.make_node("Relu", [x], ["inner"])],
        "then",
        [],
        [helper.make_tensor_value_info("inner", 1, [1, 4, 4, 4])],
    )
    y = b.op("If", b.const(True, np.bool_), then_branch=inner, else_branch=inner)
    graph, channels = look(b, y)
    assert "subgraph" in of(channels, x).frozen
    run(graph, noise(graph))


@pytest.mark.parametrize(
    "grow",
    [
        lambda b, x: b.op("Log", b.op("Add", b.op("Abs", x), b.const(1.0))),
        lambda b, x: b.op("Pow", x, b.const(-1.0)),
        lambda b, x: b.op("Div", b.const(1.0), x),
        lambda b, x: b.op("Gather", x, b.ints(3, 1, 0, 2), axis=1),
        lambda b, x: b.op("Conv", x, b.op("ConstantOfShape", b.ints(4, 4, 1, 1), value=ONE)),
    ],
)
def test_what_would_not_stay_exact_cannot_grow(grow: Grow) -> None:
    b, x = start(4)
    _, channels = look(b, b.conv(grow(b, x), 4, 1))
    assert not of(channels, x).frozen
    assert of(channels, x).unpaddable
    with pytest.raises(PlanError, match="can be added"):
        resize(Graph([], inputs=[], outputs=[], weights={}, tensors={}), channels, {x: Selection((0, 1, 2, 3), 1)})


def test_the_shape_of_another_tensor_couples_the_two() -> None:
    b, x = start(4)
    y = b.conv(x, 4, 4)
    z = b.op("Reshape", y, b.op("Shape", x))
    graph, channels = look(b, b.conv(z, 4, 2))
    assert of(channels, x) is of(channels, z)
    check_cut(graph, channels, {x: Selection((0, 3))}, noise(graph))


def test_a_shared_bias_does_not_couple_and_a_shared_kernel_does() -> None:
    b, x = start(4)
    bias, kernel = b.random(4), b.random(4, 4, 1, 1)
    one = b.op("Conv", x, kernel, bias)
    other = b.op("Conv", b.op("Relu", x), kernel, b.random(4))
    lone = b.op("Conv", x, b.random(4, 4, 1, 1), bias)
    graph, channels = look(b, b.op("Concat", *(b.conv(t, 4, 2) for t in (one, other, lone)), axis=1))
    assert of(channels, one) is of(channels, other)
    assert of(channels, one) is not of(channels, lone)
    check_cut(graph, channels, {one: Selection((0, 3)), lone: Selection((1,))}, noise(graph))


def test_a_group_of_two_stems() -> None:
    b = Builder()
    x = b.op("Sub", b.input("x", 1, 3, 4, 4), b.random(3, 1, 1))
    y = b.op("Add", b.conv(x, 3, 4), b.conv(b.op("Relu", x), 3, 4))
    late = b.conv(y, 4, 6)
    _, channels = look(b, b.conv(late, 6, 1))
    assert of(channels, y).is_stem
    assert len(of(channels, y).makers) == 2
    assert not of(channels, late).is_stem


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(()), "must keep a channel"),
        (Selection((0, 0)), "must ascend"),
        (Selection((2, 1)), "must ascend"),
        (Selection((0, 4)), "must ascend within 0..3"),
        (Selection((0,), -1), "cannot grow by -1"),
    ],
)
def test_impossible_selections(selection: Selection, message: str) -> None:
    b, x = start(4)
    graph, channels = look(b, b.conv(x, 4, 2))
    with pytest.raises(PlanError, match=message):
        resize(graph, channels, {x: selection})


def test_a_frozen_group_stays_and_an_unknown_one_is_named() -> None:
    b, x = start(4)
    y = b.conv(x, 4, 2)
    graph, channels = look(b, y)
    with pytest.raises(PlanError, match="can be removed"):
        resize(graph, channels, {y: Selection((0,))})
    with pytest.raises(PlanError, match=f"nearest: {x}"):
        resize(graph, channels, {x + "0": Selection((0,))})
    patch = resize(graph, channels, {y: Selection((0, 1)), x: Selection((0, 1, 2, 3))})
    assert (patch.remove, patch.add, patch.weights, dict(patch.tensors)) == ((), (), (), {})


def test_the_same_file_gives_the_same_groups() -> None:
    b, x = start(6)
    left, right = b.split(b.conv(x, 6, 6), [2, 4])
    graph, channels = look(b, b.conv(b.op("Concat", right, left, axis=1), 6, 1))
    again = channel_groups(graph)
    assert [(g.id, g.size, g.axes, g.makers) for g in channels.groups] == [
        (g.id, g.size, g.axes, g.makers) for g in again.groups
    ]
