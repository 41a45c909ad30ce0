"""Every ONNX op that has a counterpart in int8 TFLite, besides convolutions and matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from graphopt.ir.op import Array, Op
from graphopt.measure.tflite_file import Quantisation
from graphopt.measure.tflite_linear import convolution, normalisation, padded, product, transposed_convolution
from graphopt.measure.tflite_scales import FIXED, quantise_range
from graphopt.measure.tflite_writer import CHANNELS_LAST, Layout, Unwritable, Writer, natural

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
    if not low <= 0 <= high:
        raise Unwritable(f"its bounds {low:g} and {high:g} leave out 0")
    # the stored range ends at the bounds, so that rescaling clips
    before = writer.scales[tensor]
    lowest, highest = ((end - before.zero_point[0]) * before.scale[0] for end in (-128, 127))
    clipping = quantise_range(max(low, lowest), min(high, highest))
    writer.emit("QUANTIZE", (writer.read(tensor),), output, layout, "QuantizeOptions", quantisation=clipping)


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
    """Alpha x + beta, stored in [0, 1]: the end of the int8 range clips."""
    tensor = op.inputs[0]
    layout = writer.layout(tensor)
    shape = tuple(writer.shape(tensor)[axis] for axis in layout)
    alpha, beta = float(op.attribute("alpha", 0.2)), float(op.attribute("beta", 0.5))
    scale, zero = writer.scales[tensor].scale[0], writer.scales[tensor].zero_point
    scaled = writer.tensor(f"{tensor}:scaled", shape, Quantisation((scale * alpha,), zero))
    one = (1,) * len(shape)
    factor = writer.constant_like("alpha", np.full(one, alpha, np.float32), None)
    shift = writer.constant_like("beta", np.full(one, beta, np.float32), None)
    writer.raw("MUL", (writer.read(tensor), factor), scaled, "MulOptions")
    writer.emit("ADD", (scaled, shift), op.outputs[0], layout, "AddOptions", quantisation=FIXED["HardSigmoid"])


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


def _mean(writer: Writer, op: Op) -> None:
    """GlobalAveragePool and ReduceMean -> MEAN."""
    tensor = op.inputs[0]
    shape = writer.shape(tensor)
    layout = writer.layout(tensor)
    keep = op.op_type != "ReduceMean" or bool(op.attribute("keepdims", 1))
    axes = _axes(writer, op, 1) if op.op_type == "ReduceMean" else tuple(range(2, len(shape)))
    axes = tuple(axis % len(shape) for axis in axes or range(len(shape)))
    stored = sorted(layout.index(axis) for axis in axes)
    left = [axis for axis in layout if axis not in axes]
    after = layout if keep else tuple(sorted(left).index(axis) for axis in left)
    inputs = (writer.read(tensor), writer.integers(stored))
    writer.emit("MEAN", inputs, op.outputs[0], after, "ReducerOptions", KeepDims=keep)


def _axes(writer: Writer, op: Op, slot: int) -> tuple[int, ...]:
    """Axes of an op: an attribute in old opsets, an input in new ones."""
    if op.input(slot):
        return tuple(int(axis) for axis in writer.values(op.inputs[slot], "axes").reshape(-1))
    return tuple(op.attribute("axes", ()))


def _pool(writer: Writer, op: Op) -> None:
    """MaxPool and AveragePool."""
    if len(writer.shape(op.inputs[0])) != 4 or any(op.outputs[1:]):
        raise Unwritable("only pooling over height and width with one output is written")
    if set(op.attribute("dilations", (1, 1))) != {1}:
        raise Unwritable("TFLite has no pooling with dilation")
    kernel = tuple(op.attribute("kernel_shape", ()))
    strides = tuple(op.attribute("strides", (1, 1)))
    maximum = op.op_type == "MaxPool"
    source, padding = padded(writer, op, kernel, strides, (1, 1), filler=-128 if maximum else 0)
    padded_up = padding == 0 or source != writer.read(op.inputs[0], CHANNELS_LAST)
    if not maximum and padded_up and bool(op.attribute("count_include_pad", 0)) == (padding == 0):
        raise Unwritable("TFLite cannot average over this padding")
    pads = op.attribute("pads", (0, 0, 0, 0))
    sizes = zip(writer.shape(op.inputs[0])[2:], kernel, strides, pads[:2], pads[2:], strict=True)
    floor = tuple((n + a + b - k) // s + 1 for n, k, s, a, b in sizes)
    if op.attribute("ceil_mode", 0) and floor != writer.shape(op.outputs[0])[2:]:
        raise Unwritable("TFLite has no pooling that rounds its size up")
    _emit_pool(writer, op, source, kernel, strides, padding)


def _global_max(writer: Writer, op: Op) -> None:
    size = writer.shape(op.inputs[0])[2:]
    if len(size) != 2:
        raise Unwritable("only pooling over height and width is written")
    _emit_pool(writer, op, writer.read(op.inputs[0], CHANNELS_LAST), size, (1, 1), 1)


def _emit_pool(
    writer: Writer, op: Op, source: int, kernel: tuple[int, ...], strides: tuple[int, ...], padding: int
) -> None:
    writer.emit(
        "AVERAGE_POOL_2D" if op.op_type == "AveragePool" else "MAX_POOL_2D",
        (source,),
        op.outputs[0],
        CHANNELS_LAST,
        "Pool2DOptions",
        Padding=padding,
        StrideW=strides[1],
        StrideH=strides[0],
        FilterWidth=kernel[1],
        FilterHeight=kernel[0],
    )


def _concat(writer: Writer, op: Op) -> None:
    first = next((name for name in op.inputs if writer.graph.weight(name) is None), op.inputs[0])
    layout = writer.layout(first)
    axis = layout.index(int(op.attribute("axis", 0)) % len(layout))
    inputs = [_in_scale(writer, name, op.outputs[0], layout) for name in op.inputs]
    writer.emit("CONCATENATION", inputs, op.outputs[0], layout, "ConcatenationOptions", Axis=axis)


def _in_scale(writer: Writer, tensor: str, like: str, layout: Layout) -> int:
    """An input of a Concat; a constant is stored in the scale of the result."""
    weight = writer.graph.weight(tensor)
    if weight is None:
        return writer.read(tensor, layout)
    scale = writer.scales[like]
    stored = np.round(weight.array().transpose(layout) / scale.scale[0]) + scale.zero_point[0]
    values = np.ascontiguousarray(np.clip(stored, -128, 127).astype(np.int8))
    return writer.tensor(tensor, values.shape, scale, values)


def _softmax(writer: Writer, op: Op) -> None:
    tensor = op.inputs[0]
    rank = len(writer.shape(tensor))
    axis = int(op.attribute("axis", -1)) % rank
    layout = (*(i for i in range(rank) if i != axis), axis)
    writer.emit(
        "SOFTMAX",
        (writer.read(tensor, layout),),
        op.outputs[0],
        layout,
        "SoftmaxOptions",
        quantisation=FIXED["Softmax"],
        Beta=1.0,
    )


def _reshape(writer: Writer, op: Op) -> None:
    """Reshape, Flatten, Squeeze and Unsqueeze: the axes must stand as in ONNX before and after."""
    tensor, output = op.inputs[0], op.outputs[0]
    if writer.graph.weight(tensor) is not None:
        raise Unwritable("it reshapes a constant")
    shape = writer.shape(output)
    source = writer.read(tensor, natural(len(writer.shape(tensor))))
    writer.emit("RESHAPE", (source, writer.integers(shape)), output, natural(len(shape)), "ReshapeOptions")


def _transpose(writer: Writer, op: Op) -> None:
    """A new name for the axes: nothing is written."""
    tensor = op.inputs[0]
    rank = len(writer.shape(tensor))
    order = list(op.attribute("perm", tuple(reversed(range(rank)))))
    writer.alias(op.outputs[0], tensor, tuple(order.index(axis) for axis in writer.layout(tensor)))


def _identity(writer: Writer, op: Op) -> None:
    writer.alias(op.outputs[0], op.inputs[0], writer.layout(op.inputs[0]))


def _resize(writer: Writer, op: Op) -> None:
    shape, out = writer.shape(op.inputs[0]), writer.shape(op.outputs[0])
    if len(shape) != 4 or shape[:2] != out[:2]:
        raise Unwritable("only height and width are resized in TFLite")
    mode = _text(op, "mode", "nearest")
    where = _text(op, "coordinate_transformation_mode", "half_pixel" if op.op_type == "Resize" else "asymmetric")
    rounding = _text(op, "nearest_mode", "round_prefer_floor" if op.op_type == "Resize" else "floor")
    if mode not in ("nearest", "linear"):
        raise Unwritable(f"TFLite has no resize of mode {mode!r}")
    whole = out[2] % shape[2] == 0 and out[3] % shape[3] == 0
    if mode == "nearest" and not (whole and (where == "half_pixel" or (where, rounding) == ("asymmetric", "floor"))):
        raise Unwritable(f"TFLite has no nearest resize with {where!r} and {rounding!r} at this scale")
    if where not in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
        raise Unwritable(f"TFLite has no resize with {where!r}")
    name, table = ("RESIZE_BILINEAR", "ResizeBilinearOptions")
    if mode == "nearest":
        name, table = ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions")
    writer.emit(
        name,
        (writer.read(op.inputs[0], CHANNELS_LAST), writer.integers(out[2:])),
        op.outputs[0],
        CHANNELS_LAST,
        table,
        AlignCorners=where == "align_corners",
        # at a whole factor the nearest pixel is the same, and Vela takes this one
        HalfPixelCenters=mode == "linear" and "half_pixel" in where,
    )


def _text(op: Op, name: str, default: str) -> str:
    value: Any = op.attribute(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def _pad(writer: Writer, op: Op) -> None:
    tensor = op.inputs[0]
    rank = len(writer.shape(tensor))
    if op.input(3):
        raise Unwritable("padding of named axes is not written")
    pads = writer.values(op.inputs[1], "pads") if op.input(1) else np.array(op.attribute("pads", ()))
    mode = _text(op, "mode", "constant")
    if pads.size != 2 * rank or pads.min(initial=0) < 0 or mode not in ("constant", "reflect"):
        raise Unwritable(f"this padding (mode {mode!r}) is not written")
    layout = writer.layout(tensor)
    amounts = writer.integers(pads.reshape(2, rank).T[list(layout)])
    inputs = [writer.read(tensor), amounts]
    value = writer.values(op.inputs[2], "value").reshape(()) if op.input(2) else op.attribute("value", 0.0)
    if mode == "reflect":
        writer.emit("MIRROR_PAD", inputs, op.outputs[0], layout, "MirrorPadOptions", Mode=0)
    elif float(value) == 0:
        writer.emit("PAD", inputs, op.outputs[0], layout, "PadOptions")
    else:
        scale = writer.scales[tensor]
        stored = np.clip(np.round(float(value) / scale.scale[0]) + scale.zero_point[0], -128, 127)
        inputs.append(writer.tensor("filler", (1,), scale, stored.astype(np.int8).reshape(1)))
        writer.emit("PADV2", inputs, op.outputs[0], layout, "PadV2Options")


def _slice(writer: Writer, op: Op) -> None:
    """A Slice of step 1 -> SLICE."""
    tensor = op.inputs[0]
    shape = writer.shape(tensor)
    if op.input(1):
        starts, ends = (writer.values(op.inputs[slot], "bounds").reshape(-1) for slot in (1, 2))
        steps = writer.values(op.inputs[4], "steps").reshape(-1) if op.input(4) else np.ones_like(starts)
    else:
        starts, ends = np.array(op.attribute("starts", ())), np.array(op.attribute("ends", ()))
        steps = np.ones_like(starts)
    if (steps != 1).any():
        raise Unwritable("only slices of step 1 are written")
    axes = _axes(writer, op, 3) or tuple(range(len(starts)))
    first, count = [0] * len(shape), list(shape)
    for axis, start, end in zip(axes, starts, ends, strict=True):
        begin, stop, _ = slice(int(start), int(end)).indices(shape[axis])
        first[axis], count[axis] = begin, stop - begin
    layout = writer.layout(tensor)
    bounds = [writer.integers([values[axis] for axis in layout]) for values in (first, count)]
    writer.emit("SLICE", (writer.read(tensor), *bounds), op.outputs[0], layout, "SliceOptions")


def _split(writer: Writer, op: Op) -> None:
    """Split: one SLICE for each part."""
    tensor = op.inputs[0]
    shape = writer.shape(tensor)
    layout = writer.layout(tensor)
    axis = int(op.attribute("axis", 0)) % len(shape)
    start = 0
    for output in filter(None, op.outputs):
        size = writer.shape(output)
        first = [start if i == axis else 0 for i in layout]
        bounds = [writer.integers(first), writer.integers([size[i] for i in layout])]
        writer.emit("SLICE", (writer.read(tensor), *bounds), output, layout, "SliceOptions")
        start += size[axis]


def _blocks(writer: Writer, op: Op) -> None:
    """SpaceToDepth, and DepthToSpace in TFLite's order of channels."""
    if _text(op, "mode", "DCR") != "DCR":
        raise Unwritable("TFLite orders the channels of a block otherwise (mode 'CRD')")
    kind, table = ("DEPTH_TO_SPACE", "DepthToSpaceOptions")
    if op.op_type == "SpaceToDepth":
        kind, table = ("SPACE_TO_DEPTH", "SpaceToDepthOptions")
    source = writer.read(op.inputs[0], CHANNELS_LAST)
    writer.emit(kind, (source,), op.outputs[0], CHANNELS_LAST, table, BlockSize=int(op.attribute("blocksize")))


WRITERS: Final[Mapping[str, Callable[[Writer, Op], None]]] = {
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "ReduceMean"), _mean),
    **dict.fromkeys(("SpaceToDepth", "DepthToSpace"), _blocks),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    **dict.fromkeys(("Gemm", "MatMul"), product),
    **dict.fromkeys(("Identity", "Dropout"), _identity),
    "BatchNormalization": normalisation,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "Div": _divide,
    "GlobalMaxPool": _global_max,
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": _leaky,
    "Neg": _negate,
    "PRelu": _prelu,
    "Pad": _pad,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Transpose": _transpose,
}
"""What writes an op, by ONNX op type."""
