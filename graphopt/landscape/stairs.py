"""What a curve of cost against channels looks like: its step, its cliffs, its treads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CLIFF = 0.05
"""Change of the cost between neighbouring widths, as a share, from which on it is a cliff; upwards it must also be
twice the change of the width, since a price in proportion to the channels makes no stairs."""

STEP_FIT = 0.5
"""Share of what no smooth curve explains that a step must explain to be one."""

MAX_STEP = 256
"""Channels of a step at most: what a chip computes at once."""

_NOTHING = 1e-12
"""Relative square of what rounding leaves of a smooth curve."""


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
        fit: share of what no smooth curve explains that the best step does, 0 to 1.
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

    ``cost = a + b n + c n^2 + rise * ceil(n / step)`` by least squares: the smooth part takes what grows with every
    channel (bytes, loops), and what it leaves is compared with the teeth of each step that begins within the range.
    """
    along = (channels - channels[0]) / (channels[-1] - channels[0])
    smooth = np.linalg.qr(np.stack([along**0, along, along**2], axis=1))[0]
    left = cost - smooth @ (smooth.T @ cost)
    if left @ left <= _NOTHING * (cost @ cost):
        return None, 0.0
    steps = np.arange(2, min(channels[-1], MAX_STEP + 1), dtype=np.int64)
    steps = steps[(channels[-1] - 1) // steps * steps >= channels[0]]
    teeth = -(-channels[:, None] // steps).astype(float)
    teeth -= smooth @ (smooth.T @ teeth)
    height, norm = left @ teeth, np.maximum((teeth**2).sum(axis=0), _NOTHING)
    fit = np.where(height > 0, height**2 / norm / (left @ left), 0.0)
    best = int(fit.argmax()) if len(steps) else 0
    if not len(steps) or fit[best] < STEP_FIT:
        return None, float(fit.max(initial=0.0))
    return int(steps[best]), float(fit[best])
