"""Op -> NodeProto: an unchanged op is its old node, a changed or new one goes through onnx-graphsurgeon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.logger import G_LOGGER

from graphopt.ir.op import Op, Weight

_AttributeType = onnx.AttributeProto


def to_node(op: Op, loaded: Op | None, opsets: Mapping[str, int]) -> onnx.NodeProto:
    """Return the node to write for ``op``.

    Args:
        op: the op.
        loaded: the op as it was read from the same node, ``None`` for a new op.
        opsets: opset version by domain; the op's schema tells the type of an attribute.

    Returns:
        The old node itself where nothing but the rule changed, else a new one. Unchanged attributes, the doc string
        and everything else that the IR does not carry come from the old node.
    """
    source = op.source if isinstance(op.source, onnx.NodeProto) else None
    if source is not None and loaded is not None and _same(op, loaded):
        return source
    types = _attribute_types(op, opsets)
    before = dict(loaded.attributes) if loaded is not None else {}
    old = {attribute.name: attribute for attribute in source.attribute} if source is not None else {}
    fresh: dict[str, Any] = {}
    carried: dict[str, onnx.AttributeProto] = {}
    for name, value in op.attributes:
        if isinstance(value, onnx.AttributeProto):
            carried[name] = value
        elif name in old and name in before and (before[name] is value or _equal(before[name], value)):
            carried[name] = old[name]
        elif isinstance(value, Weight):
            carried[name] = onnx.AttributeProto(name=name, type=_AttributeType.TENSOR, t=_tensor(value))
        elif isinstance(value, tuple) and not value:
            carried[name] = onnx.AttributeProto(name=name, type=types.get(name, _AttributeType.INTS))
        else:
            fresh[name] = _for_surgeon(value, types.get(name))
    node = _export(op, fresh)
    made = {attribute.name: attribute for attribute in node.attribute}
    ordered = [carried[name] if name in carried else made[name] for name, _ in op.attributes]
    result = onnx.NodeProto()
    result.CopyFrom(node)
    result.ClearField("attribute")
    result.attribute.extend(ordered)
    if source is not None:
        result.doc_string = source.doc_string
        result.overload = source.overload
        result.metadata_props.extend(source.metadata_props)
        result.device_configurations.extend(source.device_configurations)
    return result


def _same(op: Op, loaded: Op) -> bool:
    """Whether ``op`` is ``loaded`` but for the rule."""
    return op is loaded or (
        (op.op_type, op.inputs, op.outputs, op.name, op.domain)
        == (loaded.op_type, loaded.inputs, loaded.outputs, loaded.name, loaded.domain)
        and len(op.attributes) == len(loaded.attributes)
        and all(
            a == b and (x is y or _equal(x, y)) for (a, x), (b, y) in zip(op.attributes, loaded.attributes, strict=True)
        )
    )


def _equal(left: Any, right: Any) -> bool:
    """Equality that tells 1 from 1.0 and takes messages and weights by identity."""
    plain = (int, float, str, bytes, tuple)
    if not isinstance(left, plain) or type(left) is not type(right):
        return False
    return repr(left) == repr(right)


def _attribute_types(op: Op, opsets: Mapping[str, int]) -> dict[str, Any]:
    """Attribute types by name, from the op's schema; empty for an op that ONNX does not know."""
    if op.domain not in opsets or not onnx.defs.has(op.op_type, op.domain):
        return {}
    try:
        schema = onnx.defs.get_schema(op.op_type, opsets[op.domain], op.domain)
    except onnx.defs.SchemaError:
        return {}
    types: dict[str, Any] = {name: attribute.type for name, attribute in schema.attributes.items()}
    return {name: kind.value for name, kind in types.items()}


def _for_surgeon(value: Any, kind: int | None) -> Any:
    """Turn an attribute value into what onnx-graphsurgeon exports with the type that the schema asks for."""
    if kind == _AttributeType.FLOAT:
        return float(value)
    if kind == _AttributeType.FLOATS:
        return [float(item) for item in value]
    return list(value) if isinstance(value, tuple) else value


def _tensor(weight: Weight) -> onnx.TensorProto:
    """The weight's own message, or a new one."""
    if isinstance(weight.source, onnx.TensorProto):
        return weight.source
    return numpy_helper.from_array(weight.array(), weight.name)


def _export(op: Op, attributes: dict[str, Any]) -> onnx.NodeProto:
    node = gs.Node(
        op=op.op_type,
        name=op.name,
        attrs=attributes,
        inputs=[gs.Variable(name) for name in op.inputs],
        outputs=[gs.Variable(name) for name in op.outputs],
        domain=op.domain or None,
    )
    with G_LOGGER.suppress():
        exported: onnx.NodeProto = OnnxExporter.export_node(node)
    return exported
