"""Price something at every width of a range, and at the widths that suit the target.

Three curves, as in the articles' figure: *rocky* is the target's estimate at every width, *smooth* what it would be if
cost were proportional to multiply-accumulates, *curated* the multiples of the target's parallelism alone (the range
and the steps are those of the rewrite `curate-widths`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.cost.kernels import Kernel, decompose
from graphopt.cost.price import price_all
from graphopt.cost.workload import Count, workload
from graphopt.errors import ConfigError
from graphopt.ir.graph import Graph
from graphopt.landscape.stairs import Stairs, find_stairs
from graphopt.rewrites.curate_widths import CurateParams
from graphopt.space.affine import AffineShape
from graphopt.targets.target import Target

MAX_STEPS = 600
"""Widths of several groups together at most; a single group is always swept channel by channel."""

Widths = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Span:
    """Widths that one channel group (or dimension of a layer) can take.

    Attributes:
        name: the group's id, or the dimension.
        low, high: smallest and largest width.
        original: the present width, ``None`` where there is none (a layer that is swept over a plain range).
    """

    name: str
    low: int
    high: int
    original: int | None = None

    def curated(self, multiple: int) -> Widths:
        """The original and the multiples within the span, ascending."""
        steps = np.arange(-(-self.low // multiple) * multiple, self.high + 1, multiple, dtype=np.int64)
        return steps if self.original is None else np.union1d(steps, [self.original])


def span_around(name: str, original: int, *, cut: bool = True, grow: bool = True) -> Span:
    """The curated range around a width (20 % to 150 %), as far as it can be cut and can grow."""
    low = max(int(np.ceil(CurateParams.smallest * original)), 1) if cut else original
    return Span(name, low, int(CurateParams.largest * original) if grow else original, original)


@dataclass(frozen=True)
class Subject:
    """What is swept.

    Attributes:
        name: one line for titles.
        graph: where the kernels are.
        shapes_of: shapes of everything that a kernel touches, as functions of the widths.
        spans: what moves, together.
        fixed: widths of all other groups.
        whole: whether kernels that nothing moves belong to the cost.
    """

    name: str
    graph: Graph
    shapes_of: Callable[[Kernel], Mapping[str, AffineShape]]
    spans: tuple[Span, ...]
    fixed: Mapping[str, int]
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Landscape:
    """Estimated cost against channels on one target. Nothing here was measured.

    Attributes:
        name: what was swept.
        target: name of the target.
        parallelism: channels that it computes at once: the curated step.
        single: whether one width was swept, channel by channel, and not all of a model together.
        original: channels at present, ``None`` where there is no original.
        channels: every width, ascending; of several groups together, the sum of their widths.
        rocky_us: the estimate at each of them, microseconds.
        smooth_us: the estimate at the original (else at the widest), scaled by MACs.
        curated: (channels, estimate) at the widths that suit the target.
        kernels: kernels whose work depends on the widths.
        share: their share of the latency at the original.
        beyond: widths at which a kernel lies outside of what the target's estimator has learned from.
        stairs: what the rocky curve looks like.
    """

    name: str
    target: str
    parallelism: int
    single: bool
    original: int | None
    channels: tuple[int, ...]
    rocky_us: tuple[float, ...]
    smooth_us: tuple[float, ...]
    curated: tuple[tuple[int, float], ...]
    kernels: int
    share: float
    beyond: int
    stairs: Stairs


def landscape(subject: Subject, target: Target) -> Landscape:
    """Price ``subject`` at every width on ``target``.

    Raises:
        ConfigError: when no kernel's work depends on the widths.
    """
    every, curated = _every_width(subject.spans), _curated_widths(subject.spans, target.parallelism)
    both = {name: np.concatenate([every[name], curated[name]]) for name in every}
    found = _priced(subject, target, both)
    if not found.kernels:
        raise ConfigError(f"no kernel of {subject.name} depends on these channels")
    channels, steps = _total(every), _total(curated)
    originals = [span.original for span in subject.spans if span.original is not None]
    original = sum(originals) if originals else None
    at = int(np.searchsorted(channels, original)) if original is not None else len(channels) - 1
    touched = float(found.latency_us[at])
    latency = found.latency_us + found.rest_us * subject.whole
    macs = found.macs + found.rest_macs * subject.whole
    rocky = latency[: len(channels)]
    smooth = latency[at] * macs[: len(channels)] / max(macs[at], 1.0)
    return Landscape(
        name=subject.name,
        target=target.name,
        parallelism=target.parallelism,
        single=len(subject.spans) == 1,
        original=original,
        channels=tuple(channels.tolist()),
        rocky_us=tuple(rocky.tolist()),
        smooth_us=tuple(smooth.tolist()),
        curated=tuple(zip(steps.tolist(), latency[len(channels) :].tolist(), strict=True)),
        kernels=found.kernels,
        share=touched / (touched + found.rest_us),
        beyond=int(found.beyond[: len(channels)].sum()),
        stairs=find_stairs(channels, rocky, single=len(subject.spans) == 1),
    )


def _every_width(spans: Sequence[Span]) -> dict[str, Widths]:
    """Each span's width at every step: channel by channel of the only one, or of the widest one with all others in
    proportion."""
    if len(spans) == 1:
        return {spans[0].name: np.arange(spans[0].low, spans[0].high + 1, dtype=np.int64)}
    scaled = _multipliers(spans)
    return _distinct(
        {s.name: np.clip(np.floor(scaled * _size(s) + 0.5).astype(np.int64), s.low, s.high) for s in spans}
    )


def _curated_widths(spans: Sequence[Span], multiple: int) -> dict[str, Widths]:
    """Each span's curated width nearest to its share of every step, each combination once."""
    if len(spans) == 1:
        return {spans[0].name: spans[0].curated(multiple)}
    scaled = _multipliers(spans)
    found = {}
    for span in spans:
        steps = span.curated(multiple)
        found[span.name] = steps[np.abs(steps[:, None] - scaled * _size(span)).argmin(axis=0)]
    return _distinct(found)


