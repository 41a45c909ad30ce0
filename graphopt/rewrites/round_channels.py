"""Channels -> the neighbouring multiple of the target's parallelism.

Up pads with zero channels: the outputs stay as they are, and the room is free, since an array of P lanes spends
``ceil(channels / P)`` steps either way. Down removes the channels above the last full multiple.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from graphopt.ir.channels import ChannelGroup
from graphopt.rewrites.rewrite import Refusal, WidthOffer, check_multiple, why_not_cut


@dataclass(frozen=True)
class RoundParams:
    """Parameters.

    Attributes:
        multiple: channels per step of the target.
        direction: ``up`` (pad, exact) or ``down`` (remove).
    """

    multiple: int
    direction: Literal["up", "down"] = "up"

    def __post_init__(self) -> None:
        check_multiple(self.multiple)


class RoundChannels:
    """See the module's docstring."""

    name: ClassVar[str] = "round-channels"
    Params: ClassVar[type[Any]] = RoundParams

    def offer(self, group: ChannelGroup, params: RoundParams) -> WidthOffer | Refusal:
        """Offer the neighbouring multiple in the asked direction."""
        fixed = group.unpaddable if params.direction == "up" else why_not_cut(group)
        if fixed:
            return Refusal(group.id, fixed)
        beyond = group.size % params.multiple
        if not beyond:
            return Refusal(group.id, f"{group.size} channels are a multiple of {params.multiple} already")
        if params.direction == "up":
            return WidthOffer((group.size - beyond + params.multiple,))
        if group.size < params.multiple:
            return Refusal(group.id, f"{group.size} channels are less than one multiple of {params.multiple}")
        return WidthOffer((group.size - beyond,))
