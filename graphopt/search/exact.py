"""The optimum with its proof, and the proof alone for what another strategy found.

Without constraints one elimination answers. Constraints are relaxed, and branch and bound closes the gap that this
leaves, as far as its budget reaches; local search gives it candidates to beat.
"""

from __future__ import annotations

import math

import numpy as np

from graphopt.search.branching import Branching
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
    """Minimise ``scorer`` over the candidates of ``table``, with a certificate."""
    budget = budget or Budget()
    rows = np.array([table.default(), *([] if start is None else np.atleast_2d(start))])
    front = Front(table, scorer)
    front.add(rows)
    tree = Branching(Relaxation(table, scorer))
    tree.offer(rows)
    front.add(tree.root.rows)
    scores = scorer(rows)
    best = rows[int(scores.argmin())]
    if not tree.closed and not budget.spent(scorer.evaluations):
        found = local_search(table, scorer, seed=seed, budget=budget.part(0.5, scorer.evaluations), start=best)
        front.add(np.array(found.front))
        tree.offer(found.best[None])
        best = found.best
        tree.run(budget)
    best = best if tree.best is None else tree.best
    front.add(best[None])
    score = float(scorer(best[None])[0])
    return Found(best, score, front.candidates(), scorer.evaluations, _certificate(tree, scorer, score))


def certify(table: CostTable, scorer: Scorer, score: float, budget: Budget | None = None) -> Certificate | None:
    """Say how far a score is from the optimum at most; ``None`` for an infeasible candidate's."""
    if not scorer.feasible(score):
        return None
    tree = Branching(Relaxation(table, scorer), score)
    tree.run(budget or Budget())
    return _certificate(tree, scorer, score)


def _certificate(tree: Branching, scorer: Scorer, score: float) -> Certificate | None:
    """A score and the bound in the objective's unit, and what may lie between them."""
    if not scorer.feasible(score):
        return None
    reason = "" if tree.closed else "the search for a proof ended with its budget"
    if scorer.peak:
        reason = "; ".join(filter(None, (reason, "peaks are live sets, as the search sees them")))
    bound = tree.bound if math.isfinite(tree.bound) else score
    return Certificate(str(scorer.level), score * scorer.unit, bound * scorer.unit, reason)
