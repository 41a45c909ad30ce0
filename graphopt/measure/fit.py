"""Fit the learned estimator to measured kernels.

For each category of work, and each unit of the device that is busy with it: tile sizes by grid search, a roofline by
least squares with coefficients that are not negative, then boosted trees on the logarithm of what it leaves. Both
minimise *relative* errors, and a kernel counts more the larger its share of its net is: what is judged is the sum. To a
unit that waits for a slower one it counts little: the slowest alone is seen. Nets are held out whole to learn how large
the errors are, and what has larger errors gets more of the trees that a file holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from graphopt.cost.categories import Category
from graphopt.cost.features import LEAST_US, SIZES, added, features, inputs, rows, terms
from graphopt.cost.learned import UNITS, CategoryModel, Learned, Unit, UnitModel, apart
from graphopt.cost.learned_file import packed
from graphopt.cost.trees import LEAVES, Real, Single, Trees
from graphopt.cost.workload import Workload
from graphopt.errors import ConfigError, ModelError
from graphopt.measure.forest import boosted, thresholds
from graphopt.targets.target import Target

TILES: Final = (1, 2, 4, 8, 16, 32, 64)
"""Tile sizes that are tried, for channels in and out."""

MIN_KERNELS: Final = 10
"""Fewer measured kernels of a category than this, and it is left to the analytic roofline."""

APART: Final[frozenset[Category]] = frozenset({"copy", "pool"})
"""Categories whose op types are learned one by one where `MIN_APART` kernels of each are there: what a Pad costs says
nothing of a Concat. Far strides are so in every category."""

MIN_APART: Final = 60

FOLDS: Final = 3
_KERNELS_PER_TREE: Final = 5
"""Of all categories together; ``_KERNELS_PER_TREE_OF_ONE`` of a single one."""

_KERNELS_PER_TREE_OF_ONE: Final = 2
_ALL_TREES: Final = 3700
"""Trees of all categories together: about 50 bytes each in a file of at most 200 kB."""

_ERROR_POWER: Final = 2 / 3
"""Twice the error of a category gives it 1.6 times the trees."""

_RATE: Final = 0.15
_SPREAD_TREES: Final = 20
_LEAST_ERROR: Final = 1e-3
_FLOOR: Final = 1e-3
"""Latencies are taken as no smaller than this part of the median one: relative errors need a size."""
_IDLE: Final = 0.1
"""A unit that is busy for a smaller part of a kernel's latency is taken as busy so long: it waits all the same."""

_WAITING_POWER: Final = 4
"""A unit that is busy for half of the latency counts a sixteenth."""

_TOLD_WEIGHT: Final = 0.2
"""What a kernel counts where a unit that waits was told to be as slow as the slowest."""

_ONE_SIGMA: Final = 0.683
"""The share of errors that one sigma covers."""

Whole = npt.NDArray[np.int64]

