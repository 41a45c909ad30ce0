from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import ModelError
from graphopt.ir.op import Weight
from graphopt.onnx_io.load import load
from graphopt.onnx_io.shapes import LIKELY, require_static_shapes
from tests.onnx_io.build import conv_model, model, weight, write


def test_ops_weights_and_shapes(tmp_path: Path) -> None:
    graph = load(write(conv_model(), tmp_path / "m.onnx"), input_shapes={"x": (2, 4, 8, 5)})
    conv, relu = graph.ops()
    assert (conv.op_type, conv.inputs, conv.outputs, conv.attribute("pads")) == ("Conv", ("x", "w"), ("c",), (1,) * 4)
    assert graph.inputs == ("x",)
    assert graph.outputs == ("y",)
    assert graph.weights["w"].array().shape == (6, 4, 3, 3)
    assert graph.static_shape("x") == (2, 4, 8, 5)
    assert graph.static_shape("c") == graph.static_shape("y") == (2, 6, 8, 5)
    assert graph.dtype("c") == np.float32
    assert graph.producer("y") == relu


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("value_float", np.float32(1.5)),
        ("value_floats", np.array([1, 2], np.float32)),
        ("value_int", np.int64(3)),
        ("value_ints", np.array([1, 2], np.int64)),
        ("value_strings", np.array([b"a", b"b"], object)),
    ],
)
def test_a_constant_op_is_a_weight_in_every_spelling(tmp_path: Path, attribute: str, value: np.ndarray) -> None:
    kind = {"f": FLOAT, "i": TensorProto.INT64, "O": TensorProto.STRING}[value.dtype.kind]
    node = helper.make_node("Constant", [], ["k"], **{attribute: value.tolist()})
    proto = model([node], {}, {"k": list(value.shape)})
    proto.graph.output[0].type.tensor_type.elem_type = kind
    found = load(write(proto, tmp_path / "m.onnx")).weights["k"]
    assert found.shape == value.shape
    assert found.dtype == value.dtype
    assert np.array_equal(found.array(), value)


FLOAT = TensorProto.FLOAT


def test_tensor_attribute_is_a_weight_and_subgraph_captures_are_uses(tmp_path: Path) -> None:
    def branch(name: str, inner: str) -> onnx.GraphProto:
        nested = helper.make_graph(
            [helper.make_node("Add", ["x", inner], ["o"])], name, [], [helper.make_tensor_value_info("o", FLOAT, [2])]
        )
        nodes = [helper.make_node("If", ["p"], [f"{name}_y"], then_branch=nested, else_branch=nested)]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}_y", FLOAT, [2])])

    nodes = [
        helper.make_node("Constant", [], ["p"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["p"], ["y"], then_branch=branch("t", "a"), else_branch=branch("e", "b")),
    ]
    graph = load(write(model(nodes, {"x": [2]}, {"y": [2]}, [weight("a", 2), weight("b", 2)]), tmp_path / "m.onnx"))
    constant, branching = graph.ops()
    assert isinstance(constant.attribute("value"), Weight)
    assert set(branching.captures) == {"x", "a", "b", "p"}
    assert [(use.op.key, use.slot) for use in graph.uses("x")] == [("y", -1)]


def test_initializers_among_the_inputs_are_constants_only_before_ir_4(tmp_path: Path) -> None:
    for version, constant in ((3, True), (8, False)):
        proto = conv_model(ir_version=version, opset=8)
        proto.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [6, 4, 3, 3]))
        graph = load(write(proto, tmp_path / f"{version}.onnx"))
        assert graph.inputs == ("x",)
        assert ("w" in graph.weights) is constant
        assert graph.shape("w") == (6, 4, 3, 3)


def test_an_unused_first_output_is_no_key(tmp_path: Path) -> None:
    nodes = [helper.make_node("Split", ["x"], ["", "b"], axis=0, num_outputs=2)]
    graph = load(write(model(nodes, {"x": [4]}, {"b": [2]}, opset=18), tmp_path / "m.onnx"))
    assert graph.ops()[0].key == "b"


