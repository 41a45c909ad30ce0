"""Sections of the page that need calibration data or labels: accuracy, drift, repaired weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.report import format as f
from graphopt.report.charts import safe
from graphopt.report.error_bars import TALLEST, error_bars
from graphopt.report.parts import badge, section, table
from graphopt.report.sentences import MEASURES, drift_sentence, metrics, refine_sentence, repair_sentences

if TYPE_CHECKING:
    from graphopt.results import OptimizeResult
    from graphopt.verification.drift import Drift
    from graphopt.verification.evaluate import Evaluation
    from graphopt.weights.repair import RepairedUnit

_ACCURACY_NOTE = (
    "<p class=note>Behind +/- is the standard error: binomial for an accuracy; for the difference that of pairs, since "
    "both models see the same samples.</p>"
)
_DRIFT_NOTE = (
    "<p class=note>How far the outputs are from the original's on samples that no solve has seen; 0 is no change. "
    "No labels are needed for it. For class scores it is the KL divergence, which ranked variants of the sample "
    "model by the accuracy that they reach after training. The standard error is by samples.</p>"
)
_REPAIR_NOTE = (
    "<p class=note>Error of each op's output against the original's on held-out samples, relative to how much that "
    "varies, in running order; everything before the op is repaired already. At 100 % the mean would do as well. "
    f"Bars end at {TALLEST:.0%}. Point at a bar for its numbers.</p>"
)
_REFINE_NOTE = (
    "<p class=note>Error of what each block makes against the original's on held-out samples, relative to how much "
    "each channel varies, in running order; everything before the block is refined already. A block whose error did "
    "not fall keeps its repaired weights.</p>"
)


def calibrated_sections(result: OptimizeResult) -> list[str]:
    """Return the sections that the result has something to say in."""
    sections = []
    if result.evaluation is not None:
        sections.append(_evaluation(result.evaluation))
    if result.drift is not None:
        sections.append(_drift(result.drift))
    if result.repaired:
        sections.append(_repaired(result.repaired))
    if result.refined:
        sections.append(_refined(result.refined))
    return sections


def _evaluation(evaluation: tuple[Evaluation, Evaluation]) -> str:
    rows = [(safe(one.name), one.before, one.after, f"<b>{one.difference}</b>") for one in metrics(evaluation)]
    lead = f"<p>Measured on {f.plural(evaluation[0].samples, 'sample')}.</p>"
    note = _ACCURACY_NOTE if evaluation[0].hits else ""
    return section("Evaluation", lead, table(("metric", "before", "after", "difference"), rows, numbers=1), note)


def _drift(drift: Drift) -> str:
    rows = [
        (
            f"<code>{safe(output.name)}</code>", MEASURES[output.measure], f"<b>{f.small(output.value)}</b>",
            f.small(output.standard_error), f.small(output.relative_l2), f.small(output.max_abs),
            f.small(output.cosine), f.share(output.top1_agreement), f.share(output.top5_agreement),
        )
        for output in drift.outputs
    ]  # fmt: skip
    head = ("output", "measure", "drift", "std error", "relative L2", "max abs", "cosine", "top-1 same", "top-5 has it")
    return section("Drift", f"<p>{safe(drift_sentence(drift))}.</p>", table(head, rows, numbers=2), _DRIFT_NOTE)


def _every(what: str, units: tuple[RepairedUnit, ...]) -> str:
    """The table of all units."""
    rows = [
        (
            f"<code>{safe(unit.op)}</code>", badge("repaired" if unit.kept else "unchanged", unit.method),
            f.share(unit.error_before), f.share(unit.error_after), safe(unit.note),
        )
        for unit in units
    ]  # fmt: skip
    return table((what, "method", "error before", "error after", "why it was left"), rows)


def _refined(units: tuple[RepairedUnit, ...]) -> str:
    return section(
        "Gradient steps",
        f"<p>{safe(refine_sentence(units))}.</p>",
        error_bars(units),
        _REFINE_NOTE,
        f"<details><summary>Every block</summary>{_every('last op of the block', units)}</details>",
    )


def _repaired(units: tuple[RepairedUnit, ...]) -> str:
    legend = (
        '<p class=legend><span><i class="was"></i>first-method weights</span><span><i class="compute"></i>repaired'
        '</span><span><i class="overhead"></i>left as it was</span><span><i class="gone"></i>not measured</span></p>'
    )
    return section(
        "Repaired weights",
        "".join(f"<p>{safe(sentence)}.</p>" for sentence in repair_sentences(units)),
        legend,
        error_bars(units),
        _REPAIR_NOTE,
        "<details><summary>Every op</summary>",
        _every("op", units),
        "</details>",
    )
