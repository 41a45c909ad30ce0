"""`graphopt apply`: a plan, edited or not, becomes a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from graphopt.cli import options as o


@click.command(
    "apply",
    epilog=o.notes(
        example="graphopt apply model.onnx plan.toml -o rewritten.onnx",
        codes="0 done; 1 an exact plan does not prove equal; 2 bad input, as a plan for another model",
        keys="those of `graphopt optimize --json`",
    ),
)
@o.model_argument
@click.argument("plan", type=click.Path(), metavar="PLAN")
@click.option("-o", "--output", type=click.Path(), metavar="OUT", help="[default: <model>.<plan's target>.onnx, here]")
@o.force_option
@click.option("-t", "--target", metavar="T", help="Estimate for this target instead of the plan's.")
@o.seed_option
@o.data_options
@o.delivery_options
def command(
    model: str, plan: str, output: str | None, force: bool, report: str | None, as_json: bool, **values: Any
) -> int:
    """Apply PLAN to the MODEL that it was made for.

    Nothing is searched: every choice and width of the plan counts as it stands, with the plan's own rules and
    parameters, whatever --allow said when it was made. `graphopt scan MODEL -o PLAN` makes a plan to edit.
    """
    from graphopt.cli.jobs import deliver, prepare_outputs, target_label
    from graphopt.cli.progress import progress_bar
    from graphopt.pipeline import apply_plan
    from graphopt.plan import read_plan

    options = o.make_options(values)
    wanted = read_plan(plan)
    label = target_label(values["target"] or wanted.target)
    out = Path(output) if output else Path(f"{Path(model).stem}.{label}.onnx")
    files = prepare_outputs(model, out, None, report, force=force, with_plan=False)
    if out.resolve() == Path(plan).resolve():
        raise click.UsageError("OUT would replace the plan")
    with progress_bar(visible=not as_json) as progress:
        result = apply_plan(model, plan, files.model, options, progress=progress)
    return deliver(result, files, as_json=as_json)
