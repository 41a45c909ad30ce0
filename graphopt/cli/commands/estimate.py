"""`graphopt estimate`: what one run costs on a target, and, if asked for, what it costs really."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from graphopt.cli import options as o
from graphopt.cli.app import EXIT_NO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from graphopt.cost.estimate import Estimate
    from graphopt.measure.backend import Measurement
    from graphopt.measure.beside import Beside
    from graphopt.measure.join import Group
    from graphopt.prepare import Subject


@click.command(
    "estimate",
    epilog=o.notes(
        example="graphopt estimate model.onnx --target npu-32 --per-kernel",
        keys=(
            'model, kind ("estimate"), target, latency_us, peak_activation_bytes, parameters, parameter_bytes, '
            "macs, dram_bytes, energy_uj (null where the target does not say), uncertainty (relative, one sigma; null "
            "where nothing was learned from measurements), extrapolating (kernels beyond what was measured), and with "
            "--per-kernel kernels: [{key, category, "
            "op_types, inputs, outputs, latency_us, macs, parameter_bytes, dram_bytes, bound, uncertainty, "
            "extrapolates}]; with --measure also measurement: {kind "
            '("measurement"), backend, tool, reason, latency_us, spread, energy_uj, estimate_error, kernels: [{keys, '
            "latency_us, estimate_us}]}; with --resolutions also resolutions: the same numbers for each size, with "
            "inputs: shapes by name"
        ),
    ),
)
@o.model_argument
@o.target_option
@click.option("--per-kernel", is_flag=True, help="One row for each kernel, with what bounds it.")
@click.option("--measure", is_flag=True, help="Measure the model, too, and show the measurement beside the estimate.")
@click.option(
    "-b",
    "--backend",
    metavar="NAME",
    help="What measures: onnxruntime, vela, totals, or your own as MODULE:CLASS [default: what measured the target].",
)
@click.option(
    "-c",
    "--config",
    default="",
    metavar="TEXT",
    help="Device of the backend: an accelerator (ethos-u55-256), an execution provider, a command with {model}.",
)
@click.option(
    "--resolutions", type=o.ImageSizes(), multiple=True, metavar="[NAME:]N|HxW[,...]",
    help="The estimate at other image sizes, too, as 320,256,224x192 (height x width, in pixels).",
)  # fmt: skip
@o.shape_option
@o.json_option
@o.debug_option
def command(
    model: str,
    target: str | None,
    per_kernel: bool,
    measure: bool,
    backend: str | None,
    config: str,
    as_json: bool,
    **values: Any,
) -> int:
    """Estimate latency, memory and off-chip traffic of MODEL on a target; measure it, too, where --measure asks."""
    from graphopt.cli.output import print_json, show
    from graphopt.cli.summary import estimates
    from graphopt.prepare import open_subject
    from graphopt.report.sentences import uncertainty_sentence
    from graphopt.report.values import estimate_values
    from graphopt.results import DEFAULT_TARGET

    if not measure and (backend is not None or config):
        raise click.UsageError("--backend and --config say what measures: add --measure")
    resolutions = dict(values["resolutions"])
    if resolutions and (measure or per_kernel):
        raise click.UsageError("--resolutions compares whole models: leave --measure and --per-kernel out")
    shapes: Mapping[str, tuple[int, ...]] = dict(values["input_shapes"])
    subject = open_subject(model, target or DEFAULT_TARGET, input_shapes=shapes)
    found = subject.before
    beside = None
    if measure:
        from graphopt.measure.beside import choose, measure_file

        beside = measure_file(subject.path, choose(subject.target, backend, config), shapes)
    groups = _groups(subject, beside)
    sized = _at_sizes(subject, resolutions) if resolutions else ()
    if as_json:
        answer = {"model": model} | estimate_values(found, kernels=per_kernel)
        if beside is not None:
            answer["measurement"] = _values(found, beside, groups if per_kernel else ())
        if resolutions:
            answer["resolutions"] = [{"inputs": shapes} | estimate_values(one) for shapes, one in sized]
        print_json(answer)
    else:
        if per_kernel:
            show(_kernels(found, groups))
        show(estimates(found))
        if sized:
            show(_sizes(found, sized))
        if known := uncertainty_sentence(found):
            show(known)
        if beside is not None:
            show(*_lines(found, beside))
    return EXIT_NO if beside is not None and _measurement(beside) is None else 0


def _at_sizes(
    subject: Subject, resolutions: Mapping[str, tuple[tuple[int, int], ...]]
) -> tuple[tuple[dict[str, list[int]], Estimate], ...]:
    """Input shapes and estimate at each size."""
    from graphopt.results import Options
    from graphopt.sizing import sized_subjects

    with sized_subjects(subject, Options(allow="retrain", resolutions=resolutions)) as subjects:
        return tuple(({name: list(shape) for name, shape in one.input_shapes.items()}, one.before) for one in subjects)


def _sizes(own: Estimate, sized: Sequence[tuple[dict[str, list[int]], Estimate]]) -> Table:
    """One row for each size."""
    from graphopt.cli.output import cell, table
    from graphopt.report import format as f

    numbers = ("latency", "change", "peak activation memory", "MACs", "off-chip traffic")
    made = table("input", *numbers, right=numbers)
    for shapes, one in sized:
        made.add_row(
            cell(", ".join(f.shape(tuple(shape)) for shape in shapes.values())), f.latency(one.latency_us),
            f.change(own.latency_us, one.latency_us), f.size(one.peak_activation_bytes), f.number(one.macs),
            f.size(one.dram_bytes),
        )  # fmt: skip
    return made


def _measurement(beside: Beside) -> Measurement | None:
    from graphopt.measure.backend import Measurement

    return beside.answer if isinstance(beside.answer, Measurement) else None


def _groups(subject: Subject, beside: Beside | None) -> Sequence[Group]:
    """Measured kernels; none where the backend tells the total only."""
    from graphopt.measure.join import join

    answer = _measurement(beside) if beside is not None else None
    return join(subject.graph, subject.kernels, answer.rows) if answer is not None and answer.rows else ()


def _values(found: Estimate, beside: Beside, groups: Sequence[Group]) -> dict[str, Any]:
    from graphopt.report.values import clean

    answer = _measurement(beside)
    values: dict[str, Any] = {"kind": "measurement", "backend": beside.backend, "tool": beside.tool}
    values["reason"] = _reason(beside)
    if answer is None:
        return values
    numbers = {
        "latency_us": answer.total_us,
        "spread": answer.spread,
        "energy_uj": answer.energy_uj,
        "estimate_error": found.latency_us / answer.total_us - 1,
    }
    kernels = [
        {
            "keys": [found.kernels[number].key for number in group.kernels],
            "latency_us": group.latency_us,
            "estimate_us": sum(found.kernels[number].latency_us for number in group.kernels),
        }
        for group in groups
    ]
    values |= clean(numbers)
    if kernels:
        values["kernels"] = clean(kernels)
    return values


def _reason(beside: Beside) -> str:
    """Why there is no measurement, ``""`` when there is one."""
    from graphopt.measure.backend import Refusal

    refusal = beside.answer
    if not isinstance(refusal, Refusal):
        return ""
    return f"{refusal.place}: {refusal.reason}" if refusal.place else refusal.reason


def _lines(found: Estimate, beside: Beside) -> Sequence[Table | str]:
    """The measurement beside the estimate, and what measured it."""
    from graphopt.cli.output import cell, table
    from graphopt.report import format as f

    answer = _measurement(beside)
    if answer is None:
        return (f"not measured by {cell(beside.backend)}: {cell(_reason(beside))}",)
    right = ("estimate", "measurement", "estimate is off by")
    made = table("whole model", *right, right=right)
    made.add_row(
        "latency", f.latency(found.latency_us), f.latency(answer.total_us), f.change(answer.total_us, found.latency_us)
    )
    spread = f", repeats within {answer.spread:.1%}" if answer.spread else ""
    return made, f"measured by {cell(beside.tool)}{spread}"


def _kernels(found: Estimate, groups: Sequence[Group]) -> Table:
    from graphopt.cli.output import cell, table
    from graphopt.report import format as f

    measured = {}
    for group in groups:
        first, *rest = group.kernels
        measured[first] = f.latency(group.latency_us) + (f" for {1 + len(rest)}" if rest else "")
        measured |= dict.fromkeys(rest, "with another")
    latency = ("estimate", "measurement") if groups else ("latency",)
    numbers = (*latency, "share", "MACs", "weights", "off-chip")
    made = table("kernel", "ops", "output", *numbers, "bound by", right=numbers)
    for number, kernel in enumerate(found.kernels):
        share = kernel.latency_us / found.latency_us if found.latency_us else 0.0
        made.add_row(
            cell(kernel.key), cell("+".join(kernel.op_types)), f.shape(kernel.outputs[-1]) if kernel.outputs else "-",
            f.latency(kernel.latency_us), *([measured.get(number, "-")] if groups else []), f"{share:.1%}",
            f.number(kernel.macs), f.size(kernel.parameter_bytes), f.size(kernel.dram_bytes), kernel.bound,
        )  # fmt: skip
    return made
