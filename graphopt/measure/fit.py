"""Fit the learned estimator to measured kernels.

For each category of work: tile sizes by grid search, a roofline by least squares with coefficients that are not
negative, then boosted trees on the logarithm of what it leaves. Both minimise *relative* errors, and a kernel counts
more the larger its share of its net is: what is judged is the sum. Nets are held out whole to learn how large the
errors are, and categories with larger errors get more of the trees that a file holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from graphopt.cost.categories import Category
from graphopt.cost.features import LEAST_US, SIZES, added, inputs, rows, terms
from graphopt.cost.learned import CategoryModel, Learned, apart
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
_ONE_SIGMA: Final = 0.683
"""The share of errors that one sigma covers."""

Whole = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredKernel:
    """One kernel as a device ran it.

    Attributes:
        load: its workload; numbers, no arrays.
        latency_us: microseconds, measured in context.
        net: the net it is part of; nets are held out whole.
        weight: how much it counts (an isolated layer: less than one).
    """

    load: Workload
    latency_us: float
    net: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Data:
    """Measured kernels of one category, or all of them, as arrays with one entry for each kernel: ``own`` is the weight
    that it came with, ``weight`` what it counts."""

    columns: Real
    latency_us: Real
    net: Whole
    own: Real
    weight: Real

    def where(self, which: npt.NDArray[np.bool_]) -> _Data:
        return _Data(self.columns[which], self.latency_us[which], self.net[which], self.own[which], self.weight[which])


@dataclass(frozen=True, slots=True, eq=False)
class _Roofline:
    tiles: Whole
    coefficients: Real

    def parts_us(self, columns: Real) -> Real:
        return terms(columns, int(self.tiles[0]), int(self.tiles[1])) * self.coefficients


def fit(kernels: Sequence[MeasuredKernel], target: Target, *, trees: int = _ALL_TREES) -> Learned:
    """Fit an estimator. The same kernels in the same order always give the same one.

    Args:
        kernels: measured kernels of many nets.
        target: what they ran on; its precision and on-chip memory enter the features.
        trees: of all categories at most; fewer where there are few kernels, or the file would be too large.

    Raises:
        ModelError: when no category has `MIN_KERNELS` kernels, or a latency is no finite number.
    """
    data = _data(kernels, target)
    names = np.array(_names(kernels))
    parts = {name: data.where(names == name) for name in sorted(set(names.tolist()))}
    parts = {name: part for name, part in parts.items() if len(part.net) >= MIN_KERNELS}
    if not parts:
        raise ModelError(
            f"{len(kernels)} measured kernels are too few to learn from; {MIN_KERNELS} of one category are the least"
        )
    rooflines = {name: _roofline(part) for name, part in parts.items()}
    at = thresholds(
        [inputs(part.columns, rooflines[name].parts_us(part.columns), target) for name, part in parts.items()]
    )
    budget = min(trees, sum(len(part.net) for part in parts.values()) // _KERNELS_PER_TREE)
    # half of what a file holds tells the errors; few noisy kernels have to be told with all the trees they get
    count = _shared(min(budget, _ALL_TREES // 2), {name: float(len(part.net)) for name, part in parts.items()}, parts)
    errors = {name: _held_out(part, target, at, count[name]) for name, part in parts.items()}
    wanted = {name: _missed(part, errors[name]) ** _ERROR_POWER for name, part in parts.items()}
    while True:
        count = _shared(budget, wanted, parts)
        models, sigma = {}, np.zeros(len(kernels))
        held_out = np.full(len(kernels), np.nan)
        for name, part in parts.items():
            models[name], sigma[names == name] = _category(part, rooflines[name], target, at, count[name], errors[name])
            held_out[names == name] = errors[name]
        learned = Learned(models, _correlation(data, held_out, sigma))
        try:
            packed(learned)
        except ConfigError:  # thresholds that do not recur take more room
            if budget < MIN_KERNELS:
                raise
            budget = budget * 15 // 16
        else:
            return learned


def _missed(data: _Data, errors: Real) -> float:
    """How much of a category is not told yet, in whole nets: of a supplement there is as much as somebody made."""
    return float((data.weight * np.minimum(np.abs(errors), 1.0))[data.own >= 1].sum()) + 1e-9


def _shared(budget: int, wanted: Mapping[str, float], parts: Mapping[str, _Data]) -> dict[str, int]:
    """Trees of each category as it is wanted, but none without kernels for them; at least one."""
    most = {name: len(part.net) / _KERNELS_PER_TREE_OF_ONE for name, part in parts.items()}
    given = dict.fromkeys(parts, 0.0)
    for _ in parts:  # what some cannot take goes to the others
        left = budget - sum(given.values())
        open_to_more = [name for name in parts if given[name] < most[name]]
        share = left / max(sum(wanted[name] for name in open_to_more), 1e-30)
        for name in open_to_more:
            given[name] = min(given[name] + wanted[name] * share, most[name])
    return {name: max(int(given[name]), 1) for name in parts}


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
    return _Data(columns, np.maximum(latency, floor), net, own, weight)


def _category(
    data: _Data, roofline: _Roofline, target: Target, at: Sequence[Single], trees: int, errors: Real
) -> tuple[CategoryModel, Real]:
    """Return the model, and its one sigma of each kernel, given the log errors of a model that never saw its net."""
    grown, seen = _learn(data, roofline, target, at, trees)
    spread = _spread(seen, errors, data.weight, at)
    sizes = seen[:, :SIZES]
    model = CategoryModel(
        roofline.tiles, roofline.coefficients, sizes.min(axis=0), sizes.max(axis=0), trees=grown, spread=spread
    )
    return model, np.exp(spread.predict(seen))


def _held_out(data: _Data, target: Target, at: Sequence[Single], trees: int) -> Real:
    """Logarithm of predicted over measured latency, by models that never saw a kernel's net."""
    errors = np.zeros(len(data.net))
    fold = data.net % FOLDS
    for number in range(FOLDS):
        out = fold == number
        if not out.any() or out.all():
            continue
        known, unknown = data.where(~out), data.where(out)
        roofline = _roofline(known)
        grown, _ = _learn(known, roofline, target, at, trees)
        parts = roofline.parts_us(unknown.columns)
        left = grown.predict(inputs(unknown.columns, parts, target))
        errors[out] = np.log(np.maximum(added(parts), LEAST_US)) + left - np.log(unknown.latency_us)
    return errors


def _learn(data: _Data, roofline: _Roofline, target: Target, at: Sequence[Single], trees: int) -> tuple[Trees, Single]:
    """Return the trees on what the roofline leaves, and what they saw."""
    parts = roofline.parts_us(data.columns)
    seen = inputs(data.columns, parts, target)
    # rounded: where the roofline is exact, there is nothing for trees to learn
    left = np.asarray(np.round(np.log(data.latency_us / np.maximum(added(parts), LEAST_US)), 6), np.float64)
    return boosted(seen, left, data.weight, at, trees=trees, leaves=LEAVES, learning_rate=_RATE), seen


def _roofline(data: _Data) -> _Roofline:
    """Tile sizes and coefficients with the least relative error."""
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
                best = _Roofline(np.array([tile_in, tile_out], np.int64), np.asarray(solved / scale, np.float64))
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
