"""Evolution of a Pareto front: NSGA-II on whole generations at once.

A generation is one array of candidates. Parents are drawn by tournaments of two (the better rank, then the less crowded
one), children take each decision from either parent (uniform crossover) and a few decisions anew; parents and children
together are sorted into non-dominated ranks, and the best half lives on. Infeasible candidates come after all feasible
ones, by how far they are off. A few ends of the front, found by elimination, are in the first generation.

K. Deb et al., A fast and elitist multiobjective genetic algorithm: NSGA-II, IEEE TEVC 2002.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.search.budget import Budget
from graphopt.search.goal import parse_objective
from graphopt.search.objective import Scorer
from graphopt.search.pareto import Front, points_of, ranks_of
from graphopt.search.strategy import Found
from graphopt.search.windows import Windows
from graphopt.space.table import Candidates, CostTable

ENDS = ("latency", "peak-memory", "parameters")
"""What the front trades."""

POPULATION = 128
"""Candidates in a generation."""

SEEDED = 0.25
"""Share of the budget that the ends may take."""

CHANGED = 1.5
"""Decisions that a child draws anew, on average."""

STALE = 20
"""Generations without a new point on the front after which the search stops."""


@dataclass(frozen=True)
class _Generation:
    """Candidates with what selection asks of them.

    Attributes:
        rows: shape (candidates, variables).
        off: how far they are off the constraints.
        points: what the front trades, shape (candidates, quantities).
    """

    rows: Candidates
    off: npt.NDArray[np.float64]
    points: npt.NDArray[np.float64]

    def order(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The rank of each candidate (0 is the front), and its crowding distance."""
        feasible = self.off <= 0
        ranks = np.zeros(len(self.rows), np.int64)
        ranks[feasible] = ranks_of(self.points[feasible])
        last = int(ranks[feasible].max()) + 1 if feasible.any() else 0
        ranks[~feasible] = last + np.unique(self.off[~feasible], return_inverse=True)[1]
        crowding = np.zeros(len(self.rows))
        for rank in range(last):
            front = np.flatnonzero(ranks == rank)
            crowding[front] = crowding_of(self.points[front])
        return ranks, crowding

    def best(self, count: int) -> _Generation:
        """The best ones, the crowded ones of the last rank left out."""
        ranks, crowding = self.order()
        keep = np.lexsort((-crowding, ranks))[:count]
        return _Generation(self.rows[keep], self.off[keep], self.points[keep])


def evolve_search(
    table: CostTable,
    scorer: Scorer,
    *,
    seed: int = 0,
    budget: Budget | None = None,
    start: Candidates | None = None,
) -> Found:
    """Draw the front between latency, peak memory and parameters; the best is its best by ``scorer``."""
    budget = budget or Budget()
    generator = np.random.default_rng(seed)
    front = Front(table, scorer)
    first = [table.default(), *([] if start is None else np.atleast_2d(start))]
    if len(table.variables):
        first += _ends(scorer, first[-1], budget)
    rows = np.unique(np.array([*first, *_scattered(table, np.array(first), generator)]), axis=0)
    generation = _judged(scorer, rows)
    front.add(rows)
    waited, known = 0, front.candidates()
    while len(table.variables) and waited < STALE and not budget.spent(scorer.evaluations):
        children = _judged(scorer, _children(table, generation, generator))
        generation = _joined(generation, children).best(POPULATION)
        front.add(children.rows)
        before, known = known, front.candidates()
        waited = waited + 1 if np.array_equal(before, known) else 0
    rows = np.array([*first, *known])
    scores = scorer(rows)
    best = int(scores.argmin())
    return Found(rows[best], float(scores[best]), known, scorer.evaluations)


def _ends(scorer: Scorer, at: Candidates, budget: Budget) -> list[Candidates]:
    """The best candidate by the objective, and by each quantity of the front alone, as elimination finds them."""
    found = []
    for objective in (scorer.objective, *map(parse_objective, ENDS)):
        aimed = scorer.towards(objective)
        windows = Windows(scorer.table, aimed, budget.part(SEEDED / (1 + len(ENDS)), scorer.evaluations))
        found.append(windows.improve(at, float(aimed(at[None])[0]))[0])
        scorer.evaluations = aimed.evaluations
    return found


def _scattered(table: CostTable, first: Candidates, generator: np.random.Generator) -> Candidates:
    """Copies of the first candidates with ever more decisions drawn anew."""
    count = max(POPULATION - len(first), 0)
    rows = first[generator.integers(0, len(first), count)]
    anew = generator.random(rows.shape) < np.linspace(0.0, 1.0, count)[:, None]
    return _gated(table, np.where(anew, generator.integers(0, table.sizes, rows.shape), rows))


def _gated(table: CostTable, rows: Candidates) -> Candidates:
    """The candidates with every width that its knob does not allow at the nearest option that it does."""
    rows = rows.copy()
    for gate in table.gates:
        options = np.arange(table.sizes[gate.width])
        nearest = np.array([[min(its, key=lambda o: (abs(o - at), o)) for at in options] for its in gate.allowed])
        rows[:, gate.width] = nearest[rows[:, gate.knob], rows[:, gate.width]]
    return rows


def _judged(scorer: Scorer, rows: Candidates) -> _Generation:
    return _Generation(rows, scorer.parts(rows)[0], points_of(scorer.table, rows))


def _joined(one: _Generation, other: _Generation) -> _Generation:
    """Both, every candidate once."""
    rows, first = np.unique(np.concatenate([one.rows, other.rows]), axis=0, return_index=True)
    off, points = np.concatenate([one.off, other.off]), np.concatenate([one.points, other.points])
    return _Generation(rows, off[first], points[first])


def _children(table: CostTable, parents: _Generation, generator: np.random.Generator) -> Candidates:
    """As many children as a generation has candidates."""
    ranks, crowding = parents.order()
    place = np.empty(len(ranks), np.int64)
    place[np.lexsort((-crowding, ranks))] = np.arange(len(ranks))
    drawn = generator.integers(0, len(ranks), (2, 2, POPULATION))
    won = np.where(place[drawn[:, 0]] <= place[drawn[:, 1]], drawn[:, 0], drawn[:, 1])
    shape = (POPULATION, len(table.variables))
    rows = np.where(generator.random(shape) < 0.5, parents.rows[won[0]], parents.rows[won[1]])
    anew = generator.random(shape) < CHANGED / len(table.variables)
    return _gated(table, np.where(anew, generator.integers(0, table.sizes, shape), rows))


def crowding_of(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How far the neighbours of each point of a front are apart, shape (points,); infinite at its ends."""
    total = np.zeros(len(points))
    for line in points.T:
        order = np.argsort(line, kind="stable")
        apart = np.full(len(points), np.inf)
        extent = float(line[order[-1]] - line[order[0]]) or 1.0
        apart[order[1:-1]] = (line[order[2:]] - line[order[:-2]]) / extent
        total += apart
    return total
