"""What a learned estimator has to beat: proportion to MACs, the roofline alone, a random forest on plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, get_args

import numpy as np

from graphopt.cost.categories import Category
from graphopt.cost.features import rows
from graphopt.cost.roofline import price
from graphopt.cost.workload import Workload
from graphopt.measure.data import MeasuredNet, measured_kernels
from graphopt.measure.evaluation import Estimator, Real
from graphopt.targets.target import Target

_TREES: Final = 100
_LEAST_US: Final = 1e-3


def flops_only(training: Sequence[MeasuredNet]) -> Estimator:
    """Latency in proportion to MACs; the factor is the median over whole nets."""
    ratios = [net.total_us / total for net in training if (total := float(_macs(net.loads).sum()))]
    factor = float(np.median(ratios)) if ratios else 0.0
    return lambda loads: _macs(loads) * factor


def _macs(loads: Sequence[Workload]) -> Real:
    return np.array([float(load.macs) for load in loads], np.float64)


def roofline_only(training: Sequence[MeasuredNet], target: Target) -> Estimator:
    """The target's analytic estimate, scaled by one factor so that the median net is right."""

    def analytic(loads: Sequence[Workload]) -> Real:
        return np.array([float(price(load, target).latency_us) for load in loads], np.float64)

    factor = float(np.median([net.total_us / analytic(net.loads).sum() for net in training])) if training else 1.0
    return lambda loads: analytic(loads) * factor


def raw_forest(training: Sequence[MeasuredNet], target: Target, *, seed: int = 0) -> Estimator:
    """A random forest that sees each kernel's plain dimensions and predicts the logarithm of its latency."""
    from sklearn.ensemble import RandomForestRegressor

    kernels = measured_kernels(training)
    columns = _with_category([kernel.load for kernel in kernels], target)
    goal = np.log(np.maximum([kernel.latency_us for kernel in kernels], _LEAST_US))
    forest = RandomForestRegressor(_TREES, min_samples_leaf=2, max_features=0.5, random_state=seed)
    forest.fit(columns, goal)
    return lambda loads: np.asarray(np.exp(forest.predict(_with_category(loads, target))), np.float64)


def _with_category(loads: Sequence[Workload], target: Target) -> Real:
    names = get_args(Category)
    category = [names.index(load.category) for load in loads]
    return np.column_stack([rows(loads, target).columns, category])
