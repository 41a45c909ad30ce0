"""Where the positions of a resized tensor's channel axis were before."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from graphopt.ir.channels import Channels
from graphopt.ir.layout import Selection, new_axis

CHANNEL_AXIS = 1


def kept_positions(channels: Channels, selections: Mapping[str, Selection]) -> dict[str, npt.NDArray[np.intp]]:
    """Return, for each activation whose channel axis changes, the old position of each new one (-1: a padded one).

    Args:
        channels: the channel groups of the model before the change.
        selections: what became of groups, by id.
    """
    chosen = {channels.index(name): selection for name, selection in sorted(selections.items())}
    found = {}
    for (tensor, axis), layout in channels.layouts.items():
        if axis != CHANNEL_AXIS or not any(group in layout.positions for group in chosen):
            continue
        take = new_axis(layout, chosen).take
        if not np.array_equal(take, np.arange(len(layout.group))):
            found[tensor] = take
    return found
