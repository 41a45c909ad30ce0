"""Ops that move values or choose among them: their results keep the scale of what they read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from graphopt.ir.op import Op
from graphopt.measure.tflite_writer import CHANNELS_LAST, Layout, OpWriter, Unwritable, Writer, natural


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
    axes = writer.axes(op, 3) or tuple(range(len(starts)))
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


MOVES: Final[Mapping[str, OpWriter]] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("SpaceToDepth", "DepthToSpace"), _blocks),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    **dict.fromkeys(("Identity", "Dropout"), _identity),
    "Concat": _concat,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
    "Transpose": _transpose,
}
"""What writes an op, by ONNX op type."""
