"""Folders of cards for the tests of the catalogue."""

from __future__ import annotations

from pathlib import Path

CARD = """
summary = "Test."
rewrite = "round-channels"
safety  = "exact"
status  = "stable"
why     = "Because."
limits  = "None."
references = []
[params]
multiple = { target = "parallelism" }
"""

DENSE = CARD.replace("round-channels", "swap-depthwise-for-dense").split("[params]")[0]


def write(folder: Path, name: str, text: str) -> Path:
    """Write ``folder/name`` and return it."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file
