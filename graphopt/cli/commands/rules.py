"""`graphopt rules`: the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli import options as o
from graphopt.cli.app import EXIT_NO

if TYPE_CHECKING:
    from graphopt.catalog.card import Card
    from graphopt.catalog.rules import Catalog


@click.group("rules", epilog=o.notes(example="graphopt rules show fuse-inverted-bottleneck"))
def command() -> None:
    """List, show and check rule cards. A card is a TOML file: see rules/README.md to write your own."""


def _catalog(rule_dirs: tuple[str, ...]) -> Catalog:
    from graphopt.catalog.rules import load_catalog

    return load_catalog([Path(folder) for folder in rule_dirs])


@command.command(
    "list",
    epilog=o.notes(
        example="graphopt rules list",
        keys="rules: [{id, group, summary, safety, status, rewrite, file}], packs: [{id, summary, rules, file}]",
    ),
)
@o.rule_dir_option
@o.answer_options
def list_(rule_dirs: tuple[str, ...], as_json: bool) -> int:
    """List all rules and packs."""
    from graphopt.cli.output import cell, print_json, show, table
    from graphopt.cli.summary import styled

    catalog = _catalog(rule_dirs)
    if as_json:
        keys = ("id", "group", "summary", "safety", "status", "rewrite", "file")
        rules = [{key: value for key, value in _values(card).items() if key in keys} for card in catalog.cards.values()]
        packs = [
            {"id": pack.id, "summary": pack.summary, "rules": list(pack.rules), "file": str(pack.file)}
            for pack in catalog.packs.values()
        ]
        print_json({"rules": rules, "packs": packs})
        return 0
    made = table("rule", "safety", "status", "what it does")
    for card in catalog.cards.values():
        made.add_row(f"{cell(card.group)}/{cell(card.id)}", styled(card.safety), card.status, cell(card.summary))
    packs_table = table("pack", "rules", "what it is for")
    for pack in catalog.packs.values():
        packs_table.add_row(cell(pack.id), cell(", ".join(pack.rules)), cell(pack.summary))
    show(made, packs_table)
    return 0


@command.command(
    "show",
    epilog=o.notes(
        example="graphopt rules show round-channels",
        keys="id, group, summary, safety, status, rewrite, file, why, limits, references, params, examples",
    ),
)
@click.argument("rule", metavar="ID")
@o.rule_dir_option
@o.answer_options
def show_(rule: str, rule_dirs: tuple[str, ...], as_json: bool) -> int:
    """Show one rule's card: what it does, why, where it does not pay, its parameters."""
    from graphopt.cli.output import print_json, show
    from graphopt.report.text import plain

    card = _catalog(rule_dirs).card(rule.rpartition("/")[2])
    values = _values(card)
    if as_json:
        print_json(values)
        return 0
    lines = [f"{plain(card.group)}/{plain(card.id)}   {card.safety}, {card.status}", plain(card.summary), ""]
    lines += [f"why        {plain(card.why)}", f"limits     {plain(card.limits)}"]
    lines += [f"rewrite    {plain(values['rewrite'])}", f"file       {plain(card.file)}"]
    lines += [f"param      {plain(name)} = {plain(_shown(value))}" for name, value in values["params"].items()]
    lines += [f"example    {plain(name)}" for name in values["examples"]]
    lines += [f"reference  {plain(reference)}" for reference in card.references]
    show(*lines)
    return 0


@command.command(
    "check",
    epilog=o.notes(
        example="graphopt rules check my_rules/",
        codes="0 nothing found; 1 an example does not hold; 2 a card or pack cannot be read",
        keys="rules (number of cards checked), problems: [{file, field, message}]",
    ),
)
@click.argument("folders", nargs=-1, type=click.Path(), metavar="[DIR]...")
@o.answer_options
def check(folders: tuple[str, ...], as_json: bool) -> int:
    """Check cards, packs and the cards' examples: those of graphopt and of each DIR."""
    from graphopt.catalog.examples import check_cards
    from graphopt.cli.output import print_json, show
    from graphopt.report.text import plain
    from graphopt.report.values import clean

    catalog = _catalog(folders)
    problems = check_cards(list(catalog.cards.values()))
    if as_json:
        print_json({"rules": len(catalog.cards), "problems": [clean(problem) for problem in problems]})
    else:
        show(*(plain(problem) for problem in problems))
        show(f"{len(catalog.cards)} rules and {len(catalog.packs)} packs checked, {len(problems)} problems")
    return EXIT_NO if problems else 0


def _shown(value: Any) -> str:
    return f"the target's {value['target']}" if isinstance(value, dict) else str(value)


def _param(value: Any) -> Any:
    """A parameter as the card writes it."""
    from graphopt.catalog.values import TargetRef

    return {"target": value.name} if isinstance(value, TargetRef) else value


def _values(card: Card) -> dict[str, Any]:
    """A card as plain values."""
    from graphopt.report.values import clean

    return {
        "id": card.id,
        "group": card.group,
        "summary": card.summary,
        "safety": card.safety,
        "status": card.status,
        "rewrite": card.rewrite.name,
        "file": str(card.file),
        "why": card.why,
        "limits": card.limits,
        "references": list(card.references),
        "params": {name: clean(_param(value)) for name, value in card.params.items()},
        "examples": [example.name for example in card.examples],
    }
