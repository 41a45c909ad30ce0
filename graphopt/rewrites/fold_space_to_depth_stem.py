"""Stride-2 stem on few channels -> SpaceToDepth(2) + stride-1 convolution. Exact.

Along one axis, with ``a`` zeros padded before the input:

    y[p] = sum_k W[k] * x[2p + k - a]

Write ``k - a = 2q + r`` with r in {0, 1}, and call ``S_r[p] = x[2p + r]`` what SpaceToDepth(2) makes of x. Then

    y[p] = sum_q sum_r W[2q + r + a] * S_r[p + q]        q from floor(-a / 2) to floor((K - 1 - a) / 2)

which is a stride-1 convolution over S with ``-floor(-a / 2)`` zeros before and as many behind as the output's length
asks (3x3 with pads 1 becomes 2x2 with pads [1,1,0,0]). Taps outside W are zero. Sizes must be even: then what is
padding for x is padding for S. Four times the channels fill an array that three leave nearly idle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import networkx as nx
import numpy as np

from graphopt.ir.graph import Graph, Patch
from graphopt.ir.op import Array, Op, TensorInfo, Weight
from graphopt.rewrites.convs import fresh_name, read_conv
from graphopt.rewrites.rewrite import Match, Refusal


@dataclass(frozen=True)
class FoldStemParams:
    """Parameters.

    Attributes:
        max_input_channels: what still counts as few.
    """

    max_input_channels: int = 4


class FoldSpaceToDepthStem:
    """See the module's docstring."""

    name: ClassVar[str] = "fold-space-to-depth-stem"
    Params: ClassVar[type[Any]] = FoldStemParams
    anchors: ClassVar[frozenset[str]] = frozenset({"Conv"})

    def match(self, graph: Graph, op: Op, params: FoldStemParams) -> Match | Refusal | None:
        """Match at a dense 2-D convolution of stride 2 over few channels."""
        conv = read_conv(graph, op)
        if conv is None or not conv.is_dense or len(conv.kernel) != 2 or conv.per_axis("strides") == (1, 1):
            return None
        if conv.in_channels > params.max_input_channels:
            return None
        if conv.per_axis("strides") != (2, 2):
            return Refusal(op.key, "the stride is not 2 along both axes")
        if conv.per_axis("dilations") != (1, 1):
            return Refusal(op.key, "the convolution is dilated")
        if conv.kernel == (1, 1):
            return Refusal(op.key, "a 1x1 kernel would only gain zeros")
        shape = graph.shape(op.input(0))
        if graph.open_inputs & nx.ancestors(graph.nx, op.key):
            return Refusal(op.key, "the model leaves its input's size open")
        if shape is None or not all(isinstance(size, int) for size in shape[2:]):
            return Refusal(op.key, "the input's height and width are not fixed")
        if any(isinstance(size, int) and size % 2 for size in shape[2:]):
            return Refusal(op.key, "the input's height or width is odd")
        return Match(op.key, (("stem", op.key),), (op.key,))

    def rewrite(self, graph: Graph, match: Match, params: FoldStemParams) -> Patch:
        """Put SpaceToDepth and the folded convolution where the stem was."""
        conv = read_conv(graph, graph.op(match.role("stem")))
        shape = graph.shape(conv.op.input(0)) if conv is not None else None
        assert conv is not None
        assert shape is not None
        size = tuple(dim for dim in shape[2:] if isinstance(dim, int))
        rows, columns = (_fold(*axis) for axis in zip(size, conv.kernel, conv.pads(size), strict=True))
        base = f"{match.anchor}/{self.name}"
        weight = Weight(
            fresh_name(graph, f"{base}/weight"),
            (conv.out_channels, 4 * conv.in_channels, rows.taps, columns.taps),
            conv.weight.dtype,
            lambda: _folded(conv.weight.array(), rows, columns),
        )
        blocks = fresh_name(graph, f"{base}/blocks")
        gather = Op("SpaceToDepth", (conv.op.input(0),), (blocks,), (("blocksize", 2),), f"{conv.op.name}/blocks")
        attributes = (
            ("kernel_shape", (rows.taps, columns.taps)),
            ("pads", (rows.before, columns.before, rows.behind, columns.behind)),
        )
        stem = Op("Conv", (blocks, weight.name, *conv.op.inputs[2:]), conv.op.outputs, attributes, conv.op.name)
        info = TensorInfo(conv.weight.dtype, (shape[0], 4 * conv.in_channels, size[0] // 2, size[1] // 2))
        return Patch(match.removes, (gather, stem), (weight,), {blocks: info})


@dataclass(frozen=True, slots=True)
class _Fold:
    """One axis of the folded convolution: its taps, the zeros before and behind, and the old kernel's first place."""

    taps: int
    before: int
    behind: int
    start: int


def _fold(length: int, kernel: int, pads: tuple[int, int]) -> _Fold:
    before, behind = pads
    first, last = -before // 2, (kernel - 1 - before) // 2
    outputs = (length + before + behind - kernel) // 2 + 1
    taps = last - first + 1
    return _Fold(taps, -first, outputs - 1 + taps - length // 2 + first, -2 * first - before)


def _folded(weight: Array, rows: _Fold, columns: _Fold) -> Array:
    """Regroup the kernel (O, I, KH, KW) to (O, 4 I, taps, taps): SpaceToDepth puts the place in the block outermost."""
    out, channels = weight.shape[:2]
    # Place 2 (q - first) + r of the wide kernel holds old tap 2q + r + a, so old tap 0 is at -2 first - a: 0 or 1.
    wide = np.zeros((out, channels, 2 * rows.taps, 2 * columns.taps), weight.dtype)
    wide[:, :, rows.start : rows.start + weight.shape[2], columns.start : columns.start + weight.shape[3]] = weight
    split = wide.reshape(out, channels, rows.taps, 2, columns.taps, 2)
    return np.ascontiguousarray(split.transpose(0, 3, 5, 1, 2, 4).reshape(out, 4 * channels, rows.taps, columns.taps))
