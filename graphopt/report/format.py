"""Numbers as people read them. Units follow the value; differences are relative to the value before."""

from __future__ import annotations

import math


def latency(microseconds: float) -> str:
    """``12.3 us``, ``1.23 ms``, ``2.10 s``."""
    return _scaled(microseconds, 1000, ("us", "ms", "s"))


def size(count: float) -> str:
    """Bytes: ``640 B``, ``96.0 kB``, ``4.65 MB`` (of 1000)."""
    return _scaled(count, 1000, ("B", "kB", "MB", "GB", "TB"))


def energy(microjoules: float) -> str:
    """``12.3 uJ``, ``1.23 mJ``."""
    return _scaled(microjoules, 1000, ("uJ", "mJ", "J"))


def number(count: float) -> str:
    """``640``, ``2.23 M``."""
    return _scaled(count, 1000, ("", "k", "M", "G", "T"))


def change(before: float, after: float) -> str:
    """``-31.4 %``; ``0 %`` where nothing but rounding changed, ``new`` where there was nothing before."""
    if before == after or (math.isfinite(before) and math.isclose(before, after, rel_tol=1e-9)):
        return "0 %"
    if before == 0 or not math.isfinite(before) or not math.isfinite(after):
        return "new"
    percent = 100 * (after / before - 1)
    return f"{percent:+.1f} %"


def small(value: float | None) -> str:
    """A difference: ``3.2e-07``; ``-`` where there is none."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.3g}"


def share(value: float | None, digits: int = 1) -> str:
    """A share of one as ``95.3 %``; ``-`` where there is none."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.{digits}f} %"


def share_error(value: float | None) -> str:
    """What follows a share or a difference of two: `` +/- 0.60`` (of 100), ``""`` where no error is known."""
    return "" if value is None else f" +/- {100 * value:.2f}"


def points(before: float, after: float, error: float | None = None) -> str:
    """The difference of two shares in percentage points: ``-1.95 points``, ``-1.95 +/- 0.35 points``."""
    return f"{100 * (after - before):+.2f}{share_error(error)} points"


def metric(value: float, *, sign: bool = False) -> str:
    """A metric of any size: ``0.7312``, with ``+`` in front where asked for."""
    return f"{value:{'+' if sign else ''}.5g}"


def shape(dims: tuple[int, ...]) -> str:
    """``1x32x112x112``."""
    return "x".join(map(str, dims)) or "scalar"


def plural(count: int, word: str) -> str:
    """``1 change``, ``2 changes``."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    """Three digits and the unit that suits."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) < 0.005:
        value = 0
    rank = 0
    while rank < len(units) - 1 and abs(value) >= base * 0.9995:
        value /= base
        rank += 1
    if rank == 0 and float(value).is_integer():
        text = f"{int(value)}"
    else:
        digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
        text = f"{value:.{digits}f}"
    return f"{text} {units[rank]}".strip()
