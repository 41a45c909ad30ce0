"""Channels -> any multiple of the target's parallelism between a fifth and one and a half times as many.

The articles' curated search space: a handful of sizes that suit the chip for every layer (AOWS searches 20 % to 150 %
of the original, in steps). A search for latency alone would cut every width to the smallest, so these are on offer only
where something prices what is lost: a drift budget, a memory to fit into, a front.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.ir.channels import ChannelGroup
from graphopt.rewrites.rewrite import Refusal, WidthOffer, check_multiple, why_not_cut


@dataclass(frozen=True)
class CurateParams:
    """Parameters.

    Attributes:
        multiple: channels per step of the target; every offered width is a multiple of it.
        smallest: share of the present channels that stays at least.
        largest: share of the present channels that is offered at most.
        enabled: whether something prices what is lost.
    """

    multiple: int
    smallest: float = 0.2
    largest: float = 1.5
    enabled: bool = False

    def __post_init__(self) -> None:
        check_multiple(self.multiple)
        if not 0.0 < self.smallest <= 1.0 <= self.largest <= 16.0:
            raise ValueError("smallest must lie above 0 and up to 1, largest from 1 to 16")


class CurateWidths:
    """See the module's docstring."""

    name: ClassVar[str] = "curate-widths"
    Params: ClassVar[type[Any]] = CurateParams

    def offer(self, group: ChannelGroup, params: CurateParams) -> WidthOffer | Refusal:
        """Offer the multiples within the range that the group can take."""
        if not params.enabled:
            asked = "--max-drift, --fit-memory, --pareto or --objective drift"
            return Refusal(group.id, f"needs something that prices what is lost: {asked}")
        fixed_below = why_not_cut(group)
        steps = range(params.multiple, int(params.largest * group.size) + 1, params.multiple)
        offered = tuple(
            width
            for width in steps
            if width >= params.smallest * group.size
            and width != group.size
            and not (fixed_below if width < group.size else group.unpaddable)
        )
        if offered:
            return WidthOffer(offered)
        return Refusal(group.id, fixed_below or f"no other multiple of {params.multiple} lies within its range")
