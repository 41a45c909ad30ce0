"""Give channel groups other widths: cut and pad the weights, and let attributes, shape constants and shapes follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from graphopt.errors import PlanError
from graphopt.ir.graph import Graph, Patch
from graphopt.ir.group import ChannelGroup, Channels, CutWeight
from graphopt.ir.layout import NewAxis, Selection
from graphopt.ir.op import Array, Op, TensorInfo, Weight
from graphopt.ir.resize_ops import UPDATES, Resizing

__all__ = ["Selection", "resize"]


def resize(graph: Graph, channels: Channels, selections: Mapping[str, Selection]) -> Patch:
    """Describe ``graph`` with other channels in some groups.

    Removing channels equals zeroing what their consumers read of them; padding changes no output at all. Weight
    values are only made when somebody asks for them.

    Args:
        graph: the graph that ``channels`` was made from.
        channels: its channel groups.
        selections: what becomes of groups, by id; groups that are left out stay.

    Returns:
        The patch: only the ops that change, under the keys they had; their new weights have new names.

    Raises:
        PlanError: for an unknown group, a group that cannot change that way, or a selection that is no ascending,
            non-empty subset of its channels.
    """
    chosen: dict[int, Selection] = {}
    for group_id, selection in selections.items():
        group = channels.group(group_id)
        _check(group, selection)
        if selection.pad or len(selection.keep) < group.size:
            chosen[channels.index(group_id)] = selection
    resizing = Resizing(graph, channels, dict(sorted(chosen.items())))
    inputs = _cut_weights(resizing)
    tensors = _new_shapes(resizing)
    changed: list[Op] = []
    for op in graph.ops():
        new = op
        for slot, name in inputs.get(op.key, {}).items():
            new = replace(new, inputs=(*new.inputs[:slot], name, *new.inputs[slot + 1 :]))
        update = UPDATES.get(op.op_type)
        if update is not None and any(tensor in tensors for tensor in (*op.inputs, *op.outputs)):
            new = update(resizing, new)
        if new != op:
            changed.append(new)
    return Patch(
        remove=tuple(op.key for op in changed),
        add=tuple(changed),
        weights=tuple(resizing.weights.values()),
        tensors=tensors,
    )


def _check(group: ChannelGroup, selection: Selection) -> None:
    keep = np.asarray(selection.keep)
    if len(keep) == 0 or selection.pad < 0:
        raise PlanError(f"channel group {group.id!r} must keep a channel, and cannot grow by {selection.pad}")
    if keep[0] < 0 or keep[-1] >= group.size or (np.diff(keep) <= 0).any():
        raise PlanError(f"the kept channels of {group.id!r} must ascend within 0..{group.size - 1}")
    if len(keep) < group.size and group.frozen:
        raise PlanError(f"no channel of {group.id!r} can be removed: {group.frozen}")
    if selection.pad and (group.unpaddable or group.frozen):
        raise PlanError(f"no channel can be added to {group.id!r}: {group.unpaddable or group.frozen}")


def _new_shapes(resizing: Resizing) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for (tensor, _), layout in resizing.channels.layouts.items():
        if resizing.new(layout) is not None and tensor not in tensors:
            info = resizing.graph.tensors.get(tensor, TensorInfo())
            tensors[tensor] = TensorInfo(info.dtype, resizing.shape(tensor))
    return tensors


def _cut_weights(resizing: Resizing) -> dict[str, dict[int, str]]:
    """Make the new weights; return their names by op key and slot."""
    inputs: dict[str, dict[int, str]] = {}
    for use in resizing.channels.weights:
        axes = [resizing.new(layout) for layout in use.layouts]
        if any(axis is not None for axis in axes):
            inputs.setdefault(use.op, {})[use.slot] = _cut(resizing, use, axes)
    return inputs


def _cut(resizing: Resizing, use: CutWeight, axes: list[NewAxis | None]) -> str:
    old = resizing.graph.weights[use.weight]
    takes = tuple(None if axis is None else axis.take for axis in axes)
    shape = tuple(dim if take is None else len(take) for dim, take in zip(old.shape, takes, strict=True))

    def make() -> Array:
        values = old.array()
        for axis, take in enumerate(takes):
            if take is not None:
                values = np.take(values, np.maximum(take, 0), axis=axis)
                values[(slice(None),) * axis + (take < 0,)] = use.pad
        return values

    key = (use.weight, use.pad, tuple(None if take is None else take.tobytes() for take in takes))
    return resizing.add(key, use.weight, _maker(shape, old, make))


def _maker(shape: tuple[int, ...], old: Weight, make: Callable[[], Array]) -> Callable[[str], Weight]:
    return lambda name: Weight(name, shape, old.dtype, make)