def test_shapes_that_inference_cannot_tell_are_seen_in_a_run(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("NonZero", ["c"], ["n"]),
        helper.make_node("Cast", ["n"], ["y"], to=FLOAT),
    ]
    proto = model(nodes, {"x": [1, 2, 3, 3]}, {"y": None}, [weight("w", 2, 2, 1, 1)])
    graph = load(write(proto, tmp_path / "m.onnx"))
    assert graph.static_shape("y") == (4, 0)  # an input of zeros


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"xx": (1, 4, 8, 8)}, "there is no input 'xx' (nearest: x)"),
        ({"x": (1, 4, 8)}, "has 3 dimensions"),
        ({"x": (1, 5, 8, 8)}, "contradicts the fixed 4"),
        ({"x": (1, 4, 8, 0)}, "must be positive"),
    ],
)
def test_input_shapes_that_do_not_fit(tmp_path: Path, shapes: dict[str, tuple[int, ...]], says: str) -> None:
    path = write(conv_model(), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"m\.onnx: ") as error:
        load(path, input_shapes=shapes)
    assert says in str(error.value)


def test_a_symbol_means_the_same_everywhere(tmp_path: Path) -> None:
    proto = model([helper.make_node("Add", ["a", "b"], ["y"])], {"a": ["N", "T"], "b": ["N", "T"]}, {"y": ["N", "T"]})
    path = write(proto, tmp_path / "m.onnx")
    assert load(path, input_shapes={"a": (3, 5)}).static_shape("b") == (3, 5)
    assert load(path).static_shape("y") is None
    with pytest.raises(ModelError, match="'N' cannot be both 3 and 4"):
        load(path, input_shapes={"a": (3, 5), "b": (4, 5)})


def test_the_message_for_dynamic_shapes_gives_the_option(tmp_path: Path) -> None:
    graph = load(write(conv_model(), tmp_path / "m.onnx"))
    with pytest.raises(ModelError) as error:
        require_static_shapes(graph)
    assert (
        str(error.value)
        == "input 'x' has shape [1, 4, 8, W]: add --input-shape x:1,4,8,640, or --input-shape auto for just that"
    )
    require_static_shapes(load(tmp_path / "m.onnx", input_shapes={"x": (1, 4, 8, 8)}))


def test_what_is_open_takes_a_likely_size_where_that_is_asked_for(tmp_path: Path) -> None:
    inputs = {"a": ["N", "C", "H", 32], "b": ["T", "H"], "c": [None, 7, None]}
    nodes = [helper.make_node("Relu", [name], [f"{name}_out"]) for name in inputs]
    path = write(model(nodes, inputs, {f"{name}_out": shape for name, shape in inputs.items()}), tmp_path / "m.onnx")
    likely = load(path, input_shapes={LIKELY: ()})
    assert likely.model.input_shapes == {"a": (1, 3, 640, 32), "b": (1, 640), "c": (1, 7, 128)}
    require_static_shapes(likely)
    partly = load(path, input_shapes={"b": (5, 48), LIKELY: ()})
    assert partly.model.input_shapes == {"a": (1, 3, 48, 32), "b": (5, 48), "c": (1, 7, 128)}


def test_a_symbolic_batch_is_1_by_default(tmp_path: Path) -> None:
    proto = conv_model()
    del proto.graph.input[0].type.tensor_type.shape.dim[:]
    for dim in (-1, 4, 8, 8):
        proto.graph.input[0].type.tensor_type.shape.dim.add(dim_value=dim)
    graph = load(write(proto, tmp_path / "m.onnx"))
    assert graph.static_shape("y") == (1, 6, 8, 8)
    assert graph.model.input_shapes == {"x": (1, 4, 8, 8)}


def test_stale_value_info_does_not_spoil_shapes(tmp_path: Path) -> None:
    proto = conv_model(value_info=[helper.make_tensor_value_info("c", FLOAT, ["N", 6, 8, 99])])
    graph = load(write(proto, tmp_path / "m.onnx"), input_shapes={"x": (1, 4, 8, 8)})
    assert graph.static_shape("c") == (1, 6, 8, 8)


def test_value_info_helps_where_an_op_is_unknown(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Odd", ["x"], ["c"], domain="acme"),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    info = [helper.make_tensor_value_info("c", FLOAT, [1, 7])]
    proto = model(nodes, {"x": [1, 4]}, {"y": None}, opsets={"acme": 1}, value_info=info)
    graph = load(write(proto, tmp_path / "m.onnx"))
    assert graph.static_shape("y") == (1, 7)
    assert graph.ops()[0].domain == "acme"


def test_digest_is_of_the_file(tmp_path: Path) -> None:
    import hashlib

    path = write(conv_model(), tmp_path / "m.onnx")
    assert load(path).model.digest == hashlib.sha256(path.read_bytes()).hexdigest()
