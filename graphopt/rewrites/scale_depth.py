"""Channels -> a depth multiplier times as many, landing on multiples of the target's parallelism.

The articles' depth multiplier: one factor for the whole model or for a stage. It acts only when it is asked for, since
below 1 it removes capacity. Above 1 it pads with zeros, which is exact and leaves room to train into.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from graphopt.ir.channels import ChannelGroup
from graphopt.rewrites.rewrite import Refusal, WidthOffer, check_multiple, why_not_cut


@dataclass(frozen=True)
class ScaleParams:
    """Parameters.

    Attributes:
        multiple: channels per step of the target; every offered width is a multiple of it.
        multipliers: the factors to offer; none: the rule does not act.
        only: globs on the channel group's id; none: every group.
    """

    multiple: int
    multipliers: tuple[float, ...] = ()
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_multiple(self.multiple)
        for multiplier in self.multipliers:
            if not 0.0 < multiplier <= 16.0:
                raise ValueError(f"multipliers must lie above 0 and up to 16, not {multiplier}")


def scaled_width(size: int, multiplier: float, multiple: int) -> int:
    """Return the multiple of ``multiple`` nearest to ``size * multiplier`` (ties go up), at least one multiple."""
    return max(math.floor(size * multiplier / multiple + 0.5), 1) * multiple


class ScaleDepth:
    """See the module's docstring."""

    name: ClassVar[str] = "scale-depth"
    Params: ClassVar[type[Any]] = ScaleParams

    def offer(self, group: ChannelGroup, params: ScaleParams) -> WidthOffer | Refusal:
        """Offer one width per multiplier, where it leads somewhere."""
        if not params.multipliers:
            return Refusal(group.id, "no depth multiplier was asked for: --depth-multiplier 0.75")
        if params.only and not any(fnmatchcase(group.id, glob) for glob in params.only):
            return Refusal(group.id, "the group is none of those that the rule is limited to")
        refusal = "no multiplier leads to another width"
        offered: set[int] = set()
        for multiplier in params.multipliers:
            width = scaled_width(group.size, multiplier, params.multiple)
            if multiplier < 1:
                fixed = why_not_cut(group)
                leads = width < group.size
            else:
                fixed, leads = group.unpaddable, width > group.size
            if fixed:
                refusal = fixed
            elif leads:
                offered.add(width)
        return WidthOffer(tuple(sorted(offered))) if offered else Refusal(group.id, refusal)
