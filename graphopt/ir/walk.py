"""The state of one label walk: what the transfer functions read and write.

A transfer function looks at one op and says, through the methods here, which labels its outputs carry, which labels
become one channel, which weights run along them, and what must not change (freeze) or not grow (`no_padding`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from graphopt.ir.graph import Graph
from graphopt.ir.labels import Axes, Labels, LabelSpace
from graphopt.ir.op import Op

Role = Literal["produce", "consume", "carry"]
"""How a weight's axis belongs to a channel: rows that make it, columns that sum over it, or one value for each."""

Entry = int | tuple[str, int] | None
"""An element of a computed shape: a number, the length of an axis (tensor, axis), or not known."""

_MAX_PARAMETER_ELEMENTS = 1 << 20
"""Constants above this size are never read as shapes, axes or indices."""


@dataclass(frozen=True, slots=True)
class Hint:
    """What a computed constant (say, a dequantised weight) turned out to be when an op used it.

    Attributes:
        labels: of one of its axes.
        role: of that axis.
        pad: what a new channel holds there.
    """

    labels: Labels
    role: Role
    pad: float


@dataclass(slots=True)
class WeightUse:
    """One op input that is a constant with labelled axes.

    Attributes:
        op: key of the op that reads it.
        slot: input slot.
        weight: tensor name.
        axes: labels per axis.
        roles: role per axis.
        pad: what a new channel holds (0, or 1 where 0 would not do).
        hints: for a weight that reaches its op through others, what it is there.
    """

    op: str
    slot: int
    weight: str
    axes: Axes
    roles: tuple[Role, ...]
    pad: float
    hints: list[Hint] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Note:
    """Labels that may not change (or not grow), by which op and why."""

    op: str
    reason: str
    labels: Labels


