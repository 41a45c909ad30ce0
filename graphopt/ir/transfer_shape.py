"""Labels through the ops that only move elements: transpose, concat, split, slice, gather, pad, expand, tile."""

from __future__ import annotations

import numpy as np

from graphopt.ir.labels import Labels
from graphopt.ir.op import Op
from graphopt.ir.transfer_dims import entries, follow, freeze_dims, like
from graphopt.ir.walk import Walk, positive, tiled


def transpose(walk: Walk, op: Op) -> None:
    """Transpose permutes the axes (by default: reverses them)."""
    axes = walk.of(op.inputs[0])
    walk.label(op.outputs[0], [axes[i] for i in op.attribute("perm", tuple(range(len(axes)))[::-1])], op)


def squeeze(walk: Walk, op: Op) -> None:
    """Squeeze: axes as an attribute (before opset 13), a constant input, or every axis of length 1."""
    axes = walk.of(op.inputs[0])
    gone = op.attribute("axes") if not op.input(1) else walk.ints(op.input(1))
    if gone is None and op.input(1):
        walk.freeze(op, f"{op} drops axes that are not constant", *axes)
        return
    if gone is None:
        gone = [i for i in range(len(axes)) if walk.dim(op.inputs[0], i) == 1]
    dropped = {positive(axis, len(axes)) for axis in gone}
    walk.freeze(op, f"{op} drops the axis", *(axes[i] for i in sorted(dropped)))
    walk.label(op.outputs[0], [labels for i, labels in enumerate(axes) if i not in dropped], op)


def unsqueeze(walk: Walk, op: Op) -> None:
    """Unsqueeze: axes as an attribute (before opset 13) or a constant input."""
    axes = walk.of(op.inputs[0])
    new = walk.ints(op.input(1)) if op.input(1) else op.attribute("axes")
    if new is None:
        walk.freeze(op, f"{op} adds axes that are not constant", *axes)
        return
    rank = len(axes) + len(new)
    places = {positive(axis, rank) for axis in new}
    rest = iter(axes)
    walk.label(op.outputs[0], [None if i in places else next(rest) for i in range(rank)], op)


def concat(walk: Walk, op: Op) -> None:
    """Concat appends along its axis and unites the others; a constant part makes channels of its own."""
    parts = [slot for slot, tensor in enumerate(op.inputs) if tensor]
    rank = walk.rank(op.outputs[0]) or max(len(walk.of(tensor)) for tensor in op.inputs)
    axis = positive(op.attribute("axis", 1), rank)
    constants = [slot for slot in parts if op.inputs[slot] in walk.graph.weights]
    computed = [slot for slot in parts if slot not in constants]
    axes = {slot: walk.of(op.inputs[slot]) or (None,) * rank for slot in computed}
    out = [None if i == axis else walk.unify(op, [axes[slot][i] for slot in computed]) for i in range(rank)]
    if any(axes[slot][axis] is not None for slot in computed):
        pieces = {slot: axes[slot][axis] for slot in computed}
        for slot in parts:
            if pieces.get(slot) is None:
                pieces[slot] = _new_piece(walk, op, slot, axis, slot in constants)
        found = [piece for slot in parts if (piece := pieces[slot]) is not None]
        if len(found) < len(parts):
            walk.freeze(op, f"{op} has an input of unknown size", *found)
        else:
            out[axis] = np.concatenate(found)
    else:
        pieces = {}
    for slot in constants:
        run = [pieces.get(slot) if i == axis else labels for i, labels in enumerate(out)]
        walk.attach(op, slot, run, "carry")
    walk.label(op.outputs[0], out, op)


def _new_piece(walk: Walk, op: Op, slot: int, axis: int, constant: bool) -> Labels | None:
    """Labels for a part that has none: free for a constant, frozen for anything else."""
    length = walk.dim(op.inputs[slot], axis)
    if not isinstance(length, int):
        return None
    piece = walk.space.fresh(length)
    if not constant:
        walk.freeze(op, f"{op} takes them from {op.inputs[slot]!r}, whose size is fixed", piece)
    return piece


def split(walk: Walk, op: Op) -> None:
    """Split: sizes as an attribute (before opset 13), a constant input, or equal parts."""
    axes = walk.of(op.inputs[0])
    axis = positive(op.attribute("axis", 0), len(axes))
    labels = axes[axis]
    sizes = walk.ints(op.input(1)) if op.input(1) else op.attribute("split")
    pieces: list[Labels | None] = [None] * len(op.outputs)
    if labels is not None and sizes is not None and len(sizes) == len(pieces) and sum(sizes) == len(labels):
        pieces = list(np.split(labels, np.cumsum(sizes)[:-1]))
    elif labels is not None and not op.input(1) and sizes is None and len(labels) % len(pieces) == 0:
        equal = labels.reshape(len(pieces), -1)  # no sizes to change: the parts stay equal
        for piece in equal[1:]:
            walk.space.unite(equal[0], piece)
        pieces = list(equal)
    elif labels is not None:
        walk.freeze(op, f"{op} has sizes that are not constant, or parts that are not equal", labels)
    for output, piece in zip(op.outputs, pieces, strict=True):
        walk.label(output, [piece if i == axis else other for i, other in enumerate(axes)], op)


