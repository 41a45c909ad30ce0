"""One model with its priced space, a candidate applied to it, and its delivery: repaired, proved, written."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.apply import apply_actions
from graphopt.cost.estimate import Estimate
from graphopt.cost.estimate import estimate as estimate_graph
from graphopt.cost.schedule import Schedule, schedule
from graphopt.decide import (
    actions_of,
    capacity_kept,
    changes_of,
    decisions_of,
    extend_widths,
    notes_of,
    plan_of,
    planned_rules,
    size_changes,
    size_notes,
    why_unchanged,
)
from graphopt.errors import ConfigError
from graphopt.ir.graph import Graph
from graphopt.ir.op import Importance, Safety
from graphopt.ir.resize import Selection
from graphopt.onnx_io.save import save
from graphopt.outputs import staged
from graphopt.plan import Plan, plan_to_toml
from graphopt.prepare import (
    Subject,
    check_energy,
    check_repair_steps,
    find_catalog,
    find_rules,
    in_order,
    open_space,
    open_subject,
)
from graphopt.results import DEFAULT_TARGET, OptimizeResult, Options, OrderView, RuleRefusal
from graphopt.space.compiler import compile_table
from graphopt.space.table import Candidates, CostTable
from graphopt.verification import verify
from graphopt.verification.interface import input_types, read_interface
from graphopt.version import __version__
from graphopt.weights.importance import select

if TYPE_CHECKING:
    from graphopt.real_data import RealData
    from graphopt.teacher import Teacher
    from graphopt.verification.drift import Drift
    from graphopt.verification.evaluate import Evaluation, Evaluator
    from graphopt.weights.repair import Repaired
    from graphopt.weights.sized import Frames

Progress = Callable[[int, int, str], None]
"""Called with (done, all, what) during the long parts of a job."""

_MUCH_MEMORY = 2.0
"""Parameter memory that grows to more than so many times what it was is worth a sentence."""


class Job:
    """One model with its priced space, and the real data to judge it by.

    Attributes:
        options: as the user gave them, shares of the original's costs as constraints.
        subject: the model.
        rules: the rules in force, or the plan's.
        space: the decisions.
        table: their prices.
        data: calibration samples, ``None`` where none were given.
        evaluator: the user's metric, ``None`` where none was given.
        teacher: the original at its own size, where ``subject`` has another one.
    """

    def __init__(
        self,
        model: str | Path,
        options: Options,
        *,
        original: Graph | None = None,
        subject: Subject | None = None,
        plan: Plan | None = None,
    ) -> None:
        """Open ``model``, or take what is open. With a ``plan`` its rules count, and its widths are on offer."""
        catalog = find_catalog(options)
        self.subject = subject or open_subject(
            model, options.target or DEFAULT_TARGET, input_shapes=options.input_shapes, original=original
        )
        check_energy(options, self.subject.target)
        self.options = options = options.bounded(self.subject.source.before)
        if options.is_ordered:
            self.subject = in_order(self.subject)
        if plan is None:
            self.rules = find_rules(catalog, self.subject.target, options)
            self.space = open_space(self.subject, self.rules, catalog, options)
        else:
            self.rules = planned_rules(plan)
            self.space = extend_widths(open_space(self.subject, self.rules, catalog, options), plan)
        frames, self.teacher = _sized(self.subject, options)
        self.data = find_data(self.subject.path, options, frames)
        self.evaluator = find_evaluator(self.subject.path, options, frames)
        self.table: CostTable = compile_table(self.space, self.subject.target)

    def plan_of(self, chosen: Candidates) -> Plan:
        """A candidate as a plan."""
        plan = plan_of(self.subject, self.space, self.rules, self.table, chosen, self.options.importance)
        return replace(plan, op_order="memory") if self.options.is_ordered else plan

    @property
    def refusals(self) -> tuple[RuleRefusal, ...]:
        """What was refused, in the results' words."""
        return tuple(RuleRefusal(one.rule, one.refusal) for one in self.space.refused)

    def evaluate(self, rewritten: Path) -> tuple[Evaluation, Evaluation] | None:
        """The metric of the original, at its own size, and of what became of it."""
        if self.evaluator is None:
            return None
        before = self.teacher.evaluate() if self.teacher is not None else None
        return before or self.evaluator.evaluate(self.subject.path), self.evaluator.evaluate(rewritten)


def _sized(subject: Subject, options: Options) -> tuple[Frames, Teacher | None]:
    """The sizes that samples are brought to, and the original at its own size; nothing where the subject is that.

    (Imported here: they run onnxruntime in this process.)
    """
    if subject.own is None or not (options.calibration or options.evaluate):
        return {}, None
    from graphopt.teacher import find_teacher, frames_of

    return frames_of(subject), find_teacher(subject, options)