@dataclass(slots=True)
class Walk:
    """Labels of every tensor so far, and what was learned on the way.

    Attributes:
        graph: the model.
        space: all labels.
        axes: labels by tensor; a tensor without any labelled axis is absent.
        uses: weights along labelled axes.
        frozen, unpaddable: labels that may not change / not grow.
        cuts: (labels of an axis, position) where a Slice begins or ends: between that position and the one before.
        makers: (op key, labels of the channels it makes).
        derived: computed constants, with the weight uses that they come from.
        raw: tensors that depend on graph inputs alone, through ops that make no channels.
        stems: labels made by convolutions of raw tensors.
        dims: computed shapes that depend on labelled axes.
    """

    graph: Graph
    space: LabelSpace = field(default_factory=LabelSpace)
    axes: dict[str, Axes] = field(default_factory=dict)
    uses: list[WeightUse] = field(default_factory=list)
    frozen: list[Note] = field(default_factory=list)
    unpaddable: list[Note] = field(default_factory=list)
    cuts: list[tuple[Labels, int]] = field(default_factory=list)
    makers: list[tuple[str, Labels]] = field(default_factory=list)
    derived: dict[str, tuple[WeightUse, ...]] = field(default_factory=dict)
    raw: set[str] = field(default_factory=set)
    stems: list[Labels] = field(default_factory=list)
    dims: dict[str, tuple[Entry, ...]] = field(default_factory=dict)
    _shared: dict[str, list[WeightUse]] = field(default_factory=dict)

    # -- looking --------------------------------------------------------------------------------------------------

    def of(self, tensor: str) -> Axes:
        """Labels of each axis of ``tensor``; ``()`` when none is labelled."""
        return self.axes.get(tensor, ())

    def is_constant(self, tensor: str) -> bool:
        """Whether ``tensor`` is a weight or computed from weights alone."""
        return tensor in self.graph.weights or tensor in self.derived

    def rank(self, tensor: str) -> int | None:
        """Number of axes, ``None`` when unknown."""
        axes = self.axes.get(tensor)
        if axes is not None:
            return len(axes)
        shape = self.graph.shape(tensor)
        return None if shape is None else len(shape)

    def dim(self, tensor: str, axis: int) -> int | str | None:
        """Length of an axis; a symbol or ``None`` when it is no number."""
        axes = self.axes.get(tensor)
        labels = axes[axis] if axes else None
        if labels is not None:
            return len(labels)
        shape = self.graph.shape(tensor)
        return None if shape is None else shape[axis]

    def ints(self, tensor: str) -> tuple[int, ...] | None:
        """Values of a constant integer tensor (shape, axes, indices ...), ``None`` when it is not constant."""
        weight = self.graph.weight(tensor)
        if weight is None or weight.size > _MAX_PARAMETER_ELEMENTS or weight.dtype.kind not in "iu":
            return None
        return tuple(int(value) for value in weight.array().reshape(-1))

    # -- saying ---------------------------------------------------------------------------------------------------

    def label(self, tensor: str, axes: Sequence[Labels | None], op: Op) -> None:
        """Give ``tensor`` its labels. Labels that do not fit its known shape are frozen instead."""
        if not tensor or all(labels is None for labels in axes):
            return
        shape = self.graph.shape(tensor)
        fits = shape is not None and len(shape) == len(axes)
        if fits and shape is not None:
            fits = all(labels is None or len(labels) == dim for labels, dim in zip(axes, shape, strict=True))
        if fits:
            self.axes[tensor] = tuple(axes)
        else:
            self.freeze(op, f"the shape of {tensor!r} is not known well enough behind {op}", *axes)

    def freeze(self, op: Op, reason: str, *labels: Labels | None) -> None:
        """No channel of ``labels`` may be removed or added."""
        self.frozen += [Note(op.key, reason, found) for found in labels if found is not None]

    def freeze_tensor(self, op: Op, reason: str, tensor: str) -> None:
        """Freeze every axis of ``tensor``."""
        self.freeze(op, reason, *self.of(tensor))

    def no_padding(self, op: Op, reason: str, *labels: Labels | None) -> None:
        """No channel may be added to ``labels``."""
        self.unpaddable += [Note(op.key, reason, found) for found in labels if found is not None]

    def unify(self, op: Op, parts: Sequence[Labels | None]) -> Labels | None:
        """Unite axes of one length that run in parallel; if one carries no channels, freeze the others."""
        found = [labels for labels in parts if labels is not None]
        if len(found) < len(parts):
            self.freeze(op, f"{op} joins them with a tensor whose size is fixed", *found)
            return None
        for labels in found[1:]:
            self.space.unite(found[0], labels)
        return found[0] if found else None

    def attach(
        self, op: Op, slot: int, axes: Sequence[Labels | None], roles: Sequence[Role] | Role, pad: float = 0.0
    ) -> None:
        """Say which labels run along the axes of a constant input; a computed input freezes them.

        Args:
            op: the reader.
            slot: the input slot; nothing happens when it is omitted.
            axes: labels per axis of the constant.
            roles: role per axis, or one for all.
            pad: what a new channel holds there.
        """
        tensor = op.input(slot)
        if roles == "carry" and tensor in self.graph.weights and all(labels is None for labels in axes):
            return
        each: tuple[Role, ...] = (roles,) * len(axes) if isinstance(roles, str) else tuple(roles)
        weight = self.graph.weight(tensor)
        if weight is not None:
            if len(weight.shape) != len(axes) or any(
                labels is not None and len(labels) != dim for labels, dim in zip(axes, weight.shape, strict=True)
            ):
                self.freeze(op, f"the shape of {tensor!r} does not fit {op}", *axes)
                return
            self._attach_weight(op, WeightUse(op.key, slot, tensor, tuple(axes), each, pad))
        elif tensor in self.derived and len(self.of(tensor)) == len(axes):
            for mine, theirs in zip(axes, self.of(tensor), strict=True):
                if mine is None or theirs is None:
                    self.freeze(op, f"{op} reads {tensor!r} whole", mine, theirs)
                else:
                    self.space.unite(mine, theirs)
            if "consume" in each and not self.derived[tensor]:
                self.no_padding(op, f"{op} sums with {tensor!r}, which holds the same value everywhere", *axes)
            for use in self.derived[tensor]:
                use.hints += [
                    Hint(labels, role, pad)
                    for labels, role in zip(self.of(tensor), each, strict=True)
                    if labels is not None
                ]
        elif tensor:
            self.freeze(op, f"{op} reads {tensor!r}, which is not constant", *axes)
            self.freeze_tensor(op, f"{op} uses it as a weight", tensor)

    def _attach_weight(self, op: Op, use: WeightUse) -> None:
        self.uses.append(use)
        if all(role == "carry" for role in use.roles):
            return  # several readers of one bias or scale each get their own
        for other in self._shared.setdefault(use.weight, []):
            for mine, theirs in zip(use.axes, other.axes, strict=True):
                if mine is not None and theirs is not None:
                    self.space.unite(mine, theirs)
                else:
                    self.freeze(op, f"{op} shares {use.weight!r} with another op and reads it whole", mine, theirs)
        self._shared[use.weight].append(use)


def positive(axis: int, rank: int) -> int:
    """Return ``axis`` counted from the front."""
    return axis + rank if axis < 0 else axis


def repeated(labels: Labels, times: int) -> Labels:
    """Each label ``times`` times in a row; the same array when that is once."""
    return labels if times == 1 else np.repeat(labels, times)


def tiled(labels: Labels, times: int) -> Labels:
    """The whole run of labels ``times`` times; the same array when that is once."""
    return labels if times == 1 else np.tile(labels, times)
