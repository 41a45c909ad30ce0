"""Ctrl-C while a search goes on ends the search, and its best so far is used; anywhere else, or twice, it ends all."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click


@contextmanager
def stoppable(max_seconds: float | None) -> Iterator[None]:
    """Let Ctrl-C stop the searches inside, and bound the seconds that they may take together."""
    from graphopt.search.budget import watched

    with watched(max_seconds) as watch:

        def stop(number: int, frame: FrameType | None) -> None:
            if watch.asked or not watch.is_searching:
                raise KeyboardInterrupt
            watch.asked = True
            click.echo(
                "graphopt: the search ends, its best plan so far is applied (Ctrl-C again ends it all)", err=True
            )

        if threading.current_thread() is not threading.main_thread():  # only there are signals heard
            yield
            return
        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
