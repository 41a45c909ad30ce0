"""Depthwise KxK -> dense KxK with a block-diagonal kernel. Exact.

    W[o,i,k] = Wd[o,k] if i == o else 0

Many more MACs, but on an array without a depthwise mode each channel had cost a whole pass of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.ir.graph import Graph, Patch
from graphopt.ir.op import Op, Weight
from graphopt.rewrites.convs import fresh_name, is_grouped, read_conv, regroup, replaced
from graphopt.rewrites.rewrite import Match, Refusal


@dataclass(frozen=True)
class SwapForDenseParams:
    """No parameters."""


class SwapDepthwiseForDense:
    """See the module's docstring."""

    name: ClassVar[str] = "swap-depthwise-for-dense"
    Params: ClassVar[type[Any]] = SwapForDenseParams
    anchors: ClassVar[frozenset[str]] = frozenset({"Conv"})

    def match(self, graph: Graph, op: Op, params: SwapForDenseParams) -> Match | Refusal | None:
        """Match at every depthwise convolution."""
        if not is_grouped(op):
            return None
        conv = read_conv(graph, op)
        if conv is None:
            return Refusal(op.key, "the weights are not constant")
        if not conv.is_depthwise:
            return Refusal(op.key, "the depth multiplier is not 1") if conv.group == conv.in_channels else None
        return Match(op.key, (("depthwise", op.key),), (op.key,))

    def rewrite(self, graph: Graph, match: Match, params: SwapForDenseParams) -> Patch:
        """Put the dense convolution where the depthwise was."""
        conv = read_conv(graph, graph.op(match.role("depthwise")))
        assert conv is not None
        channels = conv.out_channels
        weight = Weight(
            fresh_name(graph, f"{match.anchor}/{self.name}/weight"),
            (channels, channels, *conv.kernel),
            conv.weight.dtype,
            lambda: regroup(conv.weight.array(), channels, 1),
        )
        inputs = (conv.op.input(0), weight.name, *conv.op.inputs[2:])
        return Patch(match.removes, (replaced(conv.op, inputs, group=1),), (weight,))
