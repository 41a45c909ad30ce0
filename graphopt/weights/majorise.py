"""Fit what comes *out of* the activation behind a linear op, by a sequence of least-squares problems.

The loss is ``1/2 |f(P) - f(Z)|^2`` for predictions P and the original's values Z in front of the activation f.

* Clipped f (ReLU, ReLU6): where Z is clipped, every P beyond the same bound is as good, so the target there is
  one-sided: ``min(P, low)`` or ``max(P, high)``; elsewhere it is Z. ``|P - T|^2`` bounds the loss from above.
* Smooth f (hard-swish, SiLU): ``T = P - f'(P) (f(P) - f(Z)) / L``. With a curvature L that is large enough ``L/2 |P' -
  T|^2`` bounds the loss (up to a constant) and touches it at P: each solve lowers it. L is doubled until it does.

(Hunter and Lange, "A tutorial on MM algorithms", 2004.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.rewrites.activations import Activation
from graphopt.weights.least_squares import Ridge
from graphopt.weights.linear import Doubles, Floats

_STEPS = 16
_FEWEST_STEPS = 4
_OPERATIONS = 1e12
"""Multiplications and additions that the steps of one op may take: a wide kernel gets fewer of them."""
_PATIENCE = 4
_CURVATURE = 1.25
_MOST_CURVATURE = 40.0


def apply(activation: Activation | None, values: Floats) -> Floats:
    """``f(values)``; ``None`` is the identity."""
    if activation is None:
        return values
    if activation.kind in ("hard-swish", "silu"):
        return np.asarray(values * _gate(activation.kind, values))
    return np.clip(values, activation.low, activation.high)


def _gate(kind: str, x: Floats) -> Floats:
    if kind == "silu":
        return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))))
    return np.clip(x / 6 + np.float32(0.5), 0, 1)


def slope(kind: str, x: Floats) -> Floats:
    """The derivative of hard-swish or SiLU."""
    gate = _gate(kind, x)
    inner = gate * (1 - gate) if kind == "silu" else np.where(np.abs(x) < 3, np.float32(1 / 6), np.float32(0))
    return np.asarray(gate + x * inner)


def error(activation: Activation | None, predicted: Floats, wanted: Floats) -> float:
    """Relative error behind the activation: the root of squared error over the wanted values' variation.

    Args:
        activation: f.
        predicted: P, shape (groups, n, outputs).
        wanted: Z, the same shape.
    """
    target = apply(activation, wanted)
    off = float(np.square(apply(activation, predicted) - target, dtype=np.float64).sum())
    variation = float(np.square(target - target.mean(axis=1, keepdims=True), dtype=np.float64).sum())
    size = float(np.square(target, dtype=np.float64).sum())
    if off == 0.0:
        return 0.0
    return float(np.sqrt(off / max(variation, 1e-12 * size, 1e-30)))


def targets(activation: Activation, predicted: Floats, wanted: Floats, curvature: float) -> Floats:
    """What the next least-squares problem aims at (see the module's docstring)."""
    if activation.kind in ("hard-swish", "silu"):
        off = apply(activation, predicted) - apply(activation, wanted)
        return np.asarray(predicted - slope(activation.kind, predicted) * off / np.float32(curvature))
    low = np.minimum(predicted, activation.low)
    high = np.maximum(predicted, activation.high)
    return np.where(wanted <= activation.low, low, np.where(wanted >= activation.high, high, wanted))


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """Weights with their held-out error: ``weights`` (groups, columns, outputs), ``centre`` (groups, 1, outputs)."""

    weights: Doubles
    centre: Doubles
    error: float
    method: str


def majorise(
    ridge: Ridge, activation: Activation, start: Fitted, wanted: Floats, offset: Floats | None, inverse: Doubles
) -> Fitted:
    """Improve ``start`` by majorise-minimise steps with momentum; return the step that does best on held-out rows.

    Args:
        ridge: the rows.
        activation: what follows.
        start: where to begin; each step is a ridge centred on the one before (a proximal step).
        wanted: Z for all rows, shape (groups, n, outputs).
        offset: what is added to the op's output in front of the activation (a residual's skip), like ``wanted``.
        inverse: of the penalised Gram matrix, shape (groups, columns, columns).
    """
    n = ridge.train
    goal, held = wanted[:, :n], wanted[:, n:]
    add = 0.0 if offset is None else offset[:, :n]
    add_held = 0.0 if offset is None else offset[:, n:]
    best, idle, curvature = start, 0, _CURVATURE
    weights, centre = start.weights, start.centre
    momentum_w, momentum_c = np.zeros_like(weights), np.zeros_like(centre)
    loss, age = np.inf, 0
    smooth = activation.kind in ("hard-swish", "silu")
    groups, columns, outputs = weights.shape
    each = 2.0 * groups * columns * outputs * (2 * n + columns)
    for _ in range(max(_FEWEST_STEPS, min(_STEPS, int(_OPERATIONS / each)))):
        share = age / (age + 3)
        at_w, at_c = weights + share * momentum_w, centre + share * momentum_c
        predicted = ridge.predict(at_w, at_c, held_out=False) + add
        now = error(activation, predicted, goal)
        if now > loss and age:  # the momentum overshot, or the bound was none: back, without it
            if share == 0.0 or age == 1:
                curvature *= 2
            if smooth and curvature > _MOST_CURVATURE:
                break
            age = 0
            weights, centre = weights - momentum_w, centre - momentum_c
            momentum_w, momentum_c = np.zeros_like(weights), np.zeros_like(centre)
            loss = np.inf
            continue
        loss = now
        residual = targets(activation, predicted, goal, curvature) - predicted
        new_w = at_w + inverse @ ridge.right(residual)
        new_c = ridge.new_centre(residual, at_c)
        momentum_w, momentum_c = new_w - weights, new_c - centre
        weights, centre, age = new_w, new_c, age + 1
        there = error(activation, ridge.predict(weights, centre, held_out=True) + add_held, held)
        if there < best.error:
            best, idle = Fitted(weights, centre, there, "majorise-minimise"), 0
        else:
            idle += 1
            if idle == _PATIENCE:
                break
    return best
