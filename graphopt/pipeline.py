"""The jobs: scan, optimize, apply a plan, estimate. What the command line does, it does through these."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from graphopt.candidates import missed, search, search_within_drift
from graphopt.cost.estimate import Estimate
from graphopt.cost.estimate import estimate as estimate_graph
from graphopt.decide import candidate_of, decisions_of, notes_of, size_notes
from graphopt.draft import Draft, Job, Progress, deliver, find_data, find_evaluator
from graphopt.errors import ConfigError, ModelError, PlanError
from graphopt.fitting import fit, fit_of, for_fit, why_not
from graphopt.ir.graph import Graph
from graphopt.loss import with_loss
from graphopt.onnx_io.load import load
from graphopt.onnx_io.save import check_output, save
from graphopt.onnx_io.shapes import require_static_shapes
from graphopt.plan import Plan, plan_to_toml, read_plan
from graphopt.prepare import Subject, check_protect, find_catalog, find_rules, nothing_to_reshape, open_subject
from graphopt.reach import unreachable
from graphopt.results import DEFAULT_TARGET, FrontPoint, OptimizeResult, Options, ScanResult
from graphopt.search.budget import watched
from graphopt.search.state import SearchState
from graphopt.search.strategy import Certificate, Found
from graphopt.sizing import drifts_alone, merit, planned_subject, sized_subjects
from graphopt.space.table import LATENCY, MACS, PARAMETER_BYTES
from graphopt.targets.target import Target, load_target


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
    opened = open_subject(model, options.target or DEFAULT_TARGET, input_shapes=options.input_shapes)
    with sized_subjects(opened, options) as subjects:
        subject, *others = subjects
        if others:
            raise ConfigError("--resolutions: a scan is about one size; name one")
        job = Job(model, options, subject=subject)
        chosen = job.table.default()
        decisions = decisions_of(job.space, job.table, chosen)
        plan = job.plan_of(chosen)
        return ScanResult(
            plan=plan,
            plan_text=plan_to_toml(plan, {**notes_of(decisions), **size_notes(subject)}),
            before=subject.before,
            decisions=decisions,
            refusals=job.refusals,
            notes=subject.notes,
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
    options = for_fit(options)
    original = load(model, input_shapes=options.input_shapes)
    if output is not None:
        check_output(original, output)
    reason = nothing_to_reshape(original)
    if reason and not options.resolutions:
        return _as_it_was(original, reason, output, options)
    opened = open_subject(model, options.target or DEFAULT_TARGET, input_shapes=options.input_shapes, original=original)
    with watched(options.max_seconds) as watch, sized_subjects(opened, options) as subjects:
        best: tuple[Draft, OptimizeResult] | None = None
        for subject in subjects:
            draft, result = _searched(Job(model, options, subject=subject), progress)
            if best is None or _is_better((draft, result), best):
                best = draft, result
            if options.is_bounded and result.outcome != "failed":
                break
        assert best is not None
        draft, result = best
        if watch.cut_short:
            note = "the search was ended early: its best plan so far, which another run may not find"
            result = replace(result, notes=(*result.notes, note))
        return result if result.outcome == "failed" else deliver(draft, result, output)


def _is_better(new: tuple[Draft, OptimizeResult], old: tuple[Draft, OptimizeResult]) -> bool:
    """Whether ``new``, at a smaller image size, is the better answer: where ``old`` misses a bound, or by the
    objective."""
    if "failed" in (new[1].outcome, old[1].outcome):
        return old[1].outcome == "failed"
    options = new[0].job.options
    return merit(new[0], options) < merit(old[0], options)


def _searched(job: Job, progress: Progress | None) -> tuple[Draft, OptimizeResult]:
    """The best plan for a job, applied and not written; ``failed`` where it misses a bound."""
    options = job.options
    if hopeless := drifts_alone(job):
        draft = Draft(job, job.table.default())
        return draft, replace(draft.result(), outcome="failed", reason=f"{hopeless}; nothing was written")
    if options.fit_memory is not None:
        found, draft, notes = fit(job, progress)
    elif options.max_drift is not None:
        found, draft, notes = search_within_drift(job, options.max_drift, progress)
    elif options.weighs_drift:
        loss = with_loss(job, progress)
        found, draft = search(job, loss.table, options.constraints, progress)
        notes = (loss.note,)
    else:
        found, draft = search(job, job.table, options.constraints, progress)
        notes = ()
    result = replace(draft.result(), front=_front(job, found), evaluations=found.evaluations, fit=fit_of(draft))
    result = _certified(replace(result, notes=(*result.notes, *notes)), found.certificate)
    reason = missed(draft, options) if options.fit_memory is None else why_not(draft, progress)
    if reason and options.fit_memory is None:
        reason = unreachable(job) or reason
    if reason:
        units = draft.repaired.units if options.max_drift is not None and draft.repaired is not None else ()
        result = replace(result, drift=draft.drift if units else None, repaired=units, outcome="failed", reason=reason)
    return draft, result


def _check_search(options: Options) -> None:
    """Raise :class:`ConfigError` where what is minimised, or an earlier search, cannot be read or measured."""
    if options.resume is not None:
        SearchState.open(options.resume)
    if options.weighs_drift and options.calibration is None:
        raise ConfigError(f"--objective {options.objective}: drift is measured on real inputs: add --calibration PATH")


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
        op_order=wanted.op_order,
    )
    subject = open_subject(model, options.target or DEFAULT_TARGET, input_shapes=options.input_shapes)
    if output is not None:
        check_output(subject.original, output)
    try:
        _check_same_model(wanted, subject)
        with planned_subject(subject, wanted) as subject:
            job = Job(model, options, subject=subject, plan=wanted)
            draft = Draft(job, candidate_of(wanted, job.space, job.table), progress)
            return deliver(draft, draft.result(), output)
    except PlanError as error:
        raise PlanError(f"{name}: {error}") from error


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
    is_sum = certificate.objective in ("latency", "parameters", "macs", "energy")  # the others are not looked at
    value = after.amounts[certificate.objective] if is_sum else certificate.value
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
