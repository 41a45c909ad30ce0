"""Ridge regression centred on the present weights, group by group.

    min over W, c of  sum_n |Xc[n] W + c - T[n]|^2 + penalty |W - W0|^2
    Xc = X - mean(X),  penalty = lam * trace(Xc' Xc) / K

with the solution  D = (Xc' Xc + penalty I)^-1 Xc' (R - mean(R)),  W = W0 + D,  c = mean(R)  for  R = T - Xc W0. Columns
that never change (dead channels, padding) have a zero row in the Gram matrix: the penalty alone decides, and W keeps
its value there. Rows stay in single precision, the Gram matrix is accumulated in double precision.
"""

from __future__ import annotations

import numpy as np

from graphopt.weights.linear import Doubles, Floats

_BLOCK = 4096
_TINY = 1e-12


class Ridge:
    """The normal equations of one set of rows.

    Args:
        rows: shape (groups, n, columns); centred in place.
        train: the first ``train`` rows are solved on, the others are held out.
        intercept: whether there is a bias to fit; without one nothing is centred.

    Attributes:
        rows: the centred rows.
        train: number of rows to solve on.
        mean: what was subtracted, shape (groups, 1, columns).
    """

    def __init__(self, rows: Floats, train: int, *, intercept: bool = True) -> None:
        self.train = train
        self.intercept = intercept
        self.mean: Doubles = rows[:, :train].mean(axis=1, keepdims=True, dtype=np.float64)
        if not intercept:
            self.mean[:] = 0.0
        rows -= self.mean.astype(np.float32)
        self.rows = rows
        self._gram: Doubles | None = None
        self._diagonal: Doubles | None = None

    def _product(self, right: Floats) -> Doubles:
        """``rows' right`` over the rows to solve on."""
        total = np.zeros((self.rows.shape[0], self.rows.shape[2], right.shape[2]))
        for start in range(0, self.train, _BLOCK):
            here = slice(start, min(start + _BLOCK, self.train))
            total += np.matmul(self.rows[:, here].transpose(0, 2, 1), right[:, here])
        return total

    def right(self, residual: Floats) -> Doubles:
        """``Xc' residual``, shape (groups, columns, outputs). (Xc has no mean, so the residual's does not matter.)"""
        return self._product(residual)

    def penalised(self, lam: float) -> Doubles:
        """The Gram matrix with its penalty, shape (groups, columns, columns); good until the next call."""
        if self._gram is None or self._diagonal is None:
            self._gram = self._product(self.rows)
            self._diagonal = np.einsum("gkk->gk", self._gram).copy()
        penalty = lam * self._diagonal.mean(axis=1, keepdims=True) + _TINY
        np.einsum("gkk->gk", self._gram)[:] = self._diagonal + penalty
        return self._gram

    def predict(self, weights: Doubles, centre: Doubles, *, held_out: bool) -> Floats:
        """``Xc W + c`` on the rows to solve on, or on the held-out ones; shape (groups, n, outputs)."""
        here = self.rows[:, self.train :] if held_out else self.rows[:, : self.train]
        return np.asarray(np.matmul(here, weights.astype(np.float32)) + centre.astype(np.float32))

    def centre(self, weights: Doubles, bias: Doubles) -> Doubles:
        """The bias as it reads on centred rows."""
        return np.asarray(bias + self.mean @ weights)

    def bias(self, weights: Doubles, centre: Doubles) -> Doubles:
        """The bias as it reads on the rows themselves."""
        return np.asarray(centre - self.mean @ weights)

    def new_centre(self, residual: Floats, centre: Doubles) -> Doubles:
        """The best centre after a step whose residual (target minus ``Xc W0 + centre``) was ``residual``."""
        if not self.intercept:
            return centre
        return np.asarray(centre + residual.mean(axis=1, keepdims=True, dtype=np.float64))
