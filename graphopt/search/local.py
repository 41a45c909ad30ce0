"""Local search with block moves, macro moves and restarts.

One sweep asks for the best option of every *block* (a decision alone; a decision with those whose prices meet its
own), all others staying; then takes the longest run of these moves, best first, that still improves. Macro moves
change many decisions at once: flip every site of a rule, set the knob, round every width. Restarts shake the best.
Everything is drawn from one seeded generator: the same seed gives the same plan in any process.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from graphopt.search.budget import Budget
from graphopt.search.objective import Scorer
from graphopt.search.pareto import Front
from graphopt.search.strategy import Found
from graphopt.space.table import Candidates, CostTable

BLOCK_COMBINATIONS = 64
"""Combinations of one block that a sweep tries at most."""

BATCH = 4096
"""Candidates priced at once."""

PATIENCE = 16
"""Restarts without an improvement after which the search stops."""


def local_search(
    table: CostTable,
    scorer: Scorer,
    *,
    seed: int = 0,
    budget: Budget | None = None,
    start: Candidates | None = None,
) -> Found:
    """Minimise ``scorer`` over the candidates of ``table``.

    Args:
        table: the priced space.
        scorer: objective and constraints.
        seed: of the restarts.
        budget: when the search stops.
        start: where it begins, the table's default without one.
    """
    budget = budget or Budget()
    search = _Search(table, scorer, budget)
    best = table.default() if start is None else start
    score = float(scorer(best[None])[0])
    search.front.add(best[None])
    if not len(best):
        return Found(best, score, search.front.candidates(), scorer.evaluations)
    best, score = search.descend(best, score)
    generator = np.random.default_rng(seed)
    waited = 0
    while waited < PATIENCE and not budget.spent(scorer.evaluations):
        start = search.shaken(best, generator)
        found, value = search.descend(start, float(scorer(start[None])[0]))
        waited += 1
        if value < score:
            best, score, waited = found, value, 0
    return Found(best, score, search.front.candidates(), scorer.evaluations)


class _Search:
    """The moves, prepared once."""

    def __init__(self, table: CostTable, scorer: Scorer, budget: Budget) -> None:
        self.table = table
        self.scorer = scorer
        self.budget = budget
        self.front = Front(table, scorer)
        self.blocks = _blocks(table)
        self.macros = _macros(table)

    def descend(self, start: Candidates, score: float) -> tuple[Candidates, float]:
        """Sweep until nothing improves."""
        best = start
        while not self.budget.spent(self.scorer.evaluations):
            moved, value = self._macro(best, score)
            moved, value = self._sweep(moved, value)
            if not value < score:
                break
            best, score = moved, value
            self.front.add(best[None])
        return best, score

    def _macro(self, at: Candidates, score: float) -> tuple[Candidates, float]:
        """The best macro move, or no move."""
        if not self.macros:
            return at, score
        rows = np.repeat(at[None], len(self.macros), axis=0)
        for row, (variables, options) in zip(rows, self.macros, strict=True):
            row[variables] = options
        values = self._score(rows)
        first = int(values.argmin())
        return (rows[first], float(values[first])) if values[first] < score else (at, score)

    def _sweep(self, at: Candidates, score: float) -> tuple[Candidates, float]:
        """The best option of every block, then as many of these together as keep improving."""
        moves: list[tuple[float, int, int]] = []
        for low, high, rows in self._neighbours(at):
            values = self._score(rows)
            start = 0
            for block in range(low, high):
                _, options = self.blocks[block]
                best = start + int(values[start : start + len(options)].argmin())
                if values[best] < score:
                    moves.append((float(values[best]), block, best - start))
                start += len(options)
        if not moves:
            return at, score
        moves.sort()
        rows = np.empty((len(moves), len(at)), np.int64)
        row = at.copy()
        for i, (_, block, option) in enumerate(moves):
            variables, options = self.blocks[block]
            row[variables] = options[option]
            rows[i] = row
        values = self._score(rows)
        self.front.add(rows)
        first = int(values.argmin())
        return rows[first], float(values[first])

    def _neighbours(self, at: Candidates) -> list[tuple[int, int, Candidates]]:
        """Every option of every block, in batches: (first block, end block, candidates)."""
        batches = []
        low = 0
        while low < len(self.blocks):
            high, count = low, 0
            while high < len(self.blocks) and (count == 0 or count + len(self.blocks[high][1]) <= BATCH):
                count += len(self.blocks[high][1])
                high += 1
            rows = np.repeat(at[None], count, axis=0)
            start = 0
            for variables, options in self.blocks[low:high]:
                rows[start : start + len(options), variables] = options
                start += len(options)
            batches.append((low, high, rows))
            low = high
        return batches

    def _score(self, rows: Candidates) -> npt.NDArray[np.float64]:
        return np.concatenate([self.scorer(rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)])

    def shaken(self, at: Candidates, generator: np.random.Generator) -> Candidates:
        """A copy with about a fifth of the decisions drawn anew."""
        fresh = generator.integers(0, self.table.sizes)
        return np.where(generator.random(len(at)) < 0.2, fresh, at)


def _blocks(table: CostTable) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """(variables, combinations): each decision alone, and each with the decisions that share a factor with it, as
    many as fit (sites first: what is done at a place and how wide it is belong together)."""
    sizes = table.sizes
    blocks = [(np.array([v]), np.arange(n)[:, None]) for v, n in enumerate(sizes) if n > 1]
    meets: dict[int, set[int]] = {v: set() for v in range(len(sizes))}
    for factor in table.factors:
        for v in factor.variables:
            meets[v].update(factor.variables)
    knobs = {gate.knob for gate in table.gates}
    seen: set[tuple[int, ...]] = {(v,) for v in range(len(sizes))}
    for centre in sorted(set(meets) - knobs):
        variables = [centre]
        for other in sorted(meets[centre] - knobs - {centre}):
            if sizes[other] > 1 and np.prod(sizes[[*variables, other]], dtype=float) <= BLOCK_COMBINATIONS:
                variables.append(other)
        if tuple(sorted(variables)) not in seen:
            seen.add(tuple(sorted(variables)))
            options = list(itertools.product(*(range(sizes[v]) for v in variables)))
            blocks.append((np.array(variables), np.array(options)))
    return blocks


def _macros(table: CostTable) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """(variables, options): every site to one rule; every width to its n-th option; the knob with all its widths."""
    by_label: dict[str, list[tuple[int, int]]] = {}
    for v, variable in enumerate(table.variables):
        if variable.kind == "site":
            for option, label in enumerate(variable.options):
                by_label.setdefault(label.split("@")[0], []).append((v, option))
    moves: list[Sequence[tuple[int, int]]] = [by_label[label] for label in sorted(by_label)]
    widths = [(v, len(variable.options)) for v, variable in enumerate(table.variables) if variable.kind == "width"]
    deepest = max((count for _, count in widths), default=0)
    moves += [[(v, min(step, count - 1)) for v, count in widths] for step in range(deepest)]
    for knob in sorted({gate.knob for gate in table.gates}):
        gates = [gate for gate in table.gates if gate.knob == knob]
        for value in range(len(table.variables[knob].options)):
            deepest = max(len(gate.allowed[value]) for gate in gates)
            for step in range(deepest):
                chosen = [(g.width, g.allowed[value][min(step, len(g.allowed[value]) - 1)]) for g in gates]
                moves.append([(knob, value), *chosen])
    unique = [dict(move) for move in moves if move]
    return [(np.array(list(move)), np.array(list(move.values()))) for move in unique]
