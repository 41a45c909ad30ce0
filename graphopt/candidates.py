"""From a job to its best candidate, applied: the searches that also look at what comes out.

The table's prices are sums. What is no sum of them, the allocator's arena and the drift of a whole model, is looked at
on the finished draft, and the search is repeated with its bounds moved.
"""

from __future__ import annotations

import math
from dataclasses import replace

from graphopt.draft import Draft, Job, Progress
from graphopt.loss import with_loss
from graphopt.results import Options
from graphopt.search.budget import Budget, current_watch
from graphopt.search.objective import OPTIONS, Constraints, Scorer
from graphopt.search.run import run_search
from graphopt.search.state import SearchState
from graphopt.search.strategy import Found
from graphopt.space.table import CostTable

DRIFT_ATTEMPTS = 5
"""Candidates that are repaired and measured at most until one uses the drift that is allowed."""

DRIFT_USED = 0.75
"""Share of the allowed drift that is use enough."""

MEMORY_ATTEMPTS = 4
"""Searches at most until the allocator's peak, and not only the live set, keeps the bound."""

RAISES = 1
"""Searches after that, with a bound between the one that was too low and the one that was too high."""


def search(job: Job, table: CostTable, bounds: Constraints, progress: Progress | None) -> tuple[Found, Draft]:
    """The best candidate, applied.

    Several depth multipliers under a bound are a choice of capacity, not of speed: the largest one that can keep the
    bounds is taken. Without any bound the objective decides.
    """
    if bounds == Constraints() or not job.space.knobs:
        found, draft, _ = search_once(job, table, bounds, progress)
        return found, draft
    (knob,) = job.space.knobs
    variable = table.index("knob", knob.name)
    evaluations = 0
    for option in sorted(range(len(knob.values)), key=lambda i: -knob.values[i]):
        found, draft, kept = search_once(job, table.fixed(variable, option), bounds, progress)
        evaluations += found.evaluations
        if kept or current_watch().over:
            break
    return replace(found, evaluations=evaluations), draft


def search_once(
    job: Job, table: CostTable, bounds: Constraints, progress: Progress | None, objective: str | None = None
) -> tuple[Found, Draft, bool]:
    """The best candidate (by the job's objective where none is given), applied, and whether it keeps the bounds.

    The search sees the live set; the arena that counts may need a little more. So the bounds on memory are lowered by
    what the arena was over, until it keeps them, and raised again half-way as long as that finds a better one.
    """

    def look(lowered: Constraints) -> tuple[Found, Draft, bool, tuple[int, int]]:
        options = job.options
        scorer = Scorer(table, objective or options.objective, lowered)
        budget = Budget(options.max_evaluations)
        state = None if options.resume is None else SearchState.open(options.resume)
        name, prove = (options.search, options.certify) if objective is None else ("local", False)
        found = run_search(name, table, scorer, seed=options.seed, budget=budget, prove=prove, state=state)
        draft = Draft(job, found.best, progress)
        peak, memory = draft.after.peak_activation_bytes, draft.after.memory_bytes
        over = _over(peak, bounds.peak_bytes), _over(memory, bounds.memory_bytes)
        return found, draft, scorer.feasible(found.score), over

    low = high = bounds
    for _ in range(MEMORY_ATTEMPTS):
        found, draft, feasible, over = look(low)
        if not any(over) or not feasible or current_watch().over:
            break
        high, low = (
            low,
            replace(low, peak_bytes=_less(low.peak_bytes, over[0]), memory_bytes=_less(low.memory_bytes, over[1])),
        )
    kept = feasible and not any(over)
    for _ in range(RAISES if kept and low != bounds else 0):
        middle = replace(
            low,
            peak_bytes=_middle(low.peak_bytes, high.peak_bytes),
            memory_bytes=_middle(low.memory_bytes, high.memory_bytes),
        )
        other, its_draft, feasible, over = look(middle)
        if not feasible or any(over):
            high = middle
            continue
        low = middle
        if other.score < found.score:
            found, draft = other, its_draft
    return found, draft, kept


def _over(value: int, bound: int | None) -> int:
    return 0 if bound is None else max(value - bound, 0)


def _less(bound: int | None, excess: int) -> int | None:
    return None if bound is None else max(bound - excess, 1)


def _middle(low: int | None, high: int | None) -> int | None:
    return None if low is None or high is None else (low + high) // 2


def search_within_drift(job: Job, max_drift: float, progress: Progress | None) -> tuple[Found, Draft, tuple[str, ...]]:
    """The best candidate, by the objective, whose measured drift keeps the bound.

    Single drifts are added up for the search; what comes out is repaired and measured as a whole, and the budget for
    the sum follows, up or down, until the whole uses most of the bound.
    """
    from graphopt.sensitivity import bound_of

    loss = with_loss(job, progress)
    whole = budget = bound_of(max_drift, loss.measure)
    best: tuple[Found, Draft] | None = None
    best_rank = (True, math.inf)
    tried = []
    for _ in range(DRIFT_ATTEMPTS):
        found, draft = search(job, loss.table, replace(job.options.constraints, drift=budget), progress)
        drift = 0.0 if draft.drift is None else draft.drift.value
        tried.append(f"{drift:.3g} at {draft.after.latency_us:,.0f} us")
        rank = bool(missed(draft, job.options)), found.score  # a bound that is missed weighs more than any gain
        if drift <= max_drift and (best is None or rank < best_rank):
            best, best_rank = (found, draft), rank
        if DRIFT_USED * max_drift <= drift <= max_drift or (best is not None and draft.safety == "exact"):
            break
        if current_watch().over:
            break
        budget *= min(max(whole / max(_added(draft), 1e-12), 0.05), 4.0)
    if best is None:
        best = search(job, loss.table, replace(job.options.constraints, drift=0.0), progress)
    note = f"{loss.note}; drift of whole models: {', '.join(tried)}"
    return *best, (note,)


def _added(draft: Draft) -> float:
    """The part of a draft's drift that adds up."""
    from graphopt.sensitivity import added

    return 0.0 if draft.drift is None else added(draft.drift)


def missed(draft: Draft, options: Options) -> str:
    """Which constraint the best plan still misses, ``""`` when it keeps all."""
    within = "" if options.max_drift is None else f" within --max-drift {options.max_drift:g}"
    for quantity, bound in options.constraints.bounds.items():
        value = draft.after.amounts.get(quantity, 0.0)  # drift is bound by its own option
        if value > bound:
            return _missing(f"{OPTIONS[quantity]} {bound:,.10g}{within}", value)
    if options.max_drift is not None and draft.drift is not None and draft.drift.value > options.max_drift:
        return _missing(f"{OPTIONS['drift']} {options.max_drift:,.10g}", draft.drift.value)
    return ""


def _missing(asked: str, nearest: float) -> str:
    return f"no plan found that keeps {asked}: the nearest has {nearest:,.6g}; nothing was written"
