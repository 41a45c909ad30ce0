"""`graphopt landscape`: the stairs of cost against channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphopt.cli import options as o

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from graphopt.landscape.sweep import Landscape

MAX_ROWS = 12
"""Rows of a table at most; the picture and the JSON have everything."""


@click.command(
    "landscape",
    epilog=o.notes(
        example="graphopt landscape --kernel conv3x3:28x28:ci=64 --target npu-32 --target cpu-x86-64 -o stairs.svg",
        keys=(
            'name, kind ("estimate"), picture_file, landscapes: [{target, parallelism, single, original, channels, '
            "rocky_us, smooth_us, curated: [[channels, us]], kernels, share, beyond, stairs: {step, fit, treads, "
            "cliffs}, cheapest}]"
        ),
    ),
)
@click.argument("model", type=click.Path(), metavar="[MODEL]", required=False)
@click.option(
    "--kernel", metavar="SPEC",
    help="One layer or block instead of MODEL, its output channels swept: conv3x3:28x28:ci=64, depthwise3x3:56x56, "
    "ibn:28x28:ci=32:co=32:t=6, fused-ibn:...; more keys: s=2 (stride), co=1..96 (range), sweep=ci, sweep=hidden.",
)  # fmt: skip
@click.option(
    "--width", metavar="GROUP",
    help="Channel group of MODEL to sweep, named as in `graphopt scan` and plans (wrong names list the nearest) "
    "[default: the one with the largest share of latency].",
)  # fmt: skip
@click.option("--multiplier", is_flag=True, help="All channel groups of MODEL together, from 20 % to 150 %.")
@click.option(
    "-t", "--target", "targets", multiple=True, metavar="T", help="Bundled target or target file. Repeatable."
)
@click.option("-o", "--output", type=click.Path(), metavar="PLOT.svg", help="Write the picture.")
@o.force_option
@o.shape_option
@o.json_option
@o.debug_option
def command(
    model: str | None,
    kernel: str | None,
    width: str | None,
    multiplier: bool,
    targets: tuple[str, ...],
    output: str | None,
    force: bool,
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...],
    as_json: bool,
) -> int:
    """Show which numbers of channels are cheap on a target, and which are dear. Nothing is measured.

    Three curves: the estimate at every width, what it would be in proportion to multiply-accumulates, and the curated
    widths alone (multiples of the target's parallelism).
    """
    from graphopt.cli.output import print_json, refuse_existing, show
    from graphopt.errors import ConfigError
    from graphopt.outputs import write_text
    from graphopt.report.stairs import svg_landscapes
    from graphopt.report.text import plain

    if (model is None) == (kernel is None):
        raise click.UsageError("give either a MODEL or --kernel SPEC")
    if kernel is not None and (width is not None or multiplier or input_shapes):
        raise click.UsageError("--width, --multiplier and --input-shape belong to a MODEL, not to --kernel")
    if width is not None and multiplier:
        raise click.UsageError("--multiplier moves all groups, --width one: give one of them")
    if output is not None:
        if Path(output).suffix != ".svg":
            raise ConfigError("a picture ends in .svg", file=output)
        refuse_existing(Path(output), force=force)
    found = _landscapes(model, kernel, width, multiplier, targets, dict(input_shapes))
    if output is not None:
        write_text(Path(output), svg_landscapes(found))
    if as_json:
        print_json(_values(found, output))
        return 0
    show(plain(found[0].name))
    for one in found:
        show(*_summary(one))
    if output is not None:
        show(f"picture        {plain(output)}")
    return 0


def _landscapes(
    model: str | None,
    kernel: str | None,
    width: str | None,
    multiplier: bool,
    names: Sequence[str],
    input_shapes: Mapping[str, tuple[int, ...]],
) -> tuple[Landscape, ...]:
    from graphopt.landscape.layer import layer
    from graphopt.landscape.model import model_landscapes
    from graphopt.landscape.sweep import landscape
    from graphopt.results import DEFAULT_TARGET
    from graphopt.targets.target import load_target

    targets = [load_target(name) for name in dict.fromkeys(names or (DEFAULT_TARGET,))]
    if kernel is not None:
        subject = layer(kernel)
        return tuple(landscape(subject, target) for target in targets)
    assert model is not None
    return model_landscapes(model, targets, width=width, multiplier=multiplier, input_shapes=input_shapes)


def _values(found: Sequence[Landscape], output: str | None) -> dict[str, object]:
    from graphopt.report.values import clean

    rows = [clean(one) | {"cheapest": list(one.stairs.cheapest)} for one in found]
    for row in rows:
        del row["name"]
    return {"name": found[0].name, "kind": "estimate", "picture_file": output, "landscapes": rows}


def _summary(one: Landscape) -> Iterator[RenderableType]:
    """What to print about one target."""
    from graphopt.report.stairs import headline
    from graphopt.report.text import plain

    yield ""
    yield plain(headline(one))
    if one.single:
        yield _treads(one)
        yield f"cheapest       {', '.join(map(str, one.stairs.cheapest[-MAX_ROWS:])) or 'no width stands out'}"
    else:
        yield _curated(one)


def _treads(one: Landscape) -> Table:
    """The stairs of a single width, from cliff to cliff."""
    from graphopt.cli.output import table
    from graphopt.report import format as f

    numbers = ("channels", "best", "latency", "per channel")
    made = table(*numbers, "then", right=numbers)
    cliffs = [f"{c.below} -> {c.above} channels: {100 * c.change:+.0f} %" for c in one.stairs.cliffs]
    for tread, then in zip(one.stairs.treads[:MAX_ROWS], [*cliffs, ""], strict=False):
        ends = f"{tread.first}-{tread.last}" if tread.first < tread.last else str(tread.first)
        each = f.latency(tread.latency_us / tread.best)
        made.add_row(ends, str(tread.best), f.latency(tread.latency_us), each, then)
    if len(one.stairs.treads) > MAX_ROWS:
        made.add_row("", "", "", "", f"and {len(one.stairs.treads) - MAX_ROWS} more (all of them are in --json)")
    return made


def _curated(one: Landscape) -> Table:
    """Curated widths of all groups together, against as many channels where nobody looked at the chip."""
    import numpy as np

    from graphopt.cli.output import table
    from graphopt.report import format as f

    numbers = ("channels", "of the original", "curated", "as many, uncurated", "in proportion to MACs")
    made = table(*numbers, right=numbers)
    picked = set(np.linspace(0, len(one.curated) - 1, MAX_ROWS - 1).round().astype(int))
    picked |= {i for i, (channels, _) in enumerate(one.curated) if channels == one.original}
    for channels, cost in (one.curated[i] for i in sorted(picked)):
        at = int(np.abs(np.subtract(one.channels, channels)).argmin())
        share = f.share(channels / (one.original or one.channels[-1]), 0)
        rocky = f"{f.latency(one.rocky_us[at])} ({f.change(cost, one.rocky_us[at])})"
        made.add_row(str(channels), share, f.latency(cost), rocky, f.latency(one.smooth_us[at]))
    return made
