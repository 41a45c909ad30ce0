"""Nets of a few ops, written as ONNX text; constants are known by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from graphopt.ir.graph import Graph
from graphopt.onnx_io.load import load
from graphopt.onnx_io.shapes import require_static_shapes

_INTEGERS = {
    "pads": [0, 0, 1, 2, 0, 0, 2, 1],
    "starts": [2, -5],
    "ends": [9, 100],
    "axes": [2, 3],
    "steps": [1, 2],
    "parts": [4, 4],
    "grouped": [1, 2, 4, 120],
    "image": [1, 8, 12, 10],
    "rows": [1, 120, 8],
}


def net(
    inputs: str, body: str, folder: Path, opset: int = 17, input_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> Graph:
    """The graph of ``body``, which makes ``y`` from ``inputs``; ``input_shapes`` are those of open ones.

    ``w16_8_3_3`` is a random weight of that shape, ``c6`` and ``cm2`` are the scalars 6 and -2, ``b8`` ``m8`` ``v8``
    vectors (``v`` is positive), ``z8_1_1`` is zero in its first half, and the other names are those above.
    """
    head = f'<ir_version: 8, opset_import: ["" : {opset}]> net ({inputs}) => (y)'
    lines = re.sub(r"\)\s+(?=\w[\w, ]* = )", ")\n", body)
    proto = onnx.parser.parse_model(f"{head} {{ {lines} }}")
    rng = np.random.default_rng(0)
    made = {name for node in proto.graph.node for name in node.output} | {value.name for value in proto.graph.input}
    for name in dict.fromkeys(name for node in proto.graph.node for name in node.input):
        if name and name not in made:
            proto.graph.initializer.append(numpy_helper.from_array(_constant(name, rng), name))
    proto.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None))
    path = folder / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    graph = load(path, input_shapes=input_shapes)
    require_static_shapes(graph)
    return graph


def _constant(name: str, rng: np.random.Generator) -> np.ndarray:
    if name in _INTEGERS:
        return np.array(_INTEGERS[name], np.int64)
    if name == "scales":
        return np.array([1, 1, 2, 2], np.float32)
    if match := re.fullmatch(r"c(m?)(\d+)", name):
        return np.array(float(match[2]) * (-1 if match[1] else 1), np.float32)
    shape = [int(size) for size in name[1:].split("_")]
    values = rng.standard_normal(shape).astype(np.float32)
    if name[0] == "z":
        values[: len(values) // 2] = 0
    return np.abs(values) + 0.5 if name[0] == "v" else values
