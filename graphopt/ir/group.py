"""What a look at the channels of a graph finds: groups, where they lie, and what keeps them from changing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from graphopt.errors import PlanError, did_you_mean
from graphopt.ir.walk import Role


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One axis of a weight that a channel group runs along.

    Attributes:
        weight: tensor name.
        axis: axis of the weight.
        positions: for each channel of the group, in group order, its positions on the axis, shape (size, repeat).
        role: ``produce`` (rows of the op that makes the channels: removing them removes the channel), ``consume``
            (columns of an op that sums over the channels) or ``carry`` (per-channel: bias, scale, depthwise, PRelu).
        op: key of the op that reads the weight.
    """

    weight: str
    axis: int
    positions: npt.NDArray[np.intp]
    role: Role
    op: str


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Coupled channels with one width.

    Attributes:
        id: stable name: the tensor where the group first appears, with ``[low:high]`` if it is only part of the axis.
        size: number of channels now.
        axes: (tensor, axis, repeat) of every activation the group runs along.
        members: the weights it runs along.
        makers: keys of the ops that make its channels (Conv, Gemm ...), in file order.
        frozen: why no channel can be removed, ``""`` when they can. A frozen group cannot be padded either.
        unpaddable: why no channel can be added, ``""`` when they can.
        is_stem: made by the first convolution of the model (never cut, only rounded up).
    """

    id: str
    size: int
    axes: tuple[tuple[str, int, int], ...]
    members: tuple[Member, ...]
    makers: tuple[str, ...]
    frozen: str = ""
    unpaddable: str = ""
    is_stem: bool = False


@dataclass(frozen=True, slots=True)
class AxisSize:
    """Length of a tensor axis as a function of the groups' widths: ``constant + sum(repeat * width[group])``."""

    constant: int
    terms: tuple[tuple[str, int], ...] = ()

    def at(self, widths: Mapping[str, int | npt.NDArray[np.int64]]) -> int | npt.NDArray[np.int64]:
        """Evaluate; arrays broadcast."""
        size: int | npt.NDArray[np.int64] = self.constant
        for group, repeat in self.terms:
            size = size + repeat * widths[group]
        return size


@dataclass(frozen=True, slots=True)
class Freeze:
    """An op that keeps channels from changing.

    Attributes:
        op: its key.
        reason: one sentence.
        groups: ids of the groups it freezes, sorted.
    """

    op: str
    reason: str
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class AxisLayout:
    """Which channel sits where on an axis.

    Attributes:
        group: index of the group at each position, -1 where no group runs, shape (length,).
        channel: its channel's number in the group, shape (length,).
        size: the length as a function of widths.
        positions: by group index, the positions of its channels in group order, shape (size, repeat).
    """

    group: npt.NDArray[np.intp]
    channel: npt.NDArray[np.intp]
    size: AxisSize
    positions: Mapping[int, npt.NDArray[np.intp]]


@dataclass(frozen=True, slots=True, eq=False)
class CutWeight:
    """A constant op input that runs along channel groups.

    Attributes:
        op: key of the op that reads it.
        slot: input slot.
        weight: tensor name.
        layouts: layout per axis, ``None`` where no group runs.
        pad: what a new channel holds.
    """

    op: str
    slot: int
    weight: str
    layouts: tuple[AxisLayout | None, ...]
    pad: float


@dataclass(frozen=True)
class Channels:
    """The channel groups of one graph.

    Attributes:
        groups: all groups, frozen ones included, in file order of their first appearance.
        freezes: why channels are frozen, in file order.
        layouts: by activation (tensor, axis).
        weights: every constant input along a group; `resize` cuts them.
    """

    groups: tuple[ChannelGroup, ...]
    freezes: tuple[Freeze, ...]
    layouts: Mapping[tuple[str, int], AxisLayout] = field(repr=False)
    weights: tuple[CutWeight, ...] = field(repr=False)
    _index: Mapping[str, int] = field(repr=False)
    _sizes: Mapping[tuple[str, int], AxisSize] = field(repr=False)
    _shapes: Mapping[str, tuple[int | str | None, ...]] = field(repr=False)
    _of_tensor: Mapping[str, tuple[str, ...]] = field(repr=False)

    def index(self, group_id: str) -> int:
        """Place of a group in :attr:`groups`.

        Raises:
            PlanError: when there is no group of that id.
        """
        if group_id not in self._index:
            raise PlanError(f"there is no channel group {group_id!r}{did_you_mean(group_id, self._index)}")
        return self._index[group_id]

    def group(self, group_id: str) -> ChannelGroup:
        """The group with this id. Raises ``PlanError`` when there is none."""
        return self.groups[self.index(group_id)]

    def axis_size(self, tensor: str, axis: int) -> AxisSize:
        """Length of an axis of an activation or a weight. Frozen groups count as constant.

        Raises:
            KeyError: when the tensor is unknown, or the length is no number.
        """
        shape = self._shapes[tensor]
        axis = axis + len(shape) if axis < 0 else axis
        found = self._sizes.get((tensor, axis))
        if found is not None:
            return found
        length = shape[axis]
        if not isinstance(length, int):
            raise KeyError(f"axis {axis} of {tensor!r} has no known length")
        return AxisSize(length)

    def groups_of(self, tensor: str) -> tuple[str, ...]:
        """Ids of the groups on any axis of an activation or a weight, in the order of :attr:`groups`."""
        return self._of_tensor.get(tensor, ())