def find_data(model: Path, options: Options, frames: Frames | None = None) -> RealData | None:
    """The calibration data for the model's file, if some was named. Raises :class:`ConfigError` where it does not do.

    (Imported here: it runs onnxruntime in this process.)
    """
    check_repair_steps(options)
    if options.calibration is None:
        if options.measured_importance != "l2":
            raise ConfigError(f"--importance {options.importance} measures on real inputs: add --calibration PATH")
        return None
    from graphopt.real_data import open_real_data

    return open_real_data(model, options.calibration, options, frames)


def find_evaluator(model: Path, options: Options, frames: Frames | None = None) -> Evaluator | None:
    """The metric for the model's file, if one was named. Raises :class:`ConfigError` where it does not do."""
    if options.evaluate is None:
        return None
    from graphopt.verification.evaluate import open_evaluator

    return open_evaluator(options.evaluate, input_types(read_interface(model)), frames)


class Draft:
    """A candidate applied: the new graph and its estimate, nothing written yet.

    Attributes:
        job: what it is for.
        chosen: the candidate.
        plan: the same as a plan.
        safety: the least safe of its changes, that of the size left out.
        after: its estimate. Weights do not matter to it, so it is there before they are repaired.
    """

    def __init__(self, job: Job, chosen: Candidates, progress: Progress | None = None) -> None:
        """Apply ``chosen``; ``progress`` is told when weights are repaired."""
        self.job = job
        self.chosen = chosen
        self.plan = job.plan_of(chosen)
        self._progress = progress
        self._sites, self._widths, self.safety = actions_of(job.space, job.table, chosen)
        self._first, self._order = self._applied(None)
        if self._order is None or not (self._order.has_moved or (job.subject.order and job.subject.order.has_moved)):
            self.plan = replace(self.plan, op_order="file")
        before = job.subject.before
        self.after: Estimate = estimate_graph(self._first, job.subject.target) if self.plan.changes else before

    @property
    def promise(self) -> Safety:
        """The least safe of its changes, that of the size among them."""
        return "retrain" if self.job.subject.own is not None else self.safety

    @property
    def importance(self) -> Importance | None:
        """What chooses the channels that stay; ``None`` where no group shrinks."""
        channels = self.job.space.channels
        shrinks = any(action.width < channels.group(action.group).size for action in self._widths)
        return self.job.options.measured_importance if shrinks else None

    @cached_property
    def _selections(self) -> Mapping[str, Selection]:
        """Which channels stay in each group that gets another width."""
        graph, channels, data = self.job.subject.graph, self.job.space.channels, self.job.data
        widths = {action.group: action.width for action in self._widths}
        return select(graph, channels, widths) if data is None else data.select(graph, channels, widths)

    @cached_property
    def _chosen(self) -> Graph:
        """The model applied with the channels that are to stay, its weights not repaired."""
        if self.importance in (None, "l2"):
            return self._first
        return self._applied(self._selections)[0]

    def _applied(self, selections: Mapping[str, Selection] | None) -> tuple[Graph, Schedule | None]:
        """The actions applied, and what became of the order of the ops."""
        job = self.job
        graph = apply_actions(job.subject.graph, job.space.channels, self._sites, self._widths, selections)
        order = schedule(graph, job.subject.target) if job.options.is_ordered else None
        return (graph, None) if order is None else (order.graph, order)

    @property
    def order(self) -> OrderView | None:
        """What another order of the ops does, ``None`` where they stand as in the file."""
        alone = self.job.subject.order
        if self.plan.op_order == "file" or alone is None or self._order is None:
            return None
        return OrderView(alone.before, alone.after, self._order.after, self._order.bound)

    @cached_property
    def repaired(self) -> Repaired | None:
        """The model with its weights repaired; ``None`` for an exact plan, and without calibration data or leave."""
        job = self.job
        if self.safety == "exact" or job.data is None or not job.options.repair:
            return None
        original, channels = job.subject.graph, job.space.channels
        return job.data.repair(original, self._chosen, channels, self._selections, progress=self._progress)

    @property
    def graph(self) -> Graph:
        """The model with the weights that a search is judged by."""
        return self._chosen if self.repaired is None else self.repaired.graph

    @cached_property
    def refined(self) -> Repaired | None:
        """`repaired` after the gradient steps that were asked for, ``None`` without any."""
        job, repaired = self.job, self.repaired
        if repaired is None or job.data is None or not job.options.repair_steps:
            return None
        original, channels, steps = job.subject.graph, job.space.channels, job.options.repair_steps
        return job.data.refine(
            original, repaired.graph, channels, self._selections, steps=steps, progress=self._progress
        )

    @cached_property
    def drift(self) -> Drift | None:
        """Its drift on held-out samples, ``None`` where there is nothing to measure (an exact plan, no samples)."""
        return self.drift_of(self.graph)

    def drift_of(self, graph: Graph) -> Drift | None:
        """The drift with the weights of ``graph``: from the original at its own size where both can be compared."""
        data, teacher = self.job.data, self.job.teacher
        compared = teacher is not None and teacher.can_compare
        if data is None or (self.safety == "exact" and not compared):
            return None
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            path = Path(folder) / "draft.onnx"
            save(graph, path)
            if teacher is not None and compared:
                return teacher.drift(data, path)
            return data.drift(self.job.subject.path, path)

    def result(self) -> OptimizeResult:
        """Tell about it, before anything is written."""
        job = self.job
        notes = {**notes_of(decisions_of(job.space, job.table, self.chosen)), **size_notes(job.subject)}
        return OptimizeResult(
            outcome="optimized" if self.plan.changes else "unchanged",
            reason="" if self.plan.changes else why_unchanged(job.space, job.subject.target),
            model=str(job.subject.source.path),
            output=None,
            plan=self.plan,
            plan_text=plan_to_toml(self.plan, notes),
            before=job.subject.source.before,
            after=self.after,
            safety=self.promise,
            changes=(*size_changes(job.subject), *changes_of(job.space, job.table, self.chosen)),
            capacity_kept=capacity_kept(job.space, self._widths),
            importance=self.importance,
            refusals=job.refusals,
            notes=(*job.subject.notes, *_growth(job.subject.source.before, self.after)),
            order=self.order,
            resolution=job.subject.resolution,
        )


