"""The report's picture alone, as one SVG file: for a README, a slide, a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.report import format as f
from graphopt.report.charts import CHANGED, WIDTH, kernel_bars, legend, safe, timeline
from graphopt.results import OptimizeResult

_STYLE = """
text{font:12px system-ui,-apple-system,"Segoe UI",sans-serif;fill:#5d6b7c}
.title{font-size:20px;font-weight:650;fill:#1b2430}.lead{font-size:15px}.value{font-size:14px;font-weight:650;fill:#1b2430}
.compute{fill:#2f6fd0}.memory{fill:#e08a1e}.overhead{fill:#8f99a8}.on-chip{fill:#7a52c7}.was{fill:#d5dbe4}.gone{fill:#b3372b}.new{fill:#16794c}
.hit{fill:none}.grid{stroke:#e2e6ec}.base{stroke:#5d6b7c}.card{fill:#fff}
@media (prefers-color-scheme:dark){
text{fill:#9aa7b7}.title,.value{fill:#e8edf3}
.compute{fill:#5b96f0}.memory{fill:#f0a447}.overhead{fill:#77828f}.on-chip{fill:#a486e8}.was{fill:#394452}.gone{fill:#f2786b}.new{fill:#4cc38a}
.grid{stroke:#2c3541}.base{stroke:#9aa7b7}.card{fill:#1b212a}}
"""

MARGIN = 24


def svg_picture(result: OptimizeResult) -> str:
    """Return where the latency goes before and after, with a headline, as a whole SVG file."""
    title = f"{result.plan.model} on {result.plan.target}"
    if result.before is None:
        return whole_file(title, f"{result.outcome}: {result.reason}", [], 62)
    before, after = result.estimates
    gain = f.change(before.latency_us, after.latency_us)
    lead = f"{gain} estimated latency, {f.plural(result.plan.changes, 'change')}, {result.safety}"
    parts = []
    x = float(MARGIN)
    for style, text in (*legend(before, after), *CHANGED):
        parts.append(f'<rect class="{style}" x="{x:.0f}" y="80" width="12" height="12" rx="3"/>')
        parts.append(f'<text x="{x + 18:.0f}" y="90">{text}</text>')
        x += 40 + 6.6 * len(text)
    parts += [placed(timeline(before, after), 108, 88), placed(kernel_bars(before, after), 212, 268)]
    return whole_file(title, lead, parts, 480)


def whole_file(title: str, lead: str, parts: Sequence[str], height: float, style: str = "") -> str:
    """The whole SVG: the headline over ``parts``, which end at ``height``; ``style`` adds to the style sheet."""
    width, height = WIDTH + 2 * MARGIN, height + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<style>{_STYLE}{style}</style><rect class="card" width="100%" height="100%" rx="10"/>'
        f'<text class="title" x="{MARGIN}" y="38">{safe(title)}</text>'
        f'<text class="lead" x="{MARGIN}" y="62">{safe(lead)}</text>{"".join(parts)}</svg>\n'
    )


def placed(chart: str, top: float, height: float) -> str:
    """A chart (see `charts.open_svg`) at its place in the picture."""
    place = f'<svg x="{MARGIN}" y="{top}" width="{WIDTH}" height="{height}" '
    return place + chart.removeprefix("<svg ")
