"""The jobs: scan, optimize, apply a plan, estimate. What the command line does, it does through these."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from graphopt.cost.estimate import Estimate
from graphopt.cost.estimate import estimate as estimate_graph
from graphopt.decide import candidate_of, decisions_of, notes_of
from graphopt.draft import Draft, Job, Progress, deliver, find_data, find_evaluator
from graphopt.errors import ConfigError, ModelError, PlanError
from graphopt.ir.graph import Graph
from graphopt.onnx_io.load import load
from graphopt.onnx_io.save import check_output, save
from graphopt.onnx_io.shapes import require_static_shapes
from graphopt.plan import Plan, plan_to_toml, read_plan
from graphopt.prepare import Subject, check_protect, find_catalog, find_rules, nothing_to_reshape, open_subject
from graphopt.results import DEFAULT_TARGET, FrontPoint, OptimizeResult, Options, ScanResult
from graphopt.search.budget import Budget
from graphopt.search.goal import parse_objective
from graphopt.search.objective import Constraints, Scorer
from graphopt.search.run import run_search
from graphopt.search.strategy import Certificate, Found
from graphopt.space.table import LATENCY, MACS, PARAMETER_BYTES, CostTable
from graphopt.targets.target import Target, load_target

DRIFT_ATTEMPTS = 5
"""Candidates that are repaired and measured at most until one uses the drift that is allowed."""

DRIFT_USED = 0.75
"""Share of the allowed drift that is use enough."""

MEMORY_ATTEMPTS = 4
"""Searches at most until the allocator's peak, and not only the live set, keeps the bound."""


