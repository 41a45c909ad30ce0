"""What the rewrites share about convolutions: reading one, naming what replaces it, and its weights' arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import numpy as np
import numpy.typing as npt

from graphopt.ir.graph import Graph, Patch
from graphopt.ir.op import Array, Op, Weight
from graphopt.ir.window import per_axis, window_pads
from graphopt.rewrites.rewrite import Refusal

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Conv:
    """A Conv op with constant weights.

    Attributes:
        op: the op.
        weight: its kernel, shape (out_channels, in_channels / group, *kernel).
        bias: its bias, shape (out_channels,), ``None`` when there is none.
        group: number of groups.
    """

    op: Op
    weight: Weight
    bias: Weight | None
    group: int

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        return self.weight.shape[0]

    @property
    def in_channels(self) -> int:
        """Number of input channels."""
        return self.weight.shape[1] * self.group

    @property
    def kernel(self) -> tuple[int, ...]:
        """Kernel size per spatial axis."""
        return self.weight.shape[2:]

    def per_axis(self, name: str) -> tuple[int, ...]:
        """Strides or dilations, one per spatial axis (1 where the op does not say)."""
        return per_axis(self.op, name, len(self.kernel))

    @property
    def is_dense(self) -> bool:
        """Whether every output channel sees every input channel."""
        return self.group == 1

    @property
    def is_depthwise(self) -> bool:
        """Whether every output channel sees the one input channel of its own number."""
        return self.group > 1 and self.group == self.in_channels == self.out_channels

    @property
    def is_pointwise(self) -> bool:
        """Whether it is a 1x1 convolution that keeps the positions: stride 1, nothing padded."""
        ones = all(size == 1 for size in (*self.kernel, *self.per_axis("strides")))
        return ones and not self.pads_may_show

    @property
    def pads_may_show(self) -> bool:
        """Whether zeros around the input can enter the sum."""
        mode = self.op.attribute("auto_pad", "NOTSET")
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            return any(size > 1 for size in self.kernel)
        return mode == "NOTSET" and any(self.op.attribute("pads") or ())

    def pads(self, size: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Zeros (before, after) per spatial axis for an input of spatial ``size``."""
        return window_pads(self.op, self.kernel, size)


def is_standard(op: Op | None, op_type: str) -> TypeGuard[Op]:
    """Whether ``op`` is ONNX's own op of this type, not a namesake in another domain."""
    return op is not None and op.op_type == op_type and op.domain in ("", "ai.onnx")


def read_conv(graph: Graph, op: Op | None) -> Conv | None:
    """Return ``op`` as a :class:`Conv`; ``None`` when it is none, or when its weights are not constant floats."""
    if not is_standard(op, "Conv"):
        return None
    weight = graph.weight(op.input(1))
    bias = graph.weight(op.input(2))
    if weight is None or len(weight.shape) < 3 or (op.input(2) and bias is None):
        return None
    return Conv(op, weight, bias, int(op.attribute("group", 1)))


def read_depthwise(graph: Graph, op: Op) -> Conv | Refusal | None:
    """Return ``op`` as a depthwise :class:`Conv`, why it is not quite one, or ``None``.

    ``None`` where it has no groups, or groups of several channels.
    """
    if not is_standard(op, "Conv") or int(op.attribute("group", 1)) == 1:
        return None
    conv = read_conv(graph, op)
    if conv is None:
        return Refusal(op.key, "the weights are not constant")
    if not conv.is_depthwise:
        return Refusal(op.key, "the depth multiplier is not 1") if conv.group == conv.in_channels else None
    return conv


def fresh_name(graph: Graph, base: str) -> str:
    """Return ``base``, or ``base`` with a number where the graph has a tensor of that name already."""
    name, number = base, 2
    while name in graph.tensors or name in graph.weights or name in graph.inputs or graph.producer(name) is not None:
        name, number = f"{base}_{number}", number + 1
    return name


def replaced(op: Op, inputs: tuple[str, ...], group: int = 1) -> Op:
    """Return the convolution ``op`` with other inputs and groups; one group is left unsaid, as exporters do."""
    return replace(op.with_attributes(group=group if group > 1 else None), inputs=inputs, source=None)


def values(weight: Weight) -> Floats:
    """The values of ``weight`` in double precision: composed weights are rounded once, at the end."""
    return weight.array().astype(np.float64)


def bias_values(conv: Conv) -> Floats:
    """The bias of ``conv`` in double precision, zeros where it has none."""
    return np.zeros(conv.out_channels) if conv.bias is None else values(conv.bias)


def is_zero(weight: Weight | None) -> bool:
    """Whether ``weight`` is absent or holds zeros only."""
    return weight is None or not np.any(weight.array())


def regroup(weight: Array, groups: int, wanted: int) -> Array:
    """Spread a kernel with ``groups`` groups, shape (O, I / groups, *kernel), over fewer: (O, I / wanted, *kernel).

    Each output channel keeps its weights at the inputs of its old group and gets zeros elsewhere in the new one.
    ``wanted`` divides ``groups``; 1 is dense.
    """
    out, width = weight.shape[:2]
    joined = groups // wanted
    spread = np.zeros((out, width * joined, *weight.shape[2:]), weight.dtype)
    channel = np.arange(out)[:, None]
    block = channel // (out // groups) % joined
    spread[channel, block * width + np.arange(width)] = weight
    return spread


def regrouped(graph: Graph, key: str, *, groups: int, name: str) -> Patch:
    """Describe the Conv ``key`` with fewer groups and the same outputs; ``name`` is the rewrite's."""
    conv = read_conv(graph, graph.op(key))
    assert conv is not None
    weight = Weight(
        fresh_name(graph, f"{key}/{name}/weight"),
        (conv.out_channels, conv.in_channels // groups, *conv.kernel),
        conv.weight.dtype,
        lambda: regroup(conv.weight.array(), conv.group, groups),
    )
    inputs = (conv.op.input(0), weight.name, *conv.op.inputs[2:])
    return Patch((key,), (replaced(conv.op, inputs, group=groups),), (weight,))
