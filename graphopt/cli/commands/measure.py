"""`graphopt measure`: measure nets, learn an estimator from them, and judge it."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli import options as o

if TYPE_CHECKING:
    from rich.table import Table

    from graphopt.measure.campaign import Campaign, Outcome
    from graphopt.measure.evaluation import Score
    from graphopt.measure.examine import Examined

_KINDS = {
    "blocks": "random nets",
    "paddings": "random nets with channel paddings",
    "layers": "isolated layers",
    "named": "named nets",
}
_SHOWN = 8
"""Nets that were missed by most and are shown."""

backend_option = click.option(
    "-b", "--backend", metavar="NAME",
    help="onnxruntime (this CPU, or an execution provider), vela (Arm Ethos-U), totals (a command or function that "
    "gives one number for a model), or your own as MODULE:CLASS.",
)  # fmt: skip
journal_option = click.option(
    "--journal", required=True, type=click.Path(file_okay=False), metavar="DIR",
    help="Folder where every measurement is kept as soon as it is made; a second run goes on where the first stopped.",
)  # fmt: skip
jobs_option = click.option(
    "-j", "--jobs", type=click.IntRange(min=1), default=1, show_default=True,
    help="Nets at a time, for backends that compute instead of timing (vela).",
)  # fmt: skip


@click.group("measure", epilog=o.notes(example="graphopt measure run --help"))
def command() -> None:
    """Learn a target's latencies from measurements, and say how good the estimates are.

    `run` measures random nets on a device, kernel by kernel, and writes a target with a learned estimator. `evaluate`
    compares a target's estimates with measurements of nets that it has not seen.
    """


@command.command(
    "run",
    epilog=o.notes(
        example="graphopt measure run --backend vela --config ethos-u55-256 --journal measured/ -o my-u55.toml",
        codes="0 the target is written; 2 bad input",
        keys="target_file, estimator_file, tool, nets, kernels, refused: [{net, place, reason}], reused, validation: "
        "{nets: score, kernels: score}, learning: {half, all, twice}, data_sha256; a score is {count, mape, within_5, "
        "within_10, spearman}",
    ),
)
@backend_option
@click.option(
    "-c", "--config", default="", metavar="TEXT",
    help="Device of the backend: an accelerator (ethos-u55-256), an execution provider, a command with {model}.",
)  # fmt: skip
@click.option(
    "-t", "--target", metavar="T",
    help="Target whose analytic numbers and fusion table are taken over [default: the bundled one of CONFIG's name].",
)  # fmt: skip
@click.option("-n", "--nets", type=click.IntRange(min=20), default=400, show_default=True, help="Nets to learn from.")
@click.option(
    "--validation", type=click.IntRange(min=5), default=60, show_default=True, help="Nets that the fit is judged on."
)
@click.option(
    "--parts", type=click.IntRange(min=0), metavar="N",
    help="Small nets around ops that whole nets seldom have, to learn from at low weight; besides N/2 of channel "
    "paddings, N/6 stems of stride 4 and N/3 single layers [default: as many as NETS for a backend that computes "
    "(vela), 0 for one that takes time].",
)  # fmt: skip
@click.option("--family", default="mixed", show_default=True, metavar="NAME", help="Of random nets: mixed, mobilenet.")
@click.option(
    "--adaptive/--no-adaptive", default=True,
    help="Choose later nets where the estimator is unsure [default: adaptive].",
)  # fmt: skip
@jobs_option
@journal_option
@click.option("-o", "--output", required=True, type=click.Path(), metavar="TARGET.toml", help="Where the target goes.")
@o.force_option
@click.option("--seed", type=click.IntRange(0, 900_000), default=0, show_default=True, help="Of the first random net.")
@o.json_option
@o.debug_option
def run(
    backend: str | None, config: str, target: str | None, journal: str, output: str, force: bool, as_json: bool,
    **values: Any,
) -> int:  # fmt: skip
    """Measure random nets, fit an estimator to them, and write a target with it.

    The first part of the nets is drawn at random; of the rest, half are those on which the estimator is least sure.
    Nothing is lost when it is interrupted: run the same command again.
    """
    from graphopt.cli.output import refuse_existing
    from graphopt.cli.progress import progress_bar
    from graphopt.errors import ConfigError
    from graphopt.measure import campaign as c
    from graphopt.measure.choice import BUNDLED, FITTING, Choice, check_installed
    from graphopt.measure.target_file import estimator_name, source_path, write_target
    from graphopt.report import format as f
    from graphopt.targets.target import load_target

    if backend is None:
        raise click.UsageError(f"give a --backend: {', '.join(BUNDLED)}, or your own as MODULE:CLASS")
    if not output.endswith(".toml"):
        raise ConfigError("a target file ends in .toml", file=output)
    made = Path(output)
    for path in (made, made.with_name(estimator_name(made))):
        refuse_existing(path, force=force)
    base = target or _base(backend, config)
    choice = Choice(backend, config)
    if values["parts"] is None:
        values["parts"] = values["nets"] if choice.runs_side_by_side else 0
    plan = c.Campaign(choice, load_target(base), **values)
    check_installed(FITTING)
    kept = c.open_journal(Path(journal), plan)
    reused = len(kept)
    if reused and not as_json:
        click.echo(f"{f.plural(reused, 'net')} of an earlier run {'is' if reused == 1 else 'are'} reused", err=True)
    with progress_bar(visible=not as_json) as update:
        outcome = c.run(kept, plan, update)
    write_target(source_path(base), outcome, kept.header, date.today(), made)
    _tell(outcome, plan, made, kept.header.tool, reused, as_json=as_json)
    return 0


@command.command(
    "evaluate",
    epilog=o.notes(
        example="graphopt measure evaluate my-u55.toml --journal measured/ --scatter plot.svg",
        codes="0 done; 2 bad input",
        keys="target, tool, scores: [{estimator, nets, of, count, mape, within_5, within_10, spearman}], nets: [{net, "
        "kind, measured_us, estimated_us, spread}], refused: [{net, place, reason}], noise, left_out, scatter; nets "
        "and kind are blocks (random nets), paddings (those with paddings of channels), layers (random nets of a layer "
        "or two) or named (MODELs, too)",
    ),
)
@click.argument("target", metavar="TARGET")
@click.argument("models", nargs=-1, type=click.Path(), metavar="[MODEL]...")
@journal_option
@backend_option
@click.option(
    "-n", "--nets", type=click.IntRange(min=0), default=200, show_default=True,
    help="Random nets that nothing was fitted to or chosen on.",
)  # fmt: skip
@click.option("--family", default="mixed", show_default=True, metavar="NAME", help="Of random nets: mixed, mobilenet.")
@click.option("--named/--no-named", default=True, help="Well-known nets, too [default: named].")
@click.option(
    "--baselines/--no-baselines", default=True,
    help="Beside it: MACs alone, the analytic roofline, a random forest on plain dimensions [default: baselines].",
)  # fmt: skip
@click.option(
    "--max-spread", type=o.PositiveNumber(), metavar="S",
    help="Leave out nets whose own repeats differ by more than this share (0.05).",
)  # fmt: skip
@click.option("--scatter", type=click.Path(), metavar="FILE.svg", help="Draw estimated against measured.")
@jobs_option
@o.shape_option
@o.force_option
@o.json_option
@o.debug_option
def evaluate(target: str, scatter: str | None, force: bool, as_json: bool, **values: Any) -> int:
    """Compare the estimates of TARGET with measurements: random nets it has not seen, well-known nets, and MODELs.

    The journal's backend measures what the journal does not hold yet.
    """
    from graphopt.cli.output import print_json, refuse_existing, show
    from graphopt.cli.progress import progress_bar
    from graphopt.errors import ConfigError
    from graphopt.measure.choice import BASELINES, check_installed
    from graphopt.measure.examine import Examination, examine
    from graphopt.measure.spec import NetFile
    from graphopt.outputs import write_text
    from graphopt.report.scatter import svg_scatter
    from graphopt.report.text import plain
    from graphopt.targets.target import load_target

    if scatter is not None:
        if Path(scatter).suffix != ".svg":
            raise ConfigError("a picture ends in .svg", file=scatter)
        refuse_existing(Path(scatter), force=force)
    shapes = tuple(values["input_shapes"])
    plan = Examination(
        target=load_target(target),
        journal=Path(values["journal"]),
        backend=values["backend"],
        nets=values["nets"],
        family=values["family"],
        named=values["named"],
        files=tuple(NetFile(Path(model), shapes) for model in values["models"]),
        baselines=values["baselines"],
        max_spread=values["max_spread"],
        jobs=values["jobs"],
    )
    if plan.baselines:
        check_installed(BASELINES)
    with progress_bar(visible=not as_json) as update:
        found = examine(plan, update)
    if scatter is not None:
        write_text(Path(scatter), svg_scatter(plan.target.name, found.tool, found.dots))
    if as_json:
        print_json(_examined(found) | {"target": plan.target.name, "scatter": scatter})
        return 0
    show(*_verdict(found))
    if scatter is not None:
        show(f"picture        {plain(scatter)}")
    return 0


def _base(backend: str, config: str) -> str:
    """The target whose analytic numbers serve a backend, where none is said."""
    from graphopt.errors import ConfigError
    from graphopt.targets.target import bundled_targets

    name = "onnxruntime-cpu" if backend == "onnxruntime" else config
    if name not in bundled_targets():
        raise ConfigError(
            "say with --target which target's analytic numbers and fusion table to take over; `graphopt targets list` "
            "shows those that come with graphopt, and a path ending in .toml loads your own"
        )
    return name


def _tell(outcome: Outcome, plan: Campaign, made: Path, tool: str, reused: int, *, as_json: bool) -> None:
    """Print what was learned, how good it is, and whether more nets would help."""
    from graphopt.cli.output import cell, print_json, show
    from graphopt.measure.evaluation import kernel_score, net_score
    from graphopt.measure.target_file import estimator_name
    from graphopt.report import format as f
    from graphopt.report.text import plain
    from graphopt.report.values import clean

    nets, kernels = net_score(outcome.validation), kernel_score(outcome.validation)
    npz = made.with_name(estimator_name(made))
    refused = [{"net": key, "place": refusal.place, "reason": refusal.reason} for key, refusal in outcome.refused]
    if as_json:
        print_json(
            {"target_file": str(made), "estimator_file": str(npz), "tool": tool, "nets": len(outcome.training)}
            | {"kernels": outcome.kernels, "refused": refused, "reused": reused}
            | {"validation": {"nets": clean(nets), "kernels": clean(kernels)}}
            | {"learning": clean({"half": outcome.half_error, "all": outcome.error, "twice": outcome.error_with_twice})}
            | {"data_sha256": outcome.data_sha256}
        )
        return
    made_of = _scores_table()
    for name, score in (("whole nets", nets), ("kernels", kernels)):
        made_of.add_row(name, *_score_cells(score))
    reasons: dict[str, int] = {}
    for one in refused:
        reasons[one["reason"]] = reasons.get(one["reason"], 0) + 1
    show(made_of)
    show(f"measured by    {plain(tool)}")
    show(f"learned from   {f.plural(len(outcome.training), 'net')}, {f.plural(outcome.kernels, 'kernel')}")
    show(*(f"refused        {count} x {cell(reason)}" for reason, count in sorted(reasons.items())))
    show(
        f"more nets      error of whole nets {f.share(outcome.half_error)} with half of them, {f.share(outcome.error)} "
        f"with all; about {f.share(outcome.error_with_twice)} with twice as many (--nets {2 * plan.nets})"
    )
    show(f"target         {plain(made)} (estimator in {plain(npz)})")


def _scores_table(*first: str) -> Table:
    from graphopt.cli.output import table

    numbers = ("count", "MAPE", "within 5 %", "within 10 %", "Spearman")
    return table(*(first or ("validation",)), *numbers, right=numbers)


def _score_cells(score: Score) -> list[str]:
    from graphopt.report import format as f

    shares = [f.share(value) for value in (score.mape, score.within_5, score.within_10)]
    return [str(score.count), *shares, f"{score.spearman:.3f}"]


def _examined(found: Examined) -> dict[str, Any]:
    from graphopt.report.values import clean

    return {
        "tool": found.tool,
        "scores": [
            {"estimator": line.estimator, "nets": line.nets, "of": line.of} | clean(line.score) for line in found.lines
        ],
        "nets": [
            {"net": dot.name, "kind": dot.kind, "measured_us": dot.measured_us, "estimated_us": dot.estimated_us}
            | {"spread": clean(dot.spread)}
            for dot in found.dots
        ],
        "refused": [{"net": key, "place": one.place, "reason": one.reason} for key, one in found.refused],
        "noise": clean(found.noise),
        "left_out": found.left_out,
    }


def _verdict(found: Examined) -> list[Table | str]:
    """The scores, the nets that were missed by most, and what was not compared."""
    from graphopt.cli.output import cell, table
    from graphopt.report import format as f
    from graphopt.report.text import plain

    scores = _scores_table("estimator", "nets", "of")
    for line in found.lines:
        scores.add_row(line.estimator, _KINDS[line.nets], line.of, *_score_cells(line.score))
    numbers = ("measured", "estimated", "off by")
    worst = table("farthest off", *numbers, right=numbers)
    for dot in sorted(found.dots, key=lambda dot: -abs(dot.estimated_us / dot.measured_us - 1))[:_SHOWN]:
        pair = dot.measured_us, dot.estimated_us
        worst.add_row(cell(dot.name), *map(f.latency, pair), f.change(*pair))
    said: list[Table | str] = [scores, worst, f"measured by    {plain(found.tool)}"]
    said.append(f"noise          repeats of one net differ by {f.share(found.noise)} (median)")
    if found.left_out:
        said.append(f"left out       {f.plural(found.left_out, 'net')} that did not repeat")
    said += [f"refused        {cell(key)}: {cell(one.reason)}" for key, one in found.refused]
    return said
