"""What single kernels cost, solved for from the totals of whole networks (AOWS, arXiv:2005.10481).

A total is the sum of its kernels, so many networks of different widths make a system of linear equations. Unknown
latencies for every kernel shape would be far more than there are networks; two things make it small:

* *Channel-quantised features*: a kernel costs what the terms of the learned roofline say
  (`graphopt.cost.features.terms`), with channels padded to tiles. Coefficients by least squares, none negative; tile
  sizes by descent, a category at a time.
* *A smoothness prior*: what the roofline leaves is a factor for each category and size (pixels, channels in and out), a
  step function whose neighbouring steps are tied together. How tightly is chosen on networks that are held out.

Totals tell sums. Kernels whose sizes always change together (the convolutions of one inverted bottleneck) cannot be
told apart: networks of the same family are estimated well, single kernels roughly, other families not at all.

The result is a `Learned` as if kernels had been measured: each step function is one tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from graphopt.cost.categories import Category
from graphopt.cost.features import FEATURES, SIZES, TERMS, features, rows, terms
from graphopt.cost.learned import CategoryModel, Learned, UnitModel
from graphopt.cost.trees import LEAVES, Real, Single, Trees
from graphopt.cost.workload import Workload
from graphopt.errors import ModelError
from graphopt.targets.target import Target

MIN_NETS: Final = 20
"""Fewer totals than this say nothing about single kernels."""

_TILES: Final = (1, 2, 4, 8, 16, 32, 64)
_PASSES: Final = 3
_EARNED: Final = 1e-6
"""A larger tile has to make the error smaller by this part: rounding alone must not choose."""
_AXES: Final = ("log pixels", "log channels_in", "log channels_out")
_TIES: Final = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e3)
_STEPS: Final = 4
"""Gauss-Newton steps: the factors are exponentials."""
_FOLDS: Final = 5
_LEAST_SIGMA: Final = 1e-3

Whole = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredTotal:
    """One network as a black box measured it.

    Attributes:
        loads: workloads of its kernels; numbers, no arrays.
        total_us: microseconds of one run.
    """

    loads: tuple[Workload, ...]
    total_us: float


@dataclass(frozen=True, slots=True, eq=False)
class _System:
    """The networks' kernels, all in one list.

    Attributes:
        total: of each network, microseconds.
        net: the network of each kernel.
        category: the position of each kernel's category in ``names``.
        names: the categories.
        columns, inputs: of each kernel.
        bins: of each kernel and axis, the step that it stands on, as a position among all unknowns.
        edges: where the steps of each category and axis end, with the position of the first.
    """

    total: Real
    net: Whole
    category: Whole
    names: tuple[Category, ...]
    columns: Real
    inputs: Single
    bins: Whole
    edges: tuple[tuple[tuple[Single, int], ...], ...]

    @property
    def unknowns(self) -> int:
        """How many steps there are."""
        return 1 + max(first + len(edges) for axes in self.edges for edges, first in axes)


def solve(totals: Sequence[MeasuredTotal], target: Target) -> Learned:
    """Fit an estimator to the totals of whole networks. The same totals always give the same one.

    Args:
        totals: measured networks; the more their widths differ, the more they say.
        target: what they ran on; its precision enters the features.

    Raises:
        ModelError: when there are fewer than `MIN_NETS`, or a total is no positive finite number.
    """
    system = _system(totals, target)
    everything = np.ones(len(totals), bool)
    tiles = _tiles(system)
    fold = np.arange(len(totals)) % _FOLDS
    errors = {tie: np.zeros(len(totals)) for tie in _TIES}
    for number in range(_FOLDS):
        base = _coefficients(system, tiles, fold != number)[1]
        for tie, held_out in errors.items():
            steps = _factors(system, base, fold != number, tie)
            predicted = _sums(system, base * np.exp(steps[system.bins].sum(axis=1)))
            out = fold == number
            held_out[out] = np.log(predicted[out] / system.total[out])
    # tighter on a draw: the smoothest factors whose error is the smallest
    tie = min(reversed(_TIES), key=lambda one: float(np.abs(errors[one]).mean()))
    coefficients, base = _coefficients(system, tiles, everything)
    steps = _factors(system, base, everything, tie)
    sigma = max(float(np.quantile(np.abs(errors[tie]), 0.683)), _LEAST_SIGMA)
    models: dict[str, CategoryModel] = {
        name: _model(system, number, tiles[number], coefficients[number], steps, sigma)
        for number, name in enumerate(system.names)
    }
    return Learned(models, 1.0)  # nothing tells the kernels' errors apart: one sigma of the sum is one of each


def _system(totals: Sequence[MeasuredTotal], target: Target) -> _System:
    if len(totals) < MIN_NETS:
        raise ModelError(f"{len(totals)} totals are too few to solve for kernels; {MIN_NETS} are the least")
    total = np.array([one.total_us for one in totals], np.float64)
    if not np.isfinite(total).all() or (total <= 0).any():
        raise ModelError("a measured total is no finite number greater than 0")
    loads = [load for one in totals for load in one.loads]
    net = np.repeat(np.arange(len(totals)), [len(one.loads) for one in totals])
    names = tuple(sorted({load.category for load in loads}))
    category = np.array([names.index(load.category) for load in loads], np.int64)
    columns = rows(loads, target).columns
    inputs = features(columns, target)
    bins = np.zeros((len(loads), len(_AXES)), np.int64)
    edges: list[tuple[tuple[Single, int], ...]] = []
    first = 0
    for number in range(len(names)):
        which = category == number
        axes = []
        for axis, name in enumerate(_AXES):
            values = inputs[which, FEATURES.index(name)]
            ends = _ends(values)
            bins[which, axis] = first + np.searchsorted(ends, values)
            axes.append((ends, first))
            first += len(ends) + 1
        edges.append(tuple(axes))
    return _System(total, net, category, names, columns, inputs, bins, tuple(edges))


def _ends(values: Single) -> Single:
    """Where steps end, midway between values that occur: at most as many as a tree has inner nodes."""
    distinct = np.unique(values)
    if len(distinct) > LEAVES:
        distinct = np.unique(np.quantile(values, np.linspace(0, 1, LEAVES), method="nearest"))
    return np.asarray((distinct[1:] + distinct[:-1]) / 2, np.float32)


def _sums(system: _System, latency_us: Real) -> Real:
    return _by_net(system.net, latency_us, len(system.total))


def _by_net(net: Whole, values: Real, nets: int) -> Real:
    return np.asarray(np.bincount(net, values, minlength=nets), np.float64)


def _tiles(system: _System) -> list[tuple[int, int]]:
    """Tile sizes (in, out) of each category, one category after the other until nothing gets better."""
    nets = len(system.total)
    tables: list[dict[tuple[int, int], Real]] = []
    for number in range(len(system.names)):
        which = system.category == number
        sums = {}
        for pair in [(ins, outs) for outs in _TILES for ins in _TILES]:
            parts = terms(system.columns[which], *pair)
            sums[pair] = np.stack([_by_net(system.net[which], part, nets) for part in parts.T], axis=1)
        tables.append(sums)
    tiles = [(1, 1)] * len(tables)

    def error(chosen: Sequence[tuple[int, int]]) -> float:
        table = np.concatenate([sums[pair] for sums, pair in zip(tables, chosen, strict=True)], axis=1)
        return _least_squares(table / system.total[:, None], np.ones(nets))[1]

    best = error(tiles)
    for _ in range(_PASSES):
        before = best
        for number, sums in enumerate(tables):
            for pair in sums:
                tried = [*tiles[:number], pair, *tiles[number + 1 :]]
                found = error(tried)
                if found < best * (1 - _EARNED):
                    best, tiles = found, tried
        if best == before:
            break
    return tiles


def _least_squares(table: Real, goal: Real) -> tuple[Real, float]:
    from scipy.optimize import nnls

    scale = np.maximum(table.max(axis=0), 1e-30)
    found, error = nnls(table / scale, goal)
    return np.asarray(found / scale), float(error)


def _coefficients(system: _System, tiles: Sequence[tuple[int, int]], nets: npt.NDArray[np.bool_]) -> tuple[Real, Real]:
    """Coefficients, shape (categories, terms), and each kernel's roofline with them."""
    parts = np.zeros((len(system.net), len(TERMS)))
    for number, pair in enumerate(tiles):
        which = system.category == number
        parts[which] = terms(system.columns[which], *pair)
    table = np.zeros((len(system.total), len(tiles) * len(TERMS)))
    for term in range(len(TERMS)):
        np.add.at(table, (system.net, system.category * len(TERMS) + term), parts[:, term])
    found, _ = _least_squares((table / system.total[:, None])[nets], np.ones(int(nets.sum())))
    coefficients = found.reshape(len(tiles), len(TERMS))
    return coefficients, np.maximum((parts * coefficients[system.category]).sum(axis=1), 1e-9)


