"""What candidates give up: measured drift where there are real inputs, else capacity.

Both add up over the decisions, so both stand in the same row of the table (`space.table.DRIFT`), and the search trades
them against latency and memory alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from graphopt.draft import Job, Progress
from graphopt.space.table import CostTable


@dataclass(frozen=True)
class Loss:
    """The table with what every option gives up.

    Attributes:
        table: the job's, its ``DRIFT`` row filled.
        measure: of the drifts in it (see :mod:`graphopt.verification.drift`), ``""`` where it is :func:`capacity_loss`
            and :func:`lossy_sites`.
        note: how it was measured, or what to know where it was not.
    """

    table: CostTable
    measure: str = ""
    note: str = ""

    @property
    def is_measured(self) -> bool:
        """Whether the row holds measured drifts."""
        return bool(self.measure)


LOSSY = 0.01
"""Of its share of the model, what a lossy change that keeps every channel gives up: little, and not nothing."""

CAPACITY_NOTE = (
    "no real inputs: what is given up is capacity, in which a lossy change that keeps its channels hardly counts; "
    "--calibration measures the drift"
)


def with_loss(job: Job, progress: Progress | None = None) -> Loss:
    """Return the job's table with measured drifts where there is calibration data, else with lost capacity.

    Raises:
        ModelError, VerificationError: a model does not run on the samples.
    """
    if job.data is None:
        lossy = lossy_sites(job)
        note = CAPACITY_NOTE if any(loss.any() for loss in lossy.values()) else ""
        return Loss(job.table.with_drift({**capacity_loss(job), **lossy}), note=note)
    from graphopt.sensitivity import measure_sensitivity

    cache = None if job.options.cache is None else Path(job.options.cache)
    single = measure_sensitivity(
        job.space, job.table, job.data, job.subject.path, job.subject.key, cache=cache, progress=progress
    )
    note = f"{single.measured} single drifts measured ({single.reused} of them by an earlier run)"
    return Loss(job.table.with_drift(single.drift), single.measure, note)


def capacity_loss(job: Job) -> Mapping[int, npt.NDArray[np.float64]]:
    """What each width option gives up, by variable number, shape (options,).

    It is share x (size / width - 1): half of a group's channels cost its share, three quarters of them cost three
    times as much, so that no group becomes a bottleneck where several could shrink a little. The share is half of the
    parameters and half of the MACs that the group takes part in. Wider groups give up nothing.
    """
    share = _shares(job)
    lost = {}
    for width in job.space.widths:
        sizes = np.array([option.width for option in width.options], np.float64)
        loss = share[width.group.id] * np.maximum(width.group.size / sizes - 1.0, 0.0)
        lost[job.table.index("width", width.group.id)] = loss
    return lost


def lossy_sites(job: Job) -> Mapping[int, npt.NDArray[np.float64]]:
    """What each site's options give up beside channels, by variable number, shape (options,).

    It is :data:`LOSSY` times the share of the model that the site's kernels are, where the option is not exact: without
    real inputs nobody knows more than that it is something.
    """
    before = job.subject.before
    kernels = {kernel.key: kernel for kernel in before.kernels}
    macs, parameters = before.macs or 1, before.parameter_bytes or 1
    found = {}
    for site in job.space.sites:
        own = [kernels[key] for key in site.kernels if key in kernels]
        share = sum(kernel.macs / macs + kernel.parameter_bytes / parameters for kernel in own) / 2
        lossy = np.array([option.safety != "exact" for option in site.options], np.float64)
        found[job.table.index("site", site.id)] = LOSSY * share * lossy
    return found


def _shares(job: Job) -> Mapping[str, float]:
    """How much of the model each channel group takes part in; they add up to 1."""
    weights, groups = job.space.graph.weights, job.space.channels.groups
    macs = {kernel.key: float(kernel.macs) for kernel in job.subject.before.kernels}
    work: dict[str, float] = {}
    for kernel in job.space.kernels:
        for name in kernel.weights:
            work[name] = work.get(name, 0.0) + macs.get(kernel.key, 0.0)
    found = []
    for group in groups:
        names = {member.weight for member in group.members}
        found.append((sum(weights[name].size for name in names), sum(work.get(name, 0.0) for name in names)))
    totals = [sum(column) or 1.0 for column in zip(*found, strict=True)]
    return {
        group.id: sum(part / total for part, total in zip(parts, totals, strict=True)) / 2
        for group, parts in zip(groups, found, strict=True)
    }
