"""Every ONNX op that has a counterpart in int8 TFLite, and what writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from graphopt.ir.op import Op
from graphopt.measure.tflite_linear import convolution, normalisation, padded, product, transposed_convolution
from graphopt.measure.tflite_moves import MOVES
from graphopt.measure.tflite_pointwise import POINTWISE
from graphopt.measure.tflite_scales import FIXED
from graphopt.measure.tflite_writer import CHANNELS_LAST, OpWriter, Unwritable, Writer


def _mean(writer: Writer, op: Op) -> None:
    """GlobalAveragePool and ReduceMean -> MEAN."""
    tensor = op.inputs[0]
    shape = writer.shape(tensor)
    layout = writer.layout(tensor)
    keep = op.op_type != "ReduceMean" or bool(op.attribute("keepdims", 1))
    axes = writer.axes(op, 1) if op.op_type == "ReduceMean" else tuple(range(2, len(shape)))
    axes = tuple(axis % len(shape) for axis in axes or range(len(shape)))
    stored = sorted(layout.index(axis) for axis in axes)
    left = [axis for axis in layout if axis not in axes]
    after = layout if keep else tuple(sorted(left).index(axis) for axis in left)
    inputs = (writer.read(tensor), writer.integers(stored))
    writer.emit("MEAN", inputs, op.outputs[0], after, "ReducerOptions", KeepDims=keep)


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


WRITERS: Final[Mapping[str, OpWriter]] = {
    **POINTWISE,
    **MOVES,
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "ReduceMean"), _mean),
    **dict.fromkeys(("Gemm", "MatMul"), product),
    "BatchNormalization": normalisation,
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "GlobalMaxPool": _global_max,
    "Softmax": _softmax,
}
"""What writes an op, by ONNX op type."""
