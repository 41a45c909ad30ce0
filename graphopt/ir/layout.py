"""Where the channels of a group lie on an axis, and where they lie once channels are gone or added."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.ir.group import AxisLayout

Ints = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Selection:
    """What becomes of a group.

    Attributes:
        keep: channels that stay, in group order (0 .. size - 1), ascending.
        pad: number of channels that are appended.
    """

    keep: tuple[int, ...]
    pad: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class NewAxis:
    """An axis after a resize.

    Attributes:
        take: old position of each new one, -1 for a new channel, shape (new length,).
        anchor: the same, but a new channel has the old position that it stands behind.
    """

    take: Ints
    anchor: Ints

    def bound(self, position: int) -> int:
        """Where a cut before the old ``position`` falls now."""
        return int(np.searchsorted(self.anchor, position, side="left"))


def runs(layout: AxisLayout, group: int) -> tuple[Ints, int] | None:
    """Take the group's positions apart into whole runs ``0..0 1..1 .. n..n``, each channel equally often in a row.

    Returns:
        The last position of each run and how often each channel is repeated in it; ``None`` when the axis does not
        look like that, or (one channel only, several times) when it could be read in more than one way.
    """
    where = np.flatnonzero(layout.group == group)
    size, repeat = layout.positions[group].shape
    if size == 1:
        return (where, 1) if repeat == 1 else None
    channel = layout.channel[where]
    inner = int(np.argmax(channel != channel[0]))
    if len(channel) % (inner * size) != 0:
        return None
    expected = np.repeat(np.arange(size, dtype=np.intp), inner)
    places = where.reshape(-1, len(expected))
    whole = (channel.reshape(places.shape) == expected).all() and (np.diff(places, axis=1) == 1).all()
    return (places[:, -1], inner) if whole else None


def new_axis(layout: AxisLayout, selections: dict[int, Selection]) -> NewAxis:
    """Apply ``selections`` (by group index) to an axis. Groups that grow must lie in whole runs."""
    stays = np.ones(len(layout.group), dtype=bool)
    ends: list[Ints] = []
    for group, selection in sorted(selections.items()):
        if group not in layout.positions:
            continue
        positions = layout.positions[group]
        gone = np.ones(len(positions), dtype=bool)
        gone[list(selection.keep)] = False
        stays[positions[gone]] = False
        if selection.pad:
            found = runs(layout, group)
            assert found is not None, "a group that grows lies in whole runs"
            ends.append(np.repeat(found[0], selection.pad * found[1]))
    kept = np.flatnonzero(stays)
    added = np.concatenate(ends) if ends else np.empty(0, dtype=np.intp)
    anchor = np.concatenate([kept, added])
    take = np.concatenate([kept, np.full(len(added), -1, dtype=np.intp)])
    order = np.argsort(anchor, kind="stable")
    return NewAxis(take[order], anchor[order])
