"""Fit a model into so many bytes: parameters and peak activations, with the least loss first and latency next."""

from __future__ import annotations

from dataclasses import replace

from graphopt.candidates import missed, search, search_once
from graphopt.cost.estimate import Estimate
from graphopt.draft import Draft, Job, Progress
from graphopt.errors import ConfigError
from graphopt.ir.op import SAFETY_LEVELS, Safety
from graphopt.loss import with_loss
from graphopt.results import MemoryFit, MemorySplit, Options
from graphopt.search.strategy import Found

OBJECTIVE = "drift+1%>latency"
"""The least loss; within a hundredth of it, the least latency."""


def for_fit(options: Options) -> Options:
    """The options of a job that fits a model into memory; others as they are.

    Raises:
        ConfigError: an objective or bound that says something else.
    """
    if options.fit_memory is None:
        return options
    if options.objective != "latency" or options.constraints.memory_bytes is not None or "memory" in options.shares:
        raise ConfigError(
            "--fit-memory minimises what is lost within its bound: leave --objective and --max-memory-bytes out"
        )
    if options.max_drift is not None:
        raise ConfigError("--fit-memory minimises the drift: leave --max-drift out, or use --max-memory-bytes with it")
    return replace(
        options,
        objective=OBJECTIVE,
        constraints=replace(options.constraints, memory_bytes=options.fit_memory),
    )


def fit(job: Job, progress: Progress | None) -> tuple[Found, Draft, tuple[str, ...]]:
    """The candidate that fits with the least loss, applied; or the nearest. And what to note."""
    loss = with_loss(job, progress)
    found, draft = search(job, loss.table, job.options.constraints, progress)
    notes = tuple(filter(None, [loss.note]))
    if draft.after.memory_bytes > job.options.constraints.bounds["memory"]:
        smaller, least = smallest(job, progress)
        if least.after.memory_bytes < draft.after.memory_bytes:
            return replace(smaller, evaluations=found.evaluations + smaller.evaluations), least, notes
    return found, draft, notes


def smallest(job: Job, progress: Progress | None) -> tuple[Found, Draft]:
    """The candidate that needs the least memory of all, applied; the job's other bounds hold."""
    bounds = replace(job.options.constraints, memory_bytes=None)
    found, draft, _ = search_once(job, job.table, bounds, progress, objective="memory")
    return found, draft


def fit_of(draft: Draft) -> MemoryFit | None:
    """How a draft fits, ``None`` where nobody asked."""
    bound = draft.job.options.fit_memory
    return None if bound is None else MemoryFit(bound, _split(draft.job.subject.before), _split(draft.after))


def why_not(draft: Draft, progress: Progress | None) -> str:
    """``""`` where a draft fits, else the bound, the smallest that is reachable, and what to allow to reach less."""
    job, bound = draft.job, draft.job.options.fit_memory
    now = _split(draft.after)
    if bound is None or now.total_bytes <= bound:
        return missed(draft, job.options)
    reason = (
        f"--fit-memory {bound:,} bytes is out of reach: with --allow {job.options.allowed} the smallest is "
        f"{now.total_bytes:,} bytes ({now.parameter_bytes:,} of parameters, {now.peak_bytes:,} of peak activations)"
    )
    for level in _above(job.options.allowed):
        wider = Job(job.subject.path, replace(job.options, allow=level), subject=job.subject)
        reached = smallest(wider, progress)[1].after.memory_bytes
        if reached <= bound:
            reason += f"; it fits with --allow {level}"
            break
        if reached < now.total_bytes:
            reason += f"; --allow {level} reaches {reached:,} bytes"
    return f"{reason}; nothing was written"


def _above(level: Safety) -> tuple[Safety, ...]:
    return SAFETY_LEVELS[SAFETY_LEVELS.index(level) + 1 :]


def _split(estimate: Estimate) -> MemorySplit:
    return MemorySplit(estimate.parameter_bytes, estimate.peak_activation_bytes)
