"""The best single change, again and again: what the other strategies have to beat.

Out of bounds, the change that brings the candidate nearer for the least loss goes first; this is the greedy baseline of
M. Berman et al., AOWS: adaptive and optimal network width search with latency constraints, CVPR 2020.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from graphopt.search.budget import Budget
from graphopt.search.objective import Scorer
from graphopt.search.pareto import Front
from graphopt.search.strategy import Found, best_start
from graphopt.space.table import Candidates, CostTable

BATCH = 4096
"""Candidates priced at once."""

FREE = 1e-12
"""A loss below this counts as none."""


def greedy_search(
    table: CostTable,
    scorer: Scorer,
    *,
    seed: int = 0,
    budget: Budget | None = None,
    start: Candidates | None = None,
) -> Found:
    """Minimise ``scorer`` over the candidates of ``table``; nothing is drawn, so the ``seed`` does not matter."""
    front = Front(table, scorer)
    budget = budget or Budget()
    best = best_start(table, scorer, start)
    front.add(best[None])
    off, score = (float(part[0]) for part in scorer.parts(best[None]))
    moves = [(v, option) for v, options in enumerate(table.sizes) for option in range(options)]
    while moves and not budget.spent(scorer.evaluations):
        offs, scores = _priced(scorer, best, moves)
        if off > 0:
            nearer = offs < off
            ratio = (off - offs) / np.maximum(scores - score, FREE)
            rank = np.where(nearer, -ratio, np.inf)
        else:
            rank = np.where((offs <= 0) & (scores < score), scores, np.inf)
        first = int(rank.argmin())
        if rank[first] == np.inf:
            break
        best = best.copy()
        best[moves[first][0]] = moves[first][1]
        off, score = float(offs[first]), float(scores[first])
        front.add(best[None])
    return Found(best, float(scorer(best[None])[0]), front.candidates(), scorer.evaluations)


def _priced(
    scorer: Scorer, at: Candidates, moves: list[tuple[int, int]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """:meth:`Scorer.parts` after each move."""
    parts = []
    for low in range(0, len(moves), BATCH):
        chosen = np.array(moves[low : low + BATCH])
        rows = np.repeat(at[None], len(chosen), axis=0)
        rows[np.arange(len(chosen)), chosen[:, 0]] = chosen[:, 1]
        parts.append(scorer.parts(rows))
    offs, scores = zip(*parts, strict=True)
    return np.concatenate(offs), np.concatenate(scores)
