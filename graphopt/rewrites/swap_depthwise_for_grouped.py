"""Depthwise KxK -> grouped KxK whose groups are as wide as the target's parallelism. Exact.

    W[o,i,k] = Wd[o,k] if i == o mod P else 0        C / P groups of P channels

The array's P lanes then work on P channels at once. The number of channels must be a multiple of P; a width that is to
be rounded first is a condition of the match.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.ir.graph import Graph, Patch
from graphopt.ir.op import Op
from graphopt.rewrites.convs import Conv, read_conv, read_depthwise, regrouped
from graphopt.rewrites.rewrite import Match, Refusal, WidthCondition


@dataclass(frozen=True)
class SwapForGroupedParams:
    """Parameters.

    Attributes:
        group_width: channels per group.
    """

    group_width: int

    def __post_init__(self) -> None:
        if self.group_width < 2:
            raise ValueError(f"group_width must be at least 2, not {self.group_width}")


class SwapDepthwiseForGrouped:
    """See the module's docstring."""

    name: ClassVar[str] = "swap-depthwise-for-grouped"
    Params: ClassVar[type[Any]] = SwapForGroupedParams
    anchors: ClassVar[frozenset[str]] = frozenset({"Conv"})

    def match(self, graph: Graph, op: Op, params: SwapForGroupedParams) -> Match | Refusal | None:
        """Match at every depthwise convolution with more than one group's worth of channels."""
        conv = read_depthwise(graph, op)
        if not isinstance(conv, Conv):
            return conv
        if conv.out_channels <= params.group_width:
            return Refusal(op.key, f"{conv.out_channels} channels fill no more than one group of {params.group_width}")
        condition = WidthCondition(op.outputs[0], 1, multiple=params.group_width, minimum=2 * params.group_width)
        return Match(op.key, (("depthwise", op.key),), (op.key,), conditions=(condition,))

    def rewrite(self, graph: Graph, match: Match, params: SwapForGroupedParams) -> Patch:
        """Put the grouped convolution where the depthwise was."""
        conv = read_conv(graph, graph.op(match.role("depthwise")))
        assert conv is not None
        return regrouped(graph, conv.op.key, groups=conv.out_channels // params.group_width, name=self.name)
