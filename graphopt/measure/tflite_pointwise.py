"""Arithmetic and activations, element by element, in int8."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from graphopt.ir.op import Array, Op
from graphopt.measure.tflite_file import Quantisation
from graphopt.measure.tflite_scales import FIXED
from graphopt.measure.tflite_writer import Layout, OpWriter, Unwritable, Writer, natural

_UNARY: Final[Mapping[str, str]] = {
    "Abs": "ABS",
    "Elu": "ELU",
    "Exp": "EXP",
    "Gelu": "GELU",
    "HardSwish": "HARD_SWISH",
    "Log": "LOG",
    "Relu": "RELU",
    "Sigmoid": "LOGISTIC",
    "Tanh": "TANH",
}
_BINARY: Final[Mapping[str, tuple[str, str]]] = {
    "Add": ("ADD", "AddOptions"),
    "Mul": ("MUL", "MulOptions"),
    "Sub": ("SUB", "SubOptions"),
    "Sum": ("ADD", "AddOptions"),
}
_CLIPS: Final = {(0.0, 6.0): "RELU6", (0.0, 1.0): "RELU_0_TO_1", (-1.0, 1.0): "RELU_N1_TO_1", (0.0, math.inf): "RELU"}


def _unary(writer: Writer, op: Op) -> None:
    tensor = op.inputs[0]
    kind = _UNARY[op.op_type]
    writer.emit(kind, (writer.read(tensor),), op.outputs[0], writer.layout(tensor), quantisation=FIXED.get(op.op_type))


def _clip(writer: Writer, op: Op) -> None:
    low, high = writer.bounds(op)
    tensor, output = op.inputs[0], op.outputs[0]
    layout = writer.layout(tensor)
    kind = _CLIPS.get((low, high))
    if kind is not None:
        writer.emit(kind, (writer.read(tensor),), output, layout)
        return
    if not writer.saturates(op):
        raise Unwritable(f"its bounds {low:g} and {high:g} cannot be had by the range of the stored numbers")
    writer.emit("QUANTIZE", (writer.read(tensor),), output, layout, "QuantizeOptions")


def _leaky(writer: Writer, op: Op) -> None:
    tensor = op.inputs[0]
    writer.emit(
        "LEAKY_RELU",
        (writer.read(tensor),),
        op.outputs[0],
        writer.layout(tensor),
        "LeakyReluOptions",
        Alpha=float(op.attribute("alpha", 0.01)),
    )


def _hard_sigmoid(writer: Writer, op: Op) -> None:
    """HARD_SWISH where it is the gate of its own input; else alpha x + beta, stored in [0, 1]: int8's end clips."""
    tensor = op.inputs[0]
    layout = writer.layout(tensor)
    gate = _hard_swish(writer, op)
    if gate is not None:
        writer.take(gate)
        writer.emit("HARD_SWISH", (writer.read(tensor),), gate.outputs[0], layout)
        return
    shape = tuple(writer.shape(tensor)[axis] for axis in layout)
    alpha, beta = float(op.attribute("alpha", 0.2)), float(op.attribute("beta", 0.5))
    scale, zero = writer.scales[tensor].scale[0], writer.scales[tensor].zero_point
    scaled = writer.tensor(f"{tensor}:scaled", shape, Quantisation((scale * alpha,), zero))
    one = (1,) * len(shape)
    factor = writer.constant_like("alpha", np.full(one, alpha, np.float32), None)
    shift = writer.constant_like("beta", np.full(one, beta, np.float32), None)
    writer.raw("MUL", (writer.read(tensor), factor), scaled, "MulOptions")
    writer.emit("ADD", (scaled, shift), op.outputs[0], layout, "AddOptions", quantisation=FIXED["HardSigmoid"])


def _hard_swish(writer: Writer, op: Op) -> Op | None:
    """The Mul behind a HardSigmoid that makes it x * min(max(x / 6 + 1 / 2, 0), 1)."""
    slopes = float(op.attribute("alpha", 0.2)), float(op.attribute("beta", 0.5))
    use = writer.graph.only_use(op.outputs[0])
    if use is None or use.op.domain or use.op.op_type != "Mul" or not np.allclose(slopes, (1 / 6, 0.5)):
        return None
    return use.op if set(use.op.inputs) == {op.inputs[0], op.outputs[0]} else None


def _add(writer: Writer, op: Op) -> None:
    """HARD_SWISH where it begins x * min(max(x + 3, 0), 6) / 6, as TFLite's own converter has it; else a sum."""
    behind = _spelled_out_hard_swish(writer, op)
    if not behind:
        _binary(writer, op)
        return
    for other in behind:
        writer.take(other)
    tensor = next(name for name in op.inputs if writer.graph.weight(name) is None)
    writer.emit("HARD_SWISH", (writer.read(tensor),), behind[-1].outputs[0], writer.layout(tensor))


