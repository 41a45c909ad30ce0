"""A latency model learned from measured kernels: a roofline with fitted coefficients times boosted trees.

For each category of work

    latency = (coefficients . terms) x exp(trees(inputs))        relative one sigma = exp(spread(inputs))

A category may be split further where its op types have little in common (``copy:Pad``); what is not learned apart is
priced as its category. Terms and inputs are those of `graphopt.cost.features`: the roofline carries sizes far from the
measured ones, the trees what makes a chip rocky. ``spread`` is a second, small sum of trees, fitted to errors on nets
that were held out. Training is `graphopt.measure.fit`; nothing here needs more than numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from graphopt.cost.features import INPUTS, SIZES, TERMS, added, inputs, rows, terms
from graphopt.cost.trees import Real, Single, Trees
from graphopt.cost.workload import Workload
from graphopt.targets.target import Target

EXTRAPOLATED: Final = 0.3
"""Relative uncertainty, at least, of a kernel larger or smaller than any that was measured."""

FAR: Final = 3
"""The largest stride that is nothing special."""

_SLACK: Final = float(np.log(1.1))
"""How far beyond the measured sizes (10 %) still counts as within."""


def apart(load: Workload) -> str:
    """The name under which work like this may be learned apart from the rest of its category: by op type.

    A concatenation with constants is a padding: to fill memory is what takes the time. Convolutions with strides beyond
    `FAR` are a kind of their own: MAC arrays take them as other work.
    """
    if max(load.stride_height, load.stride_width) > FAR:
        return f"{load.category}:far"
    fills = load.op_type == "Concat" and bool(np.any(load.weight_elements))
    return f"{load.category}:{'Pad' if fills else load.op_type}"


@dataclass(frozen=True, slots=True, eq=False)
class CategoryModel:
    """What was learned about one category.

    Attributes:
        tiles: channels in and out that the hardware pads to, shape (2,).
        coefficients: microseconds for each of the roofline's terms, not negative, shape (len(TERMS),).
        low, high: the smallest and largest of the first `SIZES` features that were measured, shape (SIZES,).
        trees: the logarithm of latency over roofline.
        spread: the logarithm of the relative uncertainty.
    """

    tiles: npt.NDArray[np.int64]
    coefficients: Real
    low: Single
    high: Single
    trees: Trees
    spread: Trees

    def fault(self) -> str:
        """Return what is wrong with the arrays, or ``""``."""
        expected = {
            "tiles": ((2,), np.int64),
            "coefficients": ((len(TERMS),), np.float64),
            "low": ((SIZES,), np.float32),
            "high": ((SIZES,), np.float32),
        }
        for name, (shape, dtype) in expected.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != dtype:
                return f"{name} is {array.dtype}{list(array.shape)} and should be {np.dtype(dtype)}{list(shape)}"
        if not all(np.isfinite(array).all() for array in (self.coefficients, self.low, self.high)):
            return "a number is not finite"
        if (self.tiles < 1).any() or (self.coefficients < 0).any() or not self.coefficients.any():
            return "tiles must be positive, coefficients not negative and not all zero"
        for name in ("trees", "spread"):
            if fault := getattr(self, name).fault(len(INPUTS)):
                return f"{name}: {fault}"
        return ""

    def parts_us(self, columns: Real) -> Real:
        """Return what each of the roofline's terms comes to, microseconds, shape (rows, len(TERMS))."""
        return terms(columns, int(self.tiles[0]), int(self.tiles[1])) * self.coefficients


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Latencies of one workload's entries, in its shape.

    Attributes:
        latency_us: microseconds.
        uncertainty: relative, one sigma.
        extrapolates: whether an entry lies outside of what was measured.
    """

    latency_us: Real
    uncertainty: Real
    extrapolates: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """A learned estimator.

    Attributes:
        categories: what was learned, by category, or by category and op type (`apart`).
        correlation: how much the errors of one net's kernels go together, 0 to 1.
    """

    categories: Mapping[str, CategoryModel]
    correlation: float = 0.0

    def predict(self, loads: Sequence[Workload], target: Target) -> list[Prediction | None]:
        """Predict many workloads in one pass; ``None`` for a workload of a category that was not learned."""
        found: list[Prediction | None] = [None] * len(loads)
        names = [self._learned_as(load) for load in loads]
        for name, model in self.categories.items():
            which = [position for position, own in enumerate(names) if own == name]
            if not which:
                continue
            table = rows([loads[position] for position in which], target)
            parts = model.parts_us(table.columns)
            seen = inputs(table.columns, parts, target)
            latency = added(parts) * np.exp(model.trees.predict(seen))
            sizes = seen[:, :SIZES]
            outside = np.asarray(((sizes < model.low - _SLACK) | (sizes > model.high + _SLACK)).any(axis=1), np.bool_)
            sigma = np.exp(model.spread.predict(seen))
            sigma = np.where(outside, np.maximum(sigma, EXTRAPOLATED), sigma)
            values = zip(which, table.split(latency), table.split(sigma), table.split(outside), strict=True)
            for position, *entries in values:
                found[position] = Prediction(*entries)
        return found

    def _learned_as(self, load: Workload) -> str:
        own = apart(load)
        return own if own in self.categories else load.category

    def total_uncertainty(self, latency_us: Real, uncertainty: Real) -> float:
        """Return the relative one sigma of a sum of kernels, given each one's latency and relative one sigma.

        Errors that are partly shared: variance = (1 - correlation) x sum of squares + correlation x square of the sum.
        """
        total = float(latency_us.sum())
        if total <= 0:
            return 0.0
        sigmas = latency_us * uncertainty
        shared = self.correlation
        return float(np.sqrt((1 - shared) * (sigmas**2).sum() + shared * sigmas.sum() ** 2)) / total
