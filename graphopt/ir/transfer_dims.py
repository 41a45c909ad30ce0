"""Shapes computed from shapes: `Shape` and the small ops between it and a Reshape, Resize, Expand or ConstantOfShape.

Such a value follows the number of channels by itself. So nothing freezes as long as it ends up as the length of an
axis that runs along the same channels; any other use of it (arithmetic, an output ...) does freeze.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.ir.labels import Axes, Labels
from graphopt.ir.op import Op
from graphopt.ir.walk import Entry, Walk

_TARGETS = {"Reshape": 1, "Expand": 1, "Resize": 3, "ConstantOfShape": 0}
"""Input slot of the ops that take a shape."""


def shape_of(walk: Walk, op: Op) -> None:
    """Shape: one entry an axis."""
    rank = len(walk.of(op.inputs[0]))
    walk.dims[op.outputs[0]] = tuple((op.inputs[0], axis) for axis in range(rank))[
        slice(op.attribute("start", 0), op.attribute("end"))
    ]


def size_of(walk: Walk, op: Op) -> None:
    """Size: a product, which would change."""
    walk.freeze(op, f"{op} reads the number of channels", *walk.of(op.inputs[0]))


def move_dims(walk: Walk, op: Op) -> bool:
    """Carry computed shapes through ``op``; freeze what it computes with. True when the op is thereby done."""
    reading = [slot for slot, tensor in enumerate(op.inputs) if tensor in walk.dims]
    if not reading:
        return False
    move = _MOVES.get(op.op_type) if op.domain in ("", "ai.onnx") else None
    moved = None if move is None else move(walk, op)
    if moved is not None:
        walk.dims[op.outputs[0]] = moved
        return True
    follows = reading == [_TARGETS.get(op.op_type)]
    if not follows or not (op.op_type == "ConstantOfShape" or op.inputs[0] in walk.axes):
        for slot in reading:
            freeze_dims(walk, op, op.inputs[slot])
    return False


def freeze_dims(walk: Walk, op: Op, tensor: str) -> None:
    """Freeze every axis whose length is an element of ``tensor``."""
    for entry in walk.dims.get(tensor, ()):
        walk.freeze(op, f"{op} computes with the number of channels", _labels(walk, entry))


def entries(walk: Walk, tensor: str) -> tuple[Entry, ...] | None:
    """What is known of each element of a small integer tensor; ``None`` when not even their number is."""
    known = walk.dims.get(tensor)
    if known is None:
        known = walk.ints(tensor)
    if known is None:
        shape = walk.graph.static_shape(tensor)
        known = (None,) * (shape[0] if shape else 1) if shape is not None and len(shape) < 2 else None
    return known


def follow(walk: Walk, op: Op, slot: int, source: Axes, out: list[Labels | None]) -> None:
    """See that the shape given at ``slot`` will fit the labelled axes ``out``; freeze those that it would not.

    Args:
        walk: the walk.
        op: the op that takes the shape.
        slot: where.
        source: labels of the data input, for 0 entries of Reshape.
        out: labels of the result; an axis that freezes becomes ``None``.
    """
    given = entries(walk, op.inputs[slot]) or ()
    if len(given) != len(out):
        freeze_dims(walk, op, op.inputs[slot])
    editable = op.inputs[slot] in walk.graph.weights
    for i, labels in enumerate(out):
        entry = given[i] if len(given) == len(out) else None
        run = _labels(walk, entry)
        if (labels is None and run is None) or editable or (entry == -1 and op.op_type == "Reshape"):
            continue
        if entry == 0 and op.op_type == "Reshape" and i < len(source) and source[i] is labels:
            continue
        if labels is not None and run is not None and len(run) == len(labels):
            walk.space.unite(run, labels)
            continue
        walk.freeze(op, f"{op} is given this length as a number that cannot follow", labels, run)
        out[i] = None


def like(walk: Walk, op: Op) -> list[Labels | None] | None:
    """The axes of a tensor whose shape is computed (ConstantOfShape)."""
    given = entries(walk, op.inputs[0])
    return None if given is None else [_labels(walk, entry) for entry in given]


def _labels(walk: Walk, entry: Entry) -> Labels | None:
    if not isinstance(entry, tuple):
        return None
    axes = walk.of(entry[0])
    return axes[entry[1]] if axes else None


def _same(walk: Walk, op: Op) -> tuple[Entry, ...] | None:
    return walk.dims.get(op.inputs[0])


def _gather(walk: Walk, op: Op) -> tuple[Entry, ...] | None:
    picked = walk.ints(op.inputs[1])
    given = walk.dims.get(op.inputs[0])
    return None if picked is None or given is None else tuple(given[i] for i in picked)


def _slice(walk: Walk, op: Op) -> tuple[Entry, ...] | None:
    given = walk.dims.get(op.inputs[0])
    by_input = op.attribute("starts") is None
    low: Sequence[int] | None = walk.ints(op.input(1)) if by_input else op.attribute("starts")
    high: Sequence[int] | None = walk.ints(op.input(2)) if by_input else op.attribute("ends")
    step = walk.ints(op.input(4)) if op.input(4) else (1,)
    if given is None or not low or not high or not step:
        return None
    return given[slice(low[0], high[0], step[0])]


def _concat(walk: Walk, op: Op) -> tuple[Entry, ...] | None:
    parts = [entries(walk, tensor) for tensor in op.inputs]
    found = [part for part in parts if part is not None]
    return tuple(entry for part in found for entry in part) if len(found) == len(parts) else None


_MOVES: dict[str, Callable[[Walk, Op], tuple[Entry, ...] | None]] = {
    "Cast": _same,
    "Identity": _same,
    "Squeeze": _same,
    "Unsqueeze": _same,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
}
"""Ops that only move elements. Shapes are vectors and their elements scalars, so the axis never matters."""
