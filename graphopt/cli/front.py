"""What `optimize --pareto` does around the job: choose the files, write picture and report, tell about the front."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.cli.app import EXIT_NO
from graphopt.cli.jobs import REPORTS
from graphopt.cli.output import cell, print_json, refuse_existing, show, table
from graphopt.cli.summary import styled
from graphopt.errors import ConfigError
from graphopt.outputs import write_text
from graphopt.report import format as f

if TYPE_CHECKING:
    from rich.console import RenderableType

    from graphopt.fronts import Front


def prepare_front(model: str, output: Path, count: int, report: str | None, *, force: bool) -> Path:
    """Refuse what cannot be written before the work begins, and return where the picture goes.

    Raises:
        ConfigError: when a file is taken (without ``force``), equals another one, or has no folder.
    """
    from graphopt.fronts import candidate_files

    if report is not None and Path(report).suffix not in REPORTS:
        raise ConfigError(f"a report ends in {' or '.join(REPORTS)}", file=report)
    picture = output.with_name(f"{output.name.removesuffix('.onnx')}.front.svg")
    files = [path for _, file, plan in candidate_files(output, count) for path in (file, plan)]
    taken = {Path(model).resolve()}
    for path in (*files, picture, *([] if report is None else [Path(report)])):
        if path.resolve() in taken:
            raise ConfigError("would replace the model or another output; give another name", file=str(path))
        taken.add(path.resolve())
        refuse_existing(path, force=force)
    return picture


def deliver_front(front: Front, picture: Path, report: str | None, *, as_json: bool) -> int:
    """Write picture and report, print the front, and return the exit code."""
    from graphopt.report.front import html_front, svg_front
    from graphopt.report.values import front_values

    drawn = svg_front(front)
    if front.candidates:
        write_text(picture, drawn)
    if report is not None:
        write_text(report, drawn if Path(report).suffix == ".svg" else html_front(front))
    if as_json:
        files = {"picture_file": str(picture) if front.candidates else None, "report_file": report}
        print_json(front_values(front) | files)
    else:
        show(*_told(front, picture, report))
    return EXIT_NO if front.outcome == "failed" else 0


def _told(front: Front, picture: Path, report: str | None) -> Iterator[RenderableType]:
    from graphopt.report.front import HEAD, candidate_rows, headline

    yield styled(front.outcome, f"{cell(front.model)} on {cell(front.target)}: {cell(headline(front))}")
    if front.candidates:
        made = table(*HEAD, "model", right=HEAD[1:8])
        files = ["", *(one.result.output or "" for one in front.candidates)]
        for (*cells, safety, proof), file in zip(candidate_rows(front), files, strict=True):
            made.add_row(*map(cell, cells), styled(safety), styled(proof), cell(file))
        yield made
        yield "peak: of activations; kept: channels, weighted by parameters; beside each model lies its plan"
        yield f"front          {f.plural(len(front.points), 'plan')}; {front.evaluations:,} candidates priced"
    for note in front.notes:
        yield f"note           {cell(note)}"
    if front.candidates:
        yield f"picture        {cell(picture)}"
    if report is not None:
        yield f"report         {cell(report)}"
