from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from graphopt.errors import ConfigError
from graphopt.ir.graph import Graph, Patch
from graphopt.ir.op import Op, TensorInfo, Weight
from graphopt.onnx_io.load import load
from graphopt.onnx_io.save import PROVENANCE_KEY, check_output, save
from tests.onnx_io.build import FLOAT, conv_model, model, run, weight, write


def _everything() -> onnx.ModelProto:
    """One model with all that onnx-graphsurgeon or the IR do not carry."""
    function = helper.make_function(
        "acme", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("s", FLOAT, [1], [2.0]), helper.make_tensor("s_i", onnx.TensorProto.INT64, [1], [1]), [4]
    )
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="same", doc_string="a doc", pads=[1] * 4),
        helper.make_node("Twice", ["c"], ["d"], name="other", domain="acme"),
        helper.make_node("Relu", ["d"], ["y"]),
        helper.make_node("Dropout", ["d"], ["z", ""]),
    ]
    nodes[0].metadata_props.add(key="node", value="meta")
    proto = model(
        nodes,
        {"x": ["N", 4, 8, "W"]},
        {"y": ["N", 6, 8, "W"], "z": ["N", 6, 8, "W"]},
        [weight("unused", 3), weight("w", 6, 4, 3, 3)],
        ir_version=10,
        opsets={"acme": 1},
        doc_string="graph doc",
        value_info=[helper.make_tensor_value_info("c", FLOAT, ["N", 6, 8, "W"], "info doc")],
        sparse_initializer=[sparse],
    )
    proto.functions.append(function)
    proto.doc_string, proto.domain, proto.model_version, proto.producer_name = "doc\nstring", "org", 7, "me"
    proto.graph.input[0].doc_string = "the input"
    proto.graph.input[0].type.tensor_type.shape.dim[1].denotation = "DATA_CHANNEL"
    proto.graph.quantization_annotation.add(tensor_name="c").quant_parameter_tensor_names.add(
        key="SCALE_TENSOR", value="unused"
    )
    proto.metadata_props.add(key="author", value="a\nb")
    proto.training_info.add().algorithm.name = "sgd"
    return proto


def test_nothing_is_lost(tmp_path: Path) -> None:
    path = write(_everything(), tmp_path / "in.onnx")
    save(load(path), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == path.read_bytes()


def test_nothing_is_lost_on_real_models(real_models: tuple[Path, ...], tmp_path: Path) -> None:
    for path in real_models:
        save(load(path), tmp_path / "out.onnx")
        assert (tmp_path / "out.onnx").read_bytes() == path.read_bytes()


def _saved(graph: Graph, tmp_path: Path, **options: object) -> onnx.ModelProto:
    save(graph, tmp_path / "out.onnx", **options)  # type: ignore[arg-type]
    proto = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(proto, full_check=True)
    return proto


def test_a_changed_op_keeps_what_the_ir_does_not_carry(tmp_path: Path) -> None:
    graph = load(write(_everything(), tmp_path / "in.onnx"))
    conv = graph.ops()[0]
    changed = dataclasses.replace(conv.with_attributes(dilations=(1, 1), group=1), rule="pads")
    proto = _saved(graph.edited([Patch(remove=(conv.key,), add=(changed,))]), tmp_path)
    node = proto.graph.node[0]
    assert (node.doc_string, node.metadata_props[0].value) == ("a doc", "meta")
    assert {a.name: helper.get_attribute_value(a) for a in node.attribute} == {
        "pads": [1] * 4,
        "dilations": [1, 1],
        "group": 1,
    }
    assert json.loads({e.key: e.value for e in proto.metadata_props}[PROVENANCE_KEY]) == {"c": "pads"}
    before = _everything()
    assert proto.functions == before.functions
    assert list(proto.graph.node)[1:] == list(before.graph.node)[1:]
    assert proto.graph.initializer == before.graph.initializer
    assert next((e.key, e.value) for e in proto.metadata_props) == ("author", "a\nb")


def _grow(graph: Graph) -> Graph:
    """The convolution with two more output channels, of zeros."""
    conv, old = graph.ops()[0], graph.weights["w"]
    grown = Weight(
        "w2", (8, 4, 3, 3), old.dtype, lambda: np.concatenate([old.array(), np.zeros((2, 4, 3, 3), np.float32)])
    )
    new = dataclasses.replace(conv, inputs=("x", "w2"), rule="grow")
    infos = {name: TensorInfo(np.dtype(np.float32), (1, 8, 8, 8)) for name in ("c", "y")}
    return graph.edited([Patch(remove=("c",), add=(new,), weights=(grown,), tensors=infos)])


@pytest.mark.parametrize("version", [3, 8])
def test_new_weights_and_shapes(tmp_path: Path, version: int) -> None:
    proto = conv_model(ir_version=version, opset=8)
    proto.graph.value_info.append(helper.make_tensor_value_info("c", FLOAT, ["N", 6, 8, "W"]))
    proto.graph.initializer.append(weight("unused", 2))
    if version == 3:
        proto.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [6, 4, 3, 3]))
        proto.graph.input.append(helper.make_tensor_value_info("unused", FLOAT, [2]))
    path = write(proto, tmp_path / "in.onnx")
    out = _saved(_grow(load(path, input_shapes={"x": (1, 4, 8, 8)})), tmp_path)
    assert out.ir_version == version
    assert [tensor.name for tensor in out.graph.initializer] == ["unused", "w2"]
    assert [value.name for value in out.graph.input] == (["x", "unused", "w2"] if version == 3 else ["x"])
    for value in (out.graph.output[0], out.graph.value_info[0]):
        dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert dims == ["N", 8, 8, "W"]
    x = np.random.default_rng(0).random((2, 4, 8, 5), np.float32)
    (before,), (after,) = run(path, {"x": x}), run(tmp_path / "out.onnx", {"x": x})
    assert np.array_equal(after[:, :6], before)
    assert not after[:, 6:].any()


