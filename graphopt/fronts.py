"""Several plans and models along the front: latency against what is given up for it.

Where only exact changes are on offer, nothing but memory (parameters and peak activations) is given up; else it is
measured drift, or capacity where there are no real inputs (`loss`). Fronts of memory are evolved (`search.evolve`),
those of a loss drawn by a sweep of bounds (`search.sweep`). The candidates chosen from a front are applied, repaired,
proved and written as a single result is.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np

from graphopt.candidates import missed
from graphopt.cost.estimate import Estimate
from graphopt.decide import actions_of, capacity_kept
from graphopt.draft import Draft, Job, Progress, deliver
from graphopt.errors import ConfigError
from graphopt.loss import Loss, capacity_loss, with_loss
from graphopt.onnx_io.load import load
from graphopt.onnx_io.save import check_output
from graphopt.outputs import staged
from graphopt.prepare import nothing_to_reshape, open_subject
from graphopt.reach import unreachable
from graphopt.results import DEFAULT_TARGET, OptimizeResult, Options, OutcomeKind
from graphopt.search.budget import Budget, watched
from graphopt.search.goal import Quantity
from graphopt.search.objective import Scorer
from graphopt.search.run import run_search
from graphopt.search.sweep import Points, even, front_of, points_of, spread, sweep
from graphopt.sizing import sized_subjects
from graphopt.space.table import DRIFT, Candidates, CostTable

GivenUp = Literal["memory", "capacity", "drift"]
"""What latency is traded against."""

MOST: Final = len(string.ascii_uppercase)
"""Candidates at most: each has a letter."""

MOST_DRIFT: Final = 1e3
"""Above this the sum of single drifts is not one that was measured."""

AS_GOOD: Final = 0.02
"""Share of the front's latency that its fast end may lack: the very last steps often cost more than all before them."""

UNMEASURED: Final = "no real inputs: what lossy changes give up is not part of this front; --calibration measures it"

_SPARE: Final = 2
"""Times as many points are looked at as are asked for, where some turn out to miss a bound."""


@dataclass(frozen=True, slots=True)
class FrontCandidate:
    """One plan and model of the front.

    Attributes:
        label: its letter; A gives up the least.
        result: the same that `optimize` returns for a single plan.
        latency_us, value: where it lies on the front, as the search saw it (see :class:`Front`).
    """

    label: str
    result: OptimizeResult
    latency_us: float
    value: float


@dataclass(frozen=True)
class Front:
    """A front and the candidates chosen from it.

    Attributes:
        outcome: ``optimized``, ``unchanged`` (nothing is faster or smaller) or ``failed`` (a bound out of reach, or an
            exact plan that does not prove equal; nothing is written then).
        reason: why it is unchanged or failed, else ``""``.
        model: path of the original.
        target: name of the target.
        before: its estimate.
        axis: what is given up for latency.
        origin: the original's value on that axis.
        points: latency (us) and value, shape (points, 2), fastest last. The value is memory (bytes; the live set stands
            for the arena), the share of the channels that is kept, or the sum of the single drifts.
        candidates: those chosen, A first.
        notes: sentences for the reader.
        evaluations: candidates priced.
    """

    outcome: OutcomeKind
    reason: str
    model: str
    target: str
    before: Estimate
    axis: GivenUp
    origin: float
    points: Points
    candidates: tuple[FrontCandidate, ...] = ()
    notes: tuple[str, ...] = ()
    evaluations: int = 0


def candidate_files(output: Path, count: int) -> tuple[tuple[str, Path, Path], ...]:
    """(label, model file, plan file) of each candidate that may be written for ``output``."""
    stem = output.name.removesuffix(".onnx")
    return tuple(
        (label, output.with_name(f"{stem}.{label}.onnx"), output.with_name(f"{stem}.{label}.plan.toml"))
        for label in string.ascii_uppercase[:count]
    )


