"""Pieces that every section of the page is made of. Cells and parts are HTML already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphopt.report.charts import safe

MAX_ROWS = 400
"""Rows of a table at most; the rest is counted."""


def section(title: str, *parts: str) -> str:
    """One card of the page."""
    return f"<section><h2>{title}</h2>{''.join(parts)}</section>"


def badge(word: str, text: str | None = None) -> str:
    """``text``, else the word itself, in the colour of an outcome, verdict or safety level."""
    return f'<span class="badge {safe(word)}">{safe(word if text is None else text)}</span>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 99) -> str:
    """A table of cells that are HTML already; columns from ``numbers`` on are right-aligned."""
    rows = list(rows)
    style = [' class="n"' if i >= numbers else "" for i in range(len(head))]
    lines = ["".join(f"<td{style[i]}>{cell}</td>" for i, cell in enumerate(row)) for row in rows[:MAX_ROWS]]
    if len(rows) > MAX_ROWS:
        lines.append(f'<td colspan="{len(head)}">and {len(rows) - MAX_ROWS} more</td>')
    top = "".join(f"<th{style[i]}>{name}</th>" for i, name in enumerate(head))
    header = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    return (
        f"<div class=scroll><table>{header}<tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table></div>"
    )
