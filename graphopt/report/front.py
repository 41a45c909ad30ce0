"""The front as a picture and as a page: latency against what is given up, the chosen candidates with their letters."""

from __future__ import annotations

import math
from collections.abc import Callable

from graphopt.cost.estimate import Estimate
from graphopt.fronts import Front, FrontCandidate, GivenUp
from graphopt.report import format as f
from graphopt.report.charts import WIDTH, open_svg, safe, ticks
from graphopt.report.parts import badge, section, table
from graphopt.report.picture import MARGIN, placed, whole_file
from graphopt.report.sentences import metrics
from graphopt.report.style import STYLE
from graphopt.version import __version__

AXES: dict[GivenUp, str] = {
    "memory": "memory: parameters + peak activations",
    "capacity": "channels kept, weighted by parameters",
    "drift": "drift, added up over single decisions (root scale)",
}
"""What the vertical axis says."""

FRONT_STYLE = """
.met{fill:#2f6fd0;fill-opacity:.45}.way{fill:none;stroke:#2f6fd0;stroke-opacity:.35;stroke-width:1.5}
.origin{fill:none;stroke:#5d6b7c;stroke-width:2.5}.chosen{fill:#16794c}
text.letter{fill:#fff;font-weight:700;font-size:13px}
@media (prefers-color-scheme:dark){.met{fill:#5b96f0}.way{stroke:#5b96f0}.origin{stroke:#9aa7b7}.chosen{fill:#2f9e6c}}
"""

HEIGHT = 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 92, 24, 16, 48
_LEGEND = (("origin", "original"), ("chosen", "candidate"), ("met", "other plan on the front"))


def svg_front(front: Front) -> str:
    """Return the picture as a whole SVG file."""
    title = f"{front.model.replace(chr(92), '/').rsplit('/', 1)[-1]} on {front.target}"
    if not len(front.points):
        return whole_file(title, f"{front.outcome}: {front.reason}", [], 62)
    parts = []
    x = float(MARGIN)
    for style, text in _LEGEND:
        parts.append(f'<circle class="{style}" cx="{x + 7:.0f}" cy="86" r="{5 if style == "met" else 6}"/>')
        parts.append(f'<text x="{x + 20:.0f}" y="90">{text}</text>')
        x += 44 + 6.6 * len(text)
    parts.append(placed(plot(front), 104, HEIGHT))
    return whole_file(title, headline(front), parts, 104 + HEIGHT, FRONT_STYLE)


def headline(front: Front) -> str:
    """How far the front reaches, in one line."""
    if front.outcome != "optimized":
        return f"{front.outcome}: {front.reason}"
    gains = [f.change(front.before.latency_us, one.result.estimates[1].latency_us) for one in front.candidates]
    return f"{f.plural(len(front.candidates), 'candidate')}, estimated latency {', '.join(gains)}"


