"""`graphopt scan`: everything on offer, and a plan to edit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli import options as o

if TYPE_CHECKING:
    from rich.table import Table

    from graphopt.results import ScanResult


@click.command(
    "scan",
    epilog=o.notes(
        example="graphopt scan model.onnx --allow retrain -o plan.toml",
        keys="model, plan_file, plan_digest, before, decisions, refusals, notes",
    ),
)
@o.model_argument
@click.option("-o", "--output", type=click.Path(), metavar="PLAN.toml", help="Write a plan to edit.")
@o.force_option
@o.target_option
@o.allow_option("exact")
@o.rule_options
@o.resolutions_option
@o.shape_option
@o.answer_options
def command(model: str, output: str | None, force: bool, as_json: bool, **values: Any) -> int:
    """List every site and width of MODEL where a rule has something to offer.

    Each option comes with its safety and the estimated gain that it has alone, on the untouched model. The plan keeps
    everything as it is, with the options as comments: edit it, then run `graphopt apply MODEL PLAN -o OUT`.
    """
    from graphopt.cli.output import print_json, refuse_existing, show
    from graphopt.errors import ConfigError
    from graphopt.outputs import write_text
    from graphopt.pipeline import scan
    from graphopt.report.text import plain
    from graphopt.report.values import scan_values

    if output is not None:
        if Path(output).resolve() == Path(model).resolve():
            raise ConfigError("would replace the model; give another name", file=output)
        refuse_existing(Path(output), force=force)
    result = scan(model, o.make_options(values))
    if output is not None:
        write_text(Path(output), result.plan_text)
    if as_json:
        print_json(scan_values(result) | {"plan_file": output})
        return 0
    show(_decisions(result))
    show(*(f"note           {plain(note)}" for note in result.notes))
    refused = len({(one.rule, one.refusal.place) for one in result.refusals})
    show(f"{len(result.decisions)} decisions on offer; {refused} refusals (see `graphopt explain`)")
    if output is not None:
        show(f"plan           {plain(output)}")
    return 0


def _decisions(result: ScanResult) -> Table:
    from graphopt.cli.output import cell, table
    from graphopt.cli.summary import styled
    from graphopt.report import format as f

    made = table("decision", "at", "option", "safety", "gain alone", right=("gain alone",))
    for decision in result.decisions:
        name, where = cell(decision.id), cell(decision.where)
        for option in decision.options:
            made.add_row(name, where, cell(option.label), styled(option.safety), f.latency(option.gain_us))
            name = where = ""
    return made
