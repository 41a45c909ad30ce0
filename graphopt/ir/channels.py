"""Channel groups: which channels can only be kept, removed or padded together.

One generic walk (`transfer`) gives each channel of each tensor axis a label and unites labels that stand or fall
together; `grouping` then bundles the channels that lie on exactly the same axes into groups with one width. What
comes out is in `group`; `resize` gives groups other widths.
"""

from __future__ import annotations

from graphopt.ir.graph import Graph
from graphopt.ir.group import AxisLayout, AxisSize, ChannelGroup, Channels, CutWeight, Freeze, Member
from graphopt.ir.grouping import group_channels
from graphopt.ir.transfer import walk_labels
from graphopt.ir.walk import Role

__all__ = [
    "AxisLayout",
    "AxisSize",
    "ChannelGroup",
    "Channels",
    "CutWeight",
    "Freeze",
    "Member",
    "Role",
    "channel_groups",
]


def channel_groups(graph: Graph) -> Channels:
    """Find the channel groups of ``graph``.

    A pure look. Shapes should be static: what is not known is frozen, and so is everything that an op without a
    transfer function touches.
    """
    return group_channels(walk_labels(graph))
