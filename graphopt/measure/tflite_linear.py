"""Convolutions and matrix products in int8: weights and biases quantised for each output channel, zero points 0.

What any converter folds into the weights is folded here, too: BatchNormalization and arithmetic with one constant for
each channel, directly behind the op and read by nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from graphopt.ir.op import Array, Op
from graphopt.measure.tflite_file import Quantisation
from graphopt.measure.tflite_writer import CHANNELS_LAST, Unwritable, Writer, natural

SAME: Final = 0
VALID: Final = 1

_INT32: Final = np.iinfo(np.int32)


@dataclass(frozen=True, slots=True)
class Linear:
    """Weights of one op, output channels first, with what was folded into them.

    Attributes:
        weights: float, shape (channels out, ...).
        bias: float, shape (channels out,).
        output: the last tensor that was folded in.
        activation: the schema's number of the activation behind it.
    """

    weights: Array
    bias: Array
    output: str
    activation: int


def convolution(writer: Writer, op: Op) -> None:
    """Conv -> CONV_2D (grouped, too) or DEPTHWISE_CONV_2D, with a PAD in front where SAME and VALID cannot say it."""
    shape = writer.shape(op.inputs[0])
    if len(shape) != 4:
        raise Unwritable("only convolutions over height and width are written")
    weights = writer.kernel(op)
    linear = _folded(writer, op, weights, _bias(writer, op, weights.shape[0]))
    kernel = weights.shape[2:]
    strides, dilations = op.attribute("strides", (1, 1)), op.attribute("dilations", (1, 1))
    group = int(op.attribute("group", 1))
    source, padding = padded(writer, op, kernel, strides, dilations)
    depthwise = group == shape[1] and weights.shape[1] == 1 and group > 1
    window = {
        "Padding": padding,
        "StrideW": strides[1],
        "StrideH": strides[0],
        "DilationWFactor": dilations[1],
        "DilationHFactor": dilations[0],
    }
    _emit(writer, op, linear, source, window, weights.shape[0] // group if depthwise else 0)


def _emit(writer: Writer, op: Op, linear: Linear, source: int, window: Mapping[str, int], multiplier: int) -> None:
    """Write a convolution; ``multiplier`` is the depth multiplier of a depthwise one and 0 for others."""
    kind, table, axes = "CONV_2D", "Conv2DOptions", (0, 2, 3, 1)
    options: dict[str, Any] = {**window, "FusedActivationFunction": linear.activation}
    if multiplier:
        kind, table, axes = "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", (1, 2, 3, 0)
        options["DepthMultiplier"] = multiplier
    number, bias = parameters(writer, op, linear, linear.weights.transpose(axes), axes.index(0))
    writer.emit(kind, (source, number, bias), linear.output, CHANNELS_LAST, table, **options)


def parameters(writer: Writer, op: Op, linear: Linear, stored: Array, axis: int) -> tuple[int, int]:
    """Add the int8 weights (in TFLite's own order of axes, ``axis`` is the output channel) and the int32 bias."""
    others = tuple(i for i in range(stored.ndim) if i != axis)
    input_scale = writer.scales[op.inputs[0]].scale[0]
    # a channel of small or no weights must leave room for its bias
    least = np.maximum(np.abs(linear.bias) / (input_scale * 2**30), 1e-12)
    scale = np.maximum(np.abs(stored).max(axis=others).astype(np.float64) / 127, least)
    along = [1] * stored.ndim
    along[axis] = -1
    weights = np.clip(np.round(stored / scale.reshape(along)), -127, 127).astype(np.int8)
    zeros = (0,) * len(scale)
    name = op.inputs[1]
    number = writer.tensor(name, weights.shape, Quantisation(tuple(scale), zeros, axis), np.ascontiguousarray(weights))
    scale = scale * input_scale
    bias = np.clip(np.round(linear.bias / scale), _INT32.min, _INT32.max).astype(np.int32)
    return number, writer.tensor(f"{name}:bias", bias.shape, Quantisation(tuple(scale), zeros), bias)


def padded(
    writer: Writer, op: Op, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], filler: int = 0
) -> tuple[int, int]:
    """Return the input of a convolution or pooling, channels last, and its padding: SAME, or VALID behind a PAD.

    Args:
        writer: the model that is written.
        op: the convolution or pooling.
        kernel: height and width.
        strides: along height and width.
        dilations: along height and width.
        filler: what stands in the padding: 0 for the value 0, else the stored number (-128 under a maximum).
    """
    tensor = op.inputs[0]
    source = writer.read(tensor, CHANNELS_LAST)
    size = writer.shape(tensor)[2:]
    auto = op.attribute("auto_pad", "NOTSET")
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    totals = [max((-(-n // s) - 1) * s + span - n, 0) for n, s, span in zip(size, strides, spans, strict=True)]
    same = [total // 2 for total in totals], [total - total // 2 for total in totals]
    if auto in ("SAME_LOWER", b"SAME_LOWER"):
        before, after = same[1], same[0]
    elif auto in ("SAME_UPPER", b"SAME_UPPER"):
        before, after = same
    else:
        pads = list(op.attribute("pads", (0, 0, 0, 0))) if auto in ("NOTSET", b"NOTSET") else [0, 0, 0, 0]
        before, after = pads[:2], pads[2:]
    if not any(before) and not any(after):
        return source, VALID
    if (before, after) == same:
        return source, SAME
    if min(*before, *after) < 0:
        raise Unwritable("negative padding is not written")
    amounts = [(0, 0), (before[0], after[0]), (before[1], after[1]), (0, 0)]
    shape = writer.shape(tensor)
    bigger = (shape[0], size[0] + before[0] + after[0], size[1] + before[1] + after[1], shape[1])
    scale = writer.scales[tensor]
    target = writer.tensor(f"{tensor}:padded", bigger, scale)
    if filler:
        value = writer.tensor("filler", (1,), scale, np.array([filler], np.int8))
        writer.raw("PADV2", (source, writer.integers(np.array(amounts)), value), target, "PadV2Options")
    else:
        writer.raw("PAD", (source, writer.integers(np.array(amounts))), target, "PadOptions")
    return target, VALID


def transposed_convolution(writer: Writer, op: Op) -> None:
    """ConvTranspose without groups and dilation -> TRANSPOSE_CONV."""
    shape = writer.shape(op.inputs[0])
    weights = writer.kernel(op)
    if len(shape) != 4 or op.attribute("group", 1) != 1 or set(op.attribute("dilations", (1, 1))) != {1}:
        raise Unwritable("TFLite has transposed convolutions over height and width only, without groups or dilation")
    strides = op.attribute("strides", (1, 1))
    linear = _folded(writer, op, weights.swapaxes(0, 1), _bias(writer, op, weights.shape[1]))
    out = writer.shape(linear.output)
    kernel = weights.shape[2:]
    pads = tuple(op.attribute("pads", (0, 0, 0, 0)))
    same = [max(k - s, 0) for k, s in zip(kernel, strides, strict=True)]
    full = tuple((n - 1) * s + k for n, s, k in zip(shape[2:], strides, kernel, strict=True))
    if not any(pads) and tuple(out[2:]) == full:
        padding = VALID
    elif pads[:2] == tuple(total // 2 for total in same) and tuple(out[2:]) == tuple(
        n * s for n, s in zip(shape[2:], strides, strict=True)
    ):
        padding = SAME
    else:
        raise Unwritable(f"the padding {pads} of this transposed convolution is neither SAME nor VALID")
    number, bias = parameters(writer, op, linear, linear.weights.transpose(0, 2, 3, 1), 0)
    size = writer.integers([out[0], *out[2:], out[1]])
    writer.emit(
        "TRANSPOSE_CONV",
        (size, number, writer.read(op.inputs[0], CHANNELS_LAST), bias),
        linear.output,
        CHANNELS_LAST,
        "TransposeConvOptions",
        Padding=padding,
        StrideW=strides[1],
        StrideH=strides[0],
        FusedActivationFunction=linear.activation,
    )


def product(writer: Writer, op: Op) -> None:
    """Gemm or MatMul by a constant matrix -> FULLY_CONNECTED."""
    weights = writer.kernel(op)
    if weights.ndim != 2:
        raise Unwritable("only products with a constant matrix of two axes are written")
    alpha, beta = 1.0, 1.0
    if op.op_type == "Gemm":
        if op.attribute("transA", 0):
            raise Unwritable("a Gemm that transposes its input is not written")
        alpha, beta = op.attribute("alpha", 1.0), op.attribute("beta", 1.0)
    weights = (weights if op.attribute("transB", 0) else weights.T) * np.float32(alpha)
    bias = _bias(writer, op, len(weights)) * beta if op.op_type == "Gemm" else np.zeros(len(weights))
    linear = _folded(writer, op, weights, bias, axis=-1)
    rank = len(writer.shape(op.inputs[0]))
    number, biases = parameters(writer, op, linear, linear.weights, 0)
    writer.emit(
        "FULLY_CONNECTED",
        (writer.read(op.inputs[0], natural(rank)), number, biases),
        linear.output,
        natural(rank),
        "FullyConnectedOptions",
        FusedActivationFunction=linear.activation,
        KeepNumDims=rank > 2,
    )


def normalisation(writer: Writer, op: Op) -> None:
    """A BatchNormalization that no op in front can take: a depthwise 1x1 convolution."""
    shape = writer.shape(op.inputs[0])
    if len(shape) != 4:
        raise Unwritable("BatchNormalization is written for tensors of four axes only")
    factor, shift = _normalising(writer, op)
    output, activation = writer.fused_activation(op)
    linear = Linear(factor.reshape(-1, 1, 1, 1), shift, output, activation)
    window = {"Padding": VALID, "StrideW": 1, "StrideH": 1, "DilationWFactor": 1, "DilationHFactor": 1}
    _emit(writer, op, linear, writer.read(op.inputs[0], CHANNELS_LAST), window, 1)


def _bias(writer: Writer, op: Op, count: int) -> Array:
    if not op.input(2):
        return np.zeros(count)
    return np.broadcast_to(writer.values(op.inputs[2], "bias").reshape(-1), (count,)).astype(np.float64)


def _folded(writer: Writer, op: Op, weights: Array, bias: Array, axis: int = 1) -> Linear:
    """Fold what follows ``op`` into its weights, then find the activation. ``axis``: output channels of its output."""
    weights = weights.astype(np.float32)
    last = op
    while (step := _affine(writer, last, len(bias), axis)) is not None:
        last, factor, shift = step
        writer.take(last)
        weights = weights * factor.astype(np.float32).reshape(-1, *(1,) * (weights.ndim - 1))
        bias = bias * factor + shift
    output, activation = writer.fused_activation(last)
    return Linear(weights, bias, output, activation)


def _affine(writer: Writer, op: Op, count: int, axis: int) -> tuple[Op, Array, Array] | None:
    """The op behind ``op`` with its factor and shift for each channel, if it can be folded."""
    graph = writer.graph
    use = graph.only_use(op.outputs[0])
    if use is None or use.op.domain:
        return None
    after = use.op
    if after.op_type == "BatchNormalization" and use.slot == 0:
        return after, *_normalising(writer, after)
    if after.op_type not in ("Add", "Sub", "Mul", "Div") or len(after.inputs) != 2:
        return None
    constant = graph.weight(after.inputs[1 - use.slot])
    shape = graph.static_shape(op.outputs[0])
    if constant is None or shape is None or graph.static_shape(after.outputs[0]) != shape:
        return None
    channels = [1] * len(shape)
    channels[axis] = count
    padded_shape = (1,) * (len(shape) - len(constant.shape)) + constant.shape
    if constant.size != 1 and padded_shape != tuple(channels):
        return None
    values = np.broadcast_to(constant.array().reshape(-1).astype(np.float64), (count,))
    ones, zeros = np.ones(count), np.zeros(count)
    match after.op_type:
        case "Add":
            return after, ones, values
        case "Sub":
            return (after, ones, -values) if use.slot == 0 else (after, -ones, values)
        case "Mul":
            return after, values, zeros
        case _:
            return (after, 1 / values, zeros) if use.slot == 0 and values.all() else None


def _normalising(writer: Writer, op: Op) -> tuple[Array, Array]:
    """Factor and shift of a BatchNormalization."""
    gamma, beta, mean, variance = (writer.values(name, "statistics").astype(np.float64) for name in op.inputs[1:5])
    factor = gamma / np.sqrt(variance + op.attribute("epsilon", 1e-5))
    return factor, beta - mean * factor
