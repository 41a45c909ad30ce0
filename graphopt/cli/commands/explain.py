"""`graphopt explain`: what fired, what was refused where and why."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli import options as o

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from graphopt.results import ScanResult


@click.command(
    "explain",
    epilog=o.notes(
        example="graphopt explain model.onnx --rule fuse-inverted-bottleneck",
        keys="model, target, rules: [{rule, fired: [{place, option, safety, gain_us}], refused: [{place, reason}]}]",
    ),
)
@o.model_argument
@click.option("--rule", "only", metavar="ID", help="Only this rule, with every place.")
@o.target_option
@o.allow_option("retrain", "to consider")
@o.pack_option
@o.rule_dir_option
@o.protect_option
@o.shape_option
@o.answer_options
def command(model: str, only: str | None, as_json: bool, **values: Any) -> int:
    """Show where each rule fires on MODEL, and where and why it does not.

    Refusals are counted by reason; with --rule every place is listed.
    """
    from graphopt.cli.output import print_json, show
    from graphopt.pipeline import scan
    from graphopt.report.text import plain
    from graphopt.results import Options

    given = values | ({"rules": (only,)} if only else {})
    options: Options = o.make_options(given)
    known = _rules_in_force(options)
    chosen = {rule for rule in known if only in (None, rule)} or ({only} if only else set())
    result = scan(model, options)
    found = _by_rule(result, known)
    if as_json:
        rules = [{"rule": rule, **found[rule]} for rule in found if rule in chosen]
        print_json({"model": result.plan.model, "target": result.plan.target, "rules": rules})
        return 0
    shown = {rule: found[rule] for rule in found if rule in chosen}
    show(*(_places(shown) if only else _counts(shown)))
    show(*(f"note           {plain(note)}" for note in result.notes))
    return 0


def _rules_in_force(options: Any) -> tuple[str, ...]:
    """Ids of the rules in force, in catalogue order."""
    from pathlib import Path

    from graphopt.catalog.rules import load_catalog
    from graphopt.results import DEFAULT_TARGET
    from graphopt.targets.target import load_target

    catalog = load_catalog([Path(folder) for folder in options.rule_dirs])
    properties = load_target(options.target or DEFAULT_TARGET).properties
    rules = catalog.rules_in_force(properties, options.packs, options.rules, options.no_rules)
    return tuple(rule.id for rule in rules)


def _by_rule(result: ScanResult, known: tuple[str, ...]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """What each rule offers and refuses. An option that joins rules (``a+b``) counts for each of them."""
    from graphopt.report.values import clean

    found: dict[str, dict[str, list[dict[str, Any]]]] = {rule: {"fired": [], "refused": []} for rule in known}
    for decision in result.decisions:
        for option in decision.options:
            for rule in option.rules:
                found.setdefault(rule, {"fired": [], "refused": []})["fired"].append(
                    {
                        "place": decision.where,
                        "option": option.label,
                        "safety": option.safety,
                        "gain_us": clean(option.gain_us),
                    }
                )
    for one in result.refusals:
        places = found.setdefault(one.rule, {"fired": [], "refused": []})["refused"]
        places.append({"place": one.refusal.place, "reason": one.refusal.reason})
    return found


def _counts(found: dict[str, dict[str, list[dict[str, Any]]]]) -> Iterator[RenderableType]:
    """One row for each rule that fired, and one for each reason of a refusal."""
    from graphopt.cli.output import cell, table
    from graphopt.cli.summary import styled

    made = table("rule", "result", "places", "why", right=("places",))
    for rule, sides in found.items():
        name = cell(rule)
        fired = {option["place"] for option in sides["fired"]}
        if fired:
            made.add_row(name, styled("equal", "fired"), str(len(fired)), _example(sorted(fired)))
            name = ""
        for reason, count in _reasons([one["reason"] for one in sides["refused"]]):
            made.add_row(name, styled("inconclusive", "refused"), str(count), cell(reason))
            name = ""
        if not fired and not sides["refused"]:
            made.add_row(name, "not met", "0", "the model has nothing that it looks for")
    yield made


def _reasons(reasons: list[str]) -> list[tuple[str, int]]:
    """Reasons and how often each was given, the most frequent first; those that differ in a number count together."""
    alike: dict[str, Counter[str]] = {}
    for reason in reasons:
        alike.setdefault(re.sub(r"\d+", "#", reason), Counter())[reason] += 1
    found = []
    for kinds in alike.values():
        (first, _), *others = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
        found.append((f"{first} (and alike)" if others else first, kinds.total()))
    return sorted(found, key=lambda item: (-item[1], item[0]))


def _example(places: list[str]) -> str:
    from graphopt.cli.output import cell

    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    return f"at {cell(places[0])}{more}"


def _places(found: dict[str, dict[str, list[dict[str, Any]]]]) -> Iterator[RenderableType]:
    """Every place of a rule."""
    from graphopt.cli.output import cell, table
    from graphopt.cli.summary import styled
    from graphopt.report import format as f

    made = table("rule", "place", "result", "why")
    for rule, sides in found.items():
        for one in sides["fired"]:
            why = f"{cell(one['option'])}: {one['safety']}, {f.latency(one['gain_us'] or 0.0)} saved alone"
            made.add_row(cell(rule), cell(one["place"]), styled("equal", "fired"), why)
        for one in sides["refused"]:
            made.add_row(cell(rule), cell(one["place"]), styled("inconclusive", "refused"), cell(one["reason"]))
        if not sides["fired"] and not sides["refused"]:
            made.add_row(cell(rule), "-", "not met", "the model has nothing that it looks for")
    yield made
