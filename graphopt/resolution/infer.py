"""One op at a time: the shapes that come out, by ONNX's own inference, and what shape computations come to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphopt.ir.op import Array, Dim, Op, Shape
from graphopt.onnx_io.nodes import to_node
from graphopt.resolution.state import VALUE_LIMIT, Sizes, refuse, refuse_misfit

_VALUED = frozenset(
    {
        "Shape", "Size", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Add", "Sub", "Mul", "Div", "Mod",
        "Floor", "Ceil", "Round", "Neg", "Abs", "Min", "Max", "Equal", "Less", "Greater", "Not", "And", "Or", "Where",
        "Identity", "Reshape", "Flatten", "Transpose", "Range", "ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin",
        "ConstantOfShape", "Expand", "Split",
    }
)  # fmt: skip
"""Op types that shape computations are made of."""


def infer(sizes: Sizes, op: Op, opsets: Mapping[str, int]) -> dict[str, Shape]:
    """The shapes of the op's outputs at the new size.

    Raises:
        SizeMisfit: when ONNX knows no such op, or its inputs no longer fit each other.
    """
    version = opsets.get(op.domain)
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
        value = sizes.value(tensor)
        if value is not None:
            known[tensor] = numpy_helper.from_array(np.ascontiguousarray(value), tensor)
    imports = [helper.make_opsetid(domain, number) for domain, number in opsets.items()]
    try:
        found = onnx.shape_inference.infer_node_outputs(
            schema, _node(sizes, op, opsets), kinds, input_data=known, opset_imports=imports
        )
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        refuse_misfit(sizes, op)
    return {name: _shape(kind) for name, kind in found.items()}


def evaluate(sizes: Sizes, op: Op, opsets: Mapping[str, int]) -> None:
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
        value = sizes.value(tensor)
        if value is None:
            return
        feed[tensor] = value
    for output in op.outputs:
        shape = sizes.new(output)
        if any(not isinstance(dim, int) for dim in shape) or np.prod([int(d or 0) for d in shape]) > VALUE_LIMIT:
            return
    from onnx.reference import ReferenceEvaluator

    kinds = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in feed.items()}
    graph = helper.make_graph(
        [_node(sizes, op, opsets)],
        "values",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
        [helper.make_empty_tensor_value_info(name) for name in op.outputs if name],
    )
    imports = [helper.make_opsetid(domain, number) for domain, number in opsets.items()]
    runner = ReferenceEvaluator(helper.make_model(graph, opset_imports=imports))
    for name, value in zip(filter(None, op.outputs), runner.run(None, feed), strict=True):
        sizes.values[name] = np.asarray(value)


def _node(sizes: Sizes, op: Op, opsets: Mapping[str, int]) -> onnx.NodeProto:
    """The op's own node while it is unchanged."""
    if op.key not in sizes.ops and isinstance(op.source, onnx.NodeProto):
        return op.source
    return to_node(op, None, opsets)


def _shape(kind: Any) -> Shape:
    dims: list[Dim] = []
    for dim in kind.tensor_type.shape.dim:
        dims.append(int(dim.dim_value) if dim.HasField("dim_value") else None)
    return tuple(dims)
