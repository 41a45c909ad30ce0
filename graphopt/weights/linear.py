"""Convolutions and matrix products as one thing: rows of inputs times a matrix, group by group.

    P[g, n, o] = sum_k X[g, n, k] * W[g, k, o] + b[g, o]

A row n is one output position of one sample; its columns k are what the op reads for it (``channels / group *
kernel``; the im2col patch of a convolution). Dense ops have one group, a depthwise convolution has one per channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from graphopt.ir.graph import Graph
from graphopt.ir.op import Array, Op, Weight
from graphopt.rewrites.convs import Conv, is_standard, read_conv

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Layout = Literal["rows", "columns", "transposed"]

LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Op types that `read_linear` knows."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear op with constant weights.

    Attributes:
        op: the op.
        weight: its matrix or kernel.
        bias: its bias, shape (groups * outputs,), ``None`` when it has none.
        groups: G.
        columns: K, columns of one group.
        outputs: O, output channels of one group.
        biased: whether the op can take a bias.
        places: output positions of one sample.
        table: for a convolution, where in the flat input each output position reads, shape (places, kernel); one
            past the end is a zero. ``None`` for a matrix product.
        layout: how the weight is stored: ``rows`` (groups, outputs, columns), ``columns`` (columns, outputs), or
            ``transposed`` (input channels, outputs, kernel), as a ConvTranspose has it.
    """

    op: Op
    weight: Weight
    bias: Weight | None
    groups: int
    columns: int
    outputs: int
    biased: bool
    places: int
    table: Ints | None
    layout: Layout

    @property
    def channels(self) -> int:
        """Output channels of all groups."""
        return self.groups * self.outputs

    def matrix(self) -> Doubles:
        """The weights, shape (groups, columns, outputs)."""
        values = self.weight.array().astype(np.float64)
        if self.layout == "rows":
            values = values.reshape(self.groups, self.outputs, self.columns).transpose(0, 2, 1)
        elif self.layout == "transposed":
            values = values.reshape(len(values), self.outputs, -1).transpose(0, 2, 1)
        return np.ascontiguousarray(values).reshape(self.groups, self.columns, self.outputs)

    def offsets(self) -> Doubles:
        """The bias, shape (groups, 1, outputs)."""
        shape = (self.groups, 1, self.outputs)
        return np.zeros(shape) if self.bias is None else self.bias.array().astype(np.float64).reshape(shape)

    def stored(self, matrix: Doubles) -> Array:
        """Turn (groups, columns, outputs) back into the weight's layout and type."""
        values = matrix.transpose(0, 2, 1) if self.layout == "rows" else matrix
        if self.layout == "transposed":
            values = matrix.reshape(self.weight.shape[0], -1, self.outputs).transpose(0, 2, 1)
        return np.ascontiguousarray(values.reshape(self.weight.shape), self.weight.dtype)

    def rows(self, x: Array, picked: Ints) -> Floats:
        """Return what the op reads for the output positions ``picked``, shape (samples, m), of the input ``x``.

        Returns:
            Shape (groups, samples * m, columns).
        """
        samples, m = picked.shape
        if self.table is None:
            flat = x.reshape(samples, self.places, self.columns)
            return np.take_along_axis(flat, picked[:, :, None], 1).reshape(1, -1, self.columns).astype(np.float32)
        channels = x.shape[1]
        out = np.empty((self.groups, samples * m, self.columns), np.float32)
        padded = np.zeros((channels, math.prod(x.shape[2:]) + 1), np.float32)
        for number in range(samples):
            padded[:, :-1] = x[number].reshape(channels, -1)
            patch = padded[:, self.table[picked[number]]].transpose(1, 0, 2)
            here = slice(number * m, (number + 1) * m)
            out[:, here] = patch.reshape(m, self.groups, self.columns).transpose(1, 0, 2)
        return out

    def answers(self, z: Array, picked: Ints) -> Floats:
        """Return an output-shaped tensor at the positions ``picked``, shape (samples * m, channels of ``z``)."""
        samples = len(picked)
        if self.table is None:
            flat = z.reshape(samples, self.places, -1)
            found = np.take_along_axis(flat, picked[:, :, None], 1)
        else:
            flat = z.reshape(samples, z.shape[1], self.places)
            found = np.take_along_axis(flat, picked[:, None, :], 2).transpose(0, 2, 1)
        return found.reshape(-1, found.shape[2]).astype(np.float32)


def read_linear(graph: Graph, op: Op) -> Linear | str | None:
    """Return ``op`` as a :class:`Linear`, ``None`` when it is none, or why it cannot be one."""
    if is_standard(op, "Conv"):
        conv = read_conv(graph, op)
        return "its weights are not constant" if conv is None else _convolution(graph, conv)
    if is_standard(op, "Gemm") or is_standard(op, "MatMul"):
        return _product(graph, op)
    return _transposed(graph, op) if is_standard(op, "ConvTranspose") else None


