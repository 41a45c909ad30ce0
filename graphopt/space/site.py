"""The three kinds of decision, and no others: sites, widths, knobs."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.catalog.rules import Rule
from graphopt.ir.channels import ChannelGroup
from graphopt.ir.op import SAFETY_LEVELS, Safety
from graphopt.plan import KEEP
from graphopt.rewrites.rewrite import Match, Refusal


def worst(levels: list[Safety]) -> Safety:
    """The least safe of ``levels``; ``exact`` when there are none."""
    return max(levels, key=SAFETY_LEVELS.index, default="exact")


@dataclass(frozen=True, slots=True)
class Fired:
    """A rule that matched at a place."""

    rule: Rule
    match: Match

    @property
    def safety(self) -> Safety:
        """What this place promises: the match's word where it has one, else the rule's."""
        return self.match.safety or self.rule.safety


@dataclass(frozen=True, slots=True)
class Refused:
    """A rule that did not match, or was not allowed to, and why."""

    rule: str
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Option:
    """One thing that can be done at a site: nothing (:data:`KEEP`), one rewrite, or several that do not collide."""

    label: str
    fired: tuple[Fired, ...] = ()

    @property
    def safety(self) -> Safety:
        """The least safe of what it does."""
        return worst([fired.safety for fired in self.fired])


@dataclass(frozen=True, slots=True)
class Site:
    """A place with a few options, the first of which is to keep it.

    Attributes:
        id: key of the first op (in file order) that some option replaces.
        options: what can be done, ``keep`` first.
        kernels: keys of the original kernels that some option changes.
    """

    id: str
    options: tuple[Option, ...]
    kernels: tuple[str, ...]

    def option(self, label: str) -> Option | None:
        """The option with this label, ``None`` when the site has none such."""
        return next((option for option in self.options if option.label == label), None)


@dataclass(frozen=True, slots=True)
class WidthOption:
    """One width on offer for a channel group.

    Attributes:
        width: number of channels.
        rule: id of the rule that offers it, ``keep`` for the present width.
        safety: what going there promises.
        multipliers: depth multipliers under which it is on offer; empty where there is no such knob.
    """

    width: int
    rule: str
    safety: Safety
    multipliers: tuple[float, ...] = ()

    @property
    def label(self) -> str:
        """What a reader sees: the number."""
        return str(self.width)


@dataclass(frozen=True, slots=True)
class Width:
    """A channel group and the widths on offer for it, the present one first."""

    group: ChannelGroup
    options: tuple[WidthOption, ...]


@dataclass(frozen=True, slots=True)
class Knob:
    """One value for the whole model."""

    name: str
    values: tuple[float, ...]


DEPTH_MULTIPLIER = "depth-multiplier"
"""Name of the knob that scales the channels of the whole model (or of the stages a card names)."""

__all__ = [
    "DEPTH_MULTIPLIER",
    "KEEP",
    "Fired",
    "Knob",
    "Option",
    "Refused",
    "Site",
    "Width",
    "WidthOption",
    "worst",
]