def _spelled_out_hard_swish(writer: Writer, op: Op) -> list[Op]:
    """The three ops behind x + 3 that make it a hard-swish of x, wherever the division stands; none otherwise."""
    data = [name for name in op.inputs if writer.graph.weight(name) is None]
    if len(data) != 1 or not _is_constant(writer, op, data[0], 3.0):
        return []
    found: list[Op] = []
    wanted = {"clip", "gate", "sixth"}
    tensor = op.outputs[0]
    while wanted:
        use = writer.graph.only_use(tensor)
        if use is None or use.op.domain:
            return []
        after, kind = use.op, ""
        if after.op_type == "Clip":
            kind = "clip" if use.slot == 0 and writer.bounds(after) == (0.0, 6.0) else ""
        elif after.op_type == "Mul" and {*after.inputs} == {data[0], tensor}:
            kind = "gate"
        elif (after.op_type == "Div" and use.slot == 0 and _is_constant(writer, after, tensor, 6.0)) or (
            after.op_type == "Mul" and _is_constant(writer, after, tensor, 1 / 6)
        ):
            kind = "sixth"
        if kind not in wanted or (kind != "clip" and "clip" in wanted):
            return []
        wanted.remove(kind)
        found.append(after)
        tensor = after.outputs[0]
    return found


def _is_constant(writer: Writer, op: Op, tensor: str, number: float) -> bool:
    """Whether the operand beside ``tensor`` is one number, everywhere."""
    others = [writer.graph.weight(name) for name in op.inputs if name != tensor]
    return len(others) == 1 and others[0] is not None and bool(np.allclose(others[0].array(), number, rtol=1e-3))


def _prelu(writer: Writer, op: Op) -> None:
    tensor = op.inputs[0]
    slope = writer.values(op.inputs[1], "slope")
    layout = writer.layout(tensor)
    number = writer.constant_like(op.inputs[1], slope, layout)
    writer.emit("PRELU", (writer.read(tensor), number), op.outputs[0], layout)


def _binary(writer: Writer, op: Op) -> None:
    if len(op.inputs) != 2:
        raise Unwritable("it has other than two operands")
    output, activation = writer.fused_activation(op)
    rank = len(writer.shape(op.outputs[0]))
    full = [name for name in op.inputs if writer.graph.weight(name) is None and len(writer.shape(name)) == rank]
    layout = writer.layout(full[0]) if full else natural(rank)
    kind, table = _BINARY[op.op_type]
    inputs = [_operand(writer, name, layout) for name in op.inputs]
    writer.emit(kind, inputs, output, layout, table, FusedActivationFunction=activation)


def _operand(writer: Writer, tensor: str, layout: Layout) -> int:
    """One operand with as many axes as the result."""
    if writer.graph.weight(tensor) is not None:
        return writer.read(tensor, layout)
    shape = writer.shape(tensor)
    if len(shape) == len(layout):
        return writer.read(tensor, layout)
    source = writer.read(tensor, natural(len(shape)))
    missing = len(layout) - len(shape)
    wide = (1,) * missing + shape
    if sum(size > 1 for size in wide) > 1 and layout != natural(len(layout)):
        raise Unwritable(f"its operand {tensor!r} of fewer axes would have to be transposed")
    target = writer.tensor(tensor, [wide[axis] for axis in layout], writer.scales[tensor])
    writer.reshape(source, target)
    return target


def _divide(writer: Writer, op: Op) -> None:
    """Division by a constant: a product with its reciprocal."""
    divisor = writer.values(op.inputs[1], "divisor")
    if not divisor.all():
        raise Unwritable("it divides by 0")
    _scale(writer, op, 1 / divisor)


def _negate(writer: Writer, op: Op) -> None:
    """A product with -1: TFLite's NEG cannot rescale."""
    _scale(writer, op, np.array(-1.0))


def _scale(writer: Writer, op: Op, factor: Array) -> None:
    output, activation = writer.fused_activation(op)
    tensor = op.inputs[0]
    layout = writer.layout(tensor)
    inputs = (writer.read(tensor), writer.constant_like(f"{tensor}:factor", factor, layout))
    writer.emit("MUL", inputs, output, layout, "MulOptions", FusedActivationFunction=activation)


POINTWISE: Final[Mapping[str, OpWriter]] = {
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys(_BINARY, _binary),
    "Add": _add,
    "Clip": _clip,
    "Div": _divide,
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": _leaky,
    "Neg": _negate,
    "PRelu": _prelu,
}
"""What writes an op, by ONNX op type."""
