from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphopt.ir.graph import Patch
from graphopt.onnx_io import normalise as module
from graphopt.onnx_io.load import load
from graphopt.onnx_io.normalise import normalise
from graphopt.onnx_io.save import save
from graphopt.onnx_io.worker import Failure
from tests.onnx_io.build import FLOAT, model, run, weight, write


def _bn_model(version: int = 8) -> onnx.ModelProto:
    positive = numpy_helper.from_array(np.full(6, 0.5, np.float32), "var")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c", "scale", "bias", "mean", "var"], ["b"]),
        helper.make_node("Identity", ["b"], ["i"]),
        helper.make_node("Relu", ["i"], ["y"], doc_string="kept"),
    ]
    weights = [weight("w", 6, 4, 3, 3), *(weight(n, 6, seed=i) for i, n in enumerate(("scale", "bias", "mean")))]
    info = [helper.make_tensor_value_info(name, FLOAT, ["N", 6, 8, 8]) for name in ("c", "b", "i")]
    proto = model(
        nodes,
        {"x": ["N", 4, 8, 8]},
        {"y": ["N", 6, 8, 8]},
        [*weights, positive],
        ir_version=version,
        opset=8 if version < 4 else 17,
        value_info=info,
        doc_string="graph",
    )
    if version < 4:
        proto.graph.input.extend(
            helper.make_tensor_value_info(tensor.name, FLOAT, tensor.dims) for tensor in proto.graph.initializer
        )
    proto.metadata_props.add(key="author", value="me")
    proto.doc_string = "model"
    return proto


@pytest.mark.parametrize("version", [3, 8])
def test_folds_and_keeps_the_frame(tmp_path: Path, version: int) -> None:
    proto = _bn_model(version)
    path = write(proto, tmp_path / "in.onnx")
    done = normalise(load(path, input_shapes={"x": (3, 4, 8, 8)}))
    assert done.reason == ""
    assert [op.op_type for op in done.graph.ops()] == ["Conv", "Relu"]
    assert done.graph.static_shape("y") == (3, 6, 8, 8)
    assert done.graph.model.digest == load(path).model.digest
    save(done.graph, tmp_path / "out.onnx")
    out = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(out, full_check=True)
    for field in ("ir_version", "opset_import", "doc_string", "metadata_props"):
        assert getattr(out, field) == getattr(proto, field)
    assert out.graph.doc_string == "graph"
    assert out.graph.output == proto.graph.output
    assert out.graph.input[0] == proto.graph.input[0]
    assert out.graph.node[-1].doc_string == "kept"
    assert {value.name for value in out.graph.value_info} <= {name for n in out.graph.node for name in n.output}
    listed = {value.name for value in out.graph.input} - {"x"}
    assert listed == ({tensor.name for tensor in out.graph.initializer} if version == 3 else set())
    x = np.random.default_rng(0).random((2, 4, 8, 8), np.float32)
    assert np.allclose(run(path, {"x": x})[0], run(tmp_path / "out.onnx", {"x": x})[0], atol=1e-5)


def test_real_models(real_models: tuple[Path, ...], tmp_path: Path) -> None:
    for path in real_models:
        graph = load(path)
        done = normalise(graph)
        assert done.reason == ""
        assert len(done.graph) <= len(graph)
        assert not {op.op_type for op in done.graph.ops()} & {"Constant", "Identity"}
        assert done.graph.outputs == graph.outputs


def _function(proto: onnx.ModelProto) -> None:
    node = helper.make_node("Add", ["a", "a"], ["b"])
    proto.functions.append(helper.make_function("f", "Twice", ["a"], ["b"], [node], [helper.make_opsetid("", 17)]))
    proto.opset_import.add(domain="f", version=1)


def _custom(proto: onnx.ModelProto) -> None:
    proto.graph.node[2].op_type, proto.graph.node[2].domain = "Odd", "acme"
    proto.opset_import.add(domain="acme", version=1)


def _quantised(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(1), "one"))
    proto.graph.initializer.append(numpy_helper.from_array(np.uint8(1), "zero"))
    proto.graph.node[2].input.extend(["one", "zero"])
    proto.graph.node[2].op_type = "QuantizeLinear"
    proto.graph.node[3].op_type = "DequantizeLinear"
    proto.graph.node[3].input.extend(["one", "zero"])
    del proto.graph.value_info[:]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_function, "it has functions of its own"),
        (_custom, "it has ops of the domain 'acme'"),
        (_quantised, "it is quantised (QuantizeLinear)"),
    ],
)
def test_skipped_with_a_reason(tmp_path: Path, change: object, reason: str) -> None:
    proto = _bn_model()
    change(proto)  # type: ignore[operator]
    graph = load(write(proto, tmp_path / "in.onnx"))
    done = normalise(graph)
    assert done.graph is graph
    assert done.reason.startswith(reason)


def test_a_crash_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = load(write(_bn_model(), tmp_path / "in.onnx"))
    monkeypatch.setattr(module, "work", lambda tasks, timeout_s: (Failure("crashed", crashed=True),))
    assert normalise(graph) == module.Normalised(graph, "crashed")


def test_a_rewritten_graph_is_not_normalised(tmp_path: Path) -> None:
    graph = load(write(_bn_model(), tmp_path / "in.onnx"))
    conv = graph.ops()[0]
    edited = graph.edited([Patch(remove=("c",), add=(dataclasses.replace(conv, name="new"),))])
    assert normalise(edited).reason == "only a model as it was loaded can be normalised"