def estimate(
    model: str | Path,
    target: str | Target = DEFAULT_TARGET,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Estimate:
    """Estimate what one run of a model costs on a target.

    The model is normalised first (batch normalisation folded, no-ops dropped), as every deployment tool does.

    Raises:
        ModelError: the model cannot be loaded, or its shapes are not static.
        ConfigError: there is no such target.
    """
    return open_subject(model, target, input_shapes=input_shapes).before


def scan(model: str | Path, options: Options | None = None) -> ScanResult:
    """List every decision that is on offer, with estimated gains and safety, and a plan that keeps everything.

    Raises:
        ModelError, ConfigError: as :func:`optimize`.
    """
    options = options or Options()
    job = Job(model, options)
    chosen = job.table.default()
    decisions = decisions_of(job.space, job.table, chosen)
    plan = job.plan_of(chosen)
    return ScanResult(
        plan=plan,
        plan_text=plan_to_toml(plan, notes_of(decisions)),
        before=job.subject.before,
        decisions=decisions,
        refusals=job.refusals,
        notes=job.subject.notes,
    )


def optimize(
    model: str | Path,
    output: str | Path | None = None,
    options: Options | None = None,
    *,
    progress: Progress | None = None,
) -> OptimizeResult:
    """Search the best plan for a model, apply it, write the rewritten model and prove what it costs.

    Args:
        model: ONNX file.
        output: where to write; ``None`` writes nothing.
        options: target, rules, objective and the rest.
        progress: called with (done, all, what) during the long parts.

    Raises:
        ModelError: the model cannot be loaded, its shapes are not static, or the output cannot be written.
        ConfigError: a target, rule, pack or option is wrong.
        VerificationError: the proof could not be made.
    """
    options = options or Options()
    _check_search(options)
    original = load(model, input_shapes=options.input_shapes)
    if output is not None:
        check_output(original, output)
    reason = nothing_to_reshape(original)
    if reason:
        return _as_it_was(original, reason, output, options)
    job = Job(model, options, original=original)
    if options.max_drift is None and "drift" not in parse_objective(options.objective).quantities:
        found, draft = _search(job, job.table, options.constraints, progress)
        notes: tuple[str, ...] = ()
    else:
        found, draft, notes = _search_within_drift(job, options.max_drift, progress)
    result = replace(draft.result(), front=_front(job, found), evaluations=found.evaluations)
    result = _certified(replace(result, notes=(*result.notes, *notes)), found.certificate)
    missed = _missed(draft, options)
    if missed:
        units = draft.repaired.units if options.max_drift is not None and draft.repaired is not None else ()
        return replace(result, drift=draft.drift if units else None, repaired=units, outcome="failed", reason=missed)
    return deliver(draft, result, output)


def _check_search(options: Options) -> None:
    """Raise :class:`ConfigError` where a proof is asked for that cannot be made."""
    quantities = parse_objective(options.objective).quantities
    if quantities & {"peak-memory", "memory"} and (options.certify or options.search == "exact"):
        asked = "--search exact" if options.search == "exact" else "--certify"
        raise ConfigError(f"{asked} needs an objective that adds up: --objective latency, parameters or macs")
    if "drift" in quantities and options.calibration is None:
        raise ConfigError(f"--objective {options.objective}: drift is measured on real inputs: add --calibration PATH")


def _search(job: Job, table: CostTable, bounds: Constraints, progress: Progress | None) -> tuple[Found, Draft]:
    """The best candidate, applied.

    Several depth multipliers under a bound are a choice of capacity, not of speed: the largest one that can keep the
    bounds is taken. Without any bound the objective decides.
    """
    if bounds == Constraints() or not job.space.knobs:
        found, draft, _ = _search_once(job, table, bounds, progress)
        return found, draft
    (knob,) = job.space.knobs
    variable = table.index("knob", knob.name)
    evaluations = 0
    for option in sorted(range(len(knob.values)), key=lambda i: -knob.values[i]):
        found, draft, kept = _search_once(job, table.fixed(variable, option), bounds, progress)
        evaluations += found.evaluations
        if kept:
            break
    return replace(found, evaluations=evaluations), draft


def _search_once(
    job: Job, table: CostTable, bounds: Constraints, progress: Progress | None
) -> tuple[Found, Draft, bool]:
    """The best candidate, applied, and whether it keeps the bounds.

    The search sees the live set; the arena that counts may need a little more.
    """
    options = job.options
    lowered = bounds
    for _ in range(MEMORY_ATTEMPTS):
        scorer = Scorer(table, options.objective, lowered)
        budget = Budget(options.max_evaluations)
        found = run_search(options.search, table, scorer, seed=options.seed, budget=budget, prove=options.certify)
        draft = Draft(job, found.best, progress)
        after = draft.after
        peak, memory = after.peak_activation_bytes, after.peak_activation_bytes + after.parameter_bytes
        over = [_over(peak, bounds.peak_bytes), _over(memory, bounds.memory_bytes)]
        if not any(over) or not scorer.feasible(found.score):
            break
        lowered = replace(
            lowered,
            peak_bytes=_less(lowered.peak_bytes, over[0]),
            memory_bytes=_less(lowered.memory_bytes, over[1]),
        )
    return found, draft, not any(over) and scorer.feasible(found.score)


def _over(value: int, bound: int | None) -> int:
    return 0 if bound is None else max(value - bound, 0)


def _less(bound: int | None, excess: int) -> int | None:
    return None if bound is None else max(bound - excess, 1)


def _search_within_drift(
    job: Job, max_drift: float | None, progress: Progress | None
) -> tuple[Found, Draft, tuple[str, ...]]:
    """The best candidate, by the objective, whose measured drift keeps the bound, if there is one.

    Single drifts are added up for the search; what comes out is repaired and measured as a whole, and the budget for
    the sum follows, up or down, until the whole uses most of the bound.
    """
    from graphopt.sensitivity import bound_of, measure_sensitivity

    assert job.data is not None
    cache = None if job.options.cache is None else Path(job.options.cache)
    single = measure_sensitivity(
        job.space, job.table, job.data, job.subject.path, job.subject.digest, cache=cache, progress=progress
    )
    table = job.table.with_drift(single.drift)
    singles = f"{single.measured} single drifts measured ({single.reused} of them by an earlier run)"
    if max_drift is None:
        return *_search(job, table, job.options.constraints, progress), (singles,)
    budget = bound_of(max_drift, single.measure)
    best: tuple[Found, Draft] | None = None
    best_rank = (True, math.inf)
    tried = []
    for _ in range(DRIFT_ATTEMPTS):
        found, draft = _search(job, table, replace(job.options.constraints, drift=budget), progress)
        drift = 0.0 if draft.drift is None else draft.drift.value
        tried.append(f"{drift:.3g} at {draft.after.latency_us:,.0f} us")
        rank = bool(_missed(draft, job.options)), found.score  # a bound that is missed weighs more than any gain
        if drift <= max_drift and (best is None or rank < best_rank):
            best, best_rank = (found, draft), rank
        if DRIFT_USED * max_drift <= drift <= max_drift or (best is not None and draft.safety == "exact"):
            break
        budget *= min(max(bound_of(max_drift, single.measure) / max(_added(draft), 1e-12), 0.05), 4.0)
    if best is None:
        best = _search(job, table, replace(job.options.constraints, drift=0.0), progress)
    note = f"{singles}; drift of whole models: {', '.join(tried)}"
    return *best, (note,)


def _added(draft: Draft) -> float:
    """The part of a draft's drift that adds up."""
    from graphopt.sensitivity import added

    return 0.0 if draft.drift is None else added(draft.drift)


def apply_plan(
    model: str | Path,
    plan: Plan | str | Path,
    output: str | Path | None = None,
    options: Options | None = None,
    *,
    progress: Progress | None = None,
) -> OptimizeResult:
    """Apply a plan as it stands: no search, and the plan's own rules and parameters.

    Args:
        model: the ONNX file that the plan was made for.
        plan: the plan, or its file.
        output: where to write; ``None`` writes nothing.
        options: of these only what concerns calibration, proof and metric and the ``seed`` count, ``target`` for
            the estimate, and ``importance`` (the plan's own where they are ``None``).
        progress: called with (done, all, what) during the long parts.

    Raises:
        PlanError: the plan cannot be read, is for another model, or asks for something impossible.
        ModelError, ConfigError, VerificationError: as :func:`optimize`.
    """
    options = options or Options()
    name = "plan" if isinstance(plan, Plan) else str(plan)
    wanted = plan if isinstance(plan, Plan) else read_plan(plan)
    options = replace(
        options,
        target=options.target or wanted.target,
        input_shapes=dict(wanted.input_shapes),
        allow=wanted.allow,
        packs=(),
        protect=wanted.protect,
        importance=options.importance or wanted.importance,
    )
    subject = open_subject(model, options.target or DEFAULT_TARGET, input_shapes=options.input_shapes)
    if output is not None:
        check_output(subject.original, output)
    try:
        _check_same_model(wanted, subject)
        job = Job(model, options, subject=subject, plan=wanted)
        draft = Draft(job, candidate_of(wanted, job.space, job.table), progress)
    except PlanError as error:
        raise PlanError(f"{name}: {error}") from error
    return deliver(draft, draft.result(), output)


def _as_it_was(original: Graph, reason: str, output: str | Path | None, options: Options) -> OptimizeResult:
    """The result on a model that has nothing to do with all this: it comes out as it went in, priced or not.

    Options that would be wrong for any model are wrong here, too.
    """
    target = load_target(options.target or DEFAULT_TARGET)
    find_rules(find_catalog(options), target, options)
    check_protect(original, options)
    find_data(original.model.path, options)
    find_evaluator(original.model.path, options)
    plan = Plan(original.model.path.name, f"sha256:{original.model.digest}", target.name, normalised=False)
    before: Estimate | None = None
    with suppress(ModelError):  # open shapes: there is nothing to price, and nobody who would ask for more
        require_static_shapes(original)
        before = estimate_graph(original, target)
    if output is not None:
        save(original, output)
    return OptimizeResult(
        outcome="unchanged",
        reason=reason,
        model=str(original.model.path),
        output=None if output is None else str(output),
        plan=plan,
        plan_text=plan_to_toml(plan),
        before=before,
        after=before,
    )


def _check_same_model(plan: Plan, subject: Subject) -> None:
    if plan.model_digest != subject.digest:
        raise PlanError(
            f"model.digest: the plan is for {plan.model!r} ({plan.model_digest[:19]}...), "
            f"and {subject.path} is another file ({subject.digest[:19]}...)"
        )
    if plan.normalised != subject.normalised:
        form = {True: "normalised", False: "not normalised"}
        reason = "; ".join(subject.notes)
        raise PlanError(
            f"model.normalised: the plan is about the model {form[plan.normalised]}, "
            f"and here it is {form[subject.normalised]}{f' ({reason})' if reason else ''}"
        )


def _certified(result: OptimizeResult, certificate: Certificate | None) -> OptimizeResult:
    """The result with its certificate, which is about the table's prices: one that the estimate contradicts is void."""
    if certificate is None:
        return result
    after = result.estimates[1]
    estimated = {"latency": after.latency_us, "parameters": after.parameter_bytes, "macs": after.macs}
    value = estimated.get(certificate.objective, certificate.value)  # a sum is not looked at
    if math.isclose(value, certificate.value, rel_tol=1e-5):
        return replace(result, certificate=certificate)
    note = f"no certificate: the search priced this plan at {certificate.value:,.6g}, its estimate is {value:,.6g}"
    return replace(result, notes=(*result.notes, note))


def _front(job: Job, found: Found) -> tuple[FrontPoint, ...]:
    """The Pareto front in the results' words. Its peaks are live sets, as the search saw them."""
    if not found.front:
        return ()
    rows = np.array(found.front)
    latency, macs, parameters = job.table.evaluate(rows, (LATENCY, MACS, PARAMETER_BYTES))
    peaks = job.table.peak_bytes(rows)
    return tuple(
        FrontPoint(
            float(latency[i]),
            int(peaks[i]),
            int(parameters[i]),
            int(macs[i]),
            job.plan_of(row),
        )
        for i, row in enumerate(rows)
    )


def _missed(draft: Draft, options: Options) -> str:
    """Which constraint the best plan still misses, ``""`` when it keeps all."""
    bounds, after = options.constraints, draft.after
    drift = draft.drift.value if options.max_drift is not None and draft.drift is not None else 0.0
    for option, value, bound in (
        ("--max-latency-us", after.latency_us, bounds.latency_us),
        ("--max-peak-bytes", after.peak_activation_bytes, bounds.peak_bytes),
        ("--max-parameter-bytes", after.parameter_bytes, bounds.parameter_bytes),
        ("--max-memory-bytes", after.parameter_bytes + after.peak_activation_bytes, bounds.memory_bytes),
        ("--max-macs", after.macs, bounds.macs),
        ("--max-drift", drift, options.max_drift),
    ):
        if bound is not None and value > bound:
            return f"no plan found that keeps {option} {bound:g}: the nearest has {value:,.10g}; nothing was written"
    return ""