def test_metadata_is_merged_and_provenance_survives_a_second_round(tmp_path: Path) -> None:
    proto = conv_model()
    proto.metadata_props.add(key="graphopt.version", value="0")
    proto.metadata_props.add(key=PROVENANCE_KEY, value='{"c": "old", "gone": "old"}')
    graph = load(write(proto, tmp_path / "in.onnx"))
    relu = dataclasses.replace(graph.ops()[1], rule="new")
    graph = graph.edited([Patch(remove=("y",), add=(relu,))])
    out = _saved(graph, tmp_path, metadata={"graphopt.version": "1", "graphopt.target": "t"})
    found = {entry.key: entry.value for entry in out.metadata_props}
    assert found["graphopt.version"] == "1"
    assert found["graphopt.target"] == "t"
    assert json.loads(found[PROVENANCE_KEY]) == {"c": "old", "y": "new"}


def test_two_new_ops_of_one_name_can_be_told_apart(tmp_path: Path) -> None:
    graph = load(write(conv_model(), tmp_path / "in.onnx"))  # onnxruntime refuses repeated names
    new = (Op("Relu", ("c",), ("a",), name="conv"), Op("Relu", ("a",), ("y",), name="conv"))
    _saved(graph.edited([Patch(remove=("y",), add=new)]), tmp_path)
    names = [node.name for node in onnx.load(tmp_path / "out.onnx").graph.node]
    assert names == ["conv", "conv_2", "conv_3"]
    run(tmp_path / "out.onnx", {"x": np.ones((1, 4, 8, 3), np.float32)})


def test_attribute_types_follow_the_schema(tmp_path: Path) -> None:
    graph = load(write(conv_model(), tmp_path / "in.onnx"))
    leaky = Op("LeakyRelu", ("c",), ("y",), (("alpha", 1),))
    out = _saved(graph.edited([Patch(remove=("y",), add=(leaky,))]), tmp_path)
    assert out.graph.node[1].attribute[0].type == onnx.AttributeProto.FLOAT


