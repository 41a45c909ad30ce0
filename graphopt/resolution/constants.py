"""Constants that meet a map follow it: in an elementwise op, and beside it in a concatenation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.ir.op import Array, Op
from graphopt.resolution.grids import stretched, stretched_levels
from graphopt.resolution.infer import folded
from graphopt.resolution.state import Sizes, refuse, refuse_misfit

_TOLD = {"ConstantOfShape": 0, "Expand": 1, "Resize": 3}
"""Ops that are told how large a map to make, and the input that says it."""


def fit_to(sizes: Sizes, op: Op, slot: int, wanted: Sequence[int | None]) -> Op:
    """Return ``op`` with the constant at ``slot`` brought to the shape ``wanted`` (``None``: as it is).

    It is a weight, made by ops from weights alone, or made by an op that is told its size.

    Raises:
        SizeMisfit: when its values belong to the model's own size.
    """
    tensor = op.inputs[slot]
    maker = sizes.graph.producer(tensor)
    told_at = -1 if maker is None else _TOLD.get(maker.op_type, -1)
    told = sizes.ints(maker.input(told_at)) if maker is not None and told_at >= 0 else None
    if maker is None or not told or tensor in sizes.shapes:
        values = folded(sizes, tensor)
        if values is None:
            refuse_misfit(sizes, op)
        for axis, length in enumerate(wanted):
            if length is not None and length != values.shape[axis]:
                values = _along(sizes, op, values, axis, length)
        return sizes.put_weight(op, slot, np.ascontiguousarray(values))
    have = sizes.old(tensor)
    place = len(have) - len(told)
    new = [
        length if length is not None and length != have[axis] else told[axis - place]
        for axis, length in enumerate(wanted)
        if axis >= place
    ]
    made = sizes.put_ints(sizes.op(maker), told_at, new)
    sizes.ops[made.key] = made
    sizes.shapes[tensor] = tuple(dim if length is None else length for dim, length in zip(have, wanted, strict=True))
    return op


def _along(sizes: Sizes, op: Op, values: Array, axis: int, length: int) -> Array:
    """The constant with ``length`` positions along an axis."""
    rows = np.moveaxis(values, axis, 0)
    sides = {side for name in sizes.graph.inputs for side in sizes.graph.static_shape(name) or ()}
    made = stretched(rows, length, sides)
    if made is None:
        made = stretched_levels(rows, length, sizes.seen, sides)
    if made is None:
        shown = "x".join(map(str, values.shape))
        refuse(op, f"its constant {shown} holds values for each of {len(rows)} positions (anchors, learned "
               f"positions?), and there are {length} at this size")  # fmt: skip
    return np.moveaxis(made, 0, axis)


def fit_broadcast(sizes: Sizes, op: Op) -> Op:
    """An elementwise op: constants that covered a map cover the new one, and maps that were alike still are."""
    rank = max(len(sizes.new(tensor)) for tensor in op.inputs if tensor)
    became: dict[tuple[int, int], set[int]] = {}
    for tensor in op.inputs:
        if tensor in sizes.shapes:
            pairs = zip(sizes.old(tensor), sizes.static(tensor), strict=True)
            for axis, (old, new) in enumerate(pairs, rank - len(sizes.new(tensor))):
                became.setdefault((axis, old), set()).add(new)
    for slot, tensor in enumerate(op.inputs):
        if not tensor or tensor in sizes.shapes or tensor in sizes.values:
            continue
        wanted: list[int | None] = []
        for axis, dim in enumerate(sizes.new(tensor), rank - len(sizes.new(tensor))):
            met = became.get((axis, dim), set()) if isinstance(dim, int) and dim > 1 else set()
            wanted.append(next(iter(met)) if len(met) == 1 and dim not in met else None)
        if any(length is not None for length in wanted):
            op = fit_to(sizes, op, slot, wanted)
    if any(len(new) > 1 for (_, old), new in became.items() if old > 1):
        refuse_misfit(sizes, op)  # one of them may be 1, which ONNX would take for a repetition
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
