"""What `optimize` and `apply` do around the job itself: choose the files, write them, tell about the result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.cli.app import EXIT_NO
from graphopt.cli.output import print_json, refuse_existing, show
from graphopt.errors import ConfigError
from graphopt.outputs import write_text

if TYPE_CHECKING:
    from graphopt.results import OptimizeResult


REPORTS = (".html", ".svg")
"""What a report's file name may end in."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where things go."""

    model: Path
    plan: Path | None
    report: Path | None


def target_label(target: str | None) -> str:
    """A target's name as part of a file name."""
    from graphopt.results import DEFAULT_TARGET

    return Path(target).stem if target else DEFAULT_TARGET


def prepare_outputs(
    model: str, output: Path, plan: str | None, report: str | None, *, force: bool, with_plan: bool = True
) -> Files:
    """Settle the files of a job, and refuse what cannot be written before the work begins.

    Raises:
        ConfigError: when a file is taken (without ``force``), equals another one, or has no folder.
    """
    if report is not None and Path(report).suffix not in REPORTS:
        raise ConfigError(f"a report ends in {' or '.join(REPORTS)}", file=report)
    plan_file = Path(plan) if plan else output.with_name(f"{output.name.removesuffix('.onnx')}.plan.toml")
    files = Files(output, plan_file if with_plan or plan else None, Path(report) if report else None)
    taken = {Path(model).resolve()}
    for path in (files.model, files.plan, files.report):
        if path is None:
            continue
        if path.resolve() in taken:
            raise ConfigError("would replace the model or another output; give another name", file=str(path))
        taken.add(path.resolve())
        refuse_existing(path, force=force)
    return files


def deliver(result: OptimizeResult, files: Files, *, as_json: bool) -> int:
    """Write plan and report, print the result, and return the exit code."""
    from graphopt.cli.summary import summary
    from graphopt.report.values import optimize_values

    plan_file = report_file = None
    if files.plan is not None and result.output is not None:
        write_text(files.plan, result.plan_text)
        plan_file = str(files.plan)
    if files.report is not None:
        write_text(files.report, _report(files.report, result))
        report_file = str(files.report)
    if as_json:
        print_json(optimize_values(result) | {"plan_file": plan_file, "report_file": report_file})
    else:
        show(*summary(result, plan_file=plan_file, report_file=report_file))
    return EXIT_NO if result.outcome == "failed" else 0


def _report(path: Path, result: OptimizeResult) -> str:
    """The report that the file's ending asks for."""
    if path.suffix == ".svg":
        from graphopt.report.picture import svg_picture

        return svg_picture(result)
    from graphopt.report.html import html_report

    return html_report(result)
