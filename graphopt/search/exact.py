"""The optimum with its proof, and the proof alone for what another strategy found.

Without constraints one elimination answers. Constraints that add up get Lagrange multipliers: whatever they are, the
minimum of objective + multipliers x (metrics / bounds - 1) is a lower bound for every feasible candidate, and the best
multipliers are found by following the cuts that each minimum gives (one at a time), then by subgradient steps (Polyak's
length). The minima met on the way are candidates. Peak memory does not add up: the bound leaves it out.
"""

from __future__ import annotations

import numpy as np

from graphopt.search.budget import Budget
from graphopt.search.local import local_search
from graphopt.search.objective import Scorer
from graphopt.search.pareto import Front
from graphopt.search.relaxation import Relaxation
from graphopt.search.strategy import Certificate, Found
from graphopt.space.table import Candidates, CostTable


def exact_search(
    table: CostTable,
    scorer: Scorer,
    *,
    seed: int = 0,
    budget: Budget | None = None,
    start: Candidates | None = None,
) -> Found:
    """Minimise ``scorer`` over the candidates of ``table``, with a certificate.

    Where constraints or the size of the space leave a gap, local search from the best candidate closes what it can.
    """
    budget = budget or Budget()
    relaxed = Relaxation(table, scorer)
    relaxed.maximise()
    rows = relaxed.candidates()
    if start is not None:
        rows = np.concatenate([start[None], rows])
    scores = scorer(rows)
    first = int(scores.argmin())
    best, score = rows[first], float(scores[first])
    front = Front(table, scorer)
    front.add(rows)
    for origin, share in ((None, 0.5), (best, 1.0)):
        if relaxed.certificate(score).gap == 0 or budget.spent(scorer.evaluations):
            break
        rest = budget.part(share, scorer.evaluations)
        found = local_search(table, scorer, seed=seed, budget=rest, start=origin)
        front.add(np.array(found.front))
        if found.score < score:
            best, score = found.best, found.score
    certificate = relaxed.certificate(score) if scorer.feasible(score) else None
    return Found(best, score, front.candidates(), scorer.evaluations, certificate)


def certify(table: CostTable, scorer: Scorer, score: float) -> Certificate | None:
    """Say how far a score is from the optimum at most; ``None`` for an infeasible candidate's."""
    if not scorer.feasible(score):
        return None
    relaxed = Relaxation(table, scorer)
    relaxed.maximise(score)
    return relaxed.certificate(score)
