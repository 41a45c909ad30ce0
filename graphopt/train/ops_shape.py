"""Ops that move, cut or sum elements; shapes, axes and bounds come as inputs or as attributes, as the opset has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphopt.train.call import Call
from graphopt.train.resize import resize


def _reshape(call: Call) -> Tensor:
    shape = call.ints(1, "shape") or []
    zero_is_zero = bool(call.attribute("allowzero", 0))
    return call[0].reshape([call[0].shape[i] if d == 0 and not zero_is_zero else d for i, d in enumerate(shape)])


def _flatten(call: Call) -> Tensor:
    x, axis = call[0], call.attribute("axis", 1)
    axis += x.dim() if axis < 0 else 0
    return x.reshape(x.shape[:axis].numel(), -1)


def _transpose(call: Call) -> Tensor:
    x = call[0]
    return x.permute(call.attribute("perm") or tuple(range(x.dim()))[::-1])


def _squeeze(call: Call) -> Tensor:
    axes = call.ints(1, "axes")
    return call[0].squeeze() if axes is None else call[0].squeeze(tuple(axes))


def _unsqueeze(call: Call) -> Tensor:
    x, axes = call[0], call.ints(1, "axes") or []
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _expand(call: Call) -> Tensor:
    shape = torch.broadcast_shapes(call[0].shape, call.ints(1, "shape") or [])
    return call[0].expand(shape)


def _concat(call: Call) -> Tensor:
    return torch.cat([call[slot] for slot in range(len(call.values))], call.attribute("axis", 1))


def _split(call: Call) -> tuple[Tensor, ...]:
    x, axis, sizes = call[0], call.attribute("axis", 0), call.ints(1, "split")
    each = -(-x.shape[axis] // len(call.op.outputs))
    parts: tuple[Tensor, ...] = torch.split(x, each if sizes is None else sizes, axis)
    return parts


def _slice(call: Call) -> Tensor:
    x = call[0]
    starts, ends = call.ints(1, "starts") or [], call.ints(2, "ends") or []
    axes = call.ints(3, "axes") or range(len(starts))
    steps = call.ints(4, "steps") or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places = range(x.shape[axis])[start:end:step]
        x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64))
    return x


def _gather(call: Call) -> Tensor:
    x, at, axis = call[0], call[1], call.attribute("axis", 0) % call[0].dim()
    at = torch.where(at < 0, at + x.shape[axis], at)
    return x.index_select(axis, at.flatten()).reshape(x.shape[:axis] + at.shape + x.shape[axis + 1 :])


def _pad(call: Call) -> Tensor:
    x, pads = call[0], call.ints(1, "pads") or []
    axes = call.ints(3, "axes") or range(x.dim())
    amounts = [(0, 0)] * x.dim()
    for i, axis in enumerate(axes):
        amounts[axis] = (pads[i], pads[i + len(pads) // 2])
    mode = call.attribute("mode", "constant")
    if mode == "constant":
        flat = [amount for pair in reversed(amounts) for amount in pair]
        return F.pad(x, flat, value=call.number(2, "value") or 0.0)
    if mode not in ("reflect", "edge") or any(amounts[0] + amounts[1]):
        call.refuse(f"with mode {mode!r}")
    flat = [amount for pair in reversed(amounts[2:]) for amount in pair]
    return F.pad(x, flat, mode="replicate" if mode == "edge" else mode)


def _shape(call: Call) -> Tensor:
    return torch.tensor(call[0].shape[call.attribute("start", 0) : call.attribute("end")], dtype=torch.int64)


def _constant_of_shape(call: Call) -> Tensor:
    value = call.attribute("value")
    fill = torch.zeros(1) if value is None else torch.from_numpy(value.array().copy())
    return fill.reshape(()).expand(call.ints(0, "") or [])


def _depth_to_space(call: Call) -> Tensor:
    x, b = call[0], call.attribute("blocksize")
    n, c, h, w = x.shape
    if call.attribute("mode", "DCR") == "DCR":
        x = x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // b**2, h * b, w * b)


def _space_to_depth(call: Call) -> Tensor:
    x, b = call[0], call.attribute("blocksize")
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * b * b, h // b, w // b)


def _reduce(function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Callable[[Call], Tensor]:
    def run(call: Call) -> Tensor:
        x, axes = call[0], call.ints(1, "axes")
        if not axes and call.attribute("noop_with_empty_axes", 0):
            return x
        return function(x, tuple(axes or range(x.dim())), bool(call.attribute("keepdims", 1)))

    return run


SHAPE: dict[str, Callable[[Call], Any]] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Pad": _pad,
    "ReduceL2": _reduce(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum),
    "Reshape": _reshape,
    "Resize": resize,
    "Shape": _shape,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Upsample": resize,
}
"""Op functions by op type."""
