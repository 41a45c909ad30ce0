"""A latency model learned from measured kernels: a roofline with fitted coefficients times boosted trees.

For each category of work

    latency = max over units of (coefficients . terms) x exp(trees(inputs))     relative one sigma = exp(spread(inputs))

The *units* of a device work side by side, and a kernel takes as long as the slowest: its MACs, the traffic on the chip,
the traffic off it. Where a measuring tool tells how long each of them is busy, each is learned for itself, which is
easier to learn than their maximum; where it does not, the whole latency is one unit.

A category may be split further where its op types have little in common (``copy:Pad``); what is not learned apart is
priced as its category. Terms and inputs are those of `graphopt.cost.features`: the roofline carries sizes far from the
measured ones, the trees what makes a chip rocky. ``spread`` is a second, small sum of trees, fitted to errors on nets
that were held out. Training is `graphopt.measure.fit`; nothing here needs more than numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from graphopt.cost.features import INPUTS, SIZES, TERMS, added, features, inputs, rows, terms
from graphopt.cost.trees import Real, Single, Trees
from graphopt.cost.workload import Workload
from graphopt.targets.target import Target

Unit = Literal["whole", "compute", "on-chip", "off-chip"]

UNITS: Final[tuple[Unit, ...]] = ("whole", "compute", "on-chip", "off-chip")
"""What works side by side: MACs and the like, traffic to memory on the chip, traffic to memory off it. ``whole`` is the
latency where nobody tells them apart."""

EXTRAPOLATED: Final = 0.3
"""Relative uncertainty, at least, of a kernel larger or smaller than any that was measured."""

PADDING: Final = "copy:Pad"
"""What a padding of channels is learned as (`apart`)."""

FAR: Final = 3
"""The largest stride that is nothing special."""

_SLACK: Final = float(np.log(1.1))
"""How far beyond the measured sizes (10 %) still counts as within."""


def _misshapen(model: object, expected: Mapping[str, tuple[tuple[int, ...], Any]]) -> str:
    """What is wrong with the shapes and types of a model's arrays, or ``""``."""
    for name, (shape, dtype) in expected.items():
        array = getattr(model, name)
        if array.shape != shape or array.dtype != dtype:
            return f"{name} is {array.dtype}{list(array.shape)} and should be {np.dtype(dtype)}{list(shape)}"
    return ""


def apart(load: Workload) -> str:
    """The name under which work like this may be learned apart from the rest of its category: by op type.

    A concatenation with constants is a padding: to fill memory is what takes the time. Convolutions with strides beyond
    `FAR` are a kind of their own: MAC arrays take them as other work.
    """
    if max(load.stride_height, load.stride_width) > FAR:
        return f"{load.category}:far"
    if load.op_type == "Concat" and bool(np.any(load.weight_elements)):
        return PADDING
    return f"{load.category}:{load.op_type}"


@dataclass(frozen=True, slots=True, eq=False)
class UnitModel:
    """How long one unit is busy with the work of one category.

    Attributes:
        tiles: channels in and out that the hardware pads to, shape (2,).
        coefficients: microseconds for each of the roofline's terms, not negative, shape (len(TERMS),).
        trees: the logarithm of busy time over roofline.
    """

    tiles: npt.NDArray[np.int64]
    coefficients: Real
    trees: Trees

    def fault(self) -> str:
        """Return what is wrong with the arrays, or ``""``."""
        expected = {"tiles": ((2,), np.int64), "coefficients": ((len(TERMS),), np.float64)}
        if fault := _misshapen(self, expected):
            return fault
        if not np.isfinite(self.coefficients).all():
            return "a number is not finite"
        if (self.tiles < 1).any() or (self.coefficients < 0).any() or not self.coefficients.any():
            return "tiles must be positive, coefficients not negative and not all zero"
        fault = self.trees.fault(len(INPUTS))
        return f"trees: {fault}" if fault else ""

    def parts_us(self, columns: Real) -> Real:
        """Return what each of the roofline's terms comes to, microseconds, shape (rows, len(TERMS))."""
        return terms(columns, int(self.tiles[0]), int(self.tiles[1])) * self.coefficients


@dataclass(frozen=True, slots=True, eq=False)
class CategoryModel:
    """What was learned about one category.

    Attributes:
        units: what is busy with it, at least one; ``whole`` where the latency is all that is known.
        low, high: the smallest and largest of the first `SIZES` features that were measured, shape (SIZES,).
        spread: the logarithm of the relative uncertainty, from the inputs of the slowest unit.
    """

    units: Mapping[Unit, UnitModel]
    low: Single
    high: Single
    spread: Trees

    def fault(self) -> str:
        """Return what is wrong with the arrays, or ``""``."""
        expected = {"low": ((SIZES,), np.float32), "high": ((SIZES,), np.float32)}
        if fault := _misshapen(self, expected):
            return fault
        if not all(np.isfinite(array).all() for array in (self.low, self.high)):
            return "a number is not finite"
        for name, unit in self.units.items():
            if fault := unit.fault():
                return f"{name}: {fault}"
        fault = self.spread.fault(len(INPUTS))
        return f"spread: {fault}" if fault else ""

    def predict(self, columns: Real, target: Target) -> tuple[Real, npt.NDArray[np.intp], Single]:
        """Return latencies of rows of columns, microseconds; which unit is the slowest; and what its trees saw."""
        own = features(columns, target)
        rooflines = [unit.parts_us(columns) for unit in self.units.values()]
        seen = np.stack([inputs(own, parts) for parts in rooflines])
        each = zip(self.units.values(), rooflines, seen, strict=True)
        busy = np.stack([added(parts) * np.exp(unit.trees.predict(table)) for unit, parts, table in each])
        slowest = busy.argmax(axis=0)
        row = np.arange(len(columns))
        return busy[slowest, row], slowest, seen[slowest, row]


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Latencies of one workload's entries, in its shape.

    Attributes:
        latency_us: microseconds.
        unit: the slowest one, as an index into `UNITS`.
        uncertainty: relative, one sigma.
        extrapolates: whether an entry lies outside of what was measured.
    """

    latency_us: Real
    unit: npt.NDArray[np.int8]
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
            latency, slowest, seen = model.predict(table.columns, target)
            unit = np.array([UNITS.index(name) for name in model.units], np.int8)[slowest]
            sizes = seen[:, :SIZES]
            outside = np.asarray(((sizes < model.low - _SLACK) | (sizes > model.high + _SLACK)).any(axis=1), np.bool_)
            sigma = np.exp(model.spread.predict(seen))
            sigma = np.where(outside, np.maximum(sigma, EXTRAPOLATED), sigma)
            entries = (table.split(latency), table.split(unit), table.split(sigma), table.split(outside))
            for position, values in zip(which, zip(*entries, strict=True), strict=True):
                found[position] = Prediction(*values)
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
