"""Expand 1x1 + depthwise KxK of an inverted bottleneck -> one dense KxK convolution.

    y[o] = sum_k Wd[o,k] * f(sum_i We[o,i] * x[i] + be[o])[p+k] + bd[o]

Without the inner activation f the two are one convolution,

    W[o,i,k] = Wd[o,k] * We[o,i]        b[o] = bd[o] + be[o] * sum_k Wd[o,k]

exact where no padded zero meets a non-zero ``be`` (the depthwise pads *after* ``be`` was added, the fused convolution
before). Through an activation the composition is the first guess that a repair starts from. What stands behind the
depthwise (its own BatchNormalization, activation, squeeze-excite, projection, residual) is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.graph import Graph, Patch
from graphopt.ir.op import Array, Op, Weight
from graphopt.rewrites.activations import is_scalar_op, match_activation
from graphopt.rewrites.convs import (
    Conv,
    Floats,
    bias_values,
    fresh_name,
    is_standard,
    read_conv,
    read_depthwise,
    replaced,
    values,
)
from graphopt.rewrites.rewrite import Match, Refusal, WidthCondition


@dataclass(frozen=True)
class FuseParams:
    """Parameters.

    Attributes:
        max_expanded_channels: leave wider blocks alone; ``None``: no limit, the prices decide.
    """

    max_expanded_channels: int | None = None


class FuseInvertedBottleneck:
    """See the module's docstring."""

    name: ClassVar[str] = "fuse-inverted-bottleneck"
    Params: ClassVar[type[Any]] = FuseParams
    anchors: ClassVar[frozenset[str]] = frozenset({"Conv"})

    def match(self, graph: Graph, op: Op, params: FuseParams) -> Match | Refusal | None:
        """Match at the depthwise convolution; every depthwise convolution gets a match or a refusal."""
        depthwise = read_depthwise(graph, op)
        if not isinstance(depthwise, Conv):
            return depthwise
        inside, sources = _scalar_ops_before(graph, op.input(0))
        if len(sources) > 1:
            return Refusal(op.key, "the depthwise convolution's input is made from several tensors")
        source = sources[0]
        maker = graph.producer(source)
        norm = maker if is_standard(maker, "BatchNormalization") else None
        first = maker if norm is None else graph.producer(norm.input(0))
        if not is_standard(first, "Conv"):
            made = f"made by {first.op_type}" if first is not None else "an input of the model"
            return Refusal(op.key, f"what the depthwise convolution reads is {made}, not made by a convolution")
        expand = read_conv(graph, first)
        if expand is None:
            return Refusal(first.key, "the expansion's weights are not constant")
        if not (expand.is_dense and expand.is_pointwise):
            return Refusal(first.key, "the expansion is not a dense 1x1 convolution of stride 1")
        if norm is not None and not _is_foldable(graph, norm):
            return Refusal(norm.key, "the expansion's BatchNormalization is not constant")
        removed = (first.key, *([] if norm is None else [norm.key]), *inside, op.key)
        between = [tensor for key in removed[:-1] for tensor in graph.op(key).outputs if tensor]
        if any(graph.is_output(tensor) for tensor in between):
            return Refusal(first.key, "the expanded tensor is an output of the model")
        if any(use.op.key not in removed for tensor in between for use in graph.uses(tensor)):
            return Refusal(first.key, "the expanded tensor has another use")
        if inside:
            activation = match_activation(graph, source)
            if activation is None or (activation.ops, activation.output) != (inside, op.input(0)):
                return Refusal(inside[-1], "what stands between expansion and depthwise is no known activation")
        limit = params.max_expanded_channels
        if limit is not None and expand.out_channels > limit:
            return Refusal(op.key, f"{expand.out_channels} expanded channels are more than the limit of {limit}")
        roles = [("expand", first.key), ("depthwise", op.key)]
        roles += [("expand_norm", norm.key)] if norm is not None else []
        roles += [("activation", inside[-1])] if inside else []
        exact = not inside and (not depthwise.pads_may_show or not np.any(_expand_bias(graph, expand, norm)))
        conditions = () if limit is None else (WidthCondition(op.outputs[0], 1, maximum=limit),)
        return Match(op.key, tuple(roles), removed, "exact" if exact else None, conditions)

    def rewrite(self, graph: Graph, match: Match, params: FuseParams) -> Patch:
        """Put the composed convolution where the depthwise was."""
        depthwise = read_conv(graph, graph.op(match.role("depthwise")))
        expand = read_conv(graph, graph.op(match.role("expand")))
        assert depthwise is not None
        assert expand is not None
        norms = [graph.op(key) for role, key in match.roles if role == "expand_norm"]
        norm = norms[0] if norms else None
        dtype = depthwise.weight.dtype
        shape = (depthwise.out_channels, expand.in_channels, *depthwise.kernel)

        def kernel() -> Array:
            expanded = values(expand.weight).reshape(shape[:2]) * _norm_scale(graph, norm, shape[0])[:, None]
            composed = values(depthwise.weight) * expanded.reshape(*shape[:2], *(1 for _ in shape[2:]))
            return np.asarray(composed, dtype)

        def bias() -> Array:
            taps = values(depthwise.weight).reshape(shape[0], -1).sum(axis=1)
            interior = bias_values(depthwise) + taps * _expand_bias(graph, expand, norm)
            return np.asarray(interior, dtype)

        base = f"{match.anchor}/{self.name}"
        weights = [Weight(fresh_name(graph, f"{base}/weight"), shape, dtype, kernel)]
        if expand.bias is not None or depthwise.bias is not None or norm is not None:
            weights.append(Weight(fresh_name(graph, f"{base}/bias"), shape[:1], dtype, bias))
        inputs = (expand.op.input(0), *(weight.name for weight in weights))
        return Patch(match.removes, (replaced(depthwise.op, inputs, group=1),), tuple(weights))


def _scalar_ops_before(graph: Graph, tensor: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keys of the scalar ops that ``tensor`` is made through, in file order, and the tensors that they start from."""
    inside: set[str] = set()
    sources: set[str] = set()
    stack = [tensor]
    while stack:
        name = stack.pop()
        op = graph.producer(name)
        if op is None or not is_scalar_op(graph, op):
            sources.add(name)
        elif op.key not in inside:
            inside.add(op.key)
            stack += [read for read in op.inputs if read and read not in graph.weights]
    return tuple(sorted(inside, key=graph.position)), tuple(sorted(sources))


def _is_foldable(graph: Graph, norm: Op) -> bool:
    constant = all(graph.weight(norm.input(slot)) is not None for slot in range(1, 5))
    return constant and not norm.attribute("training_mode", 0) and sum(map(bool, norm.outputs)) == 1


def _norm_scale(graph: Graph, norm: Op | None, channels: int) -> Floats:
    if norm is None:
        return np.ones(channels)
    gamma, _, _, variance = (values(graph.weights[norm.input(slot)]) for slot in range(1, 5))
    return np.asarray(gamma / np.sqrt(variance + norm.attribute("epsilon", 1e-5)))


def _expand_bias(graph: Graph, expand: Conv, norm: Op | None) -> Floats:
    """Bias of the expansion with its BatchNormalization folded in, shape (expanded channels,)."""
    bias = bias_values(expand)
    if norm is None:
        return bias
    _, beta, mean, _ = (values(graph.weights[norm.input(slot)]) for slot in range(1, 5))
    return np.asarray((bias - mean) * _norm_scale(graph, norm, len(bias)) + beta)
