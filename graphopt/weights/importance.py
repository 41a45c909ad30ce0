"""Which channels to keep when a group shrinks: the ones with the largest weights around them.

A channel's importance is the sum, over all weights that its group runs along, of its share of the weight's squared
L2 norm (each weight divided by its mean, so that no layer speaks louder because its numbers are larger): the "group
L2 norm" of DepGraph (Fang et al., CVPR 2023, arXiv:2301.12900, eq. 4).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from graphopt.ir.channels import ChannelGroup, Channels
from graphopt.ir.graph import Graph
from graphopt.ir.resize import Selection


def importance(graph: Graph, group: ChannelGroup) -> npt.NDArray[np.float64]:
    """Return the importance of each channel of ``group``, shape (size,)."""
    score = np.zeros(group.size)
    for member in group.members:
        weight = graph.weights[member.weight]
        if len(weight.shape) < 2:  # a bias says little about how much its channel matters
            continue
        values = weight.array().astype(np.float64)
        others = tuple(axis for axis in range(values.ndim) if axis != member.axis)
        energy = np.square(values).sum(axis=others)[member.positions].sum(axis=1)
        mean = float(energy.mean())
        if mean > 0.0:
            score += energy / mean
    return score


def select(graph: Graph, channels: Channels, widths: Mapping[str, int]) -> dict[str, Selection]:
    """Return which channels stay, for each group that gets another width.

    Args:
        graph: the model.
        channels: its channel groups.
        widths: new width by group id. A larger one keeps everything and pads.
    """
    selections = {}
    for name, width in sorted(widths.items()):
        group = channels.group(name)
        if width >= group.size:
            if width > group.size:
                selections[name] = Selection(keep=tuple(range(group.size)), pad=width - group.size)
            continue
        ranked = np.argsort(-importance(graph, group), kind="stable")
        selections[name] = Selection(keep=tuple(sorted(int(i) for i in ranked[:width])))
    return selections
