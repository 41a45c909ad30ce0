"""What the search minimises, and what must hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from graphopt.search.goal import PEAK, TERMS, Level, Objective, Quantity, parse_objective
from graphopt.space.table import INVALID, LATENCY, Candidates, CostTable

Values = Mapping[int, npt.NDArray[np.float64]]
"""Metrics of candidates, each shape (candidates,)."""

TIE = 1e-6
"""Weight of the relative latency when something else is minimised: it only breaks ties."""
CHANGE = 1e-9
"""Price of one changed decision: without a gain, nothing changes."""
SLACK = 1e-9
"""Relative rounding that a level may be off what was reached before."""


FIELDS: Mapping[Quantity, str] = {
    "latency": "latency_us",
    "peak-memory": "peak_bytes",
    "parameters": "parameter_bytes",
    "memory": "memory_bytes",
    "macs": "macs",
    "energy": "energy_uj",
    "drift": "drift",
}
"""The field of `Constraints` that bounds each quantity."""

OPTIONS = {quantity: f"--max-{field.replace('_', '-')}" for quantity, field in FIELDS.items()}
"""The option of the command line that does so."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """Upper bounds that the result must keep; ``None`` is no bound.

    ``memory_bytes`` bounds parameters and peak activations together. ``drift`` is bound where its parts add up: the KL
    divergence, or the square of a relative L2 distance.
    """

    latency_us: float | None = None
    peak_bytes: int | None = None
    parameter_bytes: int | None = None
    memory_bytes: int | None = None
    macs: int | None = None
    energy_uj: float | None = None
    drift: float | None = None

    @property
    def bounds(self) -> Mapping[Quantity, float]:
        """The bounds that are set, by quantity."""
        found = {quantity: getattr(self, field) for quantity, field in FIELDS.items()}
        return {quantity: float(bound) for quantity, bound in found.items() if bound is not None}

    def tightened(self, limits: Mapping[Quantity, float]) -> Constraints:
        """The same with these bounds, too: of two for one quantity the tighter counts. Bytes and MACs are whole."""
        changes: dict[str, float] = {}
        for quantity, limit in limits.items():
            tight = min(limit, self.bounds.get(quantity, limit))
            changes[FIELDS[quantity]] = tight if quantity in ("latency", "energy", "drift") else int(tight)
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Bound:
    """A weighted sum of metrics that must not exceed a limit (over 0)."""

    weights: Mapping[int, float]
    limit: float

    def off(self, values: Values) -> npt.NDArray[np.float64]:
        """How far candidates are above the limit, relative; below it is negative."""
        total: npt.NDArray[np.float64] = weighted(self.weights, values) / self.limit - 1.0
        return total


class Scorer:
    """Turns candidates into one number each, smaller is better.

    Feasible candidates score their objective (its first level) relative to the unchanged model; infeasible ones score
    above :attr:`INFEASIBLE`, by how far they are off, so that a search finds its way into the feasible part.

    Attributes:
        level: what is minimised.
        weights: of each metric in a feasible candidate's score; :data:`CHANGE` for every change comes on top.
        bounds: what must hold.
        rows: the table's metrics that a score needs.
        peak: whether it needs peak memory, too.
        reference: metrics of the unchanged model.
        evaluations: candidates scored.
    """

    INFEASIBLE = 1e6

    def __init__(
        self, table: CostTable, objective: Objective | str, constraints: Constraints, earlier: Sequence[Bound] = ()
    ) -> None:
        """``earlier`` are bounds that levels before this objective set (see :meth:`following`)."""
        self.table = table
        self.objective = parse_objective(objective) if isinstance(objective, str) else objective
        self.level = self.objective.levels[0]
        self.constraints = constraints
        self.evaluations = 0
        self._default = table.default()
        self.reference = table.evaluate(self._default[None])[:, 0]
        self._earlier = tuple(earlier)
        self._goal = self._relative(self.level)
        self.weights = dict(self._goal)
        if "latency" not in dict(self.level.weights):
            self.weights[LATENCY] = TIE * self._unit("latency")
        limits = constraints.bounds.items()
        own = [Bound(dict.fromkeys(TERMS[quantity], 1.0), max(limit, 1e-12)) for quantity, limit in limits]
        self.bounds = (*own, *self._earlier)
        needed = {INVALID, LATENCY, *self.weights, *(metric for bound in self.bounds for metric in bound.weights)}
        self.peak = PEAK in needed
        self.rows = sorted(needed - {PEAK})

    def _relative(self, level: Level) -> dict[int, float]:
        """The level's weight of each metric."""
        weights: dict[int, float] = {}
        for quantity, weight in level.weights:
            for metric in TERMS[quantity]:
                weights[metric] = weights.get(metric, 0.0) + weight * self._unit(quantity)
        return weights

    def _unit(self, quantity: Quantity) -> float:
        """One over the unchanged model's value; drift, which it has none of, counts as it is."""
        if quantity == "drift":
            return 1.0
        total = sum(self._reference_peak if m == PEAK else float(self.reference[m]) for m in TERMS[quantity])
        return 1.0 / (total or 1.0)

    @cached_property
    def _reference_peak(self) -> float:
        return float(self.table.peak_bytes(self._default[None])[0])

    def __call__(self, candidates: Candidates) -> npt.NDArray[np.float64]:
        """Score candidates, shape (candidates,)."""
        return self.total(*self.parts(candidates))

    def total(self, off: npt.NDArray[np.float64], score: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """One number of the two that :meth:`parts` returns."""
        total: npt.NDArray[np.float64] = np.where(off > 0, self.INFEASIBLE * (1.0 + off), score)
        return total

    def parts(self, candidates: Candidates) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """How far candidates are off their constraints (0: feasible), and what they score on the objective alone."""
        return self.judge(self.values(candidates), (candidates != self._default).sum(axis=1))

    def values(self, candidates: Candidates) -> Values:
        """The metrics of candidates that a score needs."""
        values = dict(zip(self.rows, self.table.evaluate(candidates, self.rows), strict=True))
        return values | {PEAK: self.table.peak_bytes(candidates)} if self.peak else values

    def judge(
        self, values: Values, changes: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """:meth:`parts` of candidates whose metrics, and changes from the default, are known."""
        self.evaluations += len(changes)
        off = values[INVALID].copy()
        for bound in self.bounds:
            off += np.maximum(0.0, bound.off(values))
        return off, weighted(self.weights, values) + CHANGE * changes

    @property
    def adds_up(self) -> bool:
        """Whether everything that is minimised or bound adds up over the factors; peak memory does not."""
        return not self.peak

    @property
    def unit(self) -> float:
        """What a score is multiplied by to be in the unit of its quantity (us, bytes, MACs); 1 for a weighted sum."""
        return 1.0 if self.level.quantity is None else 1.0 / self._unit(self.level.quantity)

    def following(self, best: Candidates) -> Scorer | None:
        """The scorer of the next level, which must keep what ``best`` reached on this one; ``None`` after the last."""
        if len(self.objective.levels) == 1:
            return None
        reached = float(weighted(self._goal, self.values(best[None]))[0])
        limit = max(reached * (1.0 + max(self.level.tolerance, SLACK)), 1e-12)
        rest = Objective(self.objective.levels[1:])
        scorer = Scorer(self.table, rest, self.constraints, (*self._earlier, Bound(self._goal, limit)))
        scorer.evaluations = self.evaluations
        return scorer

    def towards(self, objective: Objective) -> Scorer:
        """A scorer with another objective under the same bounds."""
        scorer = Scorer(self.table, objective, self.constraints, self._earlier)
        scorer.evaluations = self.evaluations
        return scorer

    def within(self, part: CostTable) -> Scorer:
        """The scorer for a table of a few decisions, all others staying (:meth:`CostTable.within`)."""
        scorer = copy(self)
        scorer.table, scorer._default = part, part.default()
        return scorer

    def feasible(self, score: float) -> bool:
        """Whether a score belongs to a candidate that keeps every constraint."""
        return score < self.INFEASIBLE


def weighted(weights: Mapping[int, float], values: Values) -> npt.NDArray[np.float64]:
    """The weighted sum of metrics."""
    total: npt.NDArray[np.float64] = np.sum([weight * values[metric] for metric, weight in weights.items()], axis=0)
    return total
