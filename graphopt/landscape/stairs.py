"""What a curve of cost against channels looks like: its step, its cliffs, its treads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CLIFF = 0.05
"""Change of the cost between neighbouring widths, as a share, from which on it is a cliff; upwards it must also be
twice the change of the width, since a price in proportion to the channels makes no stairs."""

STEP_FIT = 0.4
"""How much better than chance the rises must lie on the multiples of a step for it to be one (1: all of them do)."""

TIE = 0.05
"""Steps that fit equally well, within this: the largest of them is meant (what rises every 32 rises every 16, too)."""


@dataclass(frozen=True, slots=True)
class Cliff:
    """Neighbouring widths whose costs are far apart.

    Attributes:
        below, above: the two widths (channels).
        change: relative change of the cost from the first to the second; negative where more channels cost less.
    """

    below: int
    above: int
    change: float


@dataclass(frozen=True, slots=True)
class Tread:
    """Widths between two cliffs.

    Attributes:
        first, last: its ends (channels).
        best: the width of it with the lowest cost per channel.
        latency_us: estimate at ``best``, microseconds.
        cheap: whether no wider width costs as little (no, where the range ends in the middle of a tread: nobody can
            tell).
    """

    first: int
    last: int
    best: int
    latency_us: float
    cheap: bool


@dataclass(frozen=True, slots=True)
class Stairs:
    """The shape of one curve.

    Attributes:
        step: the step (channels) on whose multiples the cost rises, ``None`` where no step fits.
        fit: how well it does: 1 where every rise lies there, 0 where chance would put as many.
        treads: the widths between cliffs, ascending.
        cliffs: between the treads, ascending.
    """

    step: int | None
    fit: float
    treads: tuple[Tread, ...]
    cliffs: tuple[Cliff, ...]

    @property
    def cheapest(self) -> tuple[int, ...]:
        """The best widths of the treads that are cheap, ascending."""
        return tuple(tread.best for tread in self.treads if tread.cheap)


def find_stairs(channels: npt.NDArray[np.int64], cost: npt.NDArray[np.float64], *, single: bool = True) -> Stairs:
    """Describe a curve.

    Args:
        channels: widths, ascending, shape (n,).
        cost: what each costs, above 0, shape (n,).
        single: whether the widths are those of one group, channel by channel. Only then is there a step to look for.
    """
    change = cost[1:] / cost[:-1] - 1
    growth = channels[1:] / channels[:-1] - 1
    edges = np.flatnonzero((change <= -CLIFF) | (change >= np.maximum(CLIFF, 2 * growth)))
    cliffs = tuple(Cliff(int(channels[i]), int(channels[i + 1]), float(change[i])) for i in edges)
    step, fit = _step(channels, cost) if single else (None, 0.0)
    whole = step is not None and int(channels[-1]) % step == 0
    treads = []
    for first, end in zip([0, *(edges + 1)], [*(edges + 1), len(channels)], strict=True):
        best = first + int(np.argmin(cost[first:end] / channels[first:end]))
        cheap = whole if best + 1 == len(cost) else bool((cost[best + 1 :] > cost[best]).all())
        treads.append(
            Tread(int(channels[first]), int(channels[end - 1]), int(channels[best]), float(cost[best]), cheap)
        )
    return Stairs(step, fit, tuple(treads), cliffs)


def _step(channels: npt.NDArray[np.int64], cost: npt.NDArray[np.float64]) -> tuple[int | None, float]:
    """The step that fits best, and how well.

    A curve of step s rises from each multiple of s to its neighbour. The even slope of what grows with every channel
    (bytes) is taken off first: it belongs to no step.
    """
    rises = np.abs(np.diff(cost) - np.median(np.diff(cost))) if len(cost) > 2 else np.zeros(0)
    if rises.sum() <= 1e-9 * cost.max():
        return None, 0.0
    below = channels[:-1]
    fits = {}
    for step in range(2, int(below[-1]) + 1):
        on = below % step == 0
        chance = on.mean()
        if 0 < chance < 1:
            fits[step] = float((rises[on].sum() / rises.sum() - chance) / (1 - chance))
    best = max(fits.values(), default=0.0)
    if best < STEP_FIT:
        return None, max(best, 0.0)
    step = max(step for step, fit in fits.items() if fit >= best - TIE)
    return step, fits[step]
