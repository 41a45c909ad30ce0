"""How an op's attributes and shape constants follow new widths: one function an op type, and the visible table.

Ops that are not here need no change beyond their weights: their result's size follows from their inputs'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from graphopt.ir.graph import Graph
from graphopt.ir.group import AxisLayout, Channels
from graphopt.ir.layout import NewAxis, Selection, new_axis
from graphopt.ir.op import Op, Weight
from graphopt.ir.transfer_shape import slice_bounds
from graphopt.ir.walk import Walk, positive


@dataclass(slots=True)
class Resizing:
    """One resize under way.

    Attributes:
        graph: the graph.
        channels: its groups.
        selections: what becomes of each group that changes, by group index.
        weights: new weights so far, by name.
    """

    graph: Graph
    channels: Channels
    selections: dict[int, Selection]
    weights: dict[str, Weight] = field(default_factory=dict)
    _axes: dict[int, NewAxis | None] = field(default_factory=dict)
    _names: dict[tuple[object, ...], str] = field(default_factory=dict)

    def new(self, layout: AxisLayout | None) -> NewAxis | None:
        """The axis as it will be; ``None`` when it stays."""
        if layout is None:
            return None
        if id(layout) not in self._axes:
            touched = any(group in self.selections for group in layout.positions)
            self._axes[id(layout)] = new_axis(layout, self.selections) if touched else None
        return self._axes[id(layout)]

    def axis(self, tensor: str, axis: int) -> NewAxis | None:
        """The axis of an activation as it will be; ``None`` when it stays."""
        return self.new(self.channels.layouts.get((tensor, axis)))

    def shape(self, tensor: str) -> tuple[int | str | None, ...]:
        """The new shape of an activation."""
        old = self.graph.shape(tensor) or ()
        new = [self.axis(tensor, i) for i in range(len(old))]
        return tuple(dim if axis is None else len(axis.take) for dim, axis in zip(old, new, strict=True))

    def add(self, key: tuple[object, ...], old: str, make: Callable[[str], Weight]) -> str:
        """Add the weight ``make(name)`` under a new name made from ``old``, once for each ``key``."""
        if key not in self._names:
            name, number = f"{old}.resized", 2
            while name in self.graph.nx or name in self.graph.tensors or name in self.weights:
                name, number = f"{old}.resized{number}", number + 1
            self._names[key] = name
            self.weights[name] = make(name)
        return self._names[key]

    def with_ints(self, op: Op, slot: int, values: Sequence[int]) -> Op:
        """Return ``op`` with a constant integer input replaced. A computed one follows by itself."""
        old = self.graph.weight(op.inputs[slot])
        if old is None:
            return op
        array = np.asarray(values, dtype=old.dtype).reshape(old.shape)
        if np.array_equal(array, old.array()):
            return op
        name = self.add(
            (old.name, array.tobytes()),
            old.name,
            lambda name: Weight(name, array.shape, array.dtype, lambda: array),
        )
        return replace(op, inputs=(*op.inputs[:slot], name, *op.inputs[slot + 1 :]))


Update = Callable[[Resizing, Op], Op]


def _conv(resizing: Resizing, op: Op) -> Op:
    channels, group = resizing.axis(op.inputs[0], 1), op.attribute("group", 1)
    if channels is None or group == 1 or group != (resizing.graph.shape(op.inputs[0]) or ())[1]:
        return op
    return op.with_attributes(group=len(channels.take))


def _split(resizing: Resizing, op: Op) -> Op:
    axis = positive(op.attribute("axis", 0), len(resizing.shape(op.inputs[0])))
    if resizing.axis(op.inputs[0], axis) is None:
        return op
    sizes = tuple(int(resizing.shape(output)[axis] or 0) for output in op.outputs)
    if op.input(1):
        return resizing.with_ints(op, 1, sizes)
    return op if op.attribute("split") is None else op.with_attributes(split=sizes)


def _slice(resizing: Resizing, op: Op) -> Op:
    shape = resizing.graph.shape(op.inputs[0]) or ()
    bounds = slice_bounds(Walk(resizing.graph), op, len(shape)) or {}
    by_input = op.attribute("starts") is None
    reader = Walk(resizing.graph)
    starts = list((reader.ints(op.input(1)) if by_input else op.attribute("starts")) or ())
    ends = list((reader.ints(op.input(2)) if by_input else op.attribute("ends")) or ())
    for i, (axis, (low, high, _)) in enumerate(bounds.items()):
        new = resizing.axis(op.inputs[0], axis)
        length = shape[axis]
        if new is None or not isinstance(length, int):
            continue
        first, last, _ = slice(low, high).indices(length)
        starts[i] = new.bound(first)
        if ends[i] <= length:  # a larger end means "all", and still does
            ends[i] = new.bound(last)
    if by_input:
        if starts:
            op = resizing.with_ints(op, 1, starts)
        return resizing.with_ints(op, 2, ends) if ends else op
    return op.with_attributes(starts=tuple(starts), ends=tuple(ends))


def _reshape(resizing: Resizing, op: Op) -> Op:
    new = resizing.shape(op.outputs[0])
    by_input = bool(op.input(1))
    target = list((Walk(resizing.graph).ints(op.input(1)) if by_input else op.attribute("shape")) or ())
    before = resizing.shape(op.inputs[0])
    for i, value in enumerate(target):
        changed = resizing.axis(op.outputs[0], i) is not None
        copied = value == 0 and i < len(before) and before[i] == new[i]
        if (changed or (value == 0 and not copied)) and value != -1 and not copied:
            target[i] = int(new[i] or 0)
    if by_input:
        return resizing.with_ints(op, 1, target)
    return op.with_attributes(shape=tuple(target)) if target else op


def _gather(resizing: Resizing, op: Op) -> Op:
    old = resizing.graph.shape(op.inputs[0]) or ()
    axis = positive(op.attribute("axis", 0), len(old))
    data, length = resizing.axis(op.inputs[0], axis), old[axis]
    indices = Walk(resizing.graph).ints(op.inputs[1])
    if data is None or indices is None or not isinstance(length, int):
        return op
    place = np.full(length, -1, dtype=np.intp)
    place[data.take] = np.arange(len(data.take))
    return _with_indices(resizing, op, place[np.asarray(indices, dtype=np.intp)], resizing.graph.weights[op.inputs[1]])


def _with_indices(resizing: Resizing, op: Op, places: np.ndarray[tuple[int], np.dtype[np.intp]], old: Weight) -> Op:
    kept = places[places >= 0].astype(old.dtype)
    shape = (len(kept),) if old.shape else ()
    values = kept.reshape(shape)
    name = resizing.add(
        (old.name, shape, values.tobytes()), old.name, lambda name: Weight(name, shape, old.dtype, lambda: values)
    )
    return replace(op, inputs=(op.inputs[0], name))


def _expand(resizing: Resizing, op: Op) -> Op:
    target = list(Walk(resizing.graph).ints(op.inputs[1]) or ())
    new = resizing.shape(op.outputs[0])
    for back in range(1, len(target) + 1):
        if resizing.axis(op.outputs[0], len(new) - back) is not None and target[-back] != 1:
            target[-back] = int(new[-back] or 0)
    return resizing.with_ints(op, 1, target)


def _constant_of_shape(resizing: Resizing, op: Op) -> Op:
    return resizing.with_ints(op, 0, [int(dim or 0) for dim in resizing.shape(op.outputs[0])])


def _resample(resizing: Resizing, op: Op) -> Op:
    if op.op_type == "Upsample" or not op.input(3):
        return op
    sizes = list(Walk(resizing.graph).ints(op.inputs[3]) or ())
    if not sizes:
        return op  # computed
    new = resizing.shape(op.outputs[0])
    axes = op.attribute("axes") or range(len(new))
    for i, axis in enumerate(axes):
        if resizing.axis(op.outputs[0], positive(axis, len(new))) is not None:
            sizes[i] = int(new[axis] or 0)
    return resizing.with_ints(op, 3, sizes)


UPDATES: dict[str, Update] = {
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Split": _split,
    "Slice": _slice,
    "Reshape": _reshape,
    "Gather": _gather,
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Resize": _resample,
}
