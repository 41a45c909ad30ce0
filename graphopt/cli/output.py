"""What commands print and write."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.errors import ConfigError
from graphopt.report.text import plain

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

PIPED_COLUMNS = 1000
"""Width where the output is no terminal: wide enough that no name is cut."""


def show(*renderables: RenderableType) -> None:
    """Print renderables (plain strings carry no markup). ``NO_COLOR`` is respected; a pipe gets whole lines."""
    from rich.console import Console

    piped = not sys.stdout.isatty()
    screen = Console(highlight=False, width=PIPED_COLUMNS if piped else None, emoji=False, markup=False)
    with screen.capture() as captured:
        for renderable in renderables:
            screen.print(renderable, soft_wrap=piped)
    text = captured.get()
    click.echo("\n".join(line.rstrip() for line in text.splitlines()) if piped else text, nl=piped and bool(text))


WORDS = frozenset(
    {"outcome", "safety", "verdict", "proof", "status", "result", "bound by", "precision", "pack", "gain", "measure"}
)
"""Columns of one short word each: where a terminal is narrow, names and reasons are folded before these."""


def table(*columns: str, title: str = "", right: Sequence[str] = ()) -> Table:
    """A plain table; columns named in ``right`` hold numbers."""
    from rich import box
    from rich.table import Table

    made = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        narrow = column in right or column in WORDS
        made.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=narrow)
    return made


def cell(text: object) -> str:
    """Untrusted text for a table."""
    return plain(text)


def print_json(values: Any) -> None:
    """Print JSON. What JSON cannot say (``nan``, infinities) is ``null`` by then (:mod:`graphopt.report.values`)."""
    click.echo(json.dumps(values, indent=2, allow_nan=False, ensure_ascii=True))


def refuse_existing(path: Path, *, force: bool) -> None:
    """Refuse a path that is taken, or whose folder is not there, before any work is done.

    Raises:
        ConfigError: with one line that says what would work.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent}", file=str(path))
    if path.is_dir():
        raise ConfigError("is a folder; give a file name", file=str(path))
    if path.exists() and not force:
        raise ConfigError("exists already; --force replaces it", file=str(path))
