"""Between the search's option numbers and the plan that a person reads: both directions, and the notes beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import numpy as np

from graphopt.apply import SiteAction, WidthAction
from graphopt.catalog.rules import Rule
from graphopt.catalog.values import bind_params, read_params
from graphopt.errors import ConfigError, PlanError, did_you_mean
from graphopt.ir.channels import ChannelGroup
from graphopt.ir.op import SAFETY_LEVELS, Importance, Safety
from graphopt.plan import KEEP, Plan, PlannedRule, SiteChoice, WidthChoice
from graphopt.prepare import Subject
from graphopt.resolution.sizes import Side, image_inputs
from graphopt.results import Change, DecisionView, OptionView
from graphopt.rewrites import REWRITES
from graphopt.space.site import Width, WidthOption, worst
from graphopt.space.space import Space
from graphopt.space.table import LATENCY, Candidates, CostTable
from graphopt.strict import Table
from graphopt.targets.target import Target

BY_HAND = "by-hand"
"""What stands for the rule where an expert wrote a width that no rule offers."""

MAX_GROWTH = 16
"""A plan may widen a group this many times at most: beyond it, it is a slip of the pen."""


def plan_of(
    subject: Subject,
    space: Space,
    rules: Sequence[Rule],
    table: CostTable,
    chosen: Candidates,
    importance: Importance | None,
) -> Plan:
    """Write a candidate down as a plan; ``importance`` as the options have it."""
    number = {(variable.kind, variable.id): int(chosen[i]) for i, variable in enumerate(table.variables)}
    sites = [(site, site.options[number["site", site.id]]) for site in space.sites]
    widths = [(width, width.options[number["width", width.group.id]]) for width in space.widths]
    return Plan(
        model=subject.source.path.name,
        model_digest=subject.digest,
        target=subject.target.name,
        normalised=subject.normalised,
        rules=tuple(_planned(rule) for rule in rules),
        sites=tuple(SiteChoice(site.id, option.label) for site, option in sites),
        widths=tuple(WidthChoice(width.group.id, width.group.size, option.width) for width, option in widths),
        knobs=tuple((knob.name, knob.values[number["knob", knob.name]]) for knob in space.knobs),
        input_shapes=tuple(sorted(subject.source.original.model.input_shapes.items())),
        allow=space.allow,
        protect=space.protect,
        importance=importance or "auto",
        resolution=subject.sizes,
    )


def _planned(rule: Rule) -> PlannedRule:
    values = ((field.name, getattr(rule.params, field.name)) for field in fields(rule.params))
    params = tuple((name, value) for name, value in values if value is not None)
    return PlannedRule(rule.id, rule.rewrite.name, rule.safety, params)


def planned_rules(plan: Plan) -> tuple[Rule, ...]:
    """The rules as they were in force when the plan was made.

    Raises:
        PlanError: a rewrite, parameter or safety level that this graphopt does not know.
    """
    rewrites = {rewrite.name: rewrite for rewrite in REWRITES}
    rules = []
    for rule in plan.rules:
        rewrite = rewrites.get(rule.rewrite)
        if rewrite is None:
            raise PlanError(f"rule {rule.id!r}: no rewrite {rule.rewrite!r}{did_you_mean(rule.rewrite, rewrites)}")
        safety = next((level for level in SAFETY_LEVELS if level == rule.safety), None)
        if safety is None:
            raise PlanError(f"rule {rule.id!r}: safety is one of {', '.join(SAFETY_LEVELS)}, not {rule.safety!r}")
        table = Table(dict(rule.params), "", f"rule {rule.id!r}")
        try:
            values = read_params(table, rewrite.Params, f"rewrite {rule.rewrite!r}")
            params = bind_params(rewrite.Params, values, {}, table.error)
        except ConfigError as error:
            raise PlanError(str(error)) from error
        rules.append(Rule(rule.id, rewrite, params, safety))
    return tuple(rules)


def why_unchanged(space: Space, target: Target) -> str:
    """One sentence: why no decision changed anything."""
    if not space.decisions:
        counts = Counter(refused.refusal.reason for refused in space.refused)
        most = counts.most_common(1)
        why = f" (most often: {most[0][0]})" if most else ""
        return f"no rule in force applies{why}; graphopt explain shows every refusal"
    return f"none of the {space.decisions} decisions on offer makes it better on {target.name}"


def extend_widths(space: Space, plan: Plan) -> Space:
    """Return the space with the plan's own widths on offer, too: an expert may write any that is possible.

    Raises:
        PlanError: a group that the model does not have, or a width that it cannot take.
    """
    groups = {group.id: group for group in space.channels.groups}
    widths = {width.group.id: width for width in space.widths}
    every = tuple(value for knob in space.knobs for value in knob.values)
    for wanted in plan.widths:
        group = groups.get(wanted.group)
        if group is None:
            near = did_you_mean(wanted.group, groups)
            raise PlanError(f"width {wanted.group!r}: the model has no such channel group{near}")
        if wanted.size != group.size:
            raise PlanError(f"width {wanted.group!r}: the group has {group.size} channels, not {wanted.size}")
        reason = _impossible(group, wanted.width)
        if reason:
            raise PlanError(f"width {wanted.group!r}: {wanted.width} instead of {group.size} channels: {reason}")
        known = widths.get(group.id, Width(group, (WidthOption(group.size, KEEP, "exact", every),)))
        if all(option.width != wanted.width for option in known.options):
            safety: Safety = "exact" if wanted.width >= group.size else "retrain"
            own = WidthOption(wanted.width, KEEP if wanted.width == group.size else BY_HAND, safety, every)
            known = replace(known, options=(*known.options, own))
        widths[group.id] = known
    ordered = tuple(widths[group.id] for group in space.channels.groups if group.id in widths)
    return replace(space, widths=ordered)


def _impossible(group: ChannelGroup, width: int) -> str:
    """Why the group cannot have this width, ``""`` when it can."""
    if width < group.size:
        return group.frozen
    if width > MAX_GROWTH * group.size:
        return f"that is over {MAX_GROWTH} times as many"
    return group.unpaddable if width > group.size else ""


def candidate_of(plan: Plan, space: Space, table: CostTable) -> Candidates:
    """Return the option numbers of a plan; decisions that it does not name stay as they are.

    Raises:
        PlanError: when the plan names a site, option or knob value that the model does not offer.
    """
    sites = {site.id: site for site in space.sites}
    labels = {("site", choice.site): choice.choice for choice in plan.sites}
    labels |= {("width", choice.group): str(choice.width) for choice in plan.widths}
    labels |= {("knob", name): repr(value) for name, value in plan.knobs}
    for choice in plan.sites:
        if choice.site not in sites and choice.choice != KEEP:
            raise PlanError(f"site {choice.site!r}: the model offers no such site{did_you_mean(choice.site, sites)}")
    chosen = np.zeros(len(table.variables), np.int64)
    for v, variable in enumerate(table.variables):
        label = labels.get((variable.kind, variable.id), KEEP if variable.kind == "site" else None)
        if label is None:
            size = next((str(w.group.size) for w in space.widths if w.group.id == variable.id), variable.options[0])
            label = size if size in variable.options else variable.options[0]
        if label not in variable.options:
            known = ", ".join(variable.options)
            raise PlanError(f"{variable.kind} {variable.id!r}: no option {label!r}; there are: {known}")
        chosen[v] = variable.options.index(label)
    return chosen


def actions_of(
    space: Space, table: CostTable, chosen: Candidates
) -> tuple[list[SiteAction], list[WidthAction], Safety]:
    """Return what a candidate does, and the least safe of it."""
    sites: list[SiteAction] = []
    widths: list[WidthAction] = []
    safeties: list[Safety] = []
    number = {(variable.kind, variable.id): int(chosen[v]) for v, variable in enumerate(table.variables)}
    for site in space.sites:
        option = site.options[number["site", site.id]]
        sites += [SiteAction(fired.rule, fired.match.anchor) for fired in option.fired]
        safeties.append(option.safety)
    for width in space.widths:
        choice = width.options[number["width", width.group.id]]
        if choice.width != width.group.size:
            widths.append(WidthAction(width.group.id, choice.width, choice.rule))
            safeties.append(choice.safety)
    return sites, widths, worst(safeties)


def decisions_of(space: Space, table: CostTable, chosen: Candidates) -> tuple[DecisionView, ...]:
    """Every decision with its options: what each gains alone against the model as it is."""
    start = table.default()
    rows, places = [], []
    for v, variable in enumerate(table.variables):
        for option in range(len(variable.options)):
            row = start.copy()
            row[v] = option
            rows.append(row)
            places.append((v, option))
    if not rows:
        return ()
    latency = table.evaluate(np.array(rows), (LATENCY,))[0]
    now = float(table.evaluate(start[None], (LATENCY,))[0, 0])
    gain = {place: now - float(value) for place, value in zip(places, latency, strict=True)}
    index = {(variable.kind, variable.id): v for v, variable in enumerate(table.variables)}
    views = []
    for site in space.sites:
        v = index["site", site.id]
        options = tuple(
            OptionView(
                option.label, option.safety, gain[v, i], bool(chosen[v] == i), tuple(f.rule.id for f in option.fired)
            )
            for i, option in enumerate(site.options)
        )
        views.append(DecisionView("site", site.id, str(space.graph.op(site.id)), options))
    for width in space.widths:
        v = index["width", width.group.id]
        options = tuple(
            OptionView(
                option.label,
                option.safety,
                gain[v, i],
                bool(chosen[v] == i),
                () if option.rule == KEEP else (option.rule,),
            )
            for i, option in enumerate(width.options)
        )
        maker = width.group.makers[0] if width.group.makers else ""
        where = str(space.graph.op(maker)) if maker else width.group.id
        views.append(DecisionView("width", width.group.id, f"{where}, {width.group.size} channels", options))
    return tuple(views)


def notes_of(decisions: Sequence[DecisionView]) -> Mapping[tuple[str, str], list[str]]:
    """Comment lines for the plan, by kind and id: the op, and each option with its gain and safety."""
    notes: dict[tuple[str, str], list[str]] = {}
    for decision in decisions:
        longest = max(len(option.label) for option in decision.options)
        lines = [decision.where]
        for option in decision.options:
            gain = f"{-option.gain_us:+.2f} us" if option.label != KEEP else "as it is"
            lines.append(f"  {option.label:<{longest}}  {option.safety:<8}  {gain}")
        notes[decision.kind, decision.id] = lines
    return notes


def size_changes(subject: Subject) -> tuple[Change, ...]:
    """Another input size as a change; its gain is that of the untouched model."""
    if subject.own is None:
        return ()
    gain = subject.own.before.latency_us - subject.before.latency_us
    text = ", ".join(f"{_by(before)} -> {_by(after)} pixels" for _, before, after in _sizes(subject))
    return (Change(", ".join(name for name, _ in subject.sizes), "resolution", text, "retrain", gain),)


def size_notes(subject: Subject) -> Mapping[tuple[str, str], list[str]]:
    """Comment lines for the plan on the input size."""
    if subject.own is None:
        return {}
    own = ", ".join(f"{name} {_by(before)}" for name, before, _ in _sizes(subject))
    return {("knob", "resolution"): [f"height, width; the model's own: {own}"]}


def _sizes(subject: Subject) -> list[tuple[str, Side, Side]]:
    own = {image.name: image.size for image in image_inputs(subject.source.original)}
    return [(name, own[name], size) for name, size in subject.sizes]


def _by(size: Side) -> str:
    return f"{size[0]}x{size[1]}"


def changes_of(space: Space, table: CostTable, chosen: Candidates) -> tuple[Change, ...]:
    """What a candidate changes, the best first; the gain of each is what undoing it alone would lose."""
    start = table.default()
    index = {(variable.kind, variable.id): v for v, variable in enumerate(table.variables)}
    found: list[tuple[int, int, str, str, str, Safety]] = []
    for site in space.sites:
        v = index["site", site.id]
        option = site.options[int(chosen[v])]
        if option.label != KEEP:
            rule = "+".join(fired.rule.id for fired in option.fired)
            found.append((v, 0, site.id, rule, str(space.graph.op(site.id)), option.safety))
    for width in space.widths:
        v = index["width", width.group.id]
        choice = width.options[int(chosen[v])]
        if choice.width != width.group.size:
            keep = next((i for i, o in enumerate(width.options) if o.width == width.group.size), int(start[v]))
            text = f"{width.group.size} -> {choice.width} channels"
            found.append((v, keep, width.group.id, choice.rule, text, choice.safety))
    if not found:
        return ()
    rows = np.repeat(chosen[None], len(found), axis=0)
    for row, (v, undone, *_) in zip(rows, found, strict=True):
        row[v] = undone
    latency = table.evaluate(np.concatenate([chosen[None], rows]), (LATENCY,))[0]
    changes = [
        Change(place, rule, text, safety, float(value - latency[0]))
        for (_, _, place, rule, text, safety), value in zip(found, latency[1:], strict=True)
    ]
    return tuple(sorted(changes, key=lambda change: (-change.gain_us, change.place)))


def capacity_kept(space: Space, widths: Sequence[WidthAction]) -> float:
    """Share of the channels that are still there, averaged over all groups by the parameters around them."""
    new = {action.group: action.width for action in widths}
    kept = total = 0.0
    for group in space.channels.groups:
        weight = float(sum(space.graph.weights[name].size for name in {member.weight for member in group.members}))
        kept += weight * min(1.0, new.get(group.id, group.size) / group.size)
        total += weight
    return kept / total if total else 1.0
