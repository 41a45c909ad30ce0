"""The largest live set, said as plainly as possible: what memory tables and arenas are held against."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.liveness import Lifetime

ALIGNMENT = 16


def live_set(spans: Sequence[Lifetime], sizes: Sequence[int]) -> int:
    """Largest sum of aligned sizes that are alive at one step, bytes."""
    peak = 0
    for step in range(max((span.last for span in spans), default=-1) + 1):
        alive = [size for span, size in zip(spans, sizes, strict=True) if span.first <= step <= span.last]
        peak = max(peak, sum(-(-size // ALIGNMENT) * ALIGNMENT for size in alive))
    return peak