def pareto(
    model: str | Path,
    output: str | Path | None = None,
    options: Options | None = None,
    *,
    count: int = 5,
    progress: Progress | None = None,
) -> Front:
    """Write ``count`` well-spread models of the front, each with its plan: ``OUT.A.onnx``, ``OUT.A.plan.toml`` ...

    All files appear together at the end, or none does.

    Args:
        model: ONNX file.
        output: what the files are named after; ``None`` writes nothing.
        options: as of `pipeline.optimize`; the objective stays ``latency``.
        count: candidates, from 1 to :data:`MOST`; fewer come out where the front is shorter.
        progress: called with (done, all, what) during the long parts.

    Raises:
        ModelError: the model cannot be loaded, its shapes are not static, or an output cannot be written.
        ConfigError: an option is wrong, or says something else than a front.
        VerificationError: a proof could not be made.
    """
    options = _for_front(options or Options(), count)
    original = load(model, input_shapes=options.input_shapes)
    files = [] if output is None else candidate_files(Path(output), count)
    for _, file, _ in files:
        check_output(original, file)
    opened = open_subject(model, options.target or DEFAULT_TARGET, input_shapes=options.input_shapes, original=original)
    with watched(options.max_seconds), sized_subjects(opened, options) as subjects:
        subject, *others = subjects
        if others:
            raise ConfigError("--pareto is about one size: name one in --resolutions")
        job = Job(model, options, subject=subject)
        front, drafts = _drawn(job, count, progress)
        reason = nothing_to_reshape(original)
        if reason and not drafts:
            front = replace(front, reason=reason)
        return _delivered(front, drafts, None if output is None else Path(output))


def _for_front(options: Options, count: int) -> Options:
    if not 1 <= count <= MOST:
        raise ConfigError(f"--pareto must be from 1 to {MOST}, not {count}")
    others = options.objective != "latency", options.fit_memory is not None, options.max_drift is not None
    if any(others) or options.certify:
        asked = "--objective, --fit-memory, --max-drift and --certify"
        raise ConfigError(f"--pareto draws a front of its own: leave {asked} out")
    return replace(
        options,
        op_order=options.op_order or ("memory" if options.allowed == "exact" else None),
        curate_widths=options.allowed != "exact" and not options.depth_multipliers,
    )


def _drawn(job: Job, count: int, progress: Progress | None) -> tuple[Front, list[tuple[Draft, int]]]:
    """The front, and what is chosen from it, A first: each with its place in the front."""
    options = job.options
    loss = _loss(job, progress)
    costs = any(factor.table[DRIFT].any() for factor in loss.table.factors)
    axis: GivenUp = "memory" if not costs else "drift" if loss.is_measured else "capacity"
    other: Quantity = "memory" if axis == "memory" else "drift"
    constraints = replace(options.constraints, drift=MOST_DRIFT) if axis == "drift" else options.constraints
    budget = Budget(options.max_evaluations)
    if axis == "memory" and options.search in ("local", "evolve"):
        scorer = Scorer(loss.table, "latency", constraints)
        found = run_search("evolve", loss.table, scorer, seed=options.seed, budget=budget)
        met = np.array([found.best, *found.front])
        rows, spent = front_of(loss.table, other, met, constraints), found.evaluations
    else:
        rows, spent = sweep(loss.table, other, constraints, strategy=options.search, seed=options.seed, budget=budget)
    rows = rows[::-1]
    points = points_of(loss.table, other, rows) if len(rows) else np.zeros((0, 2))
    origin = 1.0 if axis == "capacity" else float(points_of(loss.table, other, loss.table.default()[None])[0, 1])
    front = Front(
        outcome="optimized",
        reason="",
        model=str(job.subject.source.path),
        target=job.subject.target.name,
        before=job.subject.source.before,
        axis=axis,
        origin=origin,
        points=_kept(job, rows, points) if axis == "capacity" else points,
        notes=(*job.subject.notes, *filter(None, [loss.note])),
        evaluations=spent,
    )
    chosen, notes = _chosen(job, loss.table, rows, even(points, other), count, progress)
    if 0 < len(chosen) < count:
        notes.append(f"the front has no more than {len(chosen)} plans that differ and keep the bounds")
    if chosen:
        return replace(front, notes=(*front.notes, *notes)), chosen
    if not len(rows) or notes:
        reason = unreachable(job) or (notes[0] if notes else _out_of_reach(job))
        return replace(front, outcome="failed", reason=reason), []
    reason = f"no decision on offer makes it faster or smaller on {job.subject.target.name}"
    return replace(front, outcome="unchanged", reason=reason), []


