"""A progress bar on stderr, where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Update = Callable[[int, int | None, str], None]
"""Called with (done, all, what); ``None`` while nobody knows how many."""


@contextmanager
def progress_bar(*, visible: bool) -> Iterator[Update]:
    """Yield what moves the bar; it appears with the first call, and is gone at the end. Elsewhere calls do nothing."""
    if not visible or not sys.stderr.isatty():
        yield lambda done, total, what: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from graphopt.report.text import plain

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    bar = Progress(*columns, console=Console(stderr=True, markup=False, emoji=False), transient=True)
    task = bar.add_task("", total=None)

    def update(done: int, total: int | None, what: str) -> None:
        bar.update(task, completed=done, total=total, description=plain(what))
        bar.start()

    try:
        yield update
    finally:
        if bar.live.is_started:
            bar.stop()
