"""Fold batch normalisation and constants and drop no-ops, with onnxruntime's basic optimiser in the worker process.

onnxruntime's result is taken for the nodes and the initializers only; all else (inputs, outputs, doc strings, opsets,
metadata, value info) comes from the model as it was read.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import helper

from graphopt.errors import ModelError
from graphopt.ir.graph import Graph
from graphopt.onnx_io.load import build_graph
from graphopt.onnx_io.model_file import ModelFile
from graphopt.onnx_io.shell import copy_fields, make_shell
from graphopt.onnx_io.tensors import model_tensors, nbytes
from graphopt.onnx_io.worker import Failure, Task, work

SIZE_LIMIT_BYTES = 1_500_000_000
"""Models with more bytes of weights are not normalised: onnxruntime holds several copies and writes one file."""

_TIMEOUT_S = 300.0
_DEFAULT_DOMAINS = ("", "ai.onnx")
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


@dataclass(frozen=True, slots=True)
class Normalised:
    """What came of normalising.

    Attributes:
        graph: the normalised graph, or the one that was given.
        reason: why the graph is the one that was given; ``""`` when it was normalised.
    """

    graph: Graph
    reason: str = ""


def normalise(graph: Graph) -> Normalised:
    """Normalise a graph as it came from `load` (before any rewrite). Input shapes for pricing stay as they are.

    A model that onnxruntime cannot optimise, or would crash on, comes back unchanged with the reason.
    """
    model = graph.model
    if not isinstance(model, ModelFile) or graph.ops() != model.ops:
        return Normalised(graph, "only a model as it was loaded can be normalised")
    reason = _why_not(model.proto)
    if reason:
        return Normalised(graph, reason)
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        out = Path(folder) / "normalised.onnx"
        task = Task("optimise", model.path, out=out, optimisation="basic")
        answer = work([task], timeout_s=_TIMEOUT_S)[0]
        if isinstance(answer, Failure):
            return Normalised(graph, answer.reason)
        optimised = onnx.ModelProto.FromString(out.read_bytes())
    strange = sorted({node.domain for node in optimised.graph.node} - set(_DEFAULT_DOMAINS))
    if strange:
        return Normalised(graph, f"onnxruntime answered with ops of the domain {strange[0]!r}")
    if {value.name for value in optimised.graph.output} != set(graph.outputs):
        return Normalised(graph, "onnxruntime answered with other outputs")
    proto = _combine(model.proto, optimised)
    try:
        return Normalised(_rebuild(proto, model))
    except ModelError as error:
        return Normalised(graph, str(error))


def _why_not(model: onnx.ModelProto) -> str:
    """What of the model would be lost, or cannot be optimised; ``""`` when nothing."""
    if model.functions:
        return "it has functions of its own, which onnxruntime would inline"
    if model.training_info:
        return "it has training information"
    custom = sorted({node.domain for node in model.graph.node} - set(_DEFAULT_DOMAINS))
    if custom:
        return f"it has ops of the domain {custom[0]!r}"
    quantised = next((node.op_type for node in model.graph.node if node.op_type in _QUANTISED), "")
    if quantised or model.graph.quantization_annotation:
        return f"it is quantised ({quantised or 'quantization annotation'})"
    if model.graph.sparse_initializer:
        return "it has sparse initializers, which onnxruntime would make dense"
    if sum(nbytes(tensor) for tensor in model_tensors(model)) > SIZE_LIMIT_BYTES:
        return "its weights are over 1.5 GB"
    return ""


def _combine(model: onnx.ModelProto, optimised: onnx.ModelProto) -> onnx.ModelProto:
    """The optimised nodes and initializers in the model's own frame. Empties ``optimised`` as it goes."""
    result = onnx.ModelProto()
    copy_fields(model, result, skip={"graph"})
    copy_fields(model.graph, result.graph, skip={"node", "initializer", "input", "value_info"})
    result.graph.node.extend(optimised.graph.node)
    initializers = optimised.graph.initializer
    names = {tensor.name for tensor in initializers}
    result.graph.initializer.extend(initializers)
    optimised.graph.ClearField("initializer")
    before = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in before or value.name in names]
    if model.ir_version < 4:
        listed = {value.name for value in inputs}
        inputs += [
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in result.graph.initializer
            if tensor.name not in listed
        ]
    result.graph.input.extend(inputs)
    made = names | {name for node in result.graph.node for name in node.output}
    result.graph.value_info.extend(value for value in model.graph.value_info if value.name in made)
    return result


def _rebuild(proto: onnx.ModelProto, model: ModelFile) -> Graph:
    """The graph of the normalised model, priced with the same input shapes.

    Raises:
        ModelError: when the normalised model is not a graph.
    """
    shell = make_shell(proto, model.path.parent)
    shell.give_shapes()
    return build_graph(proto, shell, model.path, model.digest, external=model.external, input_shapes=model.input_shapes)