_Job = tuple[str, Unit]
"""What one roofline and its trees tell: a category, and the unit that is busy with it."""


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredKernel:
    """One kernel as a device ran it.

    Attributes:
        load: its workload; numbers, no arrays.
        latency_us: microseconds, measured in context.
        net: the net it is part of; nets are held out whole.
        weight: how much it counts (an isolated layer: less than one).
        busy_us: (unit, microseconds) where the device tells; the longest is the latency.
    """

    load: Workload
    latency_us: float
    net: str
    weight: float = 1.0
    busy_us: tuple[tuple[Unit, float], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Data:
    """Measured kernels of one category, or all of them, as arrays with one entry for each kernel.

    Attributes:
        columns, features: what is known of each.
        latency_us: what is to be told: of the whole, or of one unit.
        busy_us: of each of `UNITS`, not finite where nobody tells; shape (kernels, units).
        net: the net that it is part of.
        own: the weight that it came with.
        weight: what it counts.
    """

    columns: Real
    features: Single
    latency_us: Real
    busy_us: Real
    net: Whole
    own: Real
    weight: Real

    def where(self, which: npt.NDArray[np.bool_]) -> _Data:
        return _Data(**{field.name: getattr(self, field.name)[which] for field in fields(self)})

    def units(self) -> dict[Unit, _Data]:
        """What each unit has to do: those that are told for every kernel, and slow down some."""
        share = self.busy_us / self.latency_us[:, None]
        told = np.isfinite(share).all(axis=0) & ((share >= 0.5).sum(axis=0) >= MIN_KERNELS)
        if not told.any():
            return {"whole": self}
        share /= share[:, told].max(axis=1, keepdims=True)  # nobody waits for a unit that is left out
        return {
            unit: replace(self, latency_us=self.latency_us * part, weight=self.weight * part**_WAITING_POWER)
            for unit, part, here in zip(UNITS, np.maximum(share, _IDLE).T, told, strict=True)
            if here
        }


def fit(kernels: Sequence[MeasuredKernel], target: Target, *, trees: int = _ALL_TREES) -> Learned:
    """Fit an estimator. The same kernels in the same order always give the same one.

    Args:
        kernels: measured kernels of many nets.
        target: what they ran on; its precision and on-chip memory enter the features.
        trees: of all categories at most; fewer where there are few kernels, or the file would be too large.

    Raises:
        ModelError: when no category has `MIN_KERNELS` kernels, or a latency is no finite number.
    """
    everything = _data(kernels, target)
    names = np.array(_names(kernels))
    parts = {name: everything.where(names == name) for name in sorted(set(names.tolist()))}
    parts = {name: part for name, part in parts.items() if len(part.net) >= MIN_KERNELS}
    if not parts:
        raise ModelError(
            f"{len(kernels)} measured kernels are too few to learn from; {MIN_KERNELS} of one category are the least"
        )
    jobs = {(name, unit): job for name, part in parts.items() for unit, job in part.units().items()}
    rooflines = {job: _roofline(data) for job, data in jobs.items()}
    at = thresholds([inputs(data.features, rooflines[job].parts_us(data.columns)) for job, data in jobs.items()])
    budget = min(trees, sum(len(part.net) for part in parts.values()) // _KERNELS_PER_TREE)
    # half of what a file holds tells the errors; few noisy kernels have to be told with all the trees they get
    seen = {job: float((data.weight / parts[job[0]].weight).sum()) for job, data in jobs.items()}
    count = _shared(min(budget, _ALL_TREES // 2), seen, jobs)
    told = {job: _held_out(data, at, count[job]) for job, data in jobs.items()}
    wanted = {job: _missed(data, told[job]) ** _ERROR_POWER for job, data in jobs.items()}
    jobs = {job: _noticed(data, parts[job[0]], told[job]) for job, data in jobs.items()}
    held_out = np.full(len(kernels), np.nan)
    for name, part in parts.items():
        busy = [jobs[job].latency_us * np.exp(errors) for job, errors in told.items() if job[0] == name]
        held_out[names == name] = np.log(np.max(busy, axis=0) / part.latency_us)
    while True:
        count = _shared(budget, wanted, jobs)
        units = {
            job: replace(roofline, trees=_learn(jobs[job], roofline, at, count[job]))
            for job, roofline in rooflines.items()
        }
        models, sigma = {}, np.zeros(len(kernels))
        for name, part in parts.items():
            own = names == name
            mine = {unit: model for (category, unit), model in units.items() if category == name}
            models[name], sigma[own] = _category(part, mine, held_out[own], target, at)
        learned = Learned(models, _correlation(everything, held_out, sigma))
        try:
            packed(learned)
        except ConfigError:  # thresholds that do not recur take more room
            if budget < MIN_KERNELS:
                raise
            budget = budget * 31 // 32
        else:
            return learned


def _noticed(data: _Data, part: _Data, errors: Real) -> _Data:
    """A unit's job, in which kernels count where the unit waits but was told to be the slowest: that would be seen."""
    share = data.latency_us / part.latency_us
    told = np.minimum(share * np.exp(errors), 1.0)
    seen = np.maximum(share**_WAITING_POWER, _TOLD_WEIGHT * told ** (2 * _WAITING_POWER))
    return replace(data, weight=data.weight / share**_WAITING_POWER * seen)


def _missed(data: _Data, errors: Real) -> float:
    """How much of a job is not told yet, in whole nets: of a supplement there is as much as somebody made."""
    return float((data.weight * np.minimum(np.abs(errors), 1.0))[data.own >= 1].sum()) + 1e-9


def _shared(budget: int, wanted: Mapping[_Job, float], jobs: Mapping[_Job, _Data]) -> dict[_Job, int]:
    """Trees of each job as it is wanted, but none without kernels for them; at least one."""
    most = {job: len(data.net) / _KERNELS_PER_TREE_OF_ONE for job, data in jobs.items()}
    given = dict.fromkeys(jobs, 0.0)
    for _ in jobs:  # what some cannot take goes to the others
        left = budget - sum(given.values())
        open_to_more = [job for job in jobs if given[job] < most[job]]
        share = left / max(sum(wanted[job] for job in open_to_more), 1e-30)
        for job in open_to_more:
            given[job] = min(given[job] + wanted[job] * share, most[job])
    return {job: max(int(given[job]), 1) for job in jobs}


def _names(kernels: Sequence[MeasuredKernel]) -> list[str]:
    """What each kernel is learned as: its category, or its op type in it."""
    counts = Counter(apart(kernel.load) for kernel in kernels)

    def name(load: Workload) -> str:
        own = apart(load)
        special = load.category in APART or own.endswith(":far")
        return own if special and counts[own] >= MIN_APART else load.category

    return [name(kernel.load) for kernel in kernels]


def _data(kernels: Sequence[MeasuredKernel], target: Target) -> _Data:
    latency = np.array([kernel.latency_us for kernel in kernels], np.float64)
    if not np.isfinite(latency).all() or (latency < 0).any():
        raise ModelError("a measured latency is negative or no finite number")
    columns = rows([kernel.load for kernel in kernels], target).columns
    if len(columns) != len(kernels):
        raise ModelError("a measured kernel's workload must hold numbers, no arrays")
    names = {name: number for number, name in enumerate(dict.fromkeys(kernel.net for kernel in kernels))}
    net = np.array([names[kernel.net] for kernel in kernels], np.int64)
    own = np.array([kernel.weight for kernel in kernels], np.float64)
    share = latency / np.maximum(np.bincount(net, latency)[net], 1e-30) if len(kernels) else latency
    root = np.sqrt(share)
    weight = own * (0.2 + root / max(float(root.mean()), 1e-30)) if len(kernels) else own
    floor = _FLOOR * float(np.median(latency)) if len(kernels) else 0.0
    return _Data(
        columns, features(columns, target), np.maximum(latency, floor), _busy(kernels, floor), net, own, weight
    )


def _busy(kernels: Sequence[MeasuredKernel], floor: float) -> Real:
    """Busy time of each of `UNITS`, NaN where nobody tells; what takes next to no time keeps all of them busy so."""
    told = [[UNITS.index(unit) for unit, _ in kernel.busy_us] for kernel in kernels]
    anywhere = sorted({place for places in told for place in places})
    found = np.full((len(kernels), len(UNITS)), np.nan)
    for kernel, places, row in zip(kernels, told, found, strict=True):
        if kernel.latency_us <= floor:
            row[anywhere] = floor
        else:
            row[places] = [us for _, us in kernel.busy_us]
    return found


def _category(
    data: _Data, units: Mapping[Unit, UnitModel], errors: Real, target: Target, at: Sequence[Single]
) -> tuple[CategoryModel, Real]:
    """Return the model, and its one sigma of each kernel, given the log errors of a model that never saw its net."""
    sizes = data.features[:, :SIZES]
    model = CategoryModel(units, sizes.min(axis=0), sizes.max(axis=0), Trees.constant(0.0))
    *_, seen = model.predict(data.columns, target)
    spread = _spread(seen, errors, data.weight, at)
    return replace(model, spread=spread), np.exp(spread.predict(seen))


def _held_out(data: _Data, at: Sequence[Single], trees: int) -> Real:
    """Logarithm of predicted over measured latency, by models that never saw a kernel's net."""
    errors = np.zeros(len(data.net))
    fold = data.net % FOLDS
    for number in range(FOLDS):
        out = fold == number
        if not out.any() or out.all():
            continue
        known, unknown = data.where(~out), data.where(out)
        roofline = _roofline(known)
        parts = roofline.parts_us(unknown.columns)
        left = _learn(known, roofline, at, trees).predict(inputs(unknown.features, parts))
        errors[out] = np.log(np.maximum(added(parts), LEAST_US)) + left - np.log(unknown.latency_us)
    return errors


def _learn(data: _Data, roofline: UnitModel, at: Sequence[Single], trees: int) -> Trees:
    """Return the trees on what the roofline leaves."""
    parts = roofline.parts_us(data.columns)
    # rounded: where the roofline is exact, there is nothing for trees to learn
    left = np.asarray(np.round(np.log(data.latency_us / np.maximum(added(parts), LEAST_US)), 6), np.float64)
    seen = inputs(data.features, parts)
    return boosted(seen, left, data.weight, at, trees=trees, leaves=LEAVES, learning_rate=_RATE)


def _roofline(data: _Data) -> UnitModel:
    """Tile sizes and coefficients with the least relative error, and no trees yet."""
    from scipy.optimize import nnls

    root = np.sqrt(data.weight)
    best, least = None, np.inf
    for tile_out in TILES:
        for tile_in in TILES:
            table = terms(data.columns, tile_in, tile_out) / data.latency_us[:, None] * root[:, None]
            scale = np.maximum(table.max(axis=0), 1e-30)
            solved, error = nnls(table / scale, root)
            # a larger tile has to earn its place: rounding alone must not choose
            if best is None or error < least * (1 - 1e-9):
                tiles, coefficients = np.array([tile_in, tile_out], np.int64), np.asarray(solved / scale, np.float64)
                best = UnitModel(tiles, coefficients, Trees.constant(0.0))
                least = float(error)
    assert best is not None
    return best


def _spread(seen: Single, errors: Real, weight: Real, at: Sequence[Single]) -> Trees:
    """Trees for the logarithm of one sigma: shaped by the held-out errors, scaled to cover 68 % of them."""
    size = np.abs(errors)
    goal = np.log(np.maximum(size, max(0.1 * float(np.median(size)), _LEAST_ERROR)))
    trees = boosted(seen, goal, weight, at, trees=_SPREAD_TREES, leaves=8, learning_rate=_RATE)
    covering = float(np.quantile(size / np.exp(trees.predict(seen)), _ONE_SIGMA))
    return replace(trees, base=np.asarray(trees.base + np.log(max(covering, _LEAST_ERROR)), np.float32))


def _correlation(data: _Data, errors: Real, sigma: Real) -> float:
    """How far the errors of one net's kernels go together: so far that one sigma covers 68 % of the nets' totals."""
    learned = np.isfinite(errors)
    net, latency, log_error = data.net[learned], data.latency_us[learned], errors[learned]
    predicted = latency * np.exp(log_error)
    off = np.abs(np.bincount(net, predicted - latency))
    sigmas = predicted * sigma[learned]
    apart, together = np.bincount(net, sigmas**2), np.bincount(net, sigmas) ** 2
    there = together > 0
    misses = []
    steps = np.linspace(0.0, 1.0, 41)
    for step in steps:
        covered = off[there] <= np.sqrt((1 - step) * apart[there] + step * together[there])
        misses.append(abs(float(covered.mean()) - _ONE_SIGMA))
    return float(steps[int(np.argmin(misses))])
