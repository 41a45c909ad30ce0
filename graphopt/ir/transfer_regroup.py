"""Labels through the ops that regroup elements: Reshape, Flatten, DepthToSpace, SpaceToDepth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.ir.labels import Labels, LabelSpace
from graphopt.ir.op import Op
from graphopt.ir.transfer_dims import follow, freeze_dims
from graphopt.ir.walk import Walk, tiled

_MAX_ELEMENTS = 1 << 24
"""Reshapes that mix channels with more elements than this are frozen: a walk must stay fast."""


def reshape(walk: Walk, op: Op) -> None:
    """Reshape (its target is an input, or an attribute before opset 5) and Flatten."""
    axes = walk.of(op.inputs[0])
    before = [walk.dim(op.inputs[0], i) for i in range(len(axes))]
    after = walk.graph.shape(op.outputs[0])
    chunks = None if after is None else _chunks(before, after)
    if chunks is None or after is None:
        walk.freeze(op, f"{op} reshapes dimensions that are not known", *axes)
        freeze_dims(walk, op, op.input(1))
        return
    out: list[Labels | None] = [None] * len(after)
    for ins, outs in chunks:
        labelled = [i for i in ins if axes[i] is not None]
        if not labelled:
            continue
        if len(ins) == len(outs) == 1:
            out[outs[0]] = axes[ins[0]]
        elif len(labelled) > 1 or not outs:
            walk.freeze(op, f"{op} merges it with another axis of channels, or drops it", *(axes[i] for i in labelled))
        else:
            _regroup(walk, op, before, after, ins, outs, labelled[0], out)
    if op.input(1):
        follow(walk, op, 1, axes, out)
    walk.label(op.outputs[0], out, op)


def _regroup(
    walk: Walk,
    op: Op,
    before: Sequence[int | str | None],
    after: Sequence[int | str | None],
    ins: list[int],
    outs: list[int],
    source: int,
    out: list[Labels | None],
) -> None:
    """Find the one axis of ``outs`` that the labels of axis ``source`` go to, and unite what falls together there."""
    labels = walk.of(op.inputs[0])[source]
    assert labels is not None
    old = tuple(dim for i in ins if isinstance(dim := before[i], int))
    new = tuple(dim for i in outs if isinstance(dim := after[i], int))
    if len(labels) == 1 or np.prod(old) > _MAX_ELEMENTS:
        walk.freeze(op, f"{op} merges a single channel, or too many elements", labels)
        return
    place = ins.index(source)
    column = labels.reshape([-1 if i == place else 1 for i in range(len(old))])
    elements = np.broadcast_to(column, old).reshape(new)
    target, found = _best_axis(walk.space, elements)
    walk.space.unite(np.repeat(found[:, 0], found.shape[1] - 1), found[:, 1:].reshape(-1))
    out[outs[target]] = found[:, 0]


def _best_axis(space: LabelSpace, elements: Labels) -> tuple[int, Labels]:
    """The axis along which most labels stay apart when those at one position are united, moved to the front.

    Returns:
        The axis, and the elements as ``(axis length, all others)``.
    """
    best: tuple[int, int, Labels] | None = None
    for axis in range(elements.ndim):
        rows = np.moveaxis(elements, axis, 0).reshape(elements.shape[axis], -1)
        count = _apart(space.roots()[rows])
        if best is None or count >= best[0]:
            best = count, axis, rows
    assert best is not None
    return best[1], best[2]


def _apart(rows: Labels) -> int:
    """Number of distinct labels left when those of one row become one."""
    names, inverse = np.unique(rows, return_inverse=True)
    inverse = inverse.reshape(rows.shape)
    if (inverse == inverse[:, :1]).all():
        return len(names)
    local = LabelSpace()
    local.fresh(len(names))
    local.unite(np.repeat(inverse[:, 0], rows.shape[1]), inverse.reshape(-1))
    return len(np.unique(local.roots()))


def _chunks(
    before: Sequence[int | str | None], after: Sequence[int | str | None]
) -> list[tuple[list[int], list[int]]] | None:
    """Match runs of dimensions with equal products; ``None`` where an unknown one stands in the way."""
    chunks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        old = before[i] if i < len(before) else 1
        new = after[j] if j < len(after) else 1
        if i < len(before) and j < len(after) and old == new and old is not None:
            chunks.append(([i], [j]))
            i, j = i + 1, j + 1
        elif old == 1 and i < len(before):
            chunks.append(([i], []))
            i += 1
        elif new == 1 and j < len(after):
            chunks.append(([], [j]))
            j += 1
        else:
            ins, outs = [i], [j]
            while old != new:
                if not isinstance(old, int) or not isinstance(new, int) or 0 in (old, new):
                    return None
                if old < new:
                    ins.append(ins[-1] + 1)
                    more = before[ins[-1]] if ins[-1] < len(before) else None
                    old = old * more if isinstance(more, int) else None
                else:
                    outs.append(outs[-1] + 1)
                    more = after[outs[-1]] if outs[-1] < len(after) else None
                    new = new * more if isinstance(more, int) else None
            chunks.append((ins, outs))
            i, j = ins[-1] + 1, outs[-1] + 1
    return chunks


def depth_to_space(walk: Walk, op: Op) -> None:
    """DepthToSpace: depth is ``(block, block, channels)`` (DCR) or ``(channels, block, block)`` (CRD)."""
    axes = walk.of(op.inputs[0])
    walk.freeze(op, f"{op} interleaves it", *axes[2:])
    labels, blocks = axes[1], op.attribute("blocksize", 1) ** 2
    if labels is not None:
        crd = op.attribute("mode", "DCR") in ("CRD", b"CRD")
        rows = labels.reshape(-1, blocks) if crd else labels.reshape(blocks, -1).T
        walk.space.unite(np.repeat(rows[:, 0], blocks - 1), rows[:, 1:].reshape(-1))
        labels = rows[:, 0]
    walk.label(op.outputs[0], (axes[0], labels, *[None] * (len(axes) - 2)), op)


def space_to_depth(walk: Walk, op: Op) -> None:
    """SpaceToDepth: the new depth is ``(block, block, channels)``."""
    axes = walk.of(op.inputs[0])
    walk.freeze(op, f"{op} interleaves it", *axes[2:])
    labels = axes[1]
    if labels is not None:
        labels = tiled(labels, op.attribute("blocksize", 1) ** 2)
    walk.label(op.outputs[0], (axes[0], labels, *[None] * (len(axes) - 2)), op)
