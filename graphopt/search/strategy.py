"""What every search strategy promises, and what it hands back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from graphopt.search.budget import Budget
from graphopt.search.objective import Scorer
from graphopt.space.table import Candidates, CostTable

SearchName = Literal["local", "exact", "evolve", "greedy"]

ROUNDING = 1e-6
"""Relative gap below which two scores are one: ties are broken by terms of this size."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """How far a candidate is from the best one at most.

    Attributes:
        objective: what was minimised: a quantity, or a weighted sum.
        value: the candidate's, in the quantity's unit (us, bytes, MACs); of a sum, relative to the original's.
        bound: no feasible candidate of the space has less.
        reason: what may lie between the bound and the optimum, ``""`` where nothing does.
    """

    objective: str
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
    """A search. The same seed gives the same answer in any process, and no answer scores above the start."""

    def __call__(
        self,
        table: CostTable,
        scorer: Scorer,
        *,
        seed: int = 0,
        budget: Budget | None = None,
        start: Candidates | None = None,
    ) -> Found:
        """Minimise ``scorer`` over the candidates of ``table``, beginning at ``start`` or the table's default.

        ``start`` is one candidate, or several of which a strategy may take the best.

        It stops soon after the ``budget`` is spent, and hands back the best it met.
        """
        ...


def best_start(table: CostTable, scorer: Scorer, start: Candidates | None) -> Candidates:
    """The best of the candidates that a search may begin at."""
    if start is None:
        return table.default()
    rows = np.atleast_2d(start)
    best: Candidates = rows[int(scorer(rows).argmin())] if len(rows) > 1 else rows[0]
    return best
