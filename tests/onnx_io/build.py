"""Small models for the tests of this folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def weight(name: str, *shape: int, seed: int = 0) -> onnx.TensorProto:
    return numpy_helper.from_array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32), name)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[Any] | None],
    outputs: Mapping[str, Sequence[Any] | None],
    initializers: Sequence[onnx.TensorProto] = (),
    *,
    ir_version: int = 8,
    opset: int = 17,
    opsets: Mapping[str, int] | None = None,
    **graph: Any,
) -> onnx.ModelProto:
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in (opsets or {}).items())]
    made = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
        list(initializers),
        **graph,
    )
    return helper.make_model(made, ir_version=ir_version, opset_imports=imports)


def conv_model(**options: Any) -> onnx.ModelProto:
    """Conv + Relu on ``x [N, 4, 8, W]``."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", doc_string="first", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["y"], name="relu", doc_string="second"),
    ]
    shape = ["N", 4, 8, "W"]
    return model(nodes, {"x": shape}, {"y": ["N", 6, 8, "W"]}, [weight("w", 6, 4, 3, 3)], **options)


def write(proto: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def run(path: Path, feed: Mapping[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs: list[Any] = session.run(None, dict(feed))
    return outputs
