"""A report to look at: one HTML file without anything from outside, the same for the same result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from graphopt.report import format as f
from graphopt.report.calibrated import calibrated_sections
from graphopt.report.charts import CHANGED, Point, kernel_bars, kernel_pairs, legend, safe, scatter, timeline
from graphopt.report.parts import badge, section, table
from graphopt.report.sentences import (
    capacity_sentence,
    certificate_sentence,
    fit_sentence,
    meaning,
    order_sentence,
    resolution_sentences,
    uncertainty_sentence,
)
from graphopt.report.style import STYLE
from graphopt.results import OptimizeResult
from graphopt.verification import Verification
from graphopt.version import __version__


def html_report(result: OptimizeResult) -> str:
    """Return the report on one result as a whole HTML page."""
    title = f"graphopt: {safe(result.model)} on {safe(result.plan.target)}"
    body = [_header(result)]
    if result.before is not None:
        body.append(_tiles(result))
        if result.plan.changes:
            body += [_latency(result), _changes(result)]
        else:
            body.append(
                section("Where the latency goes", _legend(legend(*result.estimates)), kernel_bars(*result.estimates))
            )
    if result.verification is not None:
        body.append(_verification(result.verification, exact=result.safety == "exact"))
    body += calibrated_sections(result)
    if len(result.front) > 1:
        body.append(_front(result))
    body += [_refusals(result), _provenance(result)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def _header(result: OptimizeResult) -> str:
    if result.outcome == "optimized":
        before, after = result.estimates
        gain = f.change(before.latency_us, after.latency_us)
        text = f"{gain} estimated latency with {f.plural(result.plan.changes, 'change')}"
    else:
        text = f"{result.outcome}: {result.reason}"
    badges = badge(result.outcome) + badge(result.safety)
    if result.verification is not None:
        badges += badge(_verdict(result.verification, exact=result.safety == "exact"))
    if result.drift is not None:
        badges += badge("drift", f"drift {f.small(result.drift.value)}")
    meant = f"<p class=note>{result.safety}: {safe(meaning(result))}</p>" if result.plan.changes else ""
    return (
        f"<header><p class=crumb>graphopt report</p>"
        f"<h1>{safe(result.model)} <span>on {safe(result.plan.target)}</span></h1>"
        f"<p class=lead>{safe(text)}</p><p>{badges}</p>{meant}</header>"
    )


def _tiles(result: OptimizeResult) -> str:
    """The headline numbers: before, after, and how they compare as two bars."""
    before, after = result.estimates
    numbers: tuple[tuple[str, float, float, Callable[[float], str]], ...] = (
        ("latency", before.latency_us, after.latency_us, f.latency),
        ("peak activation memory", before.peak_activation_bytes, after.peak_activation_bytes, f.size),
        ("off-chip traffic", before.dram_bytes, after.dram_bytes, f.size),
        ("parameter memory", before.parameter_bytes, after.parameter_bytes, f.size),
        ("MACs", before.macs, after.macs, f.number),
        *([] if before.energy_uj is None else [("energy", before.energy_uj, after.energy_uj or 0.0, f.energy)]),
    )
    tiles = []
    for name, old, new, shown in numbers:
        largest = max(old, new) or 1
        mood = "better" if new < old else "worse" if new > old else "same"
        tiles.append(
            f'<div class=tile><p class=name>{name}</p><p class=big>{shown(new)} <span class="{mood}">'
            f"{f.change(old, new)}</span></p><p class=was-text>before {shown(old)}</p>"
            f'<div class="meter old"><i style="width:{100 * old / largest:.1f}%"></i></div>'
            f'<div class="meter"><i style="width:{100 * new / largest:.1f}%"></i></div></div>'
        )
    capacity = (
        f"{f.number(before.parameters)} &rarr; {f.number(after.parameters)} parameters; "
        f"capacity kept: {capacity_sentence(result)}. Every cost is an estimate."
    )
    if known := uncertainty_sentence(after):
        capacity += f" After: {safe(known)}."
    if result.fit is not None:
        capacity += f" Memory {safe(fit_sentence(result.fit))}."
    if result.resolution is not None:
        capacity += "".join(f" {safe(sentence)}." for sentence in resolution_sentences(result.resolution))
    if result.order is not None:
        capacity += f" Ops in order {safe(order_sentence(result.order))}."
    if result.certificate is not None:
        capacity += f" Optimality gap {safe(certificate_sentence(result.certificate))}."
    return f"<section class=tiles>{''.join(tiles)}</section><p class=note>{capacity}</p>{_notes(result.notes)}"


def _notes(notes: Sequence[str]) -> str:
    return "".join(f"<p class=note>{safe(note)}</p>" for note in notes)


def _latency(result: OptimizeResult) -> str:
    before, after = result.estimates
    pairs = kernel_pairs(before, after)
    gone, new = sum(b is None for _, b in pairs), sum(a is None for a, _ in pairs)
    text = f"{len(before.kernels)} kernels before, {len(after.kernels)} after"
    text += f" ({gone} fused away, {new} new)." if gone or new else "."
    return section(
        "Where the latency goes",
        _legend([*legend(before, after), *CHANGED]),
        timeline(before, after),
        "<p class=note>Kernel by kernel, in running order. Point at a bar for its name. " + text + "</p>",
        kernel_bars(before, after),
    )


def _legend(keys: Sequence[tuple[str, str]]) -> str:
    return "<p class=legend>" + "".join(f'<span><i class="{key}"></i>{text}</span>' for key, text in keys) + "</p>"


def _changes(result: OptimizeResult) -> str:
    counts = Counter(change.rule for change in result.changes)
    rules = ", ".join(f"{safe(rule)} {count}&times;" for rule, count in sorted(counts.items()))
    largest = max((abs(change.gain_us) for change in result.changes), default=0.0) or 1.0
    rows = [
        (
            f"<code>{safe(change.place)}</code>",
            safe(change.text),
            safe(change.rule),
            badge(change.safety),
            f"<div class=gain><i style='width:{100 * max(change.gain_us, 0) / largest:.1f}%'></i>"
            f"<b>{f.latency(change.gain_us)}</b></div>",
        )
        for change in result.changes
    ]
    note = "<p class=note>Gain: estimated latency that undoing this change alone would cost.</p>"
    shown = table(("place", "change", "rule", "safety", "gain"), rows)
    return section(f"What changed ({len(result.changes)})", f"<p>{rules}</p>", shown, note)


def _verification(proof: Verification, *, exact: bool) -> str:
    verdict = _verdict(proof, exact=exact)
    why = "" if verdict == "drift" else safe(proof.reason)
    source = "given inputs" if proof.inputs == "given" else f"made-up inputs (seed {proof.seed})"
    lead = f"<p>{badge(verdict)} on {f.plural(proof.samples, 'sample')} of {source}. {why}</p>"
    rows = [
        (
            f"<code>{safe(output.name)}</code>", badge(output.verdict), f.small(output.max_abs),
            f.small(output.noise_max_abs), f.small(output.relative_l2), f.small(output.noise_relative_l2),
            f.small(output.cosine), "-" if output.top1_agreement is None else f"{output.top1_agreement:.1%}",
        )
        for output in proof.outputs
    ]  # fmt: skip
    head = ("output", "verdict", "max abs", "noise", "relative L2", "noise", "cosine", "top-1 agreement")
    note = (
        "<p class=note>Noise is the original against itself, with and without onnxruntime's optimisations: what "
        "rounding alone does to this model on these inputs.</p>"
    )
    return section("Verification", lead, table(head, rows, numbers=2) if rows else "", note)


def _verdict(proof: Verification, *, exact: bool) -> str:
    return "drift" if proof.verdict == "differs" and not exact else proof.verdict


def _front(result: OptimizeResult) -> str:
    before, after = result.estimates

    def points(metric: str, old: float, new: float) -> list[Point]:
        front = [
            Point(p.latency_us, getattr(p, metric), "front", f"{f.latency(p.latency_us)}, {f.size(getattr(p, metric))}")
            for p in result.front
        ]
        return [
            *front,
            Point(before.latency_us, old, "before", f"before: {f.latency(before.latency_us)}, {f.size(old)}"),
            Point(after.latency_us, new, "after", f"after: {f.latency(after.latency_us)}, {f.size(new)}"),
        ]

    peak = points("peak_bytes", before.peak_activation_bytes, after.peak_activation_bytes)
    weights = points("parameter_bytes", before.parameter_bytes, after.parameter_bytes)
    legend = (
        '<p class=legend><span><i class="dot before"></i>before</span><span><i class="dot after"></i>this plan</span>'
        '<span><i class="dot front"></i>other plans on the Pareto front</span></p>'
    )
    return section(
        f"Plans that the search met ({len(result.front)} on the front)",
        legend,
        "<div class=two><figure><figcaption>peak activation memory</figcaption>",
        scatter(peak, x_name="latency", y_name="peak activation memory", y_unit="bytes"),
        "</figure><figure><figcaption>parameter memory</figcaption>",
        scatter(weights, x_name="latency", y_name="parameter memory", y_unit="bytes"),
        "</figure></div>",
    )


def _refusals(result: OptimizeResult) -> str:
    counts = Counter((one.rule, one.refusal.reason) for one in result.refusals)
    rows = [
        (safe(rule), safe(reason), str(count))
        for (rule, reason), count in sorted(counts.items(), key=lambda item: (item[0][0], -item[1], item[0][1]))
    ]
    if not rows:
        return ""
    shown = table(("rule", "why not", "places"), rows)
    title = f"What was refused, and why ({len(result.refusals)})"
    return f"<section><details><summary>{title}</summary>{shown}</details></section>"


def _provenance(result: OptimizeResult) -> str:
    rows = [
        ("graphopt", safe(__version__)),
        ("model", f"<code>{safe(result.plan.model_digest)}</code>"),
        ("plan", f"<code>{safe(result.plan.digest)}</code>"),
        ("target", safe(result.plan.target)),
        ("written to", safe(result.output or "nothing was written")),
        ("candidates priced", f"{result.evaluations:,}"),
    ]
    return section("Provenance", table(("", ""), rows))
