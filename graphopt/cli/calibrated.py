"""The parts of a summary that need calibration data or labels: drift, repaired weights, accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphopt.cli.output import cell, table
from graphopt.report import format as f
from graphopt.report.sentences import drift_sentence, metrics, refine_sentence, repair_sentences

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from graphopt.results import OptimizeResult
    from graphopt.verification.drift import Drift


_SHORT = {"kl": "KL", "relative-l2": "rel. L2", "differing": "differing"}
"""Measures, where a terminal is narrow."""


def calibrated(result: OptimizeResult) -> Iterator[RenderableType]:
    """Yield what was repaired, how far the outputs drift and what the metric says, where that is known."""
    label = "weights"
    if result.repaired:
        for sentence in repair_sentences(result.repaired):
            yield f"{label:<14} {cell(sentence)}"
            label = ""
    if result.refined:
        yield f"{label:<14} {cell(refine_sentence(result.refined))}"
    if result.drift is not None:
        yield f"drift          {cell(drift_sentence(result.drift))}"
        yield drift_table(result.drift)
    if result.evaluation is not None:
        for metric in metrics(result.evaluation):
            yield f"evaluation     {cell(metric)}, n = {result.evaluation[0].samples}"


def drift_table(drift: Drift) -> Table:
    """One row for each output; agreement on classes has columns where there are classes."""
    agreement = ("top-1", "top-5") if drift.top1_agreement is not None else ()
    numbers = ("drift", "rel. L2", "max abs", "cosine", *agreement)
    made = table("output", "measure", *numbers, right=numbers)
    for output in drift.outputs:
        cells = [
            cell(output.name), _SHORT[output.measure], f.small(output.value), f.small(output.relative_l2),
            f.small(output.max_abs), f.small(output.cosine),
        ]  # fmt: skip
        if agreement:
            cells += [f.share(output.top1_agreement), f.share(output.top5_agreement)]
        made.add_row(*cells)
    return made