def _loss(job: Job, progress: Progress | None) -> Loss:
    """What candidates give up beside memory: nothing where all changes are exact, or capacity is asked of a model that
    has no width to give up."""
    if job.options.allowed == "exact":
        return Loss(job.table)
    loss = with_loss(job, progress)
    if loss.is_measured or any(lost.any() for lost in capacity_loss(job).values()):
        return loss
    return Loss(job.table, note=UNMEASURED if loss.note else "")


def _out_of_reach(job: Job) -> str:
    bounds = ", ".join(f"{quantity} {bound:,g}" for quantity, bound in job.options.constraints.bounds.items())
    return f"no plan found that keeps the bounds ({bounds}); nothing was written"


def _chosen(
    job: Job, table: CostTable, rows: Candidates, points: Points, count: int, progress: Progress | None
) -> tuple[list[tuple[Draft, int]], list[str]]:
    """Well-spread candidates that change something and keep the bounds as finished models, and what to note."""
    is_moved = job.subject.order is not None and job.subject.order.has_moved
    last = _fast_end(points)
    left = [i for i in range(len(rows)) if i <= last and (is_moved or (rows[i] != table.default()).any())]
    notes: list[str] = []
    made: dict[int, Draft] = {}
    for _ in range(_SPARE * count):
        picked = [left[i] for i in spread(points[left], count)] if left else []
        new = next((i for i in picked if i not in made), None)
        if new is None:
            break
        made[new] = Draft(job, rows[new], progress)
        reason = missed(made[new], job.options) if made[new].plan.changes else "nothing changes"
        if reason:
            left.remove(new)
            notes += [reason] if made[new].plan.changes else []
    return [(made[i], i) for i in picked if i in made], notes


def _fast_end(points: Points) -> int:
    """The first of the points, fastest last, that is as good as the fastest."""
    if not len(points):
        return -1
    latency = points[:, 0]
    return int((latency <= latency.min() + AS_GOOD * (latency.max() - latency.min())).argmax())


def _kept(job: Job, rows: Candidates, points: Points) -> Points:
    """The points with the share of the channels that is kept."""
    kept = [capacity_kept(job.space, actions_of(job.space, job.table, row)[1]) for row in rows]
    return np.stack([points[:, 0], np.array(kept)], axis=1) if kept else points


def _delivered(front: Front, drafts: list[tuple[Draft, int]], output: Path | None) -> Front:
    """Every candidate repaired, written and proved; the files get their names when all of them are."""
    done: list[FrontCandidate] = []
    with staged(output) as stage:
        files = candidate_files(stage.path, len(drafts))
        for (label, file, plan_file), (draft, place) in zip(files, drafts, strict=True):
            result = deliver(draft, draft.result(), file)
            if result.outcome == "failed":
                return replace(front, outcome="failed", reason=f"candidate {label}: {result.reason}")
            plan_file.write_text(result.plan_text, encoding="utf-8", newline="\n")
            final = None if output is None else str(output.with_name(file.name))
            latency, value = map(float, front.points[place])
            done.append(FrontCandidate(label, replace(result, output=final), latency, value))
        stage.keep()
    return replace(front, candidates=tuple(done))
