"""Channel groups: which channels can only be kept, removed or padded together (DESIGN 4).

CONTRACT ONLY - to be implemented.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Role = Literal["produce", "consume", "carry"]


@dataclass(frozen=True, slots=True)
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
        frozen: why no channel can be removed, ``""`` when they can.
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