def slice_(walk: Walk, op: Op) -> None:
    """Slice: bounds as attributes (before opset 10) or as constant inputs; steps of 1 along channels."""
    axes = walk.of(op.inputs[0])
    bounds = slice_bounds(walk, op, len(axes))
    if bounds is None:
        walk.freeze(op, f"{op} cuts along axes that are not constant", *axes)
        return
    out: list[Labels | None] = list(axes)
    for axis, (low, high, step) in bounds.items():
        labels = axes[axis]
        if labels is None:
            continue
        if low is None or high is None or step != 1:
            walk.freeze(op, f"{op} has bounds that are not constant, or a step other than 1", labels)
            out[axis] = None
        else:
            first, last, _ = slice(low, high).indices(len(labels))
            walk.cuts += [(labels, first), (labels, last)]
            out[axis] = labels if (first, last) == (0, len(labels)) else labels[first:last]
    walk.label(op.outputs[0], out, op)


Bounds = tuple[int | None, int | None, int | None]


def slice_bounds(walk: Walk, op: Op, rank: int) -> dict[int, Bounds] | None:
    """Start, end and step by axis, as given (``None`` where not constant); ``None`` when the axes are not known."""
    starts, ends, axes, steps = op.attribute("starts"), op.attribute("ends"), op.attribute("axes"), None
    if starts is None:
        starts, ends = walk.ints(op.input(1)), walk.ints(op.input(2))
        axes, steps = walk.ints(op.input(3)), walk.ints(op.input(4))
        if axes is None and op.input(3):
            return None
    length = walk.dim(op.input(1), 0) if starts is None else len(starts)
    if axes is None and not isinstance(length, int):
        return None
    chosen = tuple(range(length)) if axes is None and isinstance(length, int) else tuple(axes or ())
    ones: tuple[int | None, ...] = (None if op.input(4) else 1,) * len(chosen)
    none: tuple[int | None, ...] = (None,) * len(chosen)
    given = zip(chosen, starts or none, ends or none, steps or ones, strict=True)
    return {positive(axis, rank): (low, high, step) for axis, low, high, step in given}


def gather(walk: Walk, op: Op) -> None:
    """Gather with constant indices selects (and may repeat or reorder) channels."""
    data, indices = op.inputs[0], op.inputs[1]
    axes = walk.of(data)
    rank = walk.rank(indices)
    if not axes or rank is None:
        walk.freeze(op, f"{op} has indices of unknown rank", *axes)
        return
    axis = positive(op.attribute("axis", 0), len(axes))
    labels = axes[axis]
    picked: list[Labels | None] = [None] * rank
    if labels is not None:
        values = walk.ints(indices)
        chosen = None if values is None else labels[np.asarray(values, dtype=np.intp)]
        if chosen is None or rank > 1:
            walk.freeze(op, f"{op} picks channels by indices that are not a constant list", labels)
        else:
            walk.no_padding(op, f"{op} picks channels by number", labels)
            if rank == 1:
                picked = [chosen]
            else:
                walk.freeze(op, f"{op} picks this one channel", chosen)
    walk.label(op.outputs[0], (*axes[:axis], *picked, *axes[axis + 1 :]), op)


def pad(walk: Walk, op: Op) -> None:
    """Pad: amounts as an attribute (before opset 11) or a constant input; padding along channels freezes them."""
    axes = walk.of(op.inputs[0])
    amounts = op.attribute("pads", op.attribute("paddings"))
    if amounts is None:
        amounts = walk.ints(op.input(1))
    chosen = walk.ints(op.input(3)) if op.input(3) else tuple(range(len(axes)))
    if amounts is None or chosen is None:
        walk.freeze(op, f"{op} pads by amounts that are not constant", *axes)
        return
    half = len(chosen)
    padded = {positive(axis, len(axes)) for i, axis in enumerate(chosen) if amounts[i] or amounts[half + i]}
    walk.freeze(op, f"{op} pads along the channels", *(axes[i] for i in sorted(padded)))
    walk.label(op.outputs[0], [None if i in padded else labels for i, labels in enumerate(axes)], op)


def expand(walk: Walk, op: Op) -> None:
    """Expand: labelled axes keep their length."""
    axes = walk.of(op.inputs[0])
    target = walk.graph.static_shape(op.outputs[0])
    if target is None or len(target) < len(axes):
        walk.freeze(op, f"{op} expands to a shape that is not known", *axes)
        freeze_dims(walk, op, op.inputs[1])
        return
    out: list[Labels | None] = [*[None] * (len(target) - len(axes)), *axes]
    for i, labels in enumerate(out):
        if labels is not None and target[i] != len(labels):
            walk.freeze(op, f"{op} spreads one channel over {target[i]}", labels)
            out[i] = None
    missing = len(target) - len(entries(walk, op.inputs[1]) or ())
    rest = out[missing:]
    follow(walk, op, 1, axes, rest)
    walk.label(op.outputs[0], [*out[:missing], *rest], op)


def tile(walk: Walk, op: Op) -> None:
    """Tile repeats whole axes a constant number of times."""
    axes = walk.of(op.inputs[0])
    times = walk.ints(op.input(1))
    if times is None or len(times) != len(axes):
        walk.freeze(op, f"{op} repeats by numbers that are not constant", *axes)
        return
    walk.label(op.outputs[0], [a if a is None else tiled(a, n) for a, n in zip(axes, times, strict=True)], op)


def constant_of_shape(walk: Walk, op: Op) -> None:
    """ConstantOfShape: with a constant shape any axis may change; a computed shape follows its tensor."""
    shape = walk.ints(op.inputs[0])
    if shape is not None:
        walk.label(op.outputs[0], [walk.space.fresh(dim) if dim > 1 else None for dim in shape], op)
        return
    axes = like(walk, op)
    if axes is not None:
        walk.label(op.outputs[0], axes, op)