def _factors(system: _System, base: Real, nets: npt.NDArray[np.bool_], tie: float) -> Real:
    """Logarithms of the factors, one for each step: regularised Gauss-Newton on relative errors of the totals."""
    count = system.unknowns
    prior = [np.eye(count)]
    for axes in system.edges:
        for edges, first in axes:
            steps = np.zeros((len(edges), count))
            steps[np.arange(len(edges)), first + np.arange(len(edges))] = -1
            steps[np.arange(len(edges)), first + 1 + np.arange(len(edges))] = 1
            prior.append(steps)
    ties = np.concatenate(prior) * np.sqrt(tie)
    found = np.zeros(count)
    for _ in range(_STEPS):
        latency = base * np.exp(found[system.bins].sum(axis=1))
        slope = np.zeros((len(system.total), count))
        for axis in range(len(_AXES)):
            np.add.at(slope, (system.net, system.bins[:, axis]), latency)
        slope /= system.total[:, None]
        left = 1 - _sums(system, latency) / system.total + slope @ found
        goal = np.concatenate([left[nets], np.zeros(len(ties))])
        found = np.linalg.lstsq(np.concatenate([slope[nets], ties]), goal, rcond=None)[0]
    return found


def _model(
    system: _System, number: int, tiles: tuple[int, int], coefficients: Real, steps: Real, sigma: float
) -> CategoryModel:
    """One category as `Learned` has it: each step function is a tree whose inner nodes stand in a row."""
    sizes = system.inputs[system.category == number, :SIZES]
    axes = system.edges[number]
    feature = [FEATURES.index(name) for name, (edges, _) in zip(_AXES, axes, strict=True) for _ in edges]
    node = np.zeros((len(axes), LEAVES - 1), np.uint16)
    mask = np.full((len(axes), LEAVES - 1), 0xFFFF, np.uint16)
    value = np.zeros((len(axes), LEAVES), np.float32)
    start = 0
    for tree, (edges, first) in enumerate(axes):
        inner = np.arange(len(edges))
        node[tree, inner] = start + inner
        mask[tree, inner] = 0xFFFF & ~((2 << inner) - 1)  # beyond this step's end: no leaf up to it is left
        value[tree, : len(edges) + 1] = steps[first : first + len(edges) + 1]
        start += len(edges)
    if not coefficients.any():  # the totals do not show this category: it is as good as free
        coefficients = np.where(np.array(TERMS) == "one", 1e-6, 0.0)
    whole = UnitModel(
        tiles=np.array(tiles, np.int64),
        coefficients=coefficients,
        trees=Trees(
            base=np.zeros(1, np.float32),
            split_feature=np.array(feature, np.uint8),
            split_at=np.concatenate([edges for edges, _ in axes]).astype(np.float32),
            node=node,
            mask=mask,
            value=value,
        ),
    )
    spread = Trees.constant(float(np.log(sigma)))
    return CategoryModel({"whole": whole}, sizes.min(axis=0), sizes.max(axis=0), spread)
