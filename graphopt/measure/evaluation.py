"""How good an estimator is: estimates beside measurements, for kernels and for whole nets.

Measurements and estimates meet here and nowhere else. A *hit* is an estimate whose relative error is at most so much;
MAPE is the mean absolute relative error; Spearman's coefficient compares the orders. A group of kernels that were
measured together is judged by its sum. Kernels of no measured latency (the device did without them) are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.cost.workload import Workload
from graphopt.measure.data import MeasuredNet

Real = npt.NDArray[np.float64]

Estimator = Callable[[Sequence[Workload]], Real]
"""Latencies of kernels in microseconds, one for each workload."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """One net's measurements and estimates.

    Attributes:
        net: what was measured.
        estimated_us: of the whole net.
        kernels: (measured, estimated) microseconds of each kernel or group that was measured, shape (groups, 2).
    """

    net: MeasuredNet
    estimated_us: float
    kernels: Real


@dataclass(frozen=True, slots=True)
class Score:
    """How far estimates are from measurements.

    Attributes:
        count: how many were compared.
        mape: mean absolute relative error.
        within_5: share within 5 %.
        within_10: share within 10 %.
        spearman: rank correlation; ``nan`` for fewer than three.
    """

    count: int
    mape: float
    within_5: float
    within_10: float
    spearman: float


def judge(nets: Iterable[MeasuredNet], estimator: Estimator) -> list[Judged]:
    """Estimate nets, all their kernels in one call."""
    nets = list(nets)
    loads = [load for net in nets for load in net.loads]
    latency_us = estimator(loads) if loads else np.zeros(0)
    judged = []
    start = 0
    for net in nets:
        own = latency_us[start : start + len(net.loads)]
        start += len(net.loads)
        pairs = [(group.latency_us, float(own[list(group.kernels)].sum())) for group in net.groups]
        judged.append(Judged(net, float(own.sum()), np.array(pairs, np.float64).reshape(-1, 2)))
    return judged


def net_score(judged: Sequence[Judged]) -> Score:
    """The score of whole nets."""
    return score(np.array([(one.net.total_us, one.estimated_us) for one in judged]).reshape(-1, 2))


def kernel_score(judged: Sequence[Judged]) -> Score:
    """The score of kernels."""
    return score(np.concatenate([one.kernels for one in judged]) if judged else np.zeros((0, 2)))


def score(pairs: Real) -> Score:
    """Compare (measured, estimated) pairs, shape (pairs, 2)."""
    measured, estimated = pairs[pairs[:, 0] > 0].T
    if not len(measured):
        return Score(0, np.nan, np.nan, np.nan, np.nan)
    error = np.abs(estimated / measured - 1)
    return Score(
        count=len(measured),
        mape=float(error.mean()),
        within_5=float((error <= 0.05).mean()),
        within_10=float((error <= 0.10).mean()),
        spearman=_spearman(measured, estimated),
    )


def _spearman(a: Real, b: Real) -> float:
    """Pearson's coefficient of the ranks, those of equals averaged."""
    ranks = _ranks(a), _ranks(b)
    if len(a) < 3 or any(np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: Real) -> Real:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place], np.float64)
