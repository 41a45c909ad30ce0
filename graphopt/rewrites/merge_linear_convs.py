"""Convolutions with nothing between, all 1x1 but one at most -> one dense convolution. Exact.

    W[o,i,k] = sum_m W2[o,m,k2] * W1[m,i,k1]        b[o] = b2[o] + sum_{m,k2} W2[o,m,k2] * b1[m]

with k the taps of the one that has more than one. A biased 1x1 *before* a zero-padded KxK cannot be merged: the merged
convolution would pad before the bias is added, and the border would differ. After it, it can. Only the first may have
groups: a depthwise and its 1x1 become a dense convolution, while a 1x1 and its depthwise are an inverted bottleneck's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.graph import Graph, Patch
from graphopt.ir.op import Array, Op, Weight
from graphopt.rewrites.convs import (
    Conv,
    Floats,
    bias_values,
    fresh_name,
    is_standard,
    is_zero,
    read_conv,
    regroup,
    replaced,
    values,
)
from graphopt.rewrites.rewrite import Match, Refusal


@dataclass(frozen=True)
class MergeParams:
    """Parameters.

    Attributes:
        longest: how many convolutions may become one.
    """

    longest: int = 3

    def __post_init__(self) -> None:
        if self.longest < 2:
            raise ValueError(f"longest must be at least 2, not {self.longest}")


class MergeLinearConvs:
    """See the module's docstring."""

    name: ClassVar[str] = "merge-linear-convs"
    Params: ClassVar[type[Any]] = MergeParams
    anchors: ClassVar[frozenset[str]] = frozenset({"Conv"})

    def match(self, graph: Graph, op: Op, params: MergeParams) -> Match | Refusal | None:
        """Match at the first convolution and take as many of those behind it as can be merged."""
        if not any(is_standard(use.op, "Conv") and use.slot == 0 for use in graph.uses(op.outputs[0])):
            return None
        first = read_conv(graph, op)
        if first is None:
            return Refusal(op.key, "the weights are not constant")
        chain, refusal = [first], Refusal(op.key, "")
        while len(chain) < params.longest and not refusal.reason:
            found = _next(graph, chain)
            if isinstance(found, Refusal):
                refusal = found
            else:
                chain.append(found)
        if len(chain) == 1:
            return refusal
        keys = tuple(conv.op.key for conv in chain)
        return Match(op.key, tuple((f"convolution {i + 1}", key) for i, key in enumerate(keys)), keys)

    def rewrite(self, graph: Graph, match: Match, params: MergeParams) -> Patch:
        """Put the merged convolution where the last one was."""
        chain = [conv for key in match.removes if (conv := read_conv(graph, graph.op(key))) is not None]
        first, last = chain[0], chain[-1]
        spatial = next((conv for conv in chain if not conv.is_pointwise), last)
        dtype = first.weight.dtype
        shape = (last.out_channels, first.in_channels, *spatial.kernel)

        def kernel() -> Array:
            merged = _taps(first)
            for conv in chain[1:]:
                merged = np.einsum("omk,mil->oikl", _taps(conv), merged, optimize=True)
                merged = merged.reshape(*merged.shape[:2], -1)
            return np.asarray(merged.reshape(shape), dtype)

        def bias() -> Array:
            merged = bias_values(first)
            for conv in chain[1:]:
                merged = bias_values(conv) + _taps(conv).sum(axis=2) @ merged
            return np.asarray(merged, dtype)

        base = f"{match.anchor}/{self.name}"
        weights = [Weight(fresh_name(graph, f"{base}/weight"), shape, dtype, kernel)]
        if any(conv.bias is not None for conv in chain):
            weights.append(Weight(fresh_name(graph, f"{base}/bias"), shape[:1], dtype, bias))
        inputs = (first.op.input(0), *(weight.name for weight in weights))
        merged = replace(replaced(spatial.op, inputs), outputs=last.op.outputs, name=last.op.name)
        return Patch(match.removes, (merged,), tuple(weights))


def _taps(conv: Conv) -> Floats:
    """The kernel made dense, its spatial axes in one: (out channels, in channels, taps)."""
    return regroup(values(conv.weight), conv.group, 1).reshape(conv.out_channels, conv.in_channels, -1)


def _next(graph: Graph, chain: list[Conv]) -> Conv | Refusal:
    """The convolution behind ``chain`` if it can be merged into it."""
    here = chain[-1].op
    if graph.is_output(here.outputs[0]):
        return Refusal(here.key, "the tensor between is an output of the model")
    use = graph.only_use(here.outputs[0])
    if use is None:
        return Refusal(here.key, "the tensor between has another use")
    conv = read_conv(graph, use.op)
    if conv is None or use.slot != 0:
        return Refusal(use.op.key, "what follows is no convolution with constant weights")
    if not conv.is_dense:
        return Refusal(use.op.key, "the convolution that follows has groups")
    if conv.is_pointwise:
        return conv
    if not all(before.is_pointwise for before in chain):
        return Refusal(use.op.key, "neither of the two is a 1x1 convolution of stride 1")
    if conv.pads_may_show and not all(is_zero(before.bias) for before in chain):
        return Refusal(use.op.key, "a bias would meet padded zeros")
    return conv
