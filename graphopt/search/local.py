"""Local search: moves, large neighbourhoods and restarts.

One sweep asks for the best option of every *block* (a decision alone; a decision with those whose prices meet its own),
all others staying; then takes as many of these together as still improve, those first that do not touch each other.
Macro moves change many decisions at once: flip every site of a rule, set the knob, round every width. Where moves find
nothing more, windows of many decisions are chosen by elimination. Restarts shake the best. Everything is drawn from one
seeded generator: the same seed gives the same plan in any process.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from graphopt.search.budget import Budget
from graphopt.search.moves import Moves, blocks_of, macros_of
from graphopt.search.objective import Scorer
from graphopt.search.pareto import Front
from graphopt.search.strategy import Found, best_start
from graphopt.search.windows import Windows
from graphopt.space.table import Candidates, CostTable

PATIENCE = 16
"""Restarts without an improvement after which the search stops."""

PATIENCE_FOR_FRONT = 2
"""The same where the best is known to be the best: what is met on the way fills the front."""

TOGETHER = 32
"""Moves of which every number together is tried; of more, 1, 2, 4, 8 and so on."""


def local_search(
    table: CostTable,
    scorer: Scorer,
    *,
    seed: int = 0,
    budget: Budget | None = None,
    start: Candidates | None = None,
    windows: bool = True,
) -> Found:
    """Minimise ``scorer`` over the candidates of ``table``.

    Args:
        table: the priced space.
        scorer: objective and constraints.
        seed: of the restarts.
        budget: when the search stops.
        start: where it begins, the table's default without one.
        windows: whether large neighbourhoods are searched, too.
    """
    budget = budget or Budget()
    best = best_start(table, scorer, start)
    score = float(scorer(best[None])[0])
    front = Front(table, scorer)
    front.add(best[None])
    if not len(best):
        return Found(best, score, front.candidates(), scorer.evaluations)
    descent = _Descent(table, scorer, front)
    best, score = descent.run(best, score, budget.part(0.5, scorer.evaluations) if windows else budget)
    patience = PATIENCE
    if windows and not budget.spent(scorer.evaluations):
        large = Windows(table, scorer, budget)
        best, score = large.improve(best, score)
        front.add(np.array(large.met))
        patience = PATIENCE_FOR_FRONT if large.proved else PATIENCE
    generator = np.random.default_rng(seed)
    waited = 0
    while waited < patience and not budget.spent(scorer.evaluations):
        shaken = _shaken(table, best, generator)
        found, value = descent.run(shaken, float(scorer(shaken[None])[0]), budget)
        waited += 1
        if value < score:
            best, score, waited = found, value, 0
    return Found(best, score, front.candidates(), scorer.evaluations)


def _shaken(table: CostTable, at: Candidates, generator: np.random.Generator) -> Candidates:
    """A copy with about a fifth of the decisions drawn anew."""
    fresh = generator.integers(0, table.sizes)
    return np.where(generator.random(len(at)) < 0.2, fresh, at)


class _Descent:
    """Sweeps and macro moves, prepared once."""

    def __init__(self, table: CostTable, scorer: Scorer, front: Front) -> None:
        self._scorer = scorer
        self._front = front
        self._factors = len(table.factors)
        self._moves = Moves(table, blocks_of(table))
        self._macros = Moves(table, macros_of(table))

    def run(self, at: Candidates, score: float, budget: Budget) -> tuple[Candidates, float]:
        """Sweep until nothing improves."""
        while not budget.spent(self._scorer.evaluations):
            moved, value = self._macro(at, score)
            moved, value = self._sweep(moved, value)
            if not value < score:
                break
            at, score = moved, value
            self._front.add(at[None])
        return at, score

    def _macro(self, at: Candidates, score: float) -> tuple[Candidates, float]:
        """The best macro move, or no move."""
        if not self._macros.count:
            return at, score
        rows = self._macros.after(at, np.arange(self._macros.count))
        values = self._scorer(rows)
        first = int(values.argmin())
        return (rows[first], float(values[first])) if values[first] < score else (at, score)

    def _sweep(self, at: Candidates, score: float) -> tuple[Candidates, float]:
        """The best move of every block, then as many of these together as keep improving."""
        moves = self._moves
        if not moves.count:
            return at, score
        values = self._scorer.total(*self._scorer.judge(moves.values(self._scorer, at), moves.changes(at)))
        ends = np.append(moves.first[1:], moves.count)
        better = np.flatnonzero(np.minimum.reduceat(values, moves.first) < score)
        best = np.array([moves.first[b] + values[moves.first[b] : ends[b]].argmin() for b in better], np.int64)
        order = np.lexsort((better, values[best])) if len(best) else best
        rows = self._together(at, better[order], best[order])
        if not len(rows):
            return at, score
        scores = self._scorer(rows)
        self._front.add(rows)
        first = int(scores.argmin())
        return rows[first], float(scores[first])

    def _together(self, at: Candidates, blocks: npt.NDArray[np.int64], best: npt.NDArray[np.int64]) -> Candidates:
        """``at`` after the first move, the first two and so on; those that share a factor with a better one go last."""
        taken = np.zeros(self._factors, bool)
        apart: list[tuple[int, int]] = []
        rest: list[tuple[int, int]] = []
        for block, move in zip(blocks.tolist(), best.tolist(), strict=True):
            touched = self._moves.factors[block]
            (rest if taken[touched].any() else apart).append((block, move))
            taken[touched] = True
        ordered = apart + rest
        stops = (
            set(range(1, TOGETHER + 1)) | {len(apart), len(ordered)} | {2**i for i in range(len(ordered).bit_length())}
        )
        row = at.copy()
        rows = []
        for number, (block, move) in enumerate(ordered, 1):
            variables, options = self._moves.blocks[block]
            row[variables] = options[move - self._moves.first[block]]
            if number in stops:
                rows.append(row.copy())
        return np.array(rows, np.int64).reshape(-1, len(at))
