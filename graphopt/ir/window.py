"""The window of a convolution or a pooling: its steps, and the zeros around what it slides over."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.op import Op


def per_axis(op: Op, name: str, axes: int) -> tuple[int, ...]:
    """Strides or dilations of a window, one per spatial axis (1 where the op does not say)."""
    return tuple(op.attribute(name) or (1,) * axes)


def window_pads(op: Op, kernel: Sequence[int], size: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """What a window (a convolution's, a pool's) adds (before, after) per spatial axis to an input of spatial ``size``
    (formulas of the ONNX Conv op)."""
    axes = len(kernel)
    mode = op.attribute("auto_pad", "NOTSET")
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        pads = tuple(op.attribute("pads") or (0,) * (2 * axes)) if mode == "NOTSET" else (0,) * (2 * axes)
        return tuple((pads[i], pads[i + axes]) for i in range(axes))
    found = []
    geometry = zip(size, kernel, per_axis(op, "strides", axes), per_axis(op, "dilations", axes), strict=True)
    for length, extent, stride, dilation in geometry:
        total = max((-(-length // stride) - 1) * stride + dilation * (extent - 1) + 1 - length, 0)
        small, large = total // 2, total - total // 2
        found.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return tuple(found)