def _convolution(graph: Graph, conv: Conv) -> Linear | str:
    before, after = graph.static_shape(conv.op.inputs[0]), graph.static_shape(conv.op.outputs[0])
    if before is None or after is None:
        return "its shapes are not static"
    if conv.weight.dtype.kind != "f":
        return "its weights are no floating-point numbers"
    table = _table(_reads(conv, before[2:], after[2:]), before[2:])
    columns = conv.weight.shape[1] * math.prod(conv.kernel)
    outputs = conv.out_channels // conv.group
    return Linear(conv.op, conv.weight, conv.bias, conv.group, columns, outputs, True, len(table), table, "rows")


def _transposed(graph: Graph, op: Op) -> Linear | str:
    """A transposed convolution, told from its outputs: ``y[p] = sum_k W[k] x[(p + pad - k * dilation) / stride]`` over
    the k for which that is a whole number inside the input."""
    weight, bias = graph.weight(op.input(1)), graph.weight(op.input(2))
    before, after = graph.static_shape(op.inputs[0]), graph.static_shape(op.outputs[0])
    if weight is None or (op.input(2) and bias is None):
        return "its weights are not constant"
    if before is None or after is None:
        return "its shapes are not static"
    if op.attribute("group", 1) != 1 or op.attribute("auto_pad", "NOTSET") != "NOTSET" or op.attribute("output_shape"):
        return "it is a transposed convolution with groups or with padding of its own"
    if weight.dtype.kind != "f":
        return "its weights are no floating-point numbers"
    kernel = weight.shape[2:]
    ones = (1,) * len(kernel)
    strides, dilations = op.attribute("strides") or ones, op.attribute("dilations") or ones
    pads = op.attribute("pads") or (0,) * len(kernel)
    axes = []
    for axis, places in enumerate(after[2:]):
        at = np.arange(places)[:, None] + pads[axis] - np.arange(kernel[axis])[None] * dilations[axis]
        axes.append(np.where(at % strides[axis] == 0, at // strides[axis], -1))
    table = _table(axes, before[2:])
    columns = weight.shape[0] * math.prod(kernel)
    return Linear(op, weight, bias, 1, columns, weight.shape[1], True, len(table), table, "transposed")


def _reads(conv: Conv, before: tuple[int, ...], after: tuple[int, ...]) -> list[Ints]:
    """For each axis the input position by (output position, kernel position)."""
    pads, strides, dilations = conv.pads(before), conv.per_axis("strides"), conv.per_axis("dilations")
    return [
        np.arange(places)[:, None] * strides[axis]
        - pads[axis][0]
        + np.arange(conv.kernel[axis])[None] * dilations[axis]
        for axis, places in enumerate(after)
    ]


def _table(axes: Sequence[Ints], before: tuple[int, ...]) -> Ints:
    """Flat input position by (output position, kernel position) out of those per axis; ``prod(before)`` for a zero."""
    flat = np.zeros((1, 1), np.intp)
    inside = np.ones((1, 1), bool)
    for at, length in zip(axes, before, strict=True):
        size = (flat.shape[0] * at.shape[0], flat.shape[1] * at.shape[1])
        flat = (flat[:, None, :, None] * length + at[None, :, None, :]).reshape(size)
        inside = (inside[:, None, :, None] & ((at >= 0) & (at < length))[None, :, None, :]).reshape(size)
    return np.where(inside, flat, math.prod(before))


def _product(graph: Graph, op: Op) -> Linear | str | None:
    weight = graph.weight(op.input(1))
    before, after = graph.static_shape(op.inputs[0]), graph.static_shape(op.outputs[0])
    if weight is None or len(weight.shape) != 2 or graph.weight(op.inputs[0]) is not None:
        return None
    if before is None or after is None or len(before) < 2:
        return "its shapes are not static"
    if weight.dtype.kind != "f":
        return "its weights are no floating-point numbers"
    gemm = op.op_type == "Gemm"
    if gemm and (op.attribute("alpha", 1.0) != 1.0 or op.attribute("beta", 1.0) != 1.0 or op.attribute("transA", 0)):
        return "it scales or transposes its operands"
    turned = gemm and bool(op.attribute("transB", 0))
    columns, outputs = weight.shape[::-1] if turned else weight.shape
    bias = graph.weight(op.input(2)) if op.input(2) else None
    if op.input(2) and (bias is None or bias.size != outputs):
        return "its bias is no constant vector"
    places = math.prod(after[1:-1])
    return Linear(op, weight, bias, 1, columns, outputs, gemm, places, None, "rows" if turned else "columns")


def with_weights(linear: Linear, weight: str, bias: str) -> Op:
    """The op with other weights; ``bias`` may be ``""``."""
    inputs = (linear.op.inputs[0], weight, *((bias,) if bias else ()))
    return replace(linear.op, inputs=inputs, source=None)