def test_extra_outputs(tmp_path: Path) -> None:
    path = write(conv_model(), tmp_path / "in.onnx")
    save(load(path), tmp_path / "out.onnx", extra_outputs=["c", "y", "c"])
    outputs = run(tmp_path / "out.onnx", {"x": np.ones((1, 4, 8, 3), np.float32)})
    assert [output.shape for output in outputs] == [(1, 6, 8, 3)] * 2


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_set_of_ops_can_be_exported_anew(tmp_path: Path, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 6))
    kinds = data.draw(st.lists(st.sampled_from(["Relu", "Sigmoid", "Add", "Split"]), min_size=count, max_size=count))
    nodes, last = [], "x"
    for i, kind in enumerate(kinds):
        if kind == "Split":
            nodes.append(helper.make_node(kind, [last], [f"t{i}", f"v{i}"], f"n{i}", axis=0, num_outputs=2))
            nodes.append(helper.make_node("Dropout", [f"v{i}", "", ""], [f"d{i}", ""]))
            nodes.append(helper.make_node("Concat", [f"t{i}", f"d{i}"], [f"u{i}"], axis=0))
            last = f"u{i}"
        else:
            nodes.append(helper.make_node(kind, [last, "b"] if kind == "Add" else [last], [f"t{i}"], doc_string="d"))
            last = f"t{i}"
    path = write(model(nodes, {"x": [2, 3]}, {last: [2, 3]}, [weight("b", 3)], opset=18), tmp_path / "in.onnx")
    graph = load(path)
    picked = [op for op in graph.ops() if data.draw(st.booleans())]
    anew = tuple(dataclasses.replace(op, source=None) for op in picked)
    edited = graph.edited([Patch(remove=tuple(op.key for op in picked), add=anew)])
    save(edited, tmp_path / "out.onnx")
    save(graph.edited([Patch()]), tmp_path / "same.onnx")
    x = np.random.default_rng(0).random((2, 3), np.float32)
    assert np.array_equal(run(path, {"x": x})[0], run(tmp_path / "out.onnx", {"x": x})[0])
    assert (tmp_path / "same.onnx").read_bytes() == path.read_bytes()


# -- where it may not write -----------------------------------------------------------------------------------------


def _same_file(folder: Path) -> Path:
    return folder / "in.onnx"


def _link_to_it(folder: Path) -> Path:
    (folder / "link.onnx").symlink_to("in.onnx")
    return folder / "link.onnx"


def _folder(folder: Path) -> Path:
    (folder / "sub").mkdir()
    return folder / "sub"


def _no_folder(folder: Path) -> Path:
    return folder / "none" / "out.onnx"


@pytest.mark.faults
@pytest.mark.parametrize("where", [_same_file, _link_to_it, _folder, _no_folder])
def test_refused_places(tmp_path: Path, where: Callable[[Path], Path]) -> None:
    path = write(conv_model(), tmp_path / "in.onnx")
    before = path.read_bytes()
    graph, out = load(path), where(tmp_path)
    for act in (check_output, save):
        with pytest.raises(ConfigError) as error:
            act(graph, out)
        assert "\n" not in str(error.value)
        assert str(out) in str(error.value)
    assert path.read_bytes() == before


@pytest.mark.faults
def test_nothing_appears_when_a_weight_fails(tmp_path: Path) -> None:
    graph = load(write(conv_model(), tmp_path / "in.onnx"))
    (tmp_path / "out.onnx").write_text("old")

    def fail() -> np.ndarray:
        raise MemoryError

    bad = Weight("bad", (600, 4, 3, 3), np.dtype(np.float32), fail)
    conv = dataclasses.replace(graph.ops()[0], inputs=("x", "bad"))
    with pytest.raises(MemoryError):
        save(graph.edited([Patch(remove=("c",), add=(conv,), weights=(bad,))]), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["in.onnx", "out.onnx"]


@pytest.mark.faults
def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = load(write(conv_model(), tmp_path / "in.onnx"))

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ConfigError, match=r"out\.onnx: cannot be written: No space left on device$"):
        save(graph, tmp_path / "out.onnx")
    assert sorted(os.listdir(tmp_path)) == ["in.onnx"]


def test_weights_of_every_type_survive_a_rename(tmp_path: Path) -> None:
    import ml_dtypes

    arrays = {
        "i4": np.arange(-4, 3).astype(ml_dtypes.int4),
        "bf": np.arange(5).astype(ml_dtypes.bfloat16),
        "b": np.array([True, False]),
        "i64": np.arange(3),
        "text": np.array(["a", "ä"], object),
        "empty": np.zeros((0, 3), np.float32),
    }
    graph = load(write(conv_model(), tmp_path / "in.onnx"))
    added = tuple(
        Weight(name, array.shape, array.dtype, lambda array=array: array)  # type: ignore[misc]
        for name, array in arrays.items()
    )
    save(graph.edited([Patch(weights=added)]), tmp_path / "out.onnx")
    found = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
    for name, array in arrays.items():
        assert found[name].shape == array.shape
        assert [str(item) for item in found[name]] == [str(item) for item in array]
