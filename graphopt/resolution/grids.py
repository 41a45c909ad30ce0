"""Constants that hold a value for each position of a map: equal everywhere they are repeated, a grid is drawn again.

Along an axis of n positions the values ``a + b * i`` are a grid. One that spans the map from 0 or -1 to 1 does so at
any size; with ``b`` 1, or the pixels of the input for each position, it counts cells or pixels and goes on counting. A
list of positions may hold the maps of several sizes, one after another (the anchors of a detector): it is taken apart
where every part is a grid. Anything else (learned positions) belongs to its size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np

from graphopt.ir.op import Array

Side = tuple[int, int]

_CLOSE = 1e-5
_SPANS: tuple[Callable[[Array, int], Array], ...] = (
    lambda i, n: i / n,
    lambda i, n: (i + 0.5) / n,
    lambda i, n: i / (n - 1),
    lambda i, n: (2 * i + 1) / n - 1,
    lambda i, n: 2 * i / (n - 1) - 1,
)
"""Grids over a whole map, from 0 or -1 to 1: from corner to corner, by the middle of cells, from end to end."""
_MOST_LEVELS = 6


def stretched(rows: Array, length: int, pixels: Collection[int]) -> Array | None:
    """Bring the first axis to ``length`` positions; ``None`` where the values belong to the old ones.

    Args:
        rows: the values, positions along the first axis.
        length: how many positions there are now.
        pixels: sides of the model's input at its own size.
    """
    if (rows == rows[:1]).all():
        return np.repeat(rows[:1], length, axis=0)
    if rows.dtype.kind not in "fiu":
        return None
    count, exact = len(rows), rows.astype(np.float64)
    start, step = exact[0], exact[1] - exact[0]
    old, new = (np.arange(n).reshape(-1, *(1,) * (exact.ndim - 1)) for n in (count, length))
    if np.abs(exact - (start + step * old)).max() > _CLOSE * np.abs(exact).max():
        return None
    moving = step != 0
    steps, starts = step[moving], start[moving]
    known = {side // count for side in pixels if side % count == 0} | {1}
    if any(np.allclose(steps, number) for number in known) and not np.allclose(starts, -1.0):
        return np.asarray(start + step * new).astype(rows.dtype)
    for span in _SPANS:
        first, second = span(np.arange(2), count)
        if np.allclose(starts, first, atol=1e-3 / count) and np.allclose(steps, second - first, rtol=1e-4):
            return np.where(moving, span(new, length), start).astype(rows.dtype)
    return None


def stretched_levels(
    rows: Array, length: int, maps: Mapping[Side, Collection[Side]], pixels: Collection[int]
) -> Array | None:
    """The same for positions of several maps one after another, the largest first, each with its anchors for a cell.

    Args:
        rows: the values, positions along the first axis.
        length: how many positions there are now.
        maps: the maps met so far: height and width, and what they become.
        pixels: sides of the model's input at its own size.
    """
    known = {old: next(iter(new)) for old, new in maps.items() if len(new) == 1}
    for levels in _runs(sorted(known, reverse=True)):
        cells, after = (sum(h * w for h, w in sides) for sides in (levels, [known[level] for level in levels]))
        anchors, rest = divmod(len(rows), cells)
        if rest or not anchors or after * anchors != length:
            continue
        made = _levels(rows, levels, known, anchors, pixels)
        if made is not None:
            return made
    return None


def _runs(sides: Sequence[Side]) -> Iterator[Sequence[Side]]:
    """Neighbouring maps, from one to :data:`_MOST_LEVELS`."""
    for first in range(len(sides)):
        for last in range(first + 1, min(first + _MOST_LEVELS, len(sides)) + 1):
            yield sides[first:last]


def _levels(
    rows: Array, levels: Sequence[Side], known: Mapping[Side, Side], anchors: int, pixels: Collection[int]
) -> Array | None:
    made, start = [], 0
    for height, width in levels:
        stop = start + height * width * anchors
        grid = rows[start:stop].reshape(height, width, anchors, *rows.shape[1:])
        start = stop
        down, across = known[height, width]
        taller = stretched(grid, down, pixels)
        wider = None if taller is None else stretched(np.swapaxes(taller, 0, 1), across, pixels)
        if wider is None:
            return None
        made.append(np.swapaxes(wider, 0, 1).reshape(-1, *rows.shape[1:]))
    return np.concatenate(made)
