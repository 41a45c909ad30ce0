"""The two protocols that a rewrite can follow, and the values they speak in.

A *site rewrite* replaces ops at one place (fuse, swap, fold). A *width rewrite* offers other sizes for a channel group
(round, scale). Both only look: :meth:`SiteRewrite.match` and :meth:`WidthRewrite.offer` answer with a value or with a
:class:`Refusal`, and :meth:`SiteRewrite.rewrite` describes a :class:`~graphopt.ir.graph.Patch` that somebody else
applies. Rewrites know neither targets nor prices; what depends on the chip reaches them as a parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from graphopt.ir.channels import ChannelGroup
from graphopt.ir.graph import Graph, Patch
from graphopt.ir.op import Op, Safety


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a rewrite does not apply: the op (or channel group) where the look-up ended, and one plain sentence."""

    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class WidthCondition:
    """What the final width of an axis must be for a match to hold.

    Widths are chosen together with sites and applied first, so a match may count on a width that is not there yet.

    Attributes:
        tensor: an activation.
        axis: its axis.
        multiple: the length must be a multiple of this,
        minimum: at least this,
        maximum: and at most this (``None``: no limit).
    """

    tensor: str
    axis: int
    multiple: int = 1
    minimum: int = 1
    maximum: int | None = None

    def refusal(self, size: int) -> str:
        """Why a length of ``size`` does not do, ``""`` when it does."""
        if size % self.multiple:
            return f"{size} channels are no multiple of {self.multiple}"
        if size < self.minimum:
            return f"{size} channels are fewer than {self.minimum}"
        if self.maximum is not None and size > self.maximum:
            return f"{size} channels are more than {self.maximum}"
        return ""


@dataclass(frozen=True, slots=True)
class Match:
    """A place where a rewrite applies.

    Attributes:
        anchor: key of the op where the match began.
        roles: (role, op key) pairs: what each op found is to the rewrite; `rewrite` reads them back.
        removes: keys of the ops that the rewrite takes out or replaces.
        safety: what this very place promises, where that is better than the rule's promise (fusing without an
            inner activation is exact); ``None`` means the rule's.
        conditions: what must hold of the final widths.
    """

    anchor: str
    roles: tuple[tuple[str, str], ...]
    removes: tuple[str, ...]
    safety: Safety | None = None
    conditions: tuple[WidthCondition, ...] = ()

    def role(self, name: str) -> str:
        """The op key found for a role. Raises ``KeyError`` when the match has no such role."""
        for role, key in self.roles:
            if role == name:
                return key
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class WidthOffer:
    """Other sizes that a width rewrite offers for a channel group (number of channels), the present one left out."""

    widths: tuple[int, ...]


class SiteRewrite(Protocol):
    """Replaces ops at one place.

    Attributes:
        name: what cards call it.
        Params: frozen dataclass of its parameters; field names, types and defaults are what a card may set.
        anchors: op types (default domain) at which `match` is tried.
    """

    name: ClassVar[str]
    Params: ClassVar[type[Any]]
    anchors: ClassVar[frozenset[str]]

    def match(self, graph: Graph, op: Op, params: Any) -> Match | Refusal | None:
        """Look at ``op`` (one of the anchors' types). ``None`` where the op is plainly none of this rewrite's
        business (a dense convolution for a depthwise swap), a refusal where it came near."""
        ...

    def rewrite(self, graph: Graph, match: Match, params: Any) -> Patch:
        """Describe the change. Only shapes are computed here; weight values are made when the model is written.

        New ops carry no rule id (the caller adds it). Every new tensor gets a type and shape. Must not fail on a
        match made on the same graph whose conditions hold.
        """
        ...


class WidthRewrite(Protocol):
    """Offers other widths for a channel group.

    Attributes:
        name: what cards call it.
        Params: frozen dataclass of its parameters.
    """

    name: ClassVar[str]
    Params: ClassVar[type[Any]]

    def offer(self, group: ChannelGroup, params: Any) -> WidthOffer | Refusal:
        """Return the widths on offer for ``group``, or why there are none."""
        ...


Rewrite = SiteRewrite | WidthRewrite


def check_multiple(multiple: int) -> None:
    """Raise ``ValueError`` when ``multiple`` is no number of channels that widths can be multiples of."""
    if multiple < 1:
        raise ValueError(f"multiple must be at least 1, not {multiple}")


def why_not_cut(group: ChannelGroup) -> str:
    """Why no channel of the group may be removed, ``""`` when some may."""
    return "the first convolution is never cut" if group.is_stem else group.frozen
