"""`graphopt optimize`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli import options as o

if TYPE_CHECKING:
    from graphopt.results import Options


@click.command(
    "optimize",
    epilog=o.notes(
        example="graphopt optimize model.onnx --target npu-32 -o model.npu-32.onnx --report report.html",
        codes=(
            "0 done (also where nothing was left to change, or Ctrl-C ended the search); 1 a constraint is out of "
            "reach, or an exact plan does not prove equal; 2 bad input; 130 Ctrl-C elsewhere, or twice"
        ),
        keys=(
            "outcome, reason, model, output, plan_file, report_file, safety, plan_digest, before, after, "
            "capacity_kept, importance, changes, front, verification, drift, repaired, refined, evaluation, refusals, "
            "notes, evaluations, certificate, op_order, fit, resolution: {inputs: [{name, before, after}], outputs, "
            "constants, open, finite} (what does not apply is null). With --pareto: outcome, reason, model, target, "
            "axis, before, origin, points: [{latency_us, value}], candidates: [label, latency_us, value and the keys "
            "above], notes, evaluations, picture_file, report_file"
        ),
    ),
)
@o.model_argument
@click.option("-o", "--output", type=click.Path(), metavar="OUT", help="[default: <model>.<target>.onnx, here]")
@click.option("--plan-out", type=click.Path(), metavar="FILE", help="[default: <OUT without .onnx>.plan.toml]")
@o.force_option
@click.option(
    "--fit-memory", type=o.Amount(), metavar="SIZE",
    help="Fit parameters and peak activations together into SIZE, as 256KB (in the target's precision), with the least "
    "loss first (measured drift with --calibration, else capacity) and latency next. Widths are chosen from the "
    "curated ones, or from --depth-multiplier's.",
)  # fmt: skip
@click.option(
    "--pareto", type=click.IntRange(1, 26), metavar="N",
    help="Write N models along the front between latency and what is given up for it (memory where only exact changes "
    "are allowed; else measured drift with --calibration, or capacity): OUT.A.onnx, OUT.B.onnx ..., each with its "
    "plan, and OUT.front.svg. A gives up the least.",
)  # fmt: skip
@click.option(
    "--resume",
    type=click.Path(),
    metavar="FILE",
    help="Keep what the search finds in FILE, and go on from there when the same model, target and options are "
    "searched again [default: nothing is kept].",
)
@o.job_options
@o.delivery_options
def command(
    model: str,
    output: str | None,
    plan_out: str | None,
    force: bool,
    pareto: int | None,
    report: str | None,
    as_json: bool,
    **values: Any,
) -> int:
    """Search the best plan for MODEL, apply it, and prove the result.

    Writes the rewritten model and, beside it, the plan that made it. Only exact changes are made unless there is
    calibration data to repair lossy ones with, or --allow says otherwise. Nothing is written when a constraint is out
    of reach or an exact plan does not prove equal.
    """
    from graphopt.cli.interrupt import stoppable
    from graphopt.cli.jobs import deliver, prepare_outputs, target_label
    from graphopt.cli.progress import progress_bar
    from graphopt.pipeline import optimize

    options = o.make_options(values)
    out = Path(output) if output else Path(f"{Path(model).stem}.{target_label(options.target)}.onnx")
    if pareto is not None:
        return _pareto(model, out, options, pareto, plan_out=plan_out, force=force, report=report, as_json=as_json)
    files = prepare_outputs(model, out, plan_out, report, force=force)
    with stoppable(options.max_seconds), progress_bar(visible=not as_json) as progress:
        result = optimize(model, files.model, options, progress=progress)
    return deliver(result, files, as_json=as_json)


def _pareto(
    model: str,
    out: Path,
    options: Options,
    count: int,
    *,
    plan_out: str | None,
    force: bool,
    report: str | None,
    as_json: bool,
) -> int:
    """Several models instead of one."""
    from graphopt.cli.front import deliver_front, prepare_front
    from graphopt.cli.interrupt import stoppable
    from graphopt.cli.progress import progress_bar
    from graphopt.fronts import pareto

    if options.resume is not None:
        raise click.UsageError("--pareto is many searches: leave --resume out")
    if plan_out is not None:
        raise click.UsageError("--pareto writes a plan beside each model: leave --plan-out out")
    picture = prepare_front(model, out, count, report, force=force)
    with stoppable(options.max_seconds), progress_bar(visible=not as_json) as progress:
        front = pareto(model, out, options, count=count, progress=progress)
    return deliver_front(front, picture, report, as_json=as_json)
