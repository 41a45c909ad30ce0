"""The picture of an evaluation: estimated against measured latency of whole nets, both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphopt.measure.evaluation import score as score_of
from graphopt.measure.examine import Dot
from graphopt.report import format as f
from graphopt.report.charts import WIDTH, open_svg, safe
from graphopt.report.picture import MARGIN, placed, whole_file

_STYLE = """
.blocks{fill:#2f6fd0;fill-opacity:.55}.paddings{fill:#b3372b;fill-opacity:.55}.layers{fill:#8a94a3;fill-opacity:.6}
.named{fill:#e08a1e}.even{stroke:#5d6b7c}.band{fill:#16794c;fill-opacity:.12}
@media (prefers-color-scheme:dark){.blocks{fill:#5b96f0}.paddings{fill:#f2786b}.named{fill:#f0a84b}.even{stroke:#9aa7b7}
.band{fill:#4cc38a}}
"""

_LEGEND = (
    ("blocks", "held-out random net"),
    ("paddings", "with channel paddings"),
    ("layers", "isolated layer"),
    ("named", "well-known net"),
    ("band", "within 10 %"),
)

_SIDE = 560
_DOWN = 130
_LEFT, _BOTTOM, _TOP, _RIGHT = 76, 46, 12, 16


def svg_scatter(target: str, tool: str, dots: Sequence[Dot]) -> str:
    """Return estimates against measurements as a whole SVG file.

    Args:
        target: name of the target.
        tool: what measured.
        dots: at least one net.
    """
    kinds = {"band", *(dot.kind for dot in dots)}
    judged = [dot for dot in dots if dot.kind != "layers"] or dots  # a layer is no net
    score = score_of(np.array([(dot.measured_us, dot.estimated_us) for dot in judged]))
    lead = (
        f"Estimated against measured latency of {f.plural(score.count, 'net')}: "
        f"{f.share(score.within_10)} within 10 %, MAPE {f.share(score.mape)}"
    )
    parts = []
    x = float(MARGIN)
    for style, text in (entry for entry in _LEGEND if entry[0] in kinds):
        parts.append(f'<rect class="{style}" x="{x:.0f}" y="80" width="12" height="12" rx="3"/>')
        parts.append(f'<text x="{x + 18:.0f}" y="90">{text}</text>')
        x += 40 + 6.6 * len(text)
    # a line of its own: what a tool says of itself may be long
    parts.append(f'<text x="{MARGIN}" y="112">measured by {safe(tool)}</text>')
    parts.append(placed(_plot(dots), _DOWN, _SIDE))
    return whole_file(target, lead, parts, _DOWN + _SIDE, _STYLE)


def _plot(dots: Sequence[Dot]) -> str:
    values = [value for dot in dots for value in (dot.measured_us, dot.estimated_us) if value > 0] or [1.0]
    low, high = math.log10(min(values)) - 0.1, math.log10(max(values)) + 0.1
    base, right = _SIDE - _BOTTOM, WIDTH - _RIGHT

    def across(value: float) -> float:
        return _LEFT + (right - _LEFT) * (math.log10(value) - low) / (high - low)

    def down(value: float) -> float:
        return base - (base - _TOP) * (math.log10(value) - low) / (high - low)

    start, end = 10**low, 10**high
    parts = [open_svg(WIDTH, _SIDE, "Estimated against measured latency")]
    corners = [
        (start, start * 1.1),
        (end / 1.1, end),
        (end, end),
        (end, end / 1.1),
        (start * 1.1, start),
        (start, start),
    ]
    parts.append(f'<polygon class="band" points="{" ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in corners)}"/>')
    for tick in _ticks(low, high):
        x, y = across(tick), down(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{base}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{f.latency(tick)}</text>')
        parts.append(f'<text x="{x:.1f}" y="{base + 18}" text-anchor="middle">{f.latency(tick)}</text>')
    from_to = f'x1="{across(start):.1f}" y1="{down(start):.1f}" x2="{across(end):.1f}" y2="{down(end):.1f}"'
    parts.append(f'<line class="even" {from_to}/>')
    for dot in sorted(dots, key=lambda dot: dot.kind == "named"):
        if dot.measured_us > 0 and dot.estimated_us > 0:
            title = safe(f"{dot.name}: measured {f.latency(dot.measured_us)}, estimated {f.latency(dot.estimated_us)}")
            at = f'cx="{across(dot.measured_us):.1f}" cy="{down(dot.estimated_us):.1f}" r="4"'
            parts.append(f'<circle class="{dot.kind}" {at}><title>{title}</title></circle>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_SIDE - 6}" text-anchor="middle">measured</text>')
    parts.append(
        f'<text transform="translate(12 {(_TOP + base) / 2:.0f}) rotate(-90)" text-anchor="middle">estimated</text>'
    )
    return "".join([*parts, "</svg>"])


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 between them where there are few."""
    factors = (1,) if high - low > 2 else (1, 2, 5)
    powers = range(math.floor(low), math.ceil(high) + 1)
    return [tick for power in powers for factor in factors if low <= math.log10(tick := factor * 10.0**power) <= high]
