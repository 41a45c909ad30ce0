"""One unit's new weights: a few candidates, judged on held-out rows by what leaves the activation."""

from __future__ import annotations

import numpy as np

from graphopt.rewrites.activations import Activation
from graphopt.weights.least_squares import Ridge
from graphopt.weights.linear import Doubles, Floats
from graphopt.weights.majorise import Fitted, error, majorise

LAMBDAS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Penalties to choose from, relative to the mean of the Gram matrix' diagonal."""

UNCHANGED = "unchanged"


def fit(
    rows: Floats,
    train: int,
    wanted: Floats,
    offset: Floats | None,
    weights: Doubles,
    bias: Doubles,
    activation: Activation | None,
    *,
    intercept: bool = True,
    tolerance: float = 0.0,
) -> tuple[Fitted, float, Doubles]:
    """Return the best weights found, the held-out error before, and the new bias.

    Never worse: the present weights are among the candidates.

    Args:
        rows: what the op reads, shape (groups, n, columns); centred in place.
        train: the first rows, to solve on; the others choose.
        wanted: the original's values in front of the activation, shape (groups, n, outputs).
        offset: what is added to the op's output on the way there, or ``None``.
        weights: present weights, shape (groups, columns, outputs).
        bias: present bias, shape (groups, 1, outputs).
        activation: what follows, ``None`` for nothing that is known.
        intercept: whether the op can take a bias.
        tolerance: an error that needs no repair.
    """
    ridge = Ridge(rows, train, intercept=intercept)
    centre = ridge.centre(weights, bias)
    held = wanted[:, train:]
    held_offset = 0.0 if offset is None else offset[:, train:]

    def judged(weights: Doubles, centre: Doubles, method: str) -> Fitted:
        predicted = ridge.predict(weights, centre, held_out=True) + held_offset
        return Fitted(weights, centre, error(activation, predicted, held), method)

    before = judged(weights, centre, UNCHANGED)
    if before.error <= tolerance:
        return before, before.error, bias
    goal = wanted[:, :train] if offset is None else wanted[:, :train] - offset[:, :train]
    scaled = judged(*_rescaled(ridge, weights, centre, goal), "rescaled")
    residual = goal - ridge.predict(scaled.weights, scaled.centre, held_out=False)
    right, middle = ridge.right(residual), ridge.new_centre(residual, scaled.centre)
    best, lam = min(before, scaled, key=lambda one: one.error), LAMBDAS[-1]
    for candidate in LAMBDAS:
        step = np.linalg.solve(ridge.penalised(candidate), right)
        found = judged(scaled.weights + step, middle, "least-squares")
        if found.error < best.error:
            best, lam = found, candidate
    if activation is not None and best.error > 0.0:
        inverse = np.linalg.inv(ridge.penalised(lam)).astype(np.float64)
        best = majorise(ridge, activation, best, wanted, offset, inverse)
    return best, before.error, bias if best is before else ridge.bias(best.weights, best.centre)


def _rescaled(ridge: Ridge, weights: Doubles, centre: Doubles, goal: Floats) -> tuple[Doubles, Doubles]:
    """Scale and shift each output so that it fits ``goal`` best: a composed kernel has the wrong size."""
    predicted = ridge.predict(weights, centre, held_out=False)
    if not ridge.intercept:
        energy = np.square(predicted, dtype=np.float64).sum(axis=1, keepdims=True)
        shared = (predicted.astype(np.float64) * goal).sum(axis=1, keepdims=True)
        return weights * _ratio(shared, energy), centre
    mean = predicted.mean(axis=1, keepdims=True, dtype=np.float64)
    wanted = goal.mean(axis=1, keepdims=True, dtype=np.float64)
    away = predicted - mean
    scale = _ratio((away * (goal - wanted)).sum(axis=1, keepdims=True), np.square(away).sum(axis=1, keepdims=True))
    return weights * scale, np.asarray(wanted)


def _ratio(shared: Doubles, energy: Doubles) -> Doubles:
    """The regression slope, 1 for an output that does not vary; never negative."""
    flat = energy <= 1e-12 * max(float(energy.max()), 1e-30)
    return np.asarray(np.where(flat, 1.0, np.maximum(shared / np.where(flat, 1.0, energy), 0.0)))
