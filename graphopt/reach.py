"""What no plan can reach: bounds on costs that a space cannot keep, with the proof."""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphopt.draft import Job
from graphopt.search.budget import Budget, current_watch
from graphopt.search.goal import TERMS, Quantity
from graphopt.search.objective import FIELDS, OPTIONS, Constraints, Scorer
from graphopt.search.run import run_search
from graphopt.search.strategy import ROUNDING


def unreachable(job: Job) -> str:
    """Say that no plan keeps the bounds on costs, and the least that there is; ``""`` where that is not proved.

    Each bound is looked at alone, then one together with the others. The least peak is that of live sets, which no
    arena is under.
    """
    constraints = job.options.constraints
    for quantity, limit in constraints.bounds.items():
        least = _least(job, quantity, Constraints())
        if least is not None and least.bound > limit * (1 + ROUNDING):
            return f"no plan keeps {_bounds(quantity, limit)}: {_said(job, quantity, least)}"
    if len(constraints.bounds) < 2:
        return ""
    quantity, limit = next(iter(constraints.bounds.items()))
    others = replace(constraints, **{FIELDS[quantity]: None})
    least = _least(job, quantity, others)
    if least is None or least.bound <= limit * (1 + ROUNDING):
        return ""
    beside = " and ".join(_bounds(*bound) for bound in others.bounds.items())
    return f"no plan keeps {_bounds(quantity, limit)} beside {beside}: {_said(job, quantity, least)}"


@dataclass(frozen=True, slots=True)
class _Least:
    """The least of a quantity: that of the best plan, and what none is under; ``is_reached`` where these are one."""

    value: float
    bound: float
    is_reached: bool


def _least(job: Job, quantity: Quantity, bounds: Constraints) -> _Least | None:
    """The least of a quantity within bounds; ``None`` where nothing is proved of it."""
    if current_watch().over:
        return None
    scorer = Scorer(job.table, quantity, bounds)
    budget = Budget(job.options.max_evaluations)
    found = run_search("exact", job.table, scorer, seed=job.options.seed, budget=budget)
    certificate = found.certificate
    if certificate is None:
        return None
    values = scorer.values(found.best[None])
    value = sum(float(values[metric][0]) for metric in TERMS[quantity])  # without the terms that break ties
    return _Least(value, certificate.bound, certificate.gap == 0 and not certificate.reason)


def _bounds(quantity: Quantity, limit: float) -> str:
    return f"{OPTIONS[quantity]} {limit:,.10g}"


def _said(job: Job, quantity: Quantity, least: _Least) -> str:
    shown = "{:,.2f}" if quantity in ("latency", "energy") else "{:,.0f}"
    if least.is_reached:
        found = f"the smallest on offer is {shown.format(least.value)}"
    else:
        found = f"none on offer is under {shown.format(least.bound)}"
    return f"with --allow {job.options.allowed} {found} (certified); nothing was written"
