"""Shapes that inference cannot tell, seen in one run of the model in the worker process."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from pathlib import Path

import numpy as np

from graphopt.ir.graph import Graph
from graphopt.ir.op import Array, TensorInfo
from graphopt.onnx_io.model_file import ModelFile
from graphopt.onnx_io.save import save
from graphopt.onnx_io.worker import Answer, Task, work

_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_ELEMENT_LIMIT = 1 << 27
"""Larger models and inputs are not run for their shapes."""
_TIMEOUT_S = 120.0


def fill_holes(graph: Graph) -> Graph:
    """Fill in the shapes that are still open, if all inputs are static; else return the graph as it is.

    Only models with a convolution are worth a run. A model that does not run keeps its holes.
    """
    holes = [
        output
        for op in graph.ops()
        for output in op.outputs
        if output and graph.static_shape(output) is None and output not in graph.weights
    ]
    feed = _zeros(graph)
    if sum(weight.size for weight in graph.weights.values()) > _ELEMENT_LIMIT:
        return graph
    if not holes or feed is None or all(op.op_type not in _CONVOLUTIONS for op in graph.ops()):
        return graph
    seen = _observe(graph, holes, feed)
    if not seen:
        return graph
    model = graph.model
    tensors = {**graph.tensors, **seen}
    assert isinstance(model, ModelFile)
    return Graph(
        graph.ops(),
        inputs=graph.inputs,
        outputs=graph.outputs,
        weights=graph.weights,
        tensors=tensors,
        model=dataclasses.replace(model, tensors=tensors),
        open_inputs=graph.open_inputs,
    )


def _zeros(graph: Graph) -> dict[str, Array] | None:
    """An input of zeros, or ``None`` where a shape or type is open or too large."""
    feed: dict[str, Array] = {}
    for name in graph.inputs:
        shape, dtype = graph.static_shape(name), graph.dtype(name)
        if shape is None or dtype is None or dtype.kind not in "biuf" or math.prod(shape) > _ELEMENT_LIMIT:
            return None
        feed[name] = np.zeros(shape, dtype)
    return feed


def _observe(graph: Graph, holes: list[str], feed: dict[str, Array]) -> dict[str, TensorInfo]:
    """Run the model once; return type and shape of the tensors ``holes`` that are tensors."""
    model = graph.model
    assert isinstance(model, ModelFile)
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        file = Path(name) / "model.onnx"
        save(graph, file, extra_outputs=holes)
        task = Task("shapes", file, optimisation="none", inputs=(feed,), outputs=tuple(dict.fromkeys(holes)))
        answer = work([task], timeout_s=_TIMEOUT_S)[0]
    if not isinstance(answer, Answer):
        return {}
    return {
        tensor: TensorInfo(np.dtype(seen[0]), tuple(seen[1]))
        for tensor, seen in answer.runs[0].items()
        if seen is not None
    }
