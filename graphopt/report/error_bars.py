"""A picture of the repair: the error of each op with the weights that it had, and with those that it has now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphopt.report import format as f
from graphopt.report.charts import WIDTH, open_svg, safe, ticks

if TYPE_CHECKING:
    from graphopt.weights.repair import RepairedUnit

TALLEST = 2.0
"""Relative error where a bar ends: what is worse is as useless."""

_WIDEST_SLOT = 60.0


def error_bars(units: Sequence[RepairedUnit]) -> str:
    """One bar for each op: a grey frame for the error before, a solid bar for the error after."""
    left, top, height, bottom = 64, 12, 180, 26
    errors = [error for unit in units for error in (unit.error_before, unit.error_after) if not math.isnan(error)]
    largest = min(max(errors, default=0.0), TALLEST) or 1.0
    slot = min((WIDTH - left - 8) / max(len(units), 1), _WIDEST_SLOT)
    base, right = top + height, left + slot * len(units)
    parts = [open_svg(WIDTH, base + bottom, "Error of each repaired op, before and after")]
    for tick in ticks(largest):
        y = base - height * tick / largest
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.0%}</text>')
    for index, unit in enumerate(units):
        x, width = left + index * slot, slot * 0.84
        parts.append(f"<g><title>{_about(unit)}</title>")
        parts.append(f'<rect class="hit" x="{x:.2f}" y="{top}" width="{slot:.2f}" height="{height}"/>')
        colour = "compute" if unit.kept else "overhead"
        for error, style, inset in ((unit.error_before, "was", 0.0), (unit.error_after, colour, 0.2)):
            if not math.isnan(error):
                size = height * min(error, largest) / largest
                parts.append(
                    f'<rect class="{style}" x="{x + width * inset:.2f}" y="{base - size:.2f}" '
                    f'width="{width * (1 - 2 * inset):.2f}" height="{max(size, 0.5):.2f}"/>'
                )
        if math.isnan(unit.error_after):
            radius = min(3.5, slot / 2)
            parts.append(f'<circle class="gone" cx="{x + width / 2:.2f}" cy="{base + 8}" r="{radius:.1f}"/>')
        parts.append("</g>")
    parts.append(f'<line class="base" x1="{left}" x2="{WIDTH - 8}" y1="{base}" y2="{base}"/>')
    parts.append(f'<text class="axis" x="{left}" y="{base + 22}">first op</text>')
    if right - left > 120:
        parts.append(f'<text class="axis" x="{right:.0f}" y="{base + 22}" text-anchor="end">last op</text>')
    return "".join([*parts, "</svg>"])


def _about(unit: RepairedUnit) -> str:
    errors = "" if math.isnan(unit.error_after) else f", {f.share(unit.error_before)} -> {f.share(unit.error_after)}"
    return safe(f"{unit.op}: {unit.method}{errors}{f', {unit.note}' if unit.note else ''}")
