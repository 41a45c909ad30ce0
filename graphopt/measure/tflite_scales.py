"""Scales and zero points of the activations of an int8 model.

Latency hardly depends on them, so without ranges every tensor gets one that is plausible for what makes it. With
ranges (from running the float model) the written file computes what the model computes, to eight bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import networkx as nx
import numpy as np

from graphopt.ir.graph import Graph
from graphopt.ir.op import Op
from graphopt.measure.tflite_file import Quantisation

Range = tuple[float, float]

PASS_THROUGH: Final = frozenset({
    "AveragePool", "Concat", "DepthToSpace", "Dropout", "Flatten", "GlobalMaxPool", "Identity", "MaxPool", "Pad",
    "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Transpose", "Unsqueeze", "Upsample",
})  # fmt: skip
"""Ops that move or choose values and keep their scale."""

FIXED: Final[Mapping[str, Quantisation]] = {
    "HardSigmoid": Quantisation((1 / 255,), (-128,)),
    "Sigmoid": Quantisation((1 / 256,), (-128,)),
    "Softmax": Quantisation((1 / 256,), (-128,)),
    "Tanh": Quantisation((1 / 128,), (0,)),
}
"""What the TFLite operator demands of its output (HardSigmoid: what makes its clipping exact)."""

_DEFAULTS: Final[Mapping[str, Range]] = {"Clip": (-4.0, 6.0), "Relu": (0.0, 6.0), "HardSwish": (-0.375, 6.0)}
_DEFAULT: Final[Range] = (-4.0, 4.0)
_UNBOUNDED: Final = 1e30
"""Exporters write the largest float for no bound."""


def quantise_range(low: float, high: float) -> Quantisation:
    """Return the scale and zero point of 256 steps over [low, high], widened to hold 0 (which padding needs)."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255 or 1.0
    return Quantisation((scale,), (int(np.clip(round(-128 - low / scale), -128, 127)),))


def activation_scales(graph: Graph, ranges: Mapping[str, Range] | None) -> dict[str, Quantisation]:
    """Return scale and zero point of each activation of ``graph``.

    Tensors that are tied by ops which cannot rescale share theirs: the hull of their ranges.

    Args:
        graph: the model.
        ranges: smallest and largest value by tensor name; ``None`` for plausible constants.
    """
    ties = nx.Graph()
    for op in graph.ops():
        ties.add_nodes_from(tensor for tensor in (*op.inputs, *op.outputs) if tensor)
        if op.op_type in PASS_THROUGH:
            moved = op.inputs if op.op_type == "Concat" else op.inputs[:1]
            ties.add_edges_from((op.key, tensor) for tensor in (*moved, *op.outputs) if tensor)
    scales = {}
    for members in nx.connected_components(ties):
        scales.update(dict.fromkeys(members, _of_group(graph, sorted(members), ranges)))
    return scales


def _of_group(graph: Graph, members: list[str], ranges: Mapping[str, Range] | None) -> Quantisation:
    makers = [graph.producer(tensor) for tensor in members if graph.weight(tensor) is None]
    sources = [op for op in makers if op is None or op.op_type not in PASS_THROUGH]
    fixed = {FIXED.get(op.op_type) if op is not None else None for op in sources}
    if len(fixed) == 1 and (only := next(iter(fixed))) is not None:
        return only
    if ranges is not None:
        known = [ranges[tensor] for tensor in members if tensor in ranges]
        constants = [weight.array() for tensor in members if (weight := graph.weight(tensor)) and weight.size]
        known += [(float(values.min()), float(values.max())) for values in constants]
    else:
        known = [_plausible(graph, op) for op in sources]
    if not known:
        known = [_DEFAULT]
    return quantise_range(min(low for low, _ in known), max(high for _, high in known))


def _plausible(graph: Graph, op: Op | None) -> Range:
    if op is None:
        return _DEFAULT
    if op.op_type == "Clip" and (found := bounds(graph, op)) is not None:
        low, high = (
            end if math.isfinite(end) else default for end, default in zip(found, _DEFAULTS["Clip"], strict=True)
        )
        return low, high
    return _DEFAULTS.get(op.op_type, _DEFAULT)


def bounds(graph: Graph, op: Op) -> Range | None:
    """Lowest and highest value of a Relu or Clip, ``None`` when they are not constant."""
    if op.op_type == "Relu":
        return 0.0, math.inf
    ends = []
    for slot, name, default in ((1, "min", -math.inf), (2, "max", math.inf)):
        weight = graph.weight(op.input(slot))
        if weight is None and op.input(slot):
            return None
        end = float(op.attribute(name, default) if weight is None else weight.array().reshape(()))
        ends.append(end if abs(end) < _UNBOUNDED else default)
    return ends[0], ends[1]
