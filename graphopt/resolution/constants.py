"""Constants that belong to a map: equal everywhere, they are repeated; a grid of positions is drawn again.

Along an axis of n positions the values ``a + b * i`` are a grid. With ``b = 1 / n`` (and ``a`` 0 or ``b / 2``) it spans
the map from 0 to 1 and does so at any size; with ``b`` 1, or the pixels of the input for each position, it counts cells
or pixels and goes on counting. Anything else (learned positions, a list of anchors) belongs to its size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.ir.op import Array, Op
from graphopt.resolution.state import Sizes, refuse, refuse_misfit

_CLOSE = 1e-5
_TOLD = {"ConstantOfShape": 0, "Expand": 1, "Resize": 3}
"""Ops that are told how large a map to make, and the input that says it."""


def fit_to(sizes: Sizes, op: Op, slot: int, wanted: Sequence[int | None]) -> Op:
    """Return ``op`` with the constant at ``slot`` brought to the shape ``wanted`` (``None``: as it is).

    It is a weight, or made by an op that is told its size.

    Raises:
        SizeMisfit: when its values belong to the model's own size.
    """
    tensor = op.inputs[slot]
    weight = sizes.constant(tensor)
    if weight is not None:
        values = weight.array()
        for axis, length in enumerate(wanted):
            if length is not None and length != values.shape[axis]:
                values = _along(sizes, op, values, axis, length)
        return sizes.put_weight(op, slot, np.ascontiguousarray(values))
    maker = sizes.graph.producer(tensor)
    slot_told = -1 if maker is None else _TOLD.get(maker.op_type, -1)
    told = sizes.ints(maker.input(slot_told)) if maker is not None and slot_told >= 0 else None
    if maker is None or not told or tensor in sizes.shapes:
        refuse_misfit(sizes, op)
    have = sizes.old(tensor)
    place = len(have) - len(told)
    new = [
        length if length is not None and length != have[axis] else told[axis - place]
        for axis, length in enumerate(wanted)
        if axis >= place
    ]
    made = sizes.put_ints(sizes.op(maker), slot_told, new)
    sizes.ops[made.key] = made
    sizes.shapes[tensor] = tuple(dim if length is None else length for dim, length in zip(have, wanted, strict=True))
    return op


def _along(sizes: Sizes, op: Op, values: Array, axis: int, length: int) -> Array:
    rows = np.moveaxis(values, axis, 0)
    count = len(rows)
    if (rows == rows[:1]).all():
        return np.repeat(values.take([0], axis), length, axis)
    grid = _grid(sizes, rows, count, length) if values.dtype.kind in "fiu" else None
    if grid is None:
        shown = "x".join(map(str, values.shape))
        refuse(op, f"its constant {shown} holds values for each of {count} positions (anchors, learned positions?), "
               f"and there are {length} at this size")  # fmt: skip
    return np.moveaxis(grid.astype(values.dtype), 0, axis)


def _grid(sizes: Sizes, rows: Array, count: int, length: int) -> Array | None:
    """The grid drawn for ``length`` positions; ``None`` where ``rows`` are none."""
    exact = rows.astype(np.float64)
    start, step = exact[0], exact[1] - exact[0]
    places = np.arange(count).reshape(-1, *(1,) * (exact.ndim - 1))
    scale = max(float(np.abs(exact).max()), 1e-12)
    if np.abs(exact - (start + step * places)).max() > _CLOSE * scale:
        return None
    moving = step != 0
    steps, starts = step[moving], start[moving]
    places = np.arange(length).reshape(-1, *(1,) * (exact.ndim - 1))
    if np.allclose(steps * count, 1.0, rtol=1e-4):
        for offset in (0.0, 0.5):
            if np.allclose(starts * count, offset, atol=1e-3):
                return np.where(moving, (places + offset) / length, start)
        return None
    inputs = {dim for name in sizes.graph.inputs for dim in sizes.graph.static_shape(name) or ()}
    pixels = {dim // count for dim in inputs if dim % count == 0} | {1}
    if not any(np.allclose(steps, number) for number in pixels):
        return None
    return np.asarray(start + step * places)


def fit_broadcast(sizes: Sizes, op: Op) -> Op:
    """An elementwise op: constants that covered a map cover the new one."""
    rank = max(len(sizes.new(tensor)) for tensor in op.inputs if tensor)
    maps = [tensor for tensor in op.inputs if tensor in sizes.shapes]
    for slot, tensor in enumerate(op.inputs):
        if not tensor or tensor in sizes.shapes or tensor in sizes.values:
            continue
        have = sizes.new(tensor)
        offset = rank - len(have)
        wanted: list[int | None] = [None] * len(have)
        for other in maps:
            old, new = sizes.old(other), sizes.static(other)
            for axis in range(len(new)):
                place = axis + rank - len(new) - offset
                if place >= 0 and have[place] == old[axis] != new[axis] and old[axis] != 1:
                    wanted[place] = new[axis]
        if any(length is not None for length in wanted):
            op = fit_to(sizes, op, slot, wanted)
    return op


def fit_concat(sizes: Sizes, op: Op) -> Op:
    """A concatenation: constants beside a map are as high and wide as it is."""
    first = next(tensor for tensor in op.inputs if tensor in sizes.shapes)
    old, new = sizes.old(first), sizes.static(first)
    axis = op.attribute("axis", 1) % len(new)
    for slot, tensor in enumerate(op.inputs):
        if tensor in sizes.shapes:
            continue
        wanted = [None if i == axis or old[i] == new[i] else new[i] for i in range(len(new))]
        if any(length is not None for length in wanted) and len(sizes.new(tensor)) == len(new):
            op = fit_to(sizes, op, slot, wanted)
    return op
