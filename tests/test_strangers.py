"""Files that have nothing to do with this design come out as they went in, with a reason, whatever their shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.pipeline import optimize


def value(name: str, shape: list[int | str] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def constant(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.random.default_rng(0).normal(size=shape).astype(np.float32), name)


def model(graph: onnx.GraphProto, *opsets: tuple[str, int]) -> onnx.ModelProto:
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid(d, v) for d, v in opsets or (("", 17),)], ir_version=9
    )
    onnx.checker.check_model(made)
    return made


def transformer() -> onnx.ModelProto:
    """One block of self-attention and a feed-forward part, with an open batch and an open length."""
    width = 48
    nodes = [
        *(helper.make_node("MatMul", ["x", f"w{c}"], [c]) for c in "qkv"),
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["s"]),
        helper.make_node("Softmax", ["s"], ["a"], axis=-1),
        helper.make_node("MatMul", ["a", "v"], ["c"]),
        helper.make_node("Add", ["x", "c"], ["r"]),
        helper.make_node("LayerNormalization", ["r", "g", "b"], ["n"]),
        helper.make_node("MatMul", ["n", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["hr"]),
        helper.make_node("MatMul", ["hr", "w2"], ["y"]),
    ]
    weights = [constant(f"w{c}", width, width) for c in "qkv"]
    weights += [constant("g", width), constant("b", width), constant("w1", width, 100), constant("w2", 100, width)]
    graph = helper.make_graph(
        nodes, "t", [value("x", ["batch", "length", width])], [value("y", ["batch", "length", width])], weights
    )
    return model(graph)


def recurrent() -> onnx.ModelProto:
    """An LSTM."""
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=20)
    weights = [constant("w", 1, 80, 10), constant("r", 1, 80, 20)]
    graph = helper.make_graph(
        [node], "l", [value("x", ["time", "batch", 10])], [value("y", ["time", 1, "batch", 20])], weights
    )
    return model(graph)


def tree() -> onnx.ModelProto:
    """A decision tree with one branch."""
    node = helper.make_node(
        "TreeEnsembleClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml",
        nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[1, 0, 0], nodes_values=[0.5, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0],
        class_treeids=[0, 0], class_nodeids=[1, 2], class_ids=[0, 1], class_weights=[1.0, 1.0],
        classlabels_int64s=[0, 1], post_transform="NONE",
    )  # fmt: skip
    outputs = [value("label", ["batch"], TensorProto.INT64), value("scores", ["batch", 2])]
    graph = helper.make_graph([node], "d", [value("x", ["batch", 3])], outputs)
    return model(graph, ("", 17), ("ai.onnx.ml", 3))


def quantised() -> onnx.ModelProto:
    """A convolution of whole numbers."""
    node = helper.make_node("ConvInteger", ["x", "w"], ["y"])
    weights = [numpy_helper.from_array(np.ones((2, 3, 1, 1), np.int8), "w")]
    inputs = [value("x", [1, 3, 4, 4], TensorProto.INT8)]
    return model(helper.make_graph([node], "q", inputs, [value("y", [1, 2, 4, 4], TensorProto.INT32)], weights))


def nested() -> onnx.ModelProto:
    """A convolution in both branches of an If."""
    weights = [numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")]
    branches = {
        name: helper.make_graph([helper.make_node("Conv", ["x", "w"], [name])], name, [], [value(name, [1, 2, 4, 4])])
        for name in ("then", "else")
    }
    node = helper.make_node("If", ["c"], ["y"], then_branch=branches["then"], else_branch=branches["else"])
    inputs = [value("c", [], TensorProto.BOOL), value("x", [1, 3, 4, 4])]
    return model(helper.make_graph([node], "n", inputs, [value("y", [1, 2, 4, 4])], weights))


@pytest.mark.parametrize(
    ("build", "where"),
    [(transformer, ""), (recurrent, ""), (tree, ""), (quantised, " but quantised"), (nested, " outside of If")],
)
def test_comes_out_unchanged_with_a_reason(build: Callable[[], onnx.ModelProto], where: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(build(), source)
    result = optimize(source, out)
    assert result.outcome == "unchanged"
    assert f"no convolution{where}" in result.reason
    assert source.read_bytes() == out.read_bytes()
