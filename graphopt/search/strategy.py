"""What every search strategy promises, and what it hands back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from graphopt.search.objective import Objective, Scorer
from graphopt.space.table import Candidates, CostTable

SearchName = Literal["local", "exact", "greedy"]

MAX_EVALUATIONS = 200_000
"""Candidates that a search prices at most, where nothing else is said."""

ROUNDING = 1e-6
"""Relative gap below which two scores are one: ties are broken by terms of this size."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """How far a candidate is from the best one at most.

    Attributes:
        objective: what was minimised.
        value: the candidate's, in the objective's unit (us, bytes).
        bound: no feasible candidate of the space has less.
        reason: what may lie between the bound and the optimum, ``""`` where nothing does.
    """

    objective: Objective
    value: float
    bound: float
    reason: str = ""

    @property
    def gap(self) -> float:
        """The value over the bound, relative: 0 is optimal; infinite without a bound."""
        if self.value - self.bound <= ROUNDING * self.value:
            return 0.0
        return self.value / self.bound - 1.0 if self.bound > 0 else float("inf")


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        best: the best candidate, shape (variables,).
        score: its score (see :class:`Scorer`).
        front: non-dominated candidates met on the way.
        evaluations: candidates priced.
        certificate: how far the best is from the optimum at most, where that was looked into.
    """

    best: Candidates
    score: float
    front: tuple[Candidates, ...]
    evaluations: int
    certificate: Certificate | None = None


class Strategy(Protocol):
    """A search. The same seed gives the same answer in any process, and no answer scores above the default."""

    def __call__(
        self, table: CostTable, scorer: Scorer, *, seed: int = 0, max_evaluations: int = MAX_EVALUATIONS
    ) -> Found:
        """Minimise ``scorer`` over the candidates of ``table``; stop soon after ``max_evaluations`` are priced."""
        ...
