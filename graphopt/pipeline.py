"""The jobs: scan, optimize, apply a plan, estimate. What the command line does, it does through these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graphopt.apply import apply_actions
from graphopt.cost.estimate import Estimate
from graphopt.cost.estimate import estimate as estimate_graph
from graphopt.decide import (
    actions_of,
    candidate_of,
    capacity_kept,
    changes_of,
    decisions_of,
    extend_widths,
    notes_of,
    plan_of,
    planned_rules,
    why_unchanged,
)
from graphopt.errors import ModelError, PlanError
from graphopt.ir.graph import Graph
from graphopt.onnx_io.load import load
from graphopt.onnx_io.save import check_output, save
from graphopt.onnx_io.shapes import require_static_shapes
from graphopt.outputs import staged
from graphopt.plan import Plan, plan_to_toml, read_plan
from graphopt.prepare import Subject, find_catalog, find_rules, nothing_to_reshape, open_space, open_subject
from graphopt.results import DEFAULT_TARGET, FrontPoint, OptimizeResult, Options, RuleRefusal, ScanResult
from graphopt.search.local import Found, local_search
from graphopt.search.objective import Constraints, Scorer
from graphopt.space.table import LATENCY, MACS, PARAMETER_BYTES, Candidates, CostTable, compile_table
from graphopt.targets.target import Target, load_target
from graphopt.verification import verify
from graphopt.verification.interface import input_types, read_interface
from graphopt.version import __version__

if TYPE_CHECKING:
    from graphopt.real_data import RealData
    from graphopt.verification.evaluate import Evaluator
    from graphopt.weights.repair import Repaired

Progress = Callable[[int, int, str], None]
"""Called with (done, all, what) during the long parts of a job."""

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
    job = _Job(model, options)
    chosen = job.table.default()
    decisions = decisions_of(job.space, job.table, chosen)
    plan = plan_of(job.subject, job.space, job.rules, job.table, chosen)
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
    original = load(model, input_shapes=options.input_shapes)
    if output is not None:
        check_output(original, output)
    reason = nothing_to_reshape(original)
    if reason:
        return _as_it_was(original, reason, output, options)
    job = _Job(model, options, original=original)
    bounds = options.constraints
    live_set = bounds.peak_bytes  # the search sees the live set; the arena that counts may need a little more
    for _ in range(MEMORY_ATTEMPTS):
        scorer = Scorer(job.table, options.objective, replace(bounds, peak_bytes=live_set))
        found = local_search(job.table, scorer, seed=options.seed, max_evaluations=options.max_evaluations)
        draft = _Draft(job, options, found.best)
        excess = draft.after.peak_activation_bytes - bounds.peak_bytes if bounds.peak_bytes is not None else 0
        if excess <= 0 or not scorer.feasible(found.score):
            break
        assert live_set is not None
        live_set = max(live_set - excess, 1)
    result = replace(draft.result(), front=_front(job, found), evaluations=found.evaluations)
    missed = _missed(draft.after, bounds)
    if missed:
        return replace(result, outcome="failed", reason=missed)
    return _deliver(draft, result, output, progress)


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
        options: of these only what concerns calibration, proof and metric and the ``seed`` count, and ``target`` for
            the estimate (the plan's own target where it is ``None``).
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
    )
    subject = open_subject(model, options.target or DEFAULT_TARGET, input_shapes=options.input_shapes)
    if output is not None:
        check_output(subject.original, output)
    try:
        _check_same_model(wanted, subject)
        job = _Job(model, options, subject=subject, plan=wanted)
        draft = _Draft(job, options, candidate_of(wanted, job.space, job.table))
    except PlanError as error:
        raise PlanError(f"{name}: {error}") from error
    return _deliver(draft, draft.result(), output, progress)


class _Job:
    """One model with its priced space."""

    def __init__(
        self,
        model: str | Path,
        options: Options,
        *,
        original: Graph | None = None,
        subject: Subject | None = None,
        plan: Plan | None = None,
    ) -> None:
        catalog = find_catalog(options)
        self.subject = subject or open_subject(
            model, options.target or DEFAULT_TARGET, input_shapes=options.input_shapes, original=original
        )
        if plan is None:
            self.rules = find_rules(catalog, self.subject.target, options)
            self.space = open_space(self.subject, self.rules, catalog, options)
        else:
            self.rules = planned_rules(plan)
            self.space = extend_widths(open_space(self.subject, self.rules, catalog, options), plan)
        self.data = _real_data(self.subject, options)
        self.evaluator = _evaluator(self.subject, options)
        self.table: CostTable = compile_table(self.space, self.subject.target)

    @property
    def refusals(self) -> tuple[RuleRefusal, ...]:
        """What was refused, in the results' words."""
        return tuple(RuleRefusal(one.rule, one.refusal) for one in self.space.refused)


def _real_data(subject: Subject, options: Options) -> RealData | None:
    """The calibration data, if some was named. (Imported here: it runs onnxruntime in this process.)"""
    if options.calibration is None:
        return None
    from graphopt.real_data import open_real_data

    return open_real_data(subject.path, options.calibration, options)


