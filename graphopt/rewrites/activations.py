"""Recognise an activation however it is spelled: by what it computes, not by its ops.

Exporters write the hard-swish as one op, as ``x * HardSigmoid(x)``, or as Add, Clip, Mul and Div in any order. All of
these are closed regions of scalar ops: one tensor goes in, one comes out. So the region is grown from its input,
evaluated on a few hundred points, and compared with the curves that are known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt

from graphopt.ir.graph import Graph
from graphopt.ir.op import Op

Values = npt.NDArray[np.float64]

_MOST_OPS = 8
_POINTS: Values = np.concatenate([[-1e4, -100.0], np.linspace(-12.0, 12.0, 385), [100.0, 1e4]])


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation found in a graph.

    Attributes:
        kind: ``relu``, ``relu6``, ``clip`` (any other bounds), ``hard-swish`` or ``silu``.
        ops: keys of the ops that spell it, in file order.
        output: the tensor that leaves it.
        low: lowest value of a clipped activation, ``-inf`` for one without.
        high: highest value of a clipped activation, ``inf`` for one without.
    """

    kind: str
    ops: tuple[str, ...]
    output: str
    low: float = -np.inf
    high: float = np.inf


def match_activation(graph: Graph, tensor: str) -> Activation | None:
    """Return the longest known activation that takes in the whole of ``tensor``.

    Every use of ``tensor`` and of the tensors inside lies within the activation, so its ops can be taken out together.
    ``None`` when there is no such activation.
    """
    values: dict[str, Values] = {tensor: _POINTS}
    region: dict[str, Op] = {}
    found: Activation | None = None
    while len(region) < _MOST_OPS:
        op = _next_scalar_op(graph, values, region)
        if op is None:
            return found
        region[op.key] = op
        values[op.key] = _evaluate(graph, op, values)
        if any(name != op.key and _leaks(graph, name, region) for name in values):
            continue
        keys = tuple(sorted(region, key=graph.position))
        found = _classify(values[op.key], keys, op.key) or found
    return found


def is_scalar_op(graph: Graph, op: Op) -> bool:
    """Whether ``op`` maps one value to one value: a known elementwise op whose other operands are single constants."""
    if op.domain not in ("", "ai.onnx") or op.op_type not in _FUNCTIONS or len(op.outputs) != 1:
        return False
    return all(_constant(graph, name) is not None for name in op.inputs if name and name in graph.weights)


def _next_scalar_op(graph: Graph, values: dict[str, Values], region: dict[str, Op]) -> Op | None:
    """The first op in file order that reads a known value, and known values and single constants only."""
    ready = {
        use.op.key: use.op
        for name in values
        for use in graph.uses(name)
        if use.op.key not in region
        and use.slot >= 0
        and is_scalar_op(graph, use.op)
        and all(not read or read in values or read in graph.weights for read in use.op.inputs)
    }
    return min(ready.values(), key=lambda op: graph.position(op.key), default=None)


def _leaks(graph: Graph, name: str, region: dict[str, Op]) -> bool:
    return graph.is_output(name) or any(use.op.key not in region for use in graph.uses(name))


def _constant(graph: Graph, name: str) -> float | None:
    weight = graph.weight(name)
    return float(weight.array().reshape(())) if weight is not None and weight.size == 1 else None


def _evaluate(graph: Graph, op: Op, values: dict[str, Values]) -> Values:
    operands: list[Values | None] = []
    for name in op.inputs:
        if name in values:
            operands.append(values[name])
        else:
            constant = _constant(graph, name) if name else None
            operands.append(None if constant is None else np.full_like(_POINTS, constant))
    with np.errstate(all="ignore"):
        return _FUNCTIONS[op.op_type](op, operands)


def _classify(curve: Values, ops: tuple[str, ...], output: str) -> Activation | None:
    low, high = float(curve[0]), float(curve[-1])
    if not np.isfinite(curve).all():
        return None
    if low < high and np.allclose(curve, np.clip(_POINTS, low, high), rtol=1e-4, atol=1e-4):
        low = low if low > _POINTS[0] else -np.inf
        high = high if high < _POINTS[-1] else np.inf
        if np.isinf(low) and np.isinf(high):
            return None  # nothing happens here
        kind = "relu" if low == 0 and np.isinf(high) else "relu6" if low == 0 and high == 6 else "clip"
        return Activation(kind, ops, output, low, high)
    for kind, known in _CURVES.items():
        if np.allclose(curve, known, rtol=1e-3, atol=1e-3):
            return Activation(kind, ops, output)
    return None


def _sigmoid(x: Values) -> Values:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -500.0, 500.0))))


_CURVES: dict[str, Values] = {
    "hard-swish": _POINTS * np.clip(_POINTS / 6 + 0.5, 0, 1),
    "silu": _POINTS * _sigmoid(_POINTS),
}


def _clip(op: Op, operands: list[Values | None]) -> Values:
    (x, low, high) = (*operands, None, None)[:3]
    low = np.asarray(op.attribute("min", -np.inf)) if low is None else low
    high = np.asarray(op.attribute("max", np.inf)) if high is None else high
    assert x is not None
    return np.asarray(np.minimum(np.maximum(x, low), high))


def _hard_sigmoid(x: Values, alpha: float, beta: float) -> Values:
    return np.asarray(np.clip(alpha * x + beta, 0.0, 1.0))


def _fold(function: Callable[[Values, Values], Values]) -> Callable[[Op, list[Values | None]], Values]:
    return lambda op, operands: reduce(function, [x for x in operands if x is not None])


def _unary(function: Callable[[Op, Values], Values]) -> Callable[[Op, list[Values | None]], Values]:
    def apply(op: Op, operands: list[Values | None]) -> Values:
        assert operands[0] is not None
        return function(op, operands[0])

    return apply


_FUNCTIONS: dict[str, Callable[[Op, list[Values | None]], Values]] = {
    "Add": _fold(np.add),
    "Clip": _clip,
    "Div": _fold(np.divide),
    "Exp": _unary(lambda op, x: np.exp(x)),
    "HardSigmoid": _unary(lambda op, x: _hard_sigmoid(x, op.attribute("alpha", 0.2), op.attribute("beta", 0.5))),
    "HardSwish": _unary(lambda op, x: x * _hard_sigmoid(x, 1 / 6, 0.5)),
    "Max": _fold(np.maximum),
    "Min": _fold(np.minimum),
    "Mul": _fold(np.multiply),
    "Neg": _unary(lambda op, x: -x),
    "Relu": _unary(lambda op, x: np.maximum(x, 0.0)),
    "Sigmoid": _unary(lambda op, x: _sigmoid(x)),
    "Sub": _fold(np.subtract),
    "Swish": _unary(lambda op, x: x * _sigmoid(op.attribute("alpha", 1.0) * x)),
}
