"""One unit's new weights: a few candidates, judged on held-out rows by what leaves the activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from graphopt.rewrites.activations import Activation
from graphopt.weights.least_squares import Ridge
from graphopt.weights.linear import Doubles, Floats
from graphopt.weights.majorise import Fitted, error, majorise

LAMBDAS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Penalties to choose from, relative to the mean of the Gram matrix' diagonal."""

UNCHANGED = "unchanged"

Effort = Literal["shift", "scale", "solve"]
"""What may change: biases; each output's scale, too; all weights."""


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """What one op reads and what is wanted of it. The first ``train`` rows are solved on, the others choose.

    Attributes:
        rows: what the op reads, shape (groups, n, columns).
        train: number of rows to solve on.
        wanted: the original's values in front of the activation, shape (groups, n, outputs).
        offset: what is added to the op's output on the way there, or ``None``.
        weights: present weights, shape (groups, columns, outputs).
        bias: present bias, shape (groups, 1, outputs).
        activation: what follows, ``None`` for nothing that is known.
        intercept: whether the op can take a bias.
    """

    rows: Floats
    train: int
    wanted: Floats
    offset: Floats | None
    weights: Doubles
    bias: Doubles
    activation: Activation | None
    intercept: bool = True

    def held_out(self, predicted: Floats) -> float:
        """The error of predictions for the held-out rows (see `majorise.error`)."""
        offset = 0.0 if self.offset is None else self.offset[:, self.train :]
        return error(self.activation, predicted + offset, self.wanted[:, self.train :])

    def goal(self) -> Floats:
        """What the op itself should give on the rows to solve on."""
        wanted = self.wanted[:, : self.train]
        return wanted if self.offset is None else wanted - self.offset[:, : self.train]


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """The best weights found.

    Attributes:
        weights: shape (groups, columns, outputs).
        bias: shape (groups, 1, outputs).
        method: how they were found, ``unchanged`` for the present ones.
        before: held-out error of the present weights.
        after: held-out error of these; never larger.
    """

    weights: Doubles
    bias: Doubles
    method: str
    before: float
    after: float


def fit(problem: Problem, *, tolerance: float = 0.0, effort: Effort = "solve") -> Fit:
    """Return the best weights found; the present ones are among the candidates.

    Args:
        problem: the rows (centred in place) and what is wanted.
        tolerance: an error that needs no repair.
        effort: what may change. Only ``solve`` needs memory for a Gram matrix.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite end in an error that is none
        return _best(problem, tolerance, effort)


def _best(problem: Problem, tolerance: float, effort: Effort) -> Fit:
    ridge = Ridge(problem.rows, problem.train, intercept=problem.intercept)
    centre = ridge.centre(problem.weights, problem.bias)
    before = _judged(problem, ridge, problem.weights, centre, UNCHANGED)
    best = before
    if before.error > tolerance:  # which nan is not
        goal = problem.goal()
        if effort == "shift":
            residual = goal - ridge.predict(problem.weights, centre, held_out=False)
            first = problem.weights, ridge.new_centre(residual, centre), "shifted"
        else:
            first = *_rescaled(ridge, problem.weights, centre, goal), "rescaled"
        simple = _judged(problem, ridge, *first)
        best = min(before, simple, key=lambda one: one.error)
        if effort == "solve":
            best = _solved(problem, ridge, simple, best, goal)
    bias = problem.bias if best is before else ridge.bias(best.weights, best.centre)
    return Fit(best.weights, bias, best.method, before.error, best.error)


def _judged(problem: Problem, ridge: Ridge, weights: Doubles, centre: Doubles, method: str) -> Fitted:
    return Fitted(weights, centre, problem.held_out(ridge.predict(weights, centre, held_out=True)), method)


def _solved(problem: Problem, ridge: Ridge, prior: Fitted, best: Fitted, goal: Floats) -> Fitted:
    """Least squares around ``prior`` with every penalty, then majorise-minimise from what does best."""
    residual = goal - ridge.predict(prior.weights, prior.centre, held_out=False)
    right, centre = ridge.right(residual), ridge.new_centre(residual, prior.centre)
    lam = LAMBDAS[-1]
    for candidate in LAMBDAS:
        step = np.linalg.solve(ridge.penalised(candidate), right)
        found = _judged(problem, ridge, prior.weights + step, centre, "least-squares")
        if found.error < best.error:
            best, lam = found, candidate
    if problem.activation is None or best.error == 0.0:
        return best
    inverse = np.linalg.inv(ridge.penalised(lam)).astype(np.float64)
    return majorise(ridge, problem.activation, best, problem.wanted, problem.offset, inverse)


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
