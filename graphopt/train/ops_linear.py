"""Convolutions, matrix products, normalisation and pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from graphopt.ir.window import per_axis, window_pads
from graphopt.train.call import Call

_CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@dataclass(frozen=True, slots=True)
class _Window:
    """A convolution's or a pool's window: strides, dilations and padding (before, after) per axis."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]


def _window(call: Call, kernel: Sequence[int]) -> _Window:
    op, axes = call.op, len(kernel)
    pads = window_pads(op, kernel, call[0].shape[2:])
    return _Window(per_axis(op, "strides", axes), per_axis(op, "dilations", axes), pads)


def _padded(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0.0) -> tuple[Tensor, list[int]]:
    """``x``, and what is the same on both ends of an axis; ``x`` is padded by hand where that does not suffice."""
    if all(before == after for before, after in pads):
        return x, [before for before, _ in pads]
    flat = [amount for before, after in reversed(pads) for amount in (before, after)]
    return F.pad(x, flat, value=value), [0] * len(pads)


def _conv(call: Call) -> Tensor:
    weight = call[1]
    window = _window(call, weight.shape[2:])
    x, same = _padded(call[0], window.pads)
    group = call.attribute("group", 1)
    return _CONVS[len(same)](x, weight, call.get(2), window.strides, same, window.dilations, group)


def _conv_transpose(call: Call) -> Tensor:
    weight = call[1]
    if call.attribute("auto_pad", "NOTSET") != "NOTSET" or call.attribute("output_shape"):
        call.refuse("with padding of its own")
    axes = weight.dim() - 2
    none = (0,) * axes
    y = _TRANSPOSED[axes](
        call[0],
        weight,
        call.get(2),
        per_axis(call.op, "strides", axes),
        none,
        call.attribute("output_padding") or none,
        call.attribute("group", 1),
        per_axis(call.op, "dilations", axes),
    )
    pads = call.attribute("pads") or none * 2
    for axis in range(axes):
        y = y.narrow(axis + 2, pads[axis], y.shape[axis + 2] - pads[axis] - pads[axis + axes])
    return y


def _max_pool(call: Call) -> Tensor:
    kernel = call.attribute("kernel_shape")
    window = _window(call, kernel)
    x, same = _padded(call[0], window.pads, -math.inf)
    if len(call.op.outputs) > 1:
        call.refuse("with indices")
    if any(2 * pad > size for pad, size in zip(same, kernel, strict=True)):
        call.refuse("with pads over half of its window")
    ceil = bool(call.attribute("ceil_mode", 0))
    return _MAX_POOLS[len(kernel)](x, kernel, window.strides, same, window.dilations, ceil)


def _average_pool(call: Call) -> Tensor:
    kernel = call.attribute("kernel_shape")
    window = _window(call, kernel)
    counted = bool(call.attribute("count_include_pad", 0))
    if not counted and any(before != after for before, after in window.pads):
        call.refuse("with uneven pads that do not count")
    if any(size != 1 for size in window.dilations):
        call.refuse("with dilations")
    x, same = _padded(call[0], window.pads)
    ceil = bool(call.attribute("ceil_mode", 0))
    return _AVERAGE_POOLS[len(kernel)](x, kernel, window.strides, same, ceil, counted)


def _batch_normalization(call: Call) -> Tensor:
    scale, shift, mean, variance = (call[slot] for slot in (1, 2, 3, 4))
    momentum = 1.0 - call.attribute("momentum", 0.9)
    epsilon = call.attribute("epsilon", 1e-5)
    return F.batch_norm(call[0], mean, variance, scale, shift, call.training, momentum, epsilon)


def _gemm(call: Call) -> Tensor:
    a = call[0].T if call.attribute("transA", 0) else call[0]
    b = call[1].T if call.attribute("transB", 0) else call[1]
    y = a @ b * call.attribute("alpha", 1.0)
    bias = call.get(2)
    return y if bias is None else y + bias * call.attribute("beta", 1.0)


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


LINEAR: dict[str, Callable[[Call], Any]] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda call: call[0].mean(_spatial(call[0]), keepdim=True),
    "GlobalMaxPool": lambda call: call[0].amax(_spatial(call[0]), keepdim=True),
    "MatMul": lambda call: call[0] @ call[1],
    "MaxPool": _max_pool,
}
"""Op functions by op type."""
