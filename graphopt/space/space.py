"""The space: every decision that the rules in force offer on one model for one target.

Building it only looks. A match that the user's safety level or protection excludes becomes a refusal like any other,
so that `explain` can say why a rule did not act.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphopt.catalog.rules import Rule
from graphopt.cost.kernels import Kernel
from graphopt.ir.channels import ChannelGroup, Channels
from graphopt.ir.graph import Graph
from graphopt.ir.op import SAFETY_LEVELS, Safety
from graphopt.rewrites import is_site_rewrite, is_width_rewrite
from graphopt.rewrites.rewrite import Refusal, WidthOffer
from graphopt.rewrites.scale_depth import ScaleDepth
from graphopt.space.site import DEPTH_MULTIPLIER, KEEP, Fired, Knob, Option, Refused, Site, Width, WidthOption

MAX_OPTIONS = 32
"""Options of one site at most: where many matches overlap, their combinations beyond this many are left out."""


@dataclass(frozen=True)
class Space:
    """All decisions.

    Attributes:
        graph: the model that they are about (normalised where that was possible).
        channels: its channel groups.
        kernels: how the target decomposes it.
        sites, widths, knobs: the decisions.
        refused: what was refused, by which rule, where and why.
        allow: the least safe kind of change on offer.
        protect: globs of what stays as it is.
    """

    graph: Graph
    channels: Channels
    kernels: tuple[Kernel, ...]
    sites: tuple[Site, ...]
    widths: tuple[Width, ...]
    knobs: tuple[Knob, ...]
    refused: tuple[Refused, ...]
    allow: Safety = "exact"
    protect: tuple[str, ...] = ()

    @property
    def decisions(self) -> int:
        """Number of decisions."""
        return len(self.sites) + len(self.widths) + len(self.knobs)


def build_space(
    graph: Graph,
    channels: Channels,
    kernels: Sequence[Kernel],
    rules: Sequence[Rule],
    *,
    allow: Safety = "exact",
    protect: Sequence[str] = (),
    left_to_cpu: Collection[str] = (),
) -> Space:
    """Ask every rule about every place.

    Args:
        graph: the model.
        channels: its channel groups.
        kernels: its kernels on the target.
        rules: the rules in force, bound to the target.
        allow: the least safe kind of change on offer.
        protect: globs of op names, op keys and tensor names that stay as they are.
        left_to_cpu: op types that the target cannot run: what would make one is refused.
    """
    guard = _Guard(graph, allow, tuple(protect), left_to_cpu)
    refused: list[Refused] = []
    fired = _fired(graph, rules, guard, refused)
    widths, knobs = _widths(channels, rules, guard, refused)
    return Space(
        graph=graph,
        channels=channels,
        kernels=tuple(kernels),
        sites=_sites(graph, kernels, fired),
        widths=widths,
        knobs=knobs,
        refused=tuple(refused),
        allow=allow,
        protect=tuple(protect),
    )


class _Guard:
    """What user and target exclude: unsafe changes, protected parts, ops that the target cannot run."""

    def __init__(self, graph: Graph, allow: Safety, protect: tuple[str, ...], left_to_cpu: Collection[str]) -> None:
        self._graph = graph
        self._left_to_cpu = left_to_cpu
        self._allowed = SAFETY_LEVELS[: SAFETY_LEVELS.index(allow) + 1]
        self._protect = protect

    def unsafe(self, safety: Safety) -> str:
        """Why a change of this safety is not on offer, ``""`` when it is."""
        return "" if safety in self._allowed else f"is {safety}: needs --allow {safety}"

    def unsupported(self, one: Fired) -> str:
        """Why the target cannot run what a match would make, ``""`` when it can."""
        rewrite = one.rule.rewrite
        if not self._left_to_cpu or not is_site_rewrite(rewrite) or one.match.conditions:
            return ""  # a match that waits for other widths cannot be carried out yet; such ones make convolutions
        made = {op.op_type for op in rewrite.rewrite(self._graph, one.match, one.rule.params).add}
        found = sorted(made.intersection(self._left_to_cpu))
        return f"would make {found[0]}, which the target leaves to the CPU" if found else ""

    def protected(self, keys: Sequence[str]) -> str:
        """Why these ops and tensors may not change, ``""`` when they may."""
        for glob in self._protect:
            for key in keys:
                names = [key]
                if key in self._graph:
                    op = self._graph.op(key)
                    names += [op.name, *op.outputs]
                if any(fnmatch.fnmatchcase(name, glob) for name in names if name):
                    return f"is protected by --protect {glob}"
        return ""


def _fired(graph: Graph, rules: Sequence[Rule], guard: _Guard, refused: list[Refused]) -> list[Fired]:
    """Every match of every site rule that may act, in file order of the anchors."""
    found: list[tuple[int, int, Fired]] = []
    by_type: dict[str, list[str]] = {}
    for op in graph.ops():
        if not op.domain:
            by_type.setdefault(op.op_type, []).append(op.key)
    for number, rule in enumerate(rules):
        rewrite = rule.rewrite
        if not is_site_rewrite(rewrite):
            continue
        for key in (key for op_type in sorted(rewrite.anchors) for key in by_type.get(op_type, ())):
            answer = rewrite.match(graph, graph.op(key), rule.params)
            if answer is None:
                continue
            if isinstance(answer, Refusal):
                refused.append(Refused(rule.id, answer))
                continue
            one = Fired(rule, answer)
            reason = guard.protected(answer.removes) or guard.unsafe(one.safety) or guard.unsupported(one)
            if reason:
                refused.append(Refused(rule.id, Refusal(key, reason)))
            else:
                found.append((graph.position(key), number, one))
    found.sort(key=lambda item: item[:2])
    return [one for _, _, one in found]


def _sites(graph: Graph, kernels: Sequence[Kernel], fired: list[Fired]) -> tuple[Site, ...]:
    """Group the matches that meet (in an op or a kernel) into sites, each with its compatible combinations."""
    kernel_of = {op: kernel.key for kernel in kernels for op in kernel.ops}
    touched = [sorted({kernel_of.get(op, op) for op in one.match.removes}) for one in fired]
    component: dict[str, int] = {}
    members: dict[int, list[int]] = {}
    for i, keys in enumerate(touched):
        members[i] = [i]
        for old in sorted({component[key] for key in keys if key in component}):
            members[i] += members.pop(old)
        for j in members[i]:
            component.update(dict.fromkeys(touched[j], i))
    known = {kernel.key for kernel in kernels}
    sites = []
    for group in members.values():
        ones = [fired[j] for j in sorted(group)]
        first = min((key for one in ones for key in one.match.removes), key=graph.position)
        keys = sorted({key for j in group for key in touched[j] if key in known}, key=graph.position)
        sites.append(Site(first, _options(ones), tuple(keys)))
    return tuple(sorted(sites, key=lambda site: graph.position(site.id)))


def _options(ones: list[Fired]) -> tuple[Option, ...]:
    """``keep``, every match alone, then the combinations of matches that share no op, smallest first."""
    combinations: list[tuple[Fired, ...]] = [()]
    for one in ones:
        removes = set(one.match.removes)
        for old in tuple(combinations):
            if all(removes.isdisjoint(other.match.removes) for other in old):
                combinations.append((*old, one))
    combinations.sort(key=len)
    rules = [one.rule.id for one in ones]

    def label(one: Fired) -> str:
        return one.rule.id if rules.count(one.rule.id) == 1 else f"{one.rule.id}@{one.match.anchor}"

    return tuple(
        Option("+".join(map(label, combination)) or KEEP, combination) for combination in combinations[:MAX_OPTIONS]
    )


def _widths(
    channels: Channels, rules: Sequence[Rule], guard: _Guard, refused: list[Refused]
) -> tuple[tuple[Width, ...], tuple[Knob, ...]]:
    """The widths on offer for every group, and the knob over them if a multiplier was asked for."""
    width_rules = [rule for rule in rules if is_width_rewrite(rule.rewrite)]
    scaling = [rule for rule in width_rules if isinstance(rule.rewrite, ScaleDepth) and rule.params.multipliers]
    unscaled = [rule for rule in width_rules if rule not in scaling]
    multipliers = tuple(dict.fromkeys(m for rule in scaling for m in rule.params.multipliers))
    widths = []
    for group in channels.groups:
        reason = guard.protected((*group.makers, *(tensor for tensor, _, _ in group.axes)))
        if reason:
            refused += [Refused(rule.id, Refusal(group.id, reason)) for rule in width_rules]
            continue
        options = [WidthOption(group.size, KEEP, "exact"), *_offers(group, unscaled, {}, guard, refused)]
        if multipliers:
            options = _gated(options, group, scaling, multipliers, guard, refused)
        if len(options) > 1:
            widths.append(Width(group, tuple(options)))
    knobs = (Knob(DEPTH_MULTIPLIER, multipliers),) if multipliers else ()
    return tuple(widths), knobs


def _gated(
    unscaled: Sequence[WidthOption],
    group: ChannelGroup,
    scaling: Sequence[Rule],
    multipliers: Sequence[float],
    guard: _Guard,
    refused: list[Refused],
) -> list[WidthOption]:
    """The options with the multipliers under which each is on offer; where a multiplier leads nowhere, the unscaled
    ones are. The present width comes first even where no multiplier allows it: prices are told against it."""
    by_width = {group.size: WidthOption(group.size, KEEP, "exact")}
    for m in multipliers:
        scaled = _offers(group, scaling, {"multipliers": (m,)}, guard, refused) if m != 1.0 else []
        for option in scaled or unscaled:
            known = by_width.get(option.width, option)
            by_width[option.width] = replace(known, multipliers=(*known.multipliers, m))
    return sorted(by_width.values(), key=lambda option: (option.width != group.size, option.width))


def _offers(
    group: ChannelGroup, rules: Sequence[Rule], params: Mapping[str, Any], guard: _Guard, refused: list[Refused]
) -> list[WidthOption]:
    """What ``rules`` offer for ``group``, smallest first; the first rule that offers a width has it."""
    options: dict[int, WidthOption] = {}
    for rule in rules:
        rewrite = rule.rewrite
        assert is_width_rewrite(rewrite)
        answer = rewrite.offer(group, replace(rule.params, **params))
        if isinstance(answer, WidthOffer):
            reason = guard.unsafe(rule.safety)
            if not reason:
                for width in answer.widths:
                    if width != group.size:
                        options.setdefault(width, WidthOption(width, rule.id, rule.safety))
                continue
            answer = Refusal(group.id, reason)
        refused.append(Refused(rule.id, answer))
    return sorted(options.values(), key=lambda option: option.width)