def _evaluator(subject: Subject, options: Options) -> Evaluator | None:
    """The metric, if one was named."""
    if options.evaluate is None:
        return None
    from graphopt.verification.evaluate import open_evaluator

    return open_evaluator(options.evaluate, input_types(read_interface(subject.path)))


class _Draft:
    """A candidate applied: the new graph and its estimate, nothing written yet."""

    def __init__(self, job: _Job, options: Options, chosen: Candidates) -> None:
        self.job = job
        self.options = options
        self.chosen = chosen
        self.plan = plan_of(job.subject, job.space, job.rules, job.table, chosen)
        sites, self.widths, self.safety = actions_of(job.space, job.table, chosen)
        self._sites = sites
        self.graph = apply_actions(job.subject.graph, job.space.channels, sites, self.widths)
        self.after = estimate_graph(self.graph, job.subject.target) if self.plan.changes else job.subject.before

    def repaired(self, data: RealData, progress: Progress | None) -> Repaired:
        """Apply again, with the channels that matter on real inputs, and repair the weights."""
        graph, channels = self.job.subject.graph, self.job.space.channels
        selections = data.select(graph, channels, {action.group: action.width for action in self.widths})
        rewritten = apply_actions(graph, channels, self._sites, self.widths, selections)
        return data.repair(graph, rewritten, channels, selections, progress=progress)

    def result(self) -> OptimizeResult:
        """Tell about it, before anything is written."""
        job = self.job
        return OptimizeResult(
            outcome="optimized" if self.plan.changes else "unchanged",
            reason="" if self.plan.changes else why_unchanged(job.space, job.subject.target),
            model=str(job.subject.path),
            output=None,
            plan=self.plan,
            plan_text=plan_to_toml(self.plan, notes_of(decisions_of(job.space, job.table, self.chosen))),
            before=job.subject.before,
            after=self.after,
            safety=self.safety,
            changes=changes_of(job.space, job.table, self.chosen),
            capacity_kept=capacity_kept(job.space, self.widths),
            refusals=job.refusals,
            notes=job.subject.notes,
        )


def _deliver(
    draft: _Draft, result: OptimizeResult, output: str | Path | None, progress: Progress | None
) -> OptimizeResult:
    """Repair what is lossy, write the model, prove it, and only then give it its name.

    An exact plan whose outputs differ is a defect of ours: nothing is written, and the outcome is ``failed``.
    """
    job, options = draft.job, draft.options
    path = job.subject.path
    if result.outcome == "unchanged":
        if output is not None:
            save(job.subject.original, output)
        return replace(result, output=None if output is None else str(output))
    metadata = {
        "graphopt.version": __version__,
        "graphopt.target": draft.plan.target,
        "graphopt.plan": draft.plan.digest,
        "graphopt.safety": draft.safety,
    }
    graph = draft.graph
    lossy = draft.safety != "exact"
    if lossy and job.data is not None and options.repair:
        repaired = draft.repaired(job.data, progress)
        graph = repaired.graph
        metadata["graphopt.calibration"] = f"sha256:{job.data.calibration.digest}"
        result = replace(result, repaired=repaired.units, notes=(*result.notes, *repaired.notes))
    with staged(output) as stage:
        save(graph, stage.path, metadata=metadata)
        if lossy and job.data is not None:
            result = replace(result, drift=job.data.drift(path, stage.path))
        elif options.verify:
            inputs = None if job.data is None else job.data.proof_inputs()
            proof = verify(path, stage.path, inputs=inputs, seed=options.seed, input_shapes=options.input_shapes)
            result = replace(result, verification=proof)
            if not lossy and proof.verdict == "differs":
                reason = f"the plan is exact and the outputs differ ({proof.reason}); nothing was written"
                return replace(result, outcome="failed", reason=reason)
        if job.evaluator is not None:
            result = replace(result, evaluation=(job.evaluator.evaluate(path), job.evaluator.evaluate(stage.path)))
        stage.keep()
    return replace(result, output=None if output is None else str(output))


def _as_it_was(original: Graph, reason: str, output: str | Path | None, options: Options) -> OptimizeResult:
    """The result on a model that has nothing to do with all this: it comes out as it went in, priced or not."""
    target = load_target(options.target or DEFAULT_TARGET)
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


def _front(job: _Job, found: Found) -> tuple[FrontPoint, ...]:
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
            plan_of(job.subject, job.space, job.rules, job.table, row),
        )
        for i, row in enumerate(rows)
    )


def _missed(after: Estimate, bounds: Constraints) -> str:
    """Which constraint the best plan still misses, ``""`` when it keeps all."""
    for option, value, bound in (
        ("--max-latency-us", after.latency_us, bounds.latency_us),
        ("--max-peak-bytes", after.peak_activation_bytes, bounds.peak_bytes),
        ("--max-parameter-bytes", after.parameter_bytes, bounds.parameter_bytes),
        ("--max-macs", after.macs, bounds.macs),
    ):
        if bound is not None and value > bound:
            return f"no plan found that keeps {option} {bound:g}: the nearest has {value:,.10g}; nothing was written"
    return ""
