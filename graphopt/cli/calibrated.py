"""The parts of a summary that need calibration data or labels: drift, repaired weights, accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphopt.cli.output import cell, table
from graphopt.report import format as f
from graphopt.report.sentences import MEASURES, drift_sentence, metrics, repair_sentences

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from graphopt.results import OptimizeResult
    from graphopt.verification.drift import Drift


def calibrated(result: OptimizeResult) -> Iterator[RenderableType]:
    """Yield what was repaired, how far the outputs drift and what the metric says, where that is known."""
    if result.repaired:
        label = "weights"
        for sentence in repair_sentences(result.repaired):
            yield f"{label:<14} {cell(sentence)}"
            label = ""
    if result.drift is not None:
        yield f"drift          {drift_sentence(result.drift)}"
        yield drift_table(result.drift)
    if result.evaluation is not None:
        samples = f.plural(result.evaluation[0].samples, "sample")
        for metric in metrics(result.evaluation):
            yield f"evaluation     {cell(metric)} on {samples}"


def drift_table(drift: Drift) -> Table:
    """One row for each output."""
    numbers = ("drift", "std error", "relative L2", "max abs", "cosine", "top-1", "top-5")
    made = table("output", *numbers[:2], "measure", *numbers[2:], right=numbers)
    for output in drift.outputs:
        made.add_row(
            cell(output.name), f.small(output.value), f.small(output.standard_error), MEASURES[output.measure],
            f.small(output.relative_l2), f.small(output.max_abs), f.small(output.cosine),
            f.share(output.top1_agreement), f.share(output.top5_agreement),
        )  # fmt: skip
    return made
