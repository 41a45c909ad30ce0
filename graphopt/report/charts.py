"""Pictures as inline SVG, without any library: where the latency goes, and the plans that the search met.

Colours are classes of the page's style sheet. All text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from graphopt.cost.estimate import Estimate, KernelEstimate
from graphopt.report import format as f
from graphopt.report.text import plain

WIDTH = 1080

CHANGED = (("was", "before"), ("gone", "fused away"), ("new", "new"))
"""Classes and words of what became of a kernel."""


def safe(text: object) -> str:
    """Untrusted text for HTML and SVG."""
    return escape(plain(text), quote=True)


@dataclass(frozen=True, slots=True)
class Point:
    """One plan in a scatter plot. ``kind`` is ``before``, ``after`` or ``front``."""

    x: float
    y: float
    kind: str
    label: str


def kernel_pairs(before: Estimate, after: Estimate) -> list[tuple[KernelEstimate | None, KernelEstimate | None]]:
    """Kernels in running order, those of the same key together; one side is ``None`` where a kernel went or came."""
    old = {kernel.key: kernel for kernel in before.kernels}
    new = {kernel.key: kernel for kernel in after.kernels}
    order = list(old)
    previous = -1
    for key in new:
        if key not in old:
            order.insert(previous + 1, key)
        previous = order.index(key)
    return [(old.get(key), new.get(key)) for key in order]


def legend(*estimates: Estimate) -> list[tuple[str, str]]:
    """Classes and words of what bounds kernels; traffic on the chip only where a measured target tells of it."""
    keys = [("compute", "bound by compute"), ("memory", "bound by off-chip memory"), ("overhead", "bound by overhead")]
    if any(kernel.bound == "on-chip" for estimate in estimates for kernel in estimate.kernels):
        keys.append(("on-chip", "bound by on-chip memory"))
    return keys


def timeline(before: Estimate, after: Estimate) -> str:
    """Two strips to the same scale, one segment for each kernel: the whole run before and after."""
    left, height, gap = 64, 34, 16
    total = max(before.latency_us, after.latency_us) or 1.0
    scale = (WIDTH - left - 90) / total
    parts = [open_svg(WIDTH, 2 * height + gap + 4, "Latency of the whole run, before and after")]
    for row, (name, estimate) in enumerate((("before", before), ("after", after))):
        top = row * (height + gap)
        parts.append(f'<text class="axis" x="{left - 10}" y="{top + height / 2 + 5}" text-anchor="end">{name}</text>')
        x = float(left)
        for kernel in estimate.kernels:
            width = kernel.latency_us * scale
            parts.append(
                f'<rect class="{kernel.bound} seg" x="{x:.2f}" y="{top}" width="{max(width - 0.6, 0.2):.2f}" '
                f'height="{height}"><title>{_about(kernel)}</title></rect>'
            )
            x += width
        label = f.latency(estimate.latency_us)
        parts.append(f'<text class="value" x="{x + 8:.1f}" y="{top + height / 2 + 5}">{label}</text>')
    return "".join([*parts, "</svg>"])


def kernel_bars(before: Estimate, after: Estimate) -> str:
    """One bar for each kernel: a grey frame for before, a solid bar for after, coloured by what bounds it."""
    pairs = kernel_pairs(before, after)
    left, top, height, bottom = 64, 12, 230, 26
    largest = max((k.latency_us for pair in pairs for k in pair if k is not None), default=0.0) or 1.0
    slot = (WIDTH - left - 8) / max(len(pairs), 1)
    parts = [open_svg(WIDTH, top + height + bottom, "Latency of each kernel, before and after")]
    for tick in ticks(largest):
        y = top + height - height * tick / largest
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{f.latency(tick)}</text>')
    for index, (old, new) in enumerate(pairs):
        x, width = left + index * slot, max(slot * 0.84, 0.6)
        title = _pair_title(old, new)
        parts.append(f"<g><title>{title}</title>")
        parts.append(f'<rect class="hit" x="{x:.2f}" y="{top}" width="{slot:.2f}" height="{height}"/>')
        for kernel, style, inset in ((old, "was", 0.0), (new, f"{new.bound} bar" if new else "", 0.2)):
            if kernel is not None:
                size = height * kernel.latency_us / largest
                parts.append(
                    f'<rect class="{style}" x="{x + width * inset:.2f}" y="{top + height - size:.2f}" '
                    f'width="{width * (1 - 2 * inset):.2f}" height="{max(size, 0.5):.2f}"/>'
                )
        if new is None or old is None:
            mark = "gone" if new is None else "new"
            radius = min(3.5, slot / 2)
            parts.append(f'<circle class="{mark}" cx="{x + width / 2:.2f}" cy="{top + height + 8}" r="{radius:.1f}"/>')
        parts.append("</g>")
    base = top + height
    parts.append(f'<line class="base" x1="{left}" x2="{WIDTH - 8}" y1="{base}" y2="{base}"/>')
    parts.append(f'<text class="axis" x="{left}" y="{base + 22}">first kernel</text>')
    parts.append(f'<text class="axis" x="{WIDTH - 8}" y="{base + 22}" text-anchor="end">last kernel</text>')
    return "".join([*parts, "</svg>"])


def scatter(points: Sequence[Point], *, x_name: str, y_name: str, y_unit: str) -> str:
    """Plans by two costs, less is better on both axes."""
    width, height, left, bottom, top, right = 520, 300, 76, 44, 12, 16
    xs, ys = [p.x for p in points], [p.y for p in points]
    x_low, x_high = _range(xs)
    y_low, y_high = _range(ys)
    show = f.size if y_unit == "bytes" else f.number

    def place(point: Point) -> tuple[float, float]:
        across = left + (width - left - right) * (point.x - x_low) / (x_high - x_low)
        return across, top + (height - top - bottom) * (1 - (point.y - y_low) / (y_high - y_low))

    parts = [open_svg(width, height, f"{y_name} against {x_name}")]
    for tick in ticks(y_high, y_low):
        _, y = place(Point(x_low, tick, "", ""))
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{show(tick)}</text>')
    for tick in ticks(x_high, x_low):
        x, _ = place(Point(tick, y_low, "", ""))
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - bottom}"/>')
        parts.append(
            f'<text class="axis" x="{x:.1f}" y="{height - bottom + 17}" text-anchor="middle">{f.latency(tick)}</text>'
        )
    middle = left + (width - left - right) / 2
    parts.append(f'<text class="axis" x="{middle:.0f}" y="{height - 6}" text-anchor="middle">{safe(x_name)}</text>')
    for kind, radius in (("front", 4), ("before", 7), ("after", 7)):
        for point in points:
            if point.kind == kind:
                x, y = place(point)
                title = f"<title>{safe(point.label)}</title>"
                parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">{title}</circle>')
    return "".join([*parts, "</svg>"])


def open_svg(width: float, height: float, title: str) -> str:
    """The opening tag of a picture."""
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{safe(title)}">'


def _about(kernel: KernelEstimate) -> str:
    ops = "+".join(kernel.op_types)
    return safe(f"{kernel.key}: {ops}, {f.latency(kernel.latency_us)}, bound by {kernel.bound}")


def _pair_title(old: KernelEstimate | None, new: KernelEstimate | None) -> str:
    if old is None or new is None:
        kernel = new or old
        assert kernel is not None
        return f"{'new' if old is None else 'gone'}: {_about(kernel)}"
    return f"{_about(new)} (before: {f.latency(old.latency_us)}, bound by {old.bound})"


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return max(0.0, low - margin) if low >= 0 else low - margin, high + margin


def ticks(high: float, low: float = 0.0) -> list[float]:
    """Three to six round numbers from ``low`` to ``high``."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [high]
    step = 10.0 ** math.floor(math.log10(span / 3))
    step = next(step * factor for factor in (1, 2, 5, 10, 20) if span / (step * factor) <= 5)
    first = math.ceil(low / step)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]
