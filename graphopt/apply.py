"""Apply a plan: the only step that builds a new graph.

Widths first, then the sites, matched anew on the resized graph. Nothing is computed before the model is written: new
weights are recipes until then. What is lossy carries first-method weights (composed kernels, cut columns), which
`weights.repair` then fits to real samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from graphopt.catalog.rules import Rule
from graphopt.errors import PlanError, did_you_mean
from graphopt.ir.channels import Channels
from graphopt.ir.graph import Graph, Patch
from graphopt.ir.op import Op
from graphopt.ir.resize import Selection, resize
from graphopt.rewrites import is_site_rewrite
from graphopt.rewrites.rewrite import Match, Refusal, SiteRewrite
from graphopt.weights.importance import select


@dataclass(frozen=True, slots=True)
class SiteAction:
    """One rule to apply, at the op where its match begins."""

    rule: Rule
    anchor: str


@dataclass(frozen=True, slots=True)
class WidthAction:
    """A new width for a channel group, and the rule that offered it."""

    group: str
    width: int
    rule: str


def apply_actions(
    graph: Graph,
    channels: Channels,
    sites: Sequence[SiteAction],
    widths: Sequence[WidthAction],
    selections: Mapping[str, Selection] | None = None,
) -> Graph:
    """Return the rewritten graph.

    Args:
        graph: the model that the actions are about.
        channels: its channel groups.
        sites: rules to apply.
        widths: new widths.
        selections: which channels stay in each group of ``widths``; chosen by their weights where it is ``None``.

    Raises:
        PlanError: when a rule does not match where it should, or the widths do not let it.
    """
    resized = _resized(graph, channels, widths, selections) if widths else graph
    patches = []
    for action in sites:
        rewrite = action.rule.rewrite
        assert is_site_rewrite(rewrite)
        match = _match(resized, rewrite, action)
        patches.append(_signed(rewrite.rewrite(resized, match, action.rule.params), action.rule.id))
    return resized.edited(patches) if patches else resized


def _resized(
    graph: Graph, channels: Channels, widths: Sequence[WidthAction], selections: Mapping[str, Selection] | None
) -> Graph:
    """Remove and pad channels."""
    if selections is None:
        selections = select(graph, channels, {action.group: action.width for action in widths})
    rules = {action.group: action.rule for action in widths}
    patch = resize(graph, channels, selections)

    def by(op: Op) -> str:
        tensors = (*op.outputs, *graph.op(op.key).inputs)
        groups = {group for tensor in tensors if tensor for group in channels.groups_of(tensor)}
        return "+".join(sorted({rules[group] for group in groups if group in rules}))

    return graph.edited([replace(patch, add=tuple(replace(op, rule=by(op)) for op in patch.add))])


def _match(graph: Graph, rewrite: SiteRewrite, action: SiteAction) -> Match:
    """Find the rule's place again."""
    rule = action.rule.id
    if action.anchor not in graph:
        near = did_you_mean(action.anchor, (op.key for op in graph.ops()))
        raise PlanError(f"{rule}: the model has no op {action.anchor!r}{near}")
    answer = rewrite.match(graph, graph.op(action.anchor), action.rule.params)
    if not isinstance(answer, Match):
        reason = answer.reason if isinstance(answer, Refusal) else "it is no place for this rule"
        raise PlanError(f"{rule} does not apply at {action.anchor!r}: {reason}")
    for condition in answer.conditions:
        shape = graph.static_shape(condition.tensor)
        size = None if shape is None else shape[condition.axis]
        reason = "the shape is not known" if size is None else condition.refusal(size)
        if reason:
            raise PlanError(f"{rule} does not apply at {action.anchor!r}: {reason} in {condition.tensor!r}")
    return answer


def _signed(patch: Patch, rule: str) -> Patch:
    """The patch with every new op marked as this rule's."""
    return replace(patch, add=tuple(replace(op, rule=rule) for op in patch.add))
