"""A model at one size, as a compiler that knows no open shapes wants it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from graphopt.ir.graph import Graph
from graphopt.onnx_io.load import load
from graphopt.onnx_io.normalise import normalise
from graphopt.onnx_io.save import save
from graphopt.onnx_io.shapes import set_input_shapes

_ASKS_FOR_SHAPES = {"Shape", "Size"}


def fixed(graph: Graph) -> Graph:
    """Fix the inputs at the shapes that the graph is priced for, and fold what depends on shapes alone.

    Tensors that stay keep their names. A graph that asks for no shape, or has an input of no static one, comes back
    as it is.
    """
    shapes = {name: shape for name in graph.inputs if (shape := graph.static_shape(name)) is not None}
    if len(shapes) < len(graph.inputs) or all(op.op_type not in _ASKS_FOR_SHAPES for op in graph.ops()):
        return graph
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = Path(folder) / "fixed.onnx"
        save(graph, path)
        model = onnx.load(path)
        set_input_shapes(model.graph, shapes)
        model.graph.ClearField("value_info")
        onnx.save(model, path)
        return normalise(load(path)).graph
