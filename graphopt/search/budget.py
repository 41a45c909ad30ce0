"""When a search stops."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

MAX_EVALUATIONS = 200_000
"""Candidates that a search prices at most, where nothing else is said."""


class Watch:
    """What all searches of one job share: the time they may take together, and whether someone asks them to stop.

    Attributes:
        asked: whether someone asked.
        cut_short: whether a search really ended for it, or for the time.
    """

    def __init__(self, max_seconds: float = math.inf) -> None:
        """Only the time inside :meth:`searching` counts."""
        self._left = max_seconds
        self._since: float | None = None
        self.asked = False
        self.cut_short = False

    @property
    def is_searching(self) -> bool:
        """Whether a search goes on."""
        return self._since is not None

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Let the time run."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._left -= time.monotonic() - self._since
            self._since = None

    @property
    def over(self) -> bool:
        """Whether searches have to end now."""
        gone = 0.0 if self._since is None else time.monotonic() - self._since
        over = self.asked or gone > self._left
        self.cut_short = self.cut_short or (over and self.is_searching)
        return over


_WATCH: ContextVar[Watch | None] = ContextVar("graphopt search watch", default=None)


def current_watch() -> Watch:
    """The watch of the job that goes on here; one that never ends where there is none."""
    return _WATCH.get() or Watch()


@contextmanager
def watched(max_seconds: float | None = None) -> Iterator[Watch]:
    """Put every search inside under one watch. A watch that is there already counts, too: nothing is put over it."""
    outer = _WATCH.get()
    if outer is not None:
        yield outer
        return
    token = _WATCH.set(Watch(math.inf if max_seconds is None else max_seconds))
    try:
        yield current_watch()
    finally:
        _WATCH.reset(token)


@dataclass(frozen=True, slots=True)
class Budget:
    """What one search may spend: it stops soon after so many candidates are priced, or when the job's watch says so.

    Where the watch stops it, the same seed may give another answer.
    """

    max_evaluations: int = MAX_EVALUATIONS

    def spent(self, evaluations: int) -> bool:
        """Whether a search that priced this many candidates has to stop."""
        return evaluations >= self.max_evaluations or current_watch().over

    def part(self, share: float, evaluations: int = 0) -> Budget:
        """The budget with only a share of what ``evaluations`` leave of it."""
        left = max(self.max_evaluations - evaluations, 0)
        return replace(self, max_evaluations=evaluations + math.ceil(share * left))
