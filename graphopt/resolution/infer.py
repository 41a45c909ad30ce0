"""One op at a time: the shapes that come out, by ONNX's own inference, and what shape computations come to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphopt.ir.graph import Graph
from graphopt.ir.op import Array, Dim, Op, Shape
from graphopt.onnx_io.nodes import to_node
from graphopt.resolution.state import FOLD_LIMIT, VALUE_LIMIT, Sizes, refuse, refuse_misfit

_VALUED = frozenset(
    {
        "Shape", "Size", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Add", "Sub", "Mul", "Div", "Mod",
        "Floor", "Ceil", "Round", "Neg", "Abs", "Min", "Max", "Equal", "Less", "Greater", "Not", "And", "Or", "Where",
        "Identity", "Reshape", "Flatten", "Transpose", "Range", "ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin",
        "ConstantOfShape", "Expand", "Split",
    }
)  # fmt: skip
"""Op types that shape computations are made of."""

_DRAWN = frozenset({"Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike"})
_DEEPEST = 100


def infer(sizes: Sizes, op: Op) -> dict[str, Shape]:
    """The shapes of the op's outputs at the new size.

    Raises:
        SizeMisfit: when ONNX knows no such op, or its inputs no longer fit each other.
    """
    version = sizes.opsets.get(op.domain)
    if version is None or not onnx.defs.has(op.op_type, op.domain):
        refuse(op, "ONNX has no rule for the shapes of this op")
    schema = onnx.defs.get_schema(op.op_type, version, op.domain)
    kinds: dict[str, Any] = {}
    known: dict[str, onnx.TensorProto] = {}
    for tensor in filter(None, op.inputs):
        weight = sizes.constant(tensor)
        dtype = weight.dtype if weight is not None else sizes.graph.dtype(tensor)
        if dtype is None:
            refuse(op, f"its input {tensor!r} is no tensor of a known type")
        kinds[tensor] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(dtype), sizes.new(tensor))
        value = _value(sizes, tensor)
        if value is not None:
            known[tensor] = numpy_helper.from_array(np.asarray(value, order="C"), tensor)
    imports = [helper.make_opsetid(domain, number) for domain, number in sizes.opsets.items()]
    try:
        found = onnx.shape_inference.infer_node_outputs(
            schema, _node(sizes, op), kinds, input_data=known, opset_imports=imports
        )
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        refuse_misfit(sizes, op)
    return {name: _shape(kind) for name, kind in found.items()}


def evaluate(sizes: Sizes, op: Op) -> None:
    """Note the values that ``op`` makes, if it belongs to a shape computation."""
    if op.op_type not in _VALUED or op.domain:
        return
    feed: dict[str, Array] = {}
    for tensor in filter(None, op.inputs):
        if op.op_type in ("Shape", "Size"):
            shape = sizes.new(tensor)
            if any(not isinstance(dim, int) for dim in shape):
                return
            feed[tensor] = np.broadcast_to(np.float32(0), tuple(int(dim or 0) for dim in shape))
            continue
        value = _value(sizes, tensor)
        if value is None:
            return
        feed[tensor] = value
    for output in op.outputs:
        shape = sizes.new(output)
        if any(not isinstance(dim, int) for dim in shape) or np.prod([int(d or 0) for d in shape]) > VALUE_LIMIT:
            return
    sizes.values.update(_run(sizes, op, feed))


def computed_from_constants(graph: Graph) -> frozenset[str]:
    """The tensors that ops make of constants alone, always alike."""
    known = set(graph.weights)
    found = set()
    for op in graph.ops():
        alone = bool(op.inputs) and not op.captures and all(name in known for name in op.inputs if name)
        if alone and op.op_type not in _DRAWN:
            new = set(filter(None, op.outputs)) - known
            found |= new
            known |= new
    return frozenset(found)


def folded(sizes: Sizes, tensor: str, depth: int = 0) -> Array | None:
    """What ops make of constants alone; ``None`` where an input of the model is behind it, or too much work."""
    weight = sizes.constant(tensor)
    if weight is not None:
        return weight.array()
    op, shape = sizes.graph.producer(tensor), sizes.graph.static_shape(tensor)
    if tensor not in sizes.computed or tensor in sizes.shapes or op is None or shape is None or depth > _DEEPEST:
        return None
    if math.prod(shape) > FOLD_LIMIT:
        return None
    feed: dict[str, Array] = {}
    for name in filter(None, op.inputs):
        value = folded(sizes, name, depth + 1)
        if value is None:
            return None
        feed[name] = value
    return _run(sizes, op, feed).get(tensor)


def _value(sizes: Sizes, tensor: str) -> Array | None:
    """A small tensor's value, also where ops make it of constants."""
    value = sizes.value(tensor)
    shape = sizes.graph.static_shape(tensor) if tensor in sizes.computed else None
    if value is None and shape is not None and math.prod(shape) <= VALUE_LIMIT:
        value = folded(sizes, tensor)
    return value


def _run(sizes: Sizes, op: Op, feed: Mapping[str, Array]) -> dict[str, Array]:
    """Compute one op; nothing where ONNX's reference cannot."""
    from onnx.reference import ReferenceEvaluator

    kinds = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in feed.items()}
    outputs = [name for name in op.outputs if name]
    graph = helper.make_graph(
        [_node(sizes, op)],
        "values",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
    )
    imports = [helper.make_opsetid(domain, number) for domain, number in sizes.opsets.items()]
    try:
        found = ReferenceEvaluator(helper.make_model(graph, opset_imports=imports)).run(None, dict(feed))
    except Exception:  # the reference has bases of its own for what it lacks
        return {}
    return {name: np.asarray(value) for name, value in zip(outputs, found, strict=True)}


def _node(sizes: Sizes, op: Op) -> onnx.NodeProto:
    """The op's own node while it is unchanged."""
    if op.key not in sizes.ops and isinstance(op.source, onnx.NodeProto):
        return op.source
    return to_node(op, None, sizes.opsets)


def _shape(kind: Any) -> Shape:
    dims: list[Dim] = []
    for dim in kind.tensor_type.shape.dim:
        dims.append(int(dim.dim_value) if dim.HasField("dim_value") else None)
    return tuple(dims)
