"""Depthwise KxK -> dense KxK with a block-diagonal kernel. Exact.

    W[o,i,k] = Wd[o,k] if i == o else 0

Many more MACs, but on an array without a depthwise mode each channel had cost a whole pass of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.ir.graph import Graph, Patch
from graphopt.ir.op import Op
from graphopt.rewrites.convs import Conv, read_depthwise, regrouped
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
        conv = read_depthwise(graph, op)
        return Match(op.key, (("depthwise", op.key),), (op.key,)) if isinstance(conv, Conv) else conv

    def rewrite(self, graph: Graph, match: Match, params: SwapForDenseParams) -> Patch:
        """Put the dense convolution where the depthwise was."""
        return regrouped(graph, match.role("depthwise"), groups=1, name=self.name)
