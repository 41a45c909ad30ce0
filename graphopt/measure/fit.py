"""Fit the learned estimator to measured kernels.

For each category of work: tile sizes by grid search, a roofline by least squares with coefficients that are not
negative, then boosted trees on the logarithm of what it leaves. Both minimise *relative* errors, and a kernel counts
more the larger its share of its net is: what is judged is the sum. Nets are held out whole to learn how large the
errors are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from graphopt.cost.categories import Category
from graphopt.cost.features import SIZES, features, rows, terms
from graphopt.cost.learned import CategoryModel, Learned, roofline_us
from graphopt.cost.trees import LEAVES, Real, Single, Trees
from graphopt.cost.workload import Workload
from graphopt.errors import ModelError
from graphopt.measure.forest import boosted
from graphopt.targets.target import Target

TILES: Final = (1, 2, 4, 8, 16, 32, 64)
"""Tile sizes that are tried, for channels in and out."""

MIN_KERNELS: Final = 30
"""Fewer measured kernels of a category than this, and it is left to the analytic roofline."""

FOLDS: Final = 4
_SPREAD_TREES: Final = 20
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


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How the trees grow.

    Attributes:
        trees: of each category.
        learning_rate: how much of the error each tree takes away.
        seed: of everything that is drawn.
    """

    trees: int = 200
    learning_rate: float = 0.1
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Data:
    """Measured kernels of one category, or all of them, as arrays with one entry for each kernel."""

    columns: Real
    inputs: Single
    latency_us: Real
    net: Whole
    weight: Real

    def where(self, which: npt.NDArray[np.bool_]) -> _Data:
        return _Data(
            self.columns[which], self.inputs[which], self.latency_us[which], self.net[which], self.weight[which]
        )


def fit(kernels: Sequence[MeasuredKernel], target: Target, options: FitOptions | None = None) -> Learned:
    """Fit an estimator. The same kernels in the same order always give the same one.

    Args:
        kernels: measured kernels of many nets.
        target: what they ran on; its precision and on-chip memory enter the features.
        options: how the trees grow.

    Raises:
        ModelError: when no category has `MIN_KERNELS` kernels, or a latency is no finite number.
    """
    from threadpoolctl import threadpool_limits

    options = options or FitOptions()
    data = _data(kernels, target)
    category = np.array([kernel.load.category for kernel in kernels])
    counts = {name: int((category == name).sum()) for name in sorted(set(category.tolist()))}
    learned = [name for name, count in counts.items() if count >= MIN_KERNELS]
    if not learned:
        raise ModelError(
            f"{len(kernels)} measured kernels are too few to learn from; {MIN_KERNELS} of one category are the least"
        )
    models: dict[Category, CategoryModel] = {}
    held_out, sigma = np.full(len(kernels), np.nan), np.zeros(len(kernels))
    with threadpool_limits(1):  # sums in one order: the same trees on every machine
        for name in learned:
            which = category == name
            model, errors = _fit_category(data.where(which), options)
            models[name] = model
            held_out[which] = errors
            sigma[which] = np.exp(model.spread.predict(data.inputs[which]))
    return Learned(models, _correlation(data, held_out, sigma))


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
    return _Data(columns, features(columns, target), np.maximum(latency, floor), net, weight)


def _fit_category(data: _Data, options: FitOptions) -> tuple[CategoryModel, Real]:
    """Return the model, and for each kernel the log error of a model that never saw its net."""
    errors = np.zeros(len(data.net))
    fold = data.net % FOLDS
    for number in range(FOLDS):
        out = fold == number
        if out.any() and not out.all():
            tiles, coefficients = _roofline(data.where(~out))
            trees = _grown(data.where(~out), tiles, coefficients, options)
            rest = data.where(out)
            predicted = trees.predict(rest.inputs) + np.log(roofline_us(rest.columns, tiles, coefficients))
            errors[out] = predicted - np.log(rest.latency_us)
    tiles, coefficients = _roofline(data)
    trees = _grown(data, tiles, coefficients, options)
    sizes = data.inputs[:, :SIZES]
    model = CategoryModel(
        tiles=tiles,
        coefficients=coefficients,
        low=sizes.min(axis=0),
        high=sizes.max(axis=0),
        trees=trees,
        spread=_spread(data, errors, options),
    )
    return model, errors


def _roofline(data: _Data) -> tuple[Whole, Real]:
    """Tile sizes and coefficients with the least relative error."""
    from scipy.optimize import nnls

    root = np.sqrt(data.weight)
    best: tuple[float, Whole, Real] | None = None
    for tile_out in TILES:
        for tile_in in TILES:
            table = terms(data.columns, tile_in, tile_out) / data.latency_us[:, None] * root[:, None]
            scale = np.maximum(table.max(axis=0), 1e-30)
            solved, error = nnls(table / scale, root)
            # a larger tile has to earn its place: rounding alone must not choose
            if best is None or error < best[0] * (1 - 1e-9):
                best = (float(error), np.array([tile_in, tile_out], np.int64), solved / scale)
    assert best is not None
    return best[1], np.asarray(best[2], np.float64)


def _grown(data: _Data, tiles: Whole, coefficients: Real, options: FitOptions) -> Trees:
    left = np.log(data.latency_us / roofline_us(data.columns, tiles, coefficients))
    return boosted(
        data.inputs,
        left,
        data.weight,
        trees=options.trees,
        leaves=LEAVES,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )


def _spread(data: _Data, errors: Real, options: FitOptions) -> Trees:
    """Trees for the logarithm of one sigma: shaped by the held-out errors, scaled to cover 68 % of them."""
    size = np.abs(errors)
    goal = np.log(np.maximum(size, 0.1 * max(float(np.median(size)), 1e-4)))
    trees = boosted(
        data.inputs,
        goal,
        data.weight,
        trees=_SPREAD_TREES,
        leaves=8,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    covering = float(np.quantile(size / np.exp(trees.predict(data.inputs)), _ONE_SIGMA))
    return replace(trees, base=np.asarray(trees.base + np.log(max(covering, 1e-3)), np.float32))


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
