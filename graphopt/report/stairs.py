"""The picture of cost against channels: one panel for each target, three curves in each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphopt.landscape.sweep import Landscape
from graphopt.report import format as f
from graphopt.report.charts import WIDTH, open_svg, safe, ticks
from graphopt.report.picture import MARGIN, placed, whole_file

_STYLE = """
polyline{fill:none;stroke-linejoin:round}
.rocky{stroke:#2f6fd0;stroke-width:2}.smooth{stroke:#8f99a8;stroke-width:1.5;stroke-dasharray:5 4}
polyline.curated{stroke:#16794c;stroke-width:1.5}circle.curated{fill:#16794c}
.original{stroke:#5d6b7c;stroke-dasharray:2 3}
@media (prefers-color-scheme:dark){.rocky{stroke:#5b96f0}.smooth{stroke:#77828f}polyline.curated{stroke:#4cc38a}
circle.curated{fill:#4cc38a}.original{stroke:#9aa7b7}}
"""

_LEGEND = (
    ("rocky", "every width"),
    ("smooth", "in proportion to MACs"),
    ("curated", "curated widths"),
)
_LEFT, _RIGHT, _TOP, _HEIGHT, _BOTTOM = 64, 16, 30, 220, 44
_FEW = 40
"""Curated widths that have room for a dot each."""
_PANEL = _TOP + _HEIGHT + _BOTTOM


def svg_landscapes(landscapes: Sequence[Landscape]) -> str:
    """Return the landscapes of one subject (at least one, one for each target) as a whole SVG file."""
    parts = list(_legend())
    top = 108
    for one in landscapes:
        parts.append(placed(_panel(one), top, _PANEL))
        top += _PANEL
    return whole_file(landscapes[0].name, "Estimated latency against channels", parts, top, _STYLE)


def headline(one: Landscape) -> str:
    """A target and what its stairs look like, in one line."""
    parts = [one.target]
    if one.stairs.step is not None:
        parts.append(f"steps of {one.stairs.step} channels")
    if one.share < 1:
        parts.append(f"{f.plural(one.kernels, 'kernel')}, {f.share(one.share)} of the model's latency")
    if one.beyond:
        parts.append(f"{one.beyond} of {len(one.channels)} widths beyond what was measured")
    return ", ".join(parts)


def _legend() -> Iterable[str]:
    x = float(MARGIN)
    for style, text in _LEGEND:
        yield f'<polyline class="{style}" points="{x:.0f},86 {x + 22:.0f},86"/>'
        yield f'<text x="{x + 28:.0f}" y="90">{text}</text>'
        x += 56 + 6.6 * len(text)


def _panel(one: Landscape) -> str:
    low, high = one.channels[0], one.channels[-1]
    largest = max(*one.rocky_us, *one.smooth_us, *(cost for _, cost in one.curated)) or 1.0
    base = _TOP + _HEIGHT

    def across(channels: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * (channels - low) / (high - low)

    def down(cost: float) -> float:
        return base - _HEIGHT * cost / largest

    def line(style: str, points: Iterable[tuple[int, float]]) -> str:
        placed_points = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in points)
        return f'<polyline class="{style}" points="{placed_points}"/>'

    parts = [open_svg(WIDTH, _PANEL, f"Estimated latency against channels on {one.target}")]
    parts.append(f'<text class="value" x="0" y="16">{safe(headline(one))}</text>')
    for tick in ticks(largest):
        y = down(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{f.latency(tick)}</text>')
    for tick in _channel_ticks(one):
        x = across(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{base}"/>')
        parts.append(f'<text x="{x:.1f}" y="{base + 17}" text-anchor="middle">{tick}</text>')
    axis = "channels" if one.single else "channels of all groups together"
    middle = _LEFT + (WIDTH - _LEFT - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{base + 36}" text-anchor="middle">{axis}</text>')
    if one.original is not None:
        x = across(one.original)
        parts.append(f'<line class="original" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 6}" y2="{base}"/>')
        parts.append(f'<text x="{x:.1f}" y="{_TOP - 10}" text-anchor="middle">original {one.original}</text>')
    parts.append(line("smooth", zip(one.channels, one.smooth_us, strict=True)))
    parts.append(line("rocky", zip(one.channels, one.rocky_us, strict=True)))
    parts.append(line("curated", one.curated))
    radius = 4 if len(one.curated) <= _FEW else 2
    for channels, cost in one.curated:
        parts.append(
            f'<circle class="curated" cx="{across(channels):.1f}" cy="{down(cost):.1f}" r="{radius}">'
            f"<title>{channels} channels: {f.latency(cost)}</title></circle>"
        )
    return "".join([*parts, "</svg>"])


def _channel_ticks(one: Landscape) -> list[int]:
    """Multiples of the step where there is one (at most ten), else round numbers."""
    low, high = one.channels[0], one.channels[-1]
    step = one.stairs.step
    if step is None:
        return sorted({round(tick) for tick in ticks(high, low)})
    step *= -(-((high - low) // step) // 10) or 1
    return list(range(-(-low // step) * step, high + 1, step))
