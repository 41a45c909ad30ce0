"""`graphopt zoo`: a folder of models in one go."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli import options as o
from graphopt.cli.app import EXIT_NO

if TYPE_CHECKING:
    from rich.table import Table

    from graphopt.results import ZooNumbers, ZooRow


@click.command(
    "zoo",
    epilog=o.notes(
        example="graphopt zoo models/ -o optimized/ --target npu-32 --jobs 4",
        codes="0 done; 1 a model failed; 2 bad input",
        keys="output_folder, outcomes: {optimized, unchanged, skipped, failed}, rows: [{model, outcome, reason, "
        "seconds, numbers}]",
    ),
)
@click.argument("folder", type=click.Path(), metavar="DIR")
@click.option("-o", "--output", required=True, type=click.Path(), metavar="OUTDIR", help="Where the results go.")
@click.option("-j", "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Models at a time.")
@click.option("-f", "--force", is_flag=True, help="Do all models again, and replace files that exist.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=3600.0, show_default=True, metavar="SECONDS",
    help="Wall-clock limit for each model.",
)  # fmt: skip
@o.job_options
@o.verify_option
@o.answer_options
def command(folder: str, output: str, jobs: int, force: bool, timeout: float, as_json: bool, **values: Any) -> int:
    """Optimise every *.onnx below DIR into the same layout below OUTDIR, each model in a process of its own.

    Every model ends in an outcome: optimized, unchanged, skipped or failed, with the reason. An interrupted run goes
    on where it stopped. OUTDIR also gets graphopt-zoo.csv (the table) and graphopt-zoo.json (the journal).

    --calibration may be a folder with data for each model: <model>.npz, or images in a folder <model>. The others share
    the images there; a model that shared data does not fit is optimized without it.
    """
    from graphopt.cli.output import print_json, show
    from graphopt.cli.progress import progress_bar
    from graphopt.report.text import plain
    from graphopt.report.values import zoo_values
    from graphopt.zoo import optimize_zoo

    options = o.make_options(values)
    with progress_bar(visible=not as_json) as progress:
        progress(0, None, "")
        finished = count(1)
        rows = optimize_zoo(
            folder, output, options, jobs=jobs, force=force, timeout_s=timeout,
            on_row=lambda row, total: progress(next(finished), total, f"{row.model}: {row.outcome}"),
        )  # fmt: skip
    found = zoo_values(rows)
    if as_json:
        print_json({"output_folder": output} | found)
    else:
        counts = ", ".join(f"{count} {kind}" for kind, count in found["outcomes"].items() if count)
        reasons = [f"{plain(row.model)}: {row.outcome}: {plain(row.reason)}" for row in rows if row.reason]
        show(_table(rows), *reasons, f"{len(rows)} models: {counts}", f"results        {plain(output)}")
    return EXIT_NO if found["outcomes"]["failed"] else 0


def _table(rows: tuple[ZooRow, ...]) -> Table:
    """One row for each model; drift and metric have columns where some model has them."""
    from graphopt.cli.output import cell, table
    from graphopt.cli.summary import styled
    from graphopt.report import format as f

    drifts = ("drift",) if any(row.numbers and row.numbers.drift is not None for row in rows) else ()
    gaps = ("gap",) if any(row.numbers and row.numbers.gap is not None for row in rows) else ()
    metrics = ("metric",) if any(row.numbers and row.numbers.metric for row in rows) else ()
    numbers = ("latency", "change", "memory", "params")
    made = table(
        "model", "outcome", *numbers, "safety", "proof", *drifts, *gaps, *metrics, right=(*numbers, *drifts, *gaps)
    )
    for row in rows:
        found = row.numbers
        cells = [
            cell(row.model),
            styled(row.outcome),
            f.latency(found.latency_us_after) if found else "-",
            f.change(found.latency_us_before, found.latency_us_after) if found else "-",
            f.change(found.peak_activation_bytes_before, found.peak_activation_bytes_after) if found else "-",
            f.change(found.parameters_before, found.parameters_after) if found else "-",
            styled(found.safety) if found else "-",
            styled(found.verdict) if found and found.verdict else "-",
        ]
        if drifts:
            cells.append(f.small(found.drift if found else None))
        if gaps:
            cells.append("-" if found is None or found.gap is None else f"{found.gap:.2%}")
        if metrics:
            cells.append(cell(_metric(found)) if found and found.metric else "-")
        made.add_row(*cells)
    return made


def _metric(found: ZooNumbers) -> str:
    from graphopt.report.sentences import metric_change

    errors = (None, None, found.metric_error)
    return str(metric_change(found.metric, found.metric_before, found.metric_after, errors))
