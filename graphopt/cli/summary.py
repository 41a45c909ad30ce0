"""What a reader wants to see after `optimize` and `apply`, on one screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from graphopt.cli.calibrated import calibrated
from graphopt.cli.output import cell, table
from graphopt.report import format as f
from graphopt.report.sentences import (
    capacity_sentence,
    certificate_sentence,
    fit_sentence,
    meaning,
    order_sentence,
    resolution_sentences,
    uncertainty_sentence,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from graphopt.cost.estimate import Estimate
    from graphopt.results import OptimizeResult
    from graphopt.verification import Verification

TOP_CHANGES = 8
STYLE = {
    "optimized": "bold green", "unchanged": "bold yellow", "skipped": "yellow", "failed": "bold red",
    "equal": "green", "inconclusive": "yellow", "differs": "bold red",
    "exact": "green", "repaired": "yellow", "retrain": "red",
}  # fmt: skip


def styled(word: str, text: str | None = None) -> RenderableType:
    """``text`` in the colour of an outcome, verdict or safety level."""
    from rich.text import Text

    return Text(word if text is None else text, style=STYLE.get(word, ""))


def summary(result: OptimizeResult, *, plan_file: str | None, report_file: str | None) -> Iterator[RenderableType]:
    """Yield what to print about one result."""
    yield styled(result.outcome, _headline(result))
    if result.outcome != "unchanged":
        yield estimates(*result.estimates)
        if known := uncertainty_sentence(result.estimates[1]):
            yield f"uncertainty    {known}"
        yield f"capacity kept  {capacity_sentence(result)}"
        yield f"kernels        {_kernels(*result.estimates)}"
        yield f"safety         {result.safety} ({meaning(result)})"
    if result.fit is not None:
        yield f"memory         {fit_sentence(result.fit)}"
    if result.resolution is not None:
        for number, sentence in enumerate(resolution_sentences(result.resolution)):
            yield f"{'' if number else 'resolution':<14} {cell(sentence)}"
    if result.order is not None:
        yield f"op order       {order_sentence(result.order)}"
    if result.certificate is not None:
        yield f"optimality gap {certificate_sentence(result.certificate)}"
    if result.changes:
        yield ""
        yield changes(result)
    yield from proof(result.verification, exact=result.safety == "exact")
    yield from calibrated(result)
    for note in result.notes:
        yield f"note           {cell(note)}"
    yield from _files(result, plan_file, report_file)


def _headline(result: OptimizeResult) -> str:
    if result.outcome == "optimized":
        before, after = result.estimates
        gain = f.change(before.latency_us, after.latency_us)
        count = f.plural(result.plan.changes, "change")
        return f"{cell(result.model)} on {cell(result.plan.target)}: {gain} estimated latency with {count}"
    return f"{cell(result.model)}: {result.outcome}: {cell(result.reason)}"


def estimates(before: Estimate, after: Estimate | None = None) -> Table:
    """Before -> after, or one column alone."""
    rows = (
        ("latency", before.latency_us, after and after.latency_us, f.latency),
        ("peak activation memory", before.peak_activation_bytes, after and after.peak_activation_bytes, f.size),
        ("parameters", before.parameters, after and after.parameters, f.number),
        ("parameter memory", before.parameter_bytes, after and after.parameter_bytes, f.size),
        ("MACs", before.macs, after and after.macs, f.number),
        ("off-chip traffic", before.dram_bytes, after and after.dram_bytes, f.size),
        *((("energy", before.energy_uj, after and after.energy_uj, f.energy),) if before.energy_uj is not None else ()),
    )
    if after is None:
        made = table("estimate", cell(before.target), right=(cell(before.target),))
        for name, old, _, shown in rows:
            made.add_row(name, shown(old))
        return made
    made = table("estimate", "before", "after", "change", right=("before", "after", "change"))
    for name, old, new, shown in rows:
        made.add_row(name, shown(old), shown(new or 0), f.change(old, new or 0))
    return made


def _kernels(before: Estimate, after: Estimate) -> str:
    old, new = ({kernel.key for kernel in estimate.kernels} for estimate in (before, after))
    return f"{len(before.kernels)} -> {len(after.kernels)} ({len(old - new)} fused away, {len(new - old)} new)"


def changes(result: OptimizeResult) -> Table:
    """The changes that gain most, and how many each rule made."""
    counts = Counter(change.rule for change in result.changes)
    rules = ", ".join(f"{cell(rule)} {count}x" for rule, count in sorted(counts.items()))
    made = table("what changed", "rule", "safety", "gain", title=f"{rules}", right=("gain",))
    for change in result.changes[:TOP_CHANGES]:
        made.add_row(
            cell(f"{change.place}: {change.text}" if "->" in change.text else change.text),
            cell(change.rule),
            styled(change.safety),
            f.latency(change.gain_us),
        )
    rest = result.changes[TOP_CHANGES:]
    if rest:
        gain = sum(change.gain_us for change in rest)
        made.add_row(f"and {len(rest)} more (all of them are in the plan)", "", "", f.latency(gain))
    return made


def proof(verification: Verification | None, *, exact: bool) -> Iterable[RenderableType]:
    """The verdict in one line, and a table where an output is not equal."""
    if verification is None:
        return
    from rich.text import Text

    verdict = verification.verdict
    label = verdict if exact or verdict != "differs" else "drift"
    inputs = "given inputs" if verification.inputs == "given" else f"made-up inputs (seed {verification.seed})"
    line = Text("verification   ")
    line.append(label, style=STYLE.get(label, ""))
    line.append(f" on {f.plural(verification.samples, 'sample')} of {inputs}")
    if verdict == "equal":
        worst = max(verification.outputs, key=lambda output: output.relative_l2)
        line.append(f": relative distance {f.small(worst.relative_l2)} at most, where rounding alone gives "
                    f"{f.small(worst.noise_relative_l2)}")  # fmt: skip
    elif exact or verdict == "inconclusive":
        line.append(f": {cell(verification.reason)}")
    yield line
    if verdict != "equal" and verification.outputs:
        yield outputs_table(verification)


def outputs_table(verification: Verification) -> Table:
    """One row for each output."""
    numbers = ("max abs", "relative L2", "noise max abs", "noise L2", "cosine", "top-1")
    made = table("output", "verdict", *numbers, right=numbers)
    for output in verification.outputs:
        top1 = "-" if output.top1_agreement is None else f"{output.top1_agreement:.1%}"
        made.add_row(
            cell(output.name), styled(output.verdict), f.small(output.max_abs), f.small(output.relative_l2),
            f.small(output.noise_max_abs), f.small(output.noise_relative_l2), f.small(output.cosine), top1,
        )  # fmt: skip
    return made


def _files(result: OptimizeResult, plan_file: str | None, report_file: str | None) -> Iterator[str]:
    for label, path in (("model", result.output), ("plan", plan_file), ("report", report_file)):
        if path is not None:
            yield f"{label:<14} {cell(path)}"
    if result.outcome == "optimized" and result.output is not None:
        yield f"next           graphopt explain {_quoted(result.model)} --target {_quoted(result.plan.target)}"


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(cell(text))