def _growth(before: Estimate, after: Estimate) -> list[str]:
    """Say when latency was bought with much parameter memory: nobody who minimises latency alone looks there."""
    if after.parameter_bytes <= _MUCH_MEMORY * before.parameter_bytes:
        return []
    change = after.parameter_bytes / max(before.parameter_bytes, 1) - 1
    return [
        f"parameter memory grows by {change:.0%}, from {before.parameter_bytes} to {after.parameter_bytes} bytes; "
        "--max-parameter-bytes bounds it"
    ]


def deliver(draft: Draft, result: OptimizeResult, output: str | Path | None) -> OptimizeResult:
    """Repair what is lossy, write the model, prove it, and only then give it its name.

    An exact plan whose outputs differ is a defect of ours: nothing is written, and the outcome is ``failed``.
    """
    job = draft.job
    path = job.subject.path
    if result.outcome == "unchanged":
        if output is not None:
            save(job.subject.original, output)
        return replace(result, output=None if output is None else str(output))
    if draft.repaired is not None and job.data is not None:
        notes = (*result.notes, *filter(None, [job.data.few]))
        result = replace(result, repaired=draft.repaired.units, notes=notes)
    graph, result = _refined(draft, replace(result, drift=draft.drift))
    with staged(output) as stage:
        save(graph, stage.path, metadata=_metadata(draft))
        if job.options.verify and (draft.drift is None or draft.safety == "exact"):
            inputs = None if job.data is None else job.data.proof_inputs()
            proof = verify(
                path, stage.path, inputs=inputs, seed=job.options.seed, input_shapes=job.subject.input_shapes
            )
            result = replace(result, verification=proof)
            if draft.safety == "exact" and proof.verdict == "differs":
                reason = f"the plan is exact and the outputs differ ({proof.reason}); nothing was written"
                return replace(result, outcome="failed", reason=reason)
        result = replace(result, evaluation=job.evaluate(stage.path))
        stage.keep()
    return replace(result, output=None if output is None else str(output))


def _refined(draft: Draft, result: OptimizeResult) -> tuple[Graph, OptimizeResult]:
    """The graph to write, and the result with what gradient steps did: never a larger drift."""
    before, refined = draft.drift, draft.refined
    drift = None if refined is None else draft.drift_of(refined.graph)
    if refined is None or drift is None or before is None:
        return draft.graph, result
    if drift.value <= before.value:
        return refined.graph, replace(result, refined=refined.units, drift=drift)
    note = f"gradient steps raised the drift from {before.value:.3g} to {drift.value:.3g}: the repaired weights stay"
    return draft.graph, replace(result, notes=(*result.notes, note))


def _metadata(draft: Draft) -> Mapping[str, str]:
    """Where the model comes from."""
    found = {
        "graphopt.version": __version__,
        "graphopt.target": draft.plan.target,
        "graphopt.plan": draft.plan.digest,
        "graphopt.safety": draft.promise,
    }
    if draft.repaired is not None and draft.job.data is not None:
        found["graphopt.calibration"] = f"sha256:{draft.job.data.calibration.digest}"
    return found
