"""What a reader wants to see after `finetune`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphopt.cli.calibrated import drift_table
from graphopt.cli.output import cell
from graphopt.cli.summary import styled
from graphopt.report import format as f
from graphopt.report.sentences import drift_sentence, metrics

if TYPE_CHECKING:
    from rich.console import RenderableType

    from graphopt.finetuning import FinetuneResult

_LEARNED_FROM = {"distillation": "the teacher alone", "labels": "labels", "both": "the teacher and labels"}


def tuned(result: FinetuneResult) -> Iterator[RenderableType]:
    """Yield what to print about one result."""
    before, after = result.before, result.after
    measure = "drift" if result.loss == "distillation" else "loss"
    change = (
        f"{measure} {f.small(before.value)} -> {f.small(after.value)} on {f.plural(result.held_out, 'sample')} held out"
    )
    if result.kept:
        yield styled("optimized", f"{cell(result.model)}: fine-tuned: {change}")
    else:
        yield styled("unchanged", f"{cell(result.model)}: training made it no better ({change}): the weights stay")
    steps = f"{f.plural(result.steps, 'step')} on {f.plural(result.samples, 'sample')}"
    yield f"learned from   {_LEARNED_FROM[result.loss]}, {steps}"
    drift = after.drift if result.kept else before.drift
    if drift is not None:
        yield f"drift          {cell(drift_sentence(drift))}"
        yield drift_table(drift)
    for metric in metrics(result.evaluation) if result.evaluation is not None else ():
        yield f"evaluation     {cell(metric)}"
    for note in result.notes:
        yield f"note           {cell(note)}"
    if result.output is not None:
        yield f"model          {cell(result.output)}"
