"""Resize and Upsample, axis by axis: each output position reads one input position (nearest) or two (linear)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from graphopt.train.call import Call


def resize(call: Call) -> Tensor:
    """Resize (opset 10 and later) or Upsample (7 to 9); nearest and linear, without antialiasing."""
    x = call[0]
    mode = call.attribute("mode", "nearest")
    if mode not in ("nearest", "linear") or call.attribute("antialias", 0) or call.attribute("axes"):
        call.refuse(f"with mode {mode!r}, antialiasing or axes")
    scales, sizes = _scales(call)
    if mode == "linear" and _is_plain(call, scales, sizes):
        return F.interpolate(x, sizes[2:], mode="bilinear", align_corners=False)
    for axis, (scale, size) in enumerate(zip(scales, sizes, strict=True)):
        if scale == 1.0 and size == x.shape[axis]:
            continue
        at = _positions(call, x.shape[axis], size, scale)
        x = _nearest(call, x, axis, at) if mode == "nearest" else _linear(x, axis, at)
    return x


def _is_plain(call: Call, scales: list[float], sizes: list[int]) -> bool:
    """Whether PyTorch has this in one step (a segmenter's training step takes a third less): maps of images, half
    pixels, whole numbers of them."""
    lengths = call[0].shape
    return (
        len(lengths) == 4
        and sizes[:2] == list(lengths[:2])
        and call.attribute("coordinate_transformation_mode", "half_pixel" if call.opset >= 11 else "") == "half_pixel"
        and all(length * scale == size for length, scale, size in zip(lengths, scales, sizes, strict=True))
    )


def _scales(call: Call) -> tuple[list[float], list[int]]:
    """Scale and length of each axis of the output."""
    lengths = call[0].shape
    slot = 2 if call.opset >= 11 else 1
    given = call.get(slot)
    scales = call.attribute("scales") if given is None else given.tolist()
    if scales:
        return list(scales), [math.floor(length * scale) for length, scale in zip(lengths, scales, strict=True)]
    sizes = call.ints(3, "")
    if sizes is None or call.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        call.refuse("with a policy for the aspect ratio")
    return [size / length for size, length in zip(sizes, lengths, strict=True)], sizes


def _positions(call: Call, length: int, size: int, scale: float) -> Tensor:
    """Where each output position reads in the input (a fraction), by the ONNX formulas."""
    default = "half_pixel" if call.opset >= 11 else "asymmetric"
    how = call.attribute("coordinate_transformation_mode", default)
    at = torch.arange(size, dtype=torch.float64)
    if how == "asymmetric":
        return at / scale
    if how == "align_corners":
        return at * ((length - 1) / (size - 1)) if size > 1 else at * 0
    if how == "pytorch_half_pixel" and size == 1:
        return at * 0
    if how not in ("half_pixel", "pytorch_half_pixel"):
        call.refuse(f"with coordinates {how!r}")
    return (at + 0.5) / scale - 0.5


def _nearest(call: Call, x: Tensor, axis: int, at: Tensor) -> Tensor:
    how = call.attribute("nearest_mode", "round_prefer_floor" if call.opset >= 11 else "floor")
    rounded = {
        "floor": torch.floor,
        "ceil": torch.ceil,
        "round_prefer_floor": lambda v: torch.ceil(v - 0.5),
        "round_prefer_ceil": lambda v: torch.floor(v + 0.5),
    }[how](at)
    return x.index_select(axis, rounded.long().clamp(0, x.shape[axis] - 1))


def _linear(x: Tensor, axis: int, at: Tensor) -> Tensor:
    at = at.clamp(0, x.shape[axis] - 1)
    low = at.floor().long()
    share = (at - low).to(x.dtype).reshape(-1, *(1,) * (x.dim() - 1 - axis))
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    return x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share
