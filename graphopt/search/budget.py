"""When a search stops."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

MAX_EVALUATIONS = 200_000
"""Candidates that a search prices at most, where nothing else is said."""


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Budget:
    """What a search may spend: it stops soon after the first of these is reached.

    Attributes:
        max_evaluations: candidates priced.
        max_seconds: since ``started``; where it binds, the same seed may give another answer.
        stopped: whether someone asks it to stop.
        started: on the monotonic clock.
    """

    max_evaluations: int = MAX_EVALUATIONS
    max_seconds: float = math.inf
    stopped: Callable[[], bool] = _never
    started: float = field(default_factory=time.monotonic)

    def spent(self, evaluations: int) -> bool:
        """Whether a search that priced this many candidates has to stop."""
        return evaluations >= self.max_evaluations or self.interrupted

    @property
    def interrupted(self) -> bool:
        """Whether time is up, or someone asks to stop."""
        return self.stopped() or time.monotonic() - self.started > self.max_seconds

    def part(self, share: float, evaluations: int = 0) -> Budget:
        """The budget with only a share of what ``evaluations`` leave of it, and of its time."""
        left = max(self.max_evaluations - evaluations, 0)
        return replace(
            self, max_evaluations=evaluations + math.ceil(share * left), max_seconds=share * self.max_seconds
        )
