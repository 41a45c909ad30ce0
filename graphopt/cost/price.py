"""Price many workloads at once: with the estimator that a target has learned, or analytically where it has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from graphopt.cost.learned import UNITS, Learned, Prediction, Unit
from graphopt.cost.learned_file import read_learned
from graphopt.cost.roofline import BOUNDS, Bound, Price, price
from graphopt.cost.workload import Workload
from graphopt.targets.target import Target

_BOUND_BY: Final[Mapping[Unit, Bound]] = {"compute": "compute", "on-chip": "on-chip", "off-chip": "memory"}
_BOUND_OF: Final = np.array([BOUNDS.index(_BOUND_BY[unit]) if unit in _BOUND_BY else -1 for unit in UNITS], np.int8)
"""The index into `BOUNDS` of each of `UNITS`; -1 of one that does not tell."""

UNLEARNED = 1.0
"""Relative uncertainty of a learned target's kernel of a category that was not measured: the roofline's guess."""


def price_all(loads: Sequence[Workload], target: Target) -> list[Price]:
    """Price workloads, each a number or arrays that broadcast.

    On a target with a learned estimator latencies are its predictions, with their uncertainty and what bounds them;
    everything else is counted, not learned. Without one, prices are `roofline.price`'s.

    Raises:
        ConfigError: when the estimator that the target file names is missing or damaged.
    """
    return price_with(loads, target, learned_of(target))


def price_with(loads: Sequence[Workload], target: Target, learned: Learned | None) -> list[Price]:
    """Price workloads with a given estimator instead of the target's own; categories that it lacks analytically."""
    counted = [price(load, target) for load in loads]
    if learned is None:
        return counted
    found = []
    for analytic, prediction in zip(counted, learned.predict(loads, target), strict=True):
        if prediction is None:
            guess = np.full_like(analytic.latency_us, UNLEARNED)
            found.append(replace(analytic, uncertainty=guess, extrapolates=np.ones_like(guess, np.bool_)))
            continue
        found.append(
            replace(
                analytic,
                latency_us=prediction.latency_us,
                bound=_bound(prediction, analytic),
                uncertainty=prediction.uncertainty,
                extrapolates=prediction.extrapolates,
            )
        )
    return found


def _bound(prediction: Prediction, analytic: Price) -> npt.NDArray[np.int8]:
    """What was measured to be the slowest; where nobody could tell, what the roofline says."""
    found = _BOUND_OF[prediction.unit]
    return np.where(found < 0, analytic.bound, found)


def learned_of(target: Target) -> Learned | None:
    """Return the target's learned estimator, read when it is first asked for.

    Raises:
        ConfigError: see `read_learned`.
    """
    if target.estimator is None:
        return None
    return _read(target.estimator.path, target.estimator.sha256)


@lru_cache(maxsize=8)
def _read(path: str, sha256: str) -> Learned:
    return read_learned(path, sha256)
