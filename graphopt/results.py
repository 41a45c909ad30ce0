"""What the jobs return: typed, frozen, and the same whether Python or the command line asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from graphopt.cost.estimate import Estimate
from graphopt.ir.op import Importance, Safety
from graphopt.plan import OpOrder, Plan
from graphopt.rewrites.rewrite import Refusal
from graphopt.search.budget import MAX_EVALUATIONS
from graphopt.search.goal import Quantity, parse_objective
from graphopt.search.objective import Constraints
from graphopt.search.strategy import Certificate, SearchName
from graphopt.verification import Verification

if TYPE_CHECKING:  # these run onnxruntime in this process, which a job without real inputs never does
    from graphopt.resolution.model import Resolution
    from graphopt.verification.drift import Drift
    from graphopt.verification.evaluate import Evaluation
    from graphopt.weights.repair import RepairedUnit

OutcomeKind = Literal["optimized", "unchanged", "skipped", "failed"]
DEFAULT_TARGET = "npu-32"
"""The target where none is named."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to optimise. The defaults are the command line's.

    Attributes:
        target: name of a bundled target, or path of a target file; ``None`` is :data:`DEFAULT_TARGET`, or the plan's
            own target where a plan is applied.
        allow: the least safe kind of change that may be made; ``None``: ``exact``, or ``repaired`` with calibration.
        packs: packs of rules in force.
        rules: ids of rules added to the packs' (``--rule``).
        no_rules: ids of rules taken out (``--no-rule``).
        rule_dirs: folders with an expert's own cards and packs.
        protect: globs of op names, op keys or tensors that stay as they are.
        depth_multipliers: multipliers that `scale-depth` may choose from: the largest that keeps the constraints, or
            the best by the objective where there are none; empty leaves the rule asleep.
        resolutions: sizes of the images (height, width) to choose from, by input name (``""`` is the image input): the
            largest that keeps the constraints, or the best by the objective (within `max_drift`) where there are none;
            empty: the model's.
        objective: what is minimised: a quantity, a weighted sum, or one and then another, as
            :func:`graphopt.search.goal.parse_objective` reads it.
        constraints: what must hold.
        shares: upper bounds beside them, as shares of what the original has (0.47: at most 47 % of it), by quantity.
        seed: of the search and of made-up verification inputs.
        max_evaluations: when the search stops at the latest (candidates priced).
        max_seconds: that all searches of the job may take together; where they bind, the result is not reproducible.
        resume: file that keeps what the searches found: the same job goes on from it.
        search: the strategy: ``local``, ``exact`` (the optimum with its proof), ``evolve`` (a whole
            front) or ``greedy``.
        certify: whether to say how far from the optimum the plan is at most.
        input_shapes: concrete shapes for dynamic inputs, by name; under ``""``, likely ones for all that is still open.
        calibration: real inputs without labels: an `.npz` or `.npy` by input name, or a folder of images. Lossy changes
            are repaired on them, drift and proof measured.
        preprocess: how images are prepared: a bundled preset, or a TOML file.
        repair: whether weights are repaired where there is calibration data.
        repair_steps: gradient steps for each block of the repaired model, without labels (the ``[train]`` extra); a
            search is judged without them, the model that it finds gets them.
        importance: what chooses the channels that stay where a group shrinks: ``l2`` (their weights), ``energy`` or
            ``column-subset`` (what they do on calibration data, see :mod:`graphopt.weights.choose`), or ``auto``:
            ``column-subset`` where weights are repaired, else ``l2``. ``None`` is ``auto``, or the plan's own where a
            plan is applied.
        max_drift: bound for the drift on held-out samples (see `verification.drift`). The drift of every decision is
            measured first, and every curated width is on offer.
        cache: folder for measured drifts; the user's cache folder where it is ``None``.
        memory_limit_bytes: bound for what grows with the calibration samples; ``None`` is 3 GiB.
        evaluate: labelled `.npz`, or ``module:function``: the metric before and after.
        verify: whether to run original and result against each other.
        op_order: how the ops of the result stand; ``None``: in the order that needs the least memory where memory is
            minimised or bound, else as in the file.
        fit_memory: bytes that parameters and peak activations must fit into together, with the least loss first and
            latency next (see :mod:`graphopt.fitting`; the objective stays ``latency``).
        curate_widths: whether every curated width is on offer without a bound for the drift, too.
    """

    target: str | None = None
    allow: Safety | None = None
    packs: tuple[str, ...] = ("default",)
    rules: tuple[str, ...] = ()
    no_rules: tuple[str, ...] = ()
    rule_dirs: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    depth_multipliers: tuple[float, ...] = ()
    resolutions: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    objective: str = "latency"
    constraints: Constraints = field(default_factory=Constraints)
    shares: Mapping[Quantity, float] = field(default_factory=dict)
    seed: int = 0
    max_evaluations: int = MAX_EVALUATIONS
    max_seconds: float | None = None
    resume: str | None = None
    search: SearchName = "local"
    certify: bool = False
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    calibration: str | None = None
    preprocess: str | None = None
    repair: bool = True
    repair_steps: int = 0
    importance: Importance | None = None
    max_drift: float | None = None
    cache: str | None = None
    memory_limit_bytes: int | None = None
    evaluate: str | None = None
    verify: bool = True
    op_order: OpOrder | None = None
    fit_memory: int | None = None
    curate_widths: bool = False

    @property
    def allowed(self) -> Safety:
        """The least safe kind of change that may be made."""
        return self.allow or ("repaired" if self.calibration and self.repair else "exact")

    @property
    def is_bounded(self) -> bool:
        """Whether there is a bound on costs."""
        return bool(self.shares) or self.constraints != Constraints()

    def bounded(self, original: Estimate) -> Options:
        """The options with every share as a constraint, given what the original costs."""
        limits = {quantity: share * original.amounts[quantity] for quantity, share in self.shares.items()}
        return replace(self, constraints=self.constraints.tightened(limits))

    @property
    def weighs_drift(self) -> bool:
        """Whether drift is part of what is minimised."""
        return "drift" in parse_objective(self.objective).quantities

    @property
    def is_ordered(self) -> bool:
        """Whether ops are put in the order that needs the least memory."""
        if self.op_order is not None:
            return self.op_order == "memory"
        minimised = parse_objective(self.objective).quantities
        return bool({"peak-memory", "memory"} & {*minimised, *self.constraints.bounds, *self.shares})

    @property
    def measured_importance(self) -> Importance:
        """What chooses channels with these options, ``auto`` decided."""
        if self.importance in (None, "auto"):
            return "column-subset" if self.calibration and self.repair else "l2"
        return self.importance


@dataclass(frozen=True, slots=True)
class Change:
    """One decision that changed the model.

    Attributes:
        place: site id or channel group id.
        rule: rule id(s) behind it.
        text: what changed: the op where a site begins, or the widths (``96 -> 64 channels``).
        safety: what it promises.
        gain_us: estimated latency saved by this change alone, the rest of the plan staying (positive is faster).
    """

    place: str
    rule: str
    text: str
    safety: Safety
    gain_us: float


@dataclass(frozen=True, slots=True)
class OptionView:
    """One option of a site or width, as `scan` and `explain` show it: gain alone against the untouched model.

    ``rules`` are the ids of the rules that offer it, none for keeping things as they are.
    """

    label: str
    safety: Safety
    gain_us: float
    chosen: bool = False
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DecisionView:
    """One decision: a site or a width, with its options. ``where`` is the op that a reader would look for."""

    kind: Literal["site", "width"]
    id: str
    where: str
    options: tuple[OptionView, ...]


@dataclass(frozen=True, slots=True)
class RuleRefusal:
    """A refusal with the rule that made it."""

    rule: str
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class OrderView:
    """What putting ops in another order did. All are arenas in bytes, by estimate.

    Attributes:
        file_bytes: the original's, its ops as in the file.
        alone_bytes: the original's in the order that needs the least, nothing else changed.
        bytes: the result's.
        bound_bytes: no order of the result needs less.
    """

    file_bytes: int
    alone_bytes: int
    bytes: int
    bound_bytes: int


@dataclass(frozen=True, slots=True)
class MemorySplit:
    """What a model takes up on its target, by estimate."""

    parameter_bytes: int
    peak_bytes: int

    @property
    def total_bytes(self) -> int:
        """Parameters and peak activations together."""
        return self.parameter_bytes + self.peak_bytes


@dataclass(frozen=True, slots=True)
class MemoryFit:
    """How a model fits into the memory that it was to fit into."""

    bound_bytes: int
    before: MemorySplit
    after: MemorySplit

    @property
    def spare_bytes(self) -> int:
        """What is left; negative where it does not fit."""
        return self.bound_bytes - self.after.total_bytes


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """One plan of the Pareto front, by estimate."""

    latency_us: float
    peak_bytes: int
    parameter_bytes: int
    macs: int
    plan: Plan


@dataclass(frozen=True, slots=True)
class ScanResult:
    """Everything that is on offer for a model on a target; ``plan`` keeps everything as it is, ready to be edited."""

    plan: Plan
    plan_text: str
    before: Estimate
    decisions: tuple[DecisionView, ...]
    refusals: tuple[RuleRefusal, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OptimizeResult:
    """How one model ended.

    Attributes:
        outcome: ``optimized``, ``unchanged``, or ``failed`` (a constraint out of reach, a proof that did not hold).
        reason: why the model is unchanged, the job failed or a zoo's calibration data was not used, else ``""``.
        model, output: paths; ``output`` is ``None`` when nothing was written.
        plan, plan_text: the plan, and its file text with gains as comments.
        before, after: estimates of the original and of the written model; ``None`` where an unchanged model has
            nothing to price (no convolution, and open shapes).
        safety: what the changes promise together (the least safe of them).
        changes: the decisions that changed something, best first.
        front: Pareto front met on the way (latency, peak memory, parameters).
        verification: the proof, ``None`` when it was not asked for, or where ``drift`` says more.
        drift: distance of a lossy result's outputs on calibration samples that no solve has seen.
        repaired: what became of each op whose weights were fitted, in order.
        refined: what gradient steps made of each block, in order; a block goes by its last linear op.
        evaluation: the metric before and after, where labels or a function were given.
        capacity_kept: share of the original's channels that are still there, averaged over the groups by parameters.
        importance: what chose the channels that stay, ``None`` where no group shrank.
        refusals: what was refused where and why.
        notes: sentences that the reader should see (normalising skipped, batch size assumed, bound not reached).
        evaluations: candidates priced by the search.
        certificate: how far the plan is from the optimum at most, ``None`` where that was not looked into.
        order: what another order of the ops did, ``None`` where they stand as in the file.
        fit: how it fits into memory, ``None`` where that was not asked for.
        resolution: what another input size did, ``None`` at the model's own. ``before`` and the metric before are then
            at its own size; drift is from there in outputs whose shape is the same; ``verification`` is against the
            untouched model at the new size.
    """

    outcome: OutcomeKind
    reason: str
    model: str
    output: str | None
    plan: Plan
    plan_text: str
    before: Estimate | None
    after: Estimate | None
    safety: Safety = "exact"
    changes: tuple[Change, ...] = ()
    front: tuple[FrontPoint, ...] = ()
    verification: Verification | None = None
    drift: Drift | None = None
    repaired: tuple[RepairedUnit, ...] = ()
    refined: tuple[RepairedUnit, ...] = ()
    evaluation: tuple[Evaluation, Evaluation] | None = None
    capacity_kept: float = 1.0
    importance: Importance | None = None
    refusals: tuple[RuleRefusal, ...] = ()
    notes: tuple[str, ...] = ()
    evaluations: int = 0
    certificate: Certificate | None = None
    order: OrderView | None = None
    fit: MemoryFit | None = None
    resolution: Resolution | None = None

    @property
    def estimates(self) -> tuple[Estimate, Estimate]:
        """Before and after, for a result that has them. Raises ``ValueError`` otherwise."""
        if self.before is None or self.after is None:
            raise ValueError("the model was not priced")
        return self.before, self.after


@dataclass(frozen=True, slots=True)
class ZooNumbers:
    """What a table of many models shows of one; every cost is an estimate, before and after.

    Attributes:
        safety: what the changes promise together.
        changes: number of decisions that changed something.
        verdict: of the verification, ``None`` when there was none.
        plan_digest: of the plan that was applied.
        drift: the worst output's drift on held-out samples, ``None`` where none was measured.
        metric: name of the evaluation's first metric, ``""`` without an evaluation.
        metric_before: its value for the original.
        metric_after: its value for the result.
        metric_error: standard error of their difference, ``None`` where the metric is no accuracy.
        gap: how far the plan is from the optimum at most, relative; ``None`` without a certificate.
    """

    latency_us_before: float
    latency_us_after: float
    peak_activation_bytes_before: int
    peak_activation_bytes_after: int
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    safety: Safety
    changes: int
    verdict: str | None
    plan_digest: str
    drift: float | None = None
    metric: str = ""
    metric_before: float | None = None
    metric_after: float | None = None
    metric_error: float | None = None
    gap: float | None = None


@dataclass(frozen=True, slots=True)
class ZooRow:
    """One model of a zoo. Every model ends in an outcome.

    Attributes:
        model: path of the model, relative to the folder.
        outcome: how it ended.
        reason: why it is unchanged, was skipped or failed, or what a reader of its numbers must know, else ``""``.
        seconds: how long it took (wall clock).
        numbers: estimates and verdict; ``None`` where the model never got that far.
        result: the whole result; ``None`` without numbers, and where an earlier run of the zoo left the row.
    """

    model: str
    outcome: OutcomeKind
    reason: str
    seconds: float
    numbers: ZooNumbers | None = None
    result: OptimizeResult | None = None
