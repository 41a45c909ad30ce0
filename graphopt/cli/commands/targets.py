"""`graphopt targets`: the chips."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli import options as o

if TYPE_CHECKING:
    from graphopt.targets.target import Target


@click.group("targets", epilog=o.notes(example="graphopt targets show npu-32"))
def command() -> None:
    """List and show targets. A target is a TOML file: copy one, edit it, and pass its path as --target."""


@command.command(
    "list",
    epilog=o.notes(
        example="graphopt targets list",
        keys="targets: [{name, summary, precision, parallelism, ...}], the keys of a target file",
    ),
)
@o.answer_options
def list_(as_json: bool) -> int:
    """List the bundled targets."""
    from graphopt.cli.output import cell, print_json, show, table
    from graphopt.targets.target import bundled_targets, load_target

    targets = [load_target(name) for name in bundled_targets()]
    if as_json:
        print_json({"targets": [_values(target) for target in targets]})
        return 0
    made = table("target", "parallelism", "precision", "what it is", right=("parallelism",))
    for target in targets:
        made.add_row(cell(target.name), str(target.parallelism), target.precision, cell(target.summary))
    show(made)
    return 0


@command.command(
    "show",
    epilog=o.notes(
        example="graphopt targets show npu-32",
        keys="those of a target file, and properties (what rule cards may refer to) and file",
    ),
)
@click.argument("target", metavar="NAME|FILE")
@o.answer_options
def show_(target: str, as_json: bool) -> int:
    """Show every number of a target, with its source."""
    from graphopt.cli.output import cell, print_json, show, table
    from graphopt.report.text import plain
    from graphopt.resources import targets_dir
    from graphopt.targets.target import bundled_targets, load_target

    found = load_target(target)
    values = _values(found)
    file = str(targets_dir() / f"{found.name}.toml") if target in bundled_targets() else target
    if as_json:
        print_json(values | {"properties": dict(found.properties), "file": file})
        return 0
    sources = dict(found.sources)
    made = table("key", "value", "source")
    for name, value in values.items():
        if name in ("name", "summary", "sources", "digest"):
            continue
        if isinstance(value, dict):
            value = "; ".join(f"{key}: {_text(item)}" for key, item in value.items())
        made.add_row(cell(name), cell(_text(value)), cell(_source(sources, name)))
    show(f"{plain(found.name)}: {plain(found.summary)}", made, f"file  {plain(file)}")
    return 0


def _source(sources: dict[str, str], name: str) -> str:
    """The source of a number; a file's key may carry a unit that the attribute leaves out."""
    return next((text for key, text in sources.items() if key == name or key.startswith(f"{name}_")), "")


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _values(target: Target) -> dict[str, Any]:
    from graphopt.report.values import clean

    values: dict[str, Any] = {
        field.name: clean(getattr(target, field.name)) for field in dataclasses.fields(target)
    } | {"sources": dict(target.sources)}
    values["fusion"]["activations"].sort()
    return values
