"""One search with a strategy by name: level after level of the objective."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from graphopt.search.budget import Budget, current_watch
from graphopt.search.exact import certify
from graphopt.search.objective import Scorer
from graphopt.search.pareto import Front
from graphopt.search.state import SearchState, key_of
from graphopt.search.strategies import STRATEGIES
from graphopt.search.strategy import Certificate, Found, SearchName, Strategy
from graphopt.space.table import Candidates, CostTable


def run_search(
    name: SearchName,
    table: CostTable,
    scorer: Scorer,
    *,
    seed: int = 0,
    budget: Budget | None = None,
    start: Candidates | None = None,
    prove: bool = False,
    state: SearchState | None = None,
) -> Found:
    """Minimise the objective of ``scorer``, each level within the tolerances of those before it.

    Args:
        name: the strategy.
        table: the priced space.
        scorer: objective and constraints.
        seed: of everything that is drawn.
        budget: when to stop; a level gets an equal part of what is left.
        start: where to begin, one candidate or several; the default without.
        prove: whether the answer must have a certificate. It is about the first level.
        state: where earlier runs of the same search are looked up, and this one is kept.

    Raises:
        ConfigError: a damaged ``state``.
    """
    if state is not None:
        key = key_of(name, table, scorer, seed)
        runs, rows = state.get(key, table)
        begin = start if rows is None else rows if start is None else np.concatenate([rows, start[None]])
        found = run_search(name, table, scorer, seed=seed + runs, budget=budget, start=begin, prove=prove)
        state.put(key, found)
        return found
    with current_watch().searching():
        return _levels(STRATEGIES[name], table, scorer, seed, budget or Budget(), start, prove)


def _levels(
    strategy: Strategy,
    table: CostTable,
    scorer: Scorer,
    seed: int,
    budget: Budget,
    start: Candidates | None,
    prove: bool,
) -> Found:
    levels = len(scorer.objective.levels)
    found = strategy(table, scorer, seed=seed, budget=budget.part(1 / levels), start=start)
    certificate = found.certificate
    if prove and certificate is None:
        certificate = certify(table, scorer, found.score)
    front = Front(table, scorer)
    if levels > 1:
        front.add(np.array(found.front))
    level, current = 1, scorer
    while current.feasible(found.score) and (following := current.following(found.best)) is not None:
        level, current = level + 1, following
        part = budget.part(level / levels)
        found = strategy(table, current, seed=seed, budget=part, start=found.best)
        front.add(np.array(found.front))
    if levels > 1:
        evaluations = current.evaluations
        score = float(scorer(found.best[None])[0])
        certificate = certificate and _as_it_ended(certificate, scorer, score)
        found = replace(found, score=score, front=front.candidates(), evaluations=evaluations)
    return replace(found, certificate=certificate)


def _as_it_ended(certificate: Certificate, scorer: Scorer, score: float) -> Certificate:
    """The first level's certificate, for the candidate that the later levels made of it."""
    given = f"up to {scorer.level.tolerance:.3g} given up for {scorer.objective.levels[1]}"
    reason = "; ".join(filter(None, (given, certificate.reason)))
    return replace(certificate, value=score * scorer.unit, reason=reason)