def _multipliers(spans: Sequence[Span]) -> npt.NDArray[np.float64]:
    """Multipliers from one end of the spans to the other; 1 is among them."""
    low = min(span.low / _size(span) for span in spans)
    high = max(span.high / _size(span) for span in spans)
    widest = max(_size(span) for span in spans)
    steps = np.linspace(low * widest, high * widest, min(int((high - low) * widest) + 1, MAX_STEPS))
    whole: npt.NDArray[np.float64] = np.union1d(np.floor(steps + 0.5), [widest]) / widest
    return whole


def _size(span: Span) -> int:
    return span.high if span.original is None else span.original


def _distinct(widths: dict[str, Widths]) -> dict[str, Widths]:
    """Each combination once. All widths grow together, so that equal sums are equal combinations."""
    first = np.unique(_total(widths), return_index=True)[1]
    return {name: values[first] for name, values in widths.items()}


def _total(widths: Mapping[str, Widths]) -> Widths:
    total: Widths = np.sum(list(widths.values()), axis=0)
    return total


@dataclass(frozen=True, slots=True, eq=False)
class _Prices:
    """The kernels of a subject, priced.

    Attributes:
        latency_us, macs: of the kernels that depend on the widths, together, shape (choices of widths,).
        beyond: whether one of them lies outside of what its estimator saw, shape (choices of widths,).
        rest_us, rest_macs: of all others.
        kernels: how many do depend.
    """

    latency_us: npt.NDArray[np.float64]
    macs: npt.NDArray[np.float64]
    beyond: npt.NDArray[np.bool_]
    rest_us: float
    rest_macs: float
    kernels: int


def _priced(subject: Subject, target: Target, widths: Mapping[str, Widths]) -> _Prices:
    """Price every kernel at each choice of widths, all in one call of the estimator."""
    at: dict[str, Any] = {**subject.fixed, **widths}
    loads, moves = [], []
    for kernel in decompose(subject.graph, target):
        shapes = subject.shapes_of(kernel)

        def shape_of(tensor: str, shapes: Mapping[str, AffineShape] = shapes) -> tuple[Count, ...]:
            return tuple(axis.at(at) for axis in shapes[tensor])

        loads.append(workload(kernel, subject.graph, shape_of))
        moves.append(any(group in widths for shape in shapes.values() for axis in shape for group, _ in axis.terms))
    costs = price_all(loads, target)
    moved = [cost for cost, moving in zip(costs, moves, strict=True) if moving]
    still = [cost for cost, moving in zip(costs, moves, strict=True) if not moving]
    shape = next(iter(widths.values())).shape
    beyond = np.zeros(shape, np.bool_)
    for cost in moved:
        beyond = beyond | (False if cost.extrapolates is None else cost.extrapolates)
    return _Prices(
        latency_us=sum((cost.latency_us for cost in moved), start=np.zeros(shape)),
        macs=sum((np.asarray(cost.macs, np.float64) for cost in moved), start=np.zeros(shape)),
        beyond=beyond,
        rest_us=sum(float(cost.latency_us) for cost in still),
        rest_macs=sum(float(cost.macs) for cost in still),
        kernels=len(moved),
    )
