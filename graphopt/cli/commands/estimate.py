"""`graphopt estimate`: what one run costs on a target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from graphopt.cli import options as o

if TYPE_CHECKING:
    from rich.table import Table

    from graphopt.cost.estimate import Estimate


@click.command(
    "estimate",
    epilog=o.notes(
        example="graphopt estimate model.onnx --target npu-32 --per-kernel",
        keys=(
            'model, kind ("estimate"), target, latency_us, peak_activation_bytes, parameters, parameter_bytes, '
            "macs, dram_bytes, and with --per-kernel kernels: [{key, category, op_types, inputs, outputs, "
            "latency_us, macs, parameter_bytes, dram_bytes, bound}]"
        ),
    ),
)
@o.model_argument
@o.target_option
@click.option("--per-kernel", is_flag=True, help="One row for each kernel, with what bounds it.")
@o.shape_option
@o.json_option
@o.debug_option
def command(model: str, target: str | None, per_kernel: bool, as_json: bool, **values: Any) -> int:
    """Estimate latency, memory and DRAM traffic of MODEL on a target. Nothing is measured."""
    from graphopt.cli.output import print_json, show
    from graphopt.cli.summary import estimates
    from graphopt.pipeline import estimate
    from graphopt.report.values import estimate_values
    from graphopt.results import DEFAULT_TARGET

    found = estimate(model, target or DEFAULT_TARGET, input_shapes=dict(values["input_shapes"]))
    if as_json:
        print_json({"model": model} | estimate_values(found, kernels=per_kernel))
        return 0
    if per_kernel:
        show(_kernels(found))
    show(estimates(found))
    return 0


def _kernels(found: Estimate) -> Table:
    from graphopt.cli.output import cell, table
    from graphopt.report import format as f

    numbers = ("latency", "share", "MACs", "weights", "DRAM")
    made = table("kernel", "ops", "output", *numbers, "bound by", right=numbers)
    for kernel in found.kernels:
        share = kernel.latency_us / found.latency_us if found.latency_us else 0.0
        made.add_row(
            cell(kernel.key), cell("+".join(kernel.op_types)), f.shape(kernel.outputs[-1]) if kernel.outputs else "-",
            f.latency(kernel.latency_us), f"{share:.1%}", f.number(kernel.macs), f.size(kernel.parameter_bytes),
            f.size(kernel.dram_bytes), kernel.bound,
        )  # fmt: skip
    return made
