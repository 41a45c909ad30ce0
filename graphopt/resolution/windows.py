"""Windows that meet maps of another size: a pool over the whole map stays one, any other window keeps its size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from graphopt.ir.graph import Graph
from graphopt.ir.op import Op
from graphopt.ir.window import per_axis, window_pads
from graphopt.resolution.state import Sizes, refuse

_USUAL = {"AveragePool": 2, "MaxPool": 3}
"""Windows up to this size step down through a map of any size; larger ones, of most of the map, sum it up."""


def check_window(sizes: Sizes, op: Op, kernel: Sequence[int]) -> None:
    """A window larger than the padded map: ONNX's inference rounds that up to one position, and no runtime takes it."""
    if op.attribute("ceil_mode", 0):
        return
    after = sizes.static(op.inputs[0])[2:]
    reach = [
        dilation * (side - 1) + 1 for side, dilation in zip(kernel, per_axis(op, "dilations", len(kernel)), strict=True)
    ]
    padded = [side + sum(pads) for side, pads in zip(after, window_pads(op, kernel, after), strict=True)]
    if any(side < window for side, window in zip(padded, reach, strict=True)):
        refuse(op, f"its {by(kernel)} window does not fit into a map of {by(after)} any more")


def follow_pool(sizes: Sizes, op: Op) -> Op:
    """A pool over the whole map, or over its whole height or width alone, stays one; any other keeps its window."""
    kernel, before = tuple(op.attribute("kernel_shape") or ()), sizes.old(op.inputs[0])[2:]
    made, pads = sizes.old(op.outputs[0])[2:], tuple(op.attribute("pads") or (0,) * (2 * len(kernel)))
    axes = range(len(kernel))
    whole = [kernel[i] == before[i] and made[i] == 1 and not pads[i] and not pads[i + len(kernel)] for i in axes]
    if math.prod(kernel) == 1 or not all(whole[i] or kernel[i] == 1 for i in axes):
        check_window(sizes, op, kernel)
        return op
    follows = [all(whole) or kernel[i] > 1 for i in axes]
    after = sizes.static(op.inputs[0])[2:]
    strides = per_axis(op, "strides", len(kernel))
    window = tuple(after[i] if follows[i] else 1 for i in axes)
    # A stride as long as the map means "once" and stays so.
    steps = tuple(max(after[i], strides[i]) if follows[i] and strides[i] > 1 else strides[i] for i in axes)
    changed = op.with_attributes(kernel_shape=window)
    return changed.with_attributes(strides=steps) if op.attribute("strides") else changed


def kept_windows(before: Graph, after: Graph) -> Iterator[str]:
    """A sentence for each pool that read most of the map at once, and reads another share of it at the new size."""
    for op in after.ops():
        old = before.producer(op.outputs[0])
        kernel = tuple(op.attribute("kernel_shape") or ())
        if op.op_type not in _USUAL or old is None or tuple(old.attribute("kernel_shape") or ()) != kernel:
            continue
        shapes = [graph.static_shape(name) for graph in (before, after) for name in (op.inputs[0], op.outputs[0])]
        if any(shape is None for shape in shapes):
            continue
        had, gave, has, _ = (shape[2:] for shape in shapes if shape is not None)
        if any(
            _USUAL[op.op_type] < side and length < 2 * side and made < length and length != now
            for side, length, made, now in zip(kernel, had, gave, has, strict=True)
        ):
            yield (
                f"{op} keeps its {by(kernel)} window: it read {by(had)} positions, and {by(has)} now (a global pool "
                "would go with any size)"
            )


def by(sides: Sequence[object]) -> str:
    """``7x7``."""
    return "x".join(map(str, sides))