def plot(front: Front) -> str:
    """The axes, the original, the whole front and the candidates."""
    scale, inverse = _scales(front.axis)
    latency = [front.before.latency_us, *front.points[:, 0]]
    values = [scale(front.origin), *map(scale, front.points[:, 1])]
    (x_low, x_high), (y_low, y_high) = _range(latency), _range(values)
    right, base = WIDTH - _RIGHT, HEIGHT - _BOTTOM

    def across(value: float) -> float:
        return _LEFT + (right - _LEFT) * (value - x_low) / (x_high - x_low)

    def down(value: float) -> float:
        return base - (base - _TOP) * (scale(value) - y_low) / (y_high - y_low)

    show = shown(front.axis)
    parts = [open_svg(WIDTH, HEIGHT, f"{AXES[front.axis]} against latency")]
    for tick in (inverse(tick) for tick in ticks(y_high, y_low) if tick >= 0):
        y = down(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{show(tick)}</text>')
    for tick in ticks(x_high, x_low):
        x = across(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{base}"/>')
        parts.append(f'<text x="{x:.1f}" y="{base + 18}" text-anchor="middle">{f.latency(tick)}</text>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">estimated latency</text>')
    turned = f'transform="translate(14 {(_TOP + base) / 2:.0f}) rotate(-90)" text-anchor="middle"'
    parts.append(f"<text {turned}>{AXES[front.axis]}</text>")
    line = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in front.points)
    parts.append(f'<polyline class="way" points="{line}"/>')
    for x, y in front.points:
        title = f"<title>{f.latency(x)}, {show(y)}</title>"
        parts.append(f'<circle class="met" cx="{across(x):.1f}" cy="{down(y):.1f}" r="4">{title}</circle>')
    at = f'cx="{across(front.before.latency_us):.1f}" cy="{down(front.origin):.1f}" r="8"'
    title = f"<title>original: {f.latency(front.before.latency_us)}, {show(front.origin)}</title>"
    parts.append(f'<circle class="origin" {at}>{title}</circle>')
    parts += [_marked(one, across(one.latency_us), down(one.value), show) for one in front.candidates]
    return "".join([*parts, "</svg>"])


def _marked(one: FrontCandidate, x: float, y: float, show: Callable[[float], str]) -> str:
    title = f"<title>{one.label}: {f.latency(one.latency_us)}, {show(one.value)}</title>"
    return (
        f'<g>{title}<circle class="chosen" cx="{x:.1f}" cy="{y:.1f}" r="11"/>'
        f'<text class="letter" x="{x:.1f}" y="{y + 4.5:.1f}" text-anchor="middle">{one.label}</text></g>'
    )


def shown(axis: GivenUp) -> Callable[[float], str]:
    """How a value on the vertical axis is written."""
    if axis == "memory":
        return f.size
    return (lambda value: f.share(value, 0)) if axis == "capacity" else f.small


def _scales(axis: GivenUp) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """What makes equal steps of a value equally long, and its inverse. Drift is the square of a distance."""
    if axis == "drift":
        return math.sqrt, lambda value: value * value
    return float, float


def _range(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return low - margin, high + margin


def html_front(front: Front) -> str:
    """Return a whole HTML page on a front."""
    name = f"{safe(front.model)} <span>on {safe(front.target)}</span>"
    body = [
        f"<header><p class=crumb>graphopt report</p><h1>{name}</h1><p class=lead>{safe(headline(front))}</p>"
        f"<p>{badge(front.outcome)}</p></header>"
    ]
    if len(front.points):
        legend = "".join(
            f'<span><svg style="width:14px;margin:0" viewBox="0 0 14 14"><circle class="{style}" cx="7" cy="7" r="5"/>'
            f"</svg>{text}</span>"
            for style, text in _LEGEND
        )
        note = "Every cost is an estimate. Memory on the front is the live set; the table has the allocator's arena."
        picture = f"<p class=legend>{legend}</p>{plot(front)}<p class=note>{note}</p>"
        body.append(section(f"The front ({len(front.points)} plans)", picture))
    if front.candidates:
        body.append(section("Candidates", _candidates(front)))
    body += [f"<p class=note>{safe(note)}</p>" for note in front.notes]
    for one in front.candidates:
        rows = [
            (f"<code>{safe(c.place)}</code>", safe(c.text), safe(c.rule), badge(c.safety), f.latency(c.gain_us))
            for c in one.result.changes
        ]
        head = ("place", "change", "rule", "safety", "gain")
        summary = (
            f"{one.label}: {f.plural(one.result.plan.changes, 'change')}, plan {safe(one.result.plan.digest[:19])}"
        )
        shown_rows = table(head, rows, numbers=4)
        body.append(f"<section><details><summary>{summary}</summary>{shown_rows}</details></section>")
    title = f"graphopt: front of {safe(front.model)} on {safe(front.target)}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}{FRONT_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + f"\n<p class=note>graphopt {safe(__version__)}, {front.evaluations:,} candidates priced</p>"
        + "</main></body></html>\n"
    )


def _candidates(front: Front) -> str:
    rows = [
        (
            f"<b>{safe(label)}</b>",
            *map(_unbroken, cells),
            badge(safety) if safety else "",
            badge(proof) if proof else "",
        )
        for label, *cells, safety, proof in candidate_rows(front)
    ]
    return table(HEAD, rows, numbers=1)


def _unbroken(text: str) -> str:
    """A number and its unit stay on one line; a metric with its difference may take two."""
    return safe(text) if "(" in text else safe(text).replace(" ", "&nbsp;")


_SHORT = {"kl": "KL", "relative-l2": "rel. L2", "differing": "differing"}
"""What a drift is, in a table (`sentences.MEASURES` says more)."""

HEAD = (
    "", "latency", "change", "parameters", "peak", "together", "kept", "drift", "metric", "safety", "proof",
)  # fmt: skip
"""Columns of :func:`candidate_rows`; ``peak`` is of activations, ``kept`` channels weighted by parameters."""


def candidate_rows(front: Front) -> list[tuple[str, ...]]:
    """One row of plain text for the original and for each candidate; the columns are :data:`HEAD`."""
    before = front.before
    rows: list[tuple[str, ...]] = []
    rows.append(("original", f.latency(before.latency_us), "", *_memory(before), f.share(1.0), "", "", "", ""))
    for one in front.candidates:
        after, drift, proof = one.result.estimates[1], one.result.drift, one.result.verification
        lossy = one.result.safety != "exact"
        rows.append(
            (
                one.label,
                f.latency(after.latency_us),
                f.change(before.latency_us, after.latency_us),
                *_memory(after),
                f.share(one.result.capacity_kept),
                "" if drift is None else f"{f.small(drift.value)} {_SHORT[drift.worst.measure]}",
                _metric(one),
                one.result.safety,
                "" if proof is None else "drift" if proof.verdict == "differs" and lossy else proof.verdict,
            )
        )
    return rows


def _memory(estimate: Estimate) -> tuple[str, str, str]:
    parameters, peak = estimate.parameter_bytes, estimate.peak_activation_bytes
    return f.size(parameters), f.size(peak), f.size(parameters + peak)


def _metric(one: FrontCandidate) -> str:
    """The first metric after, with its difference, ``""`` without an evaluation."""
    if one.result.evaluation is None:
        return ""
    first = next(iter(metrics(one.result.evaluation)), None)
    return "" if first is None else f"{first.name} {first.after} ({first.difference})"
