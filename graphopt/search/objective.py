"""What the search minimises, and what must hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from graphopt.space.table import DRIFT, INVALID, LATENCY, MACS, PARAMETER_BYTES, Candidates, CostTable

Objective = Literal["latency", "peak-memory", "parameters"]

METRIC: Mapping[Objective, int] = {"latency": LATENCY, "parameters": PARAMETER_BYTES}
"""The metric of each objective that adds up."""
TIE = 1e-6
"""Weight of the relative latency when something else is minimised: it only breaks ties."""
CHANGE = 1e-9
"""Price of one changed decision: without a gain, nothing changes."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """Upper bounds that the result must keep; ``None`` is no bound.

    ``drift`` is bound where its parts add up: the KL divergence, or the square of a relative L2 distance.
    """

    latency_us: float | None = None
    peak_bytes: int | None = None
    parameter_bytes: int | None = None
    macs: int | None = None
    drift: float | None = None


class Scorer:
    """Turns candidates into one number each, smaller is better.

    Feasible candidates score their objective relative to the unchanged model; infeasible ones score above
    :attr:`INFEASIBLE`, by how far they are off, so that a search finds its way into the feasible part.

    Attributes:
        bounds: (metric, upper bound) of the constraints that add up over the factors; peak memory does not.
        reference: metrics of the unchanged model.
        evaluations: candidates scored.
    """

    INFEASIBLE = 1e6

    def __init__(self, table: CostTable, objective: Objective, constraints: Constraints) -> None:
        self.table = table
        self.objective = objective
        self.constraints = constraints
        self.evaluations = 0
        self._default = table.default()
        self.reference = table.evaluate(self._default[None])[:, 0]
        self._peak = constraints.peak_bytes is not None or objective == "peak-memory"
        self._reference_peak = float(table.peak_bytes(self._default[None])[0]) if self._peak else 1.0
        self.bounds = [
            (metric, float(bound))
            for metric, bound in (
                (LATENCY, constraints.latency_us),
                (PARAMETER_BYTES, constraints.parameter_bytes),
                (MACS, constraints.macs),
                (DRIFT, constraints.drift),
            )
            if bound is not None
        ]

    def __call__(self, candidates: Candidates) -> npt.NDArray[np.float64]:
        """Score candidates, shape (candidates,)."""
        off, score = self.parts(candidates)
        total: npt.NDArray[np.float64] = np.where(off > 0, self.INFEASIBLE * (1.0 + off), score)
        return total

    def parts(self, candidates: Candidates) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """How far candidates are off their constraints (0: feasible), and what they score on the objective alone."""
        self.evaluations += len(candidates)
        metrics = sorted({LATENCY, INVALID, METRIC.get(self.objective, LATENCY), *(m for m, _ in self.bounds)})
        values = dict(zip(metrics, self.table.evaluate(candidates, metrics), strict=True))
        peak = self.table.peak_bytes(candidates) if self._peak else np.zeros(len(candidates))
        off = values[INVALID].copy()
        for metric, bound in self.bounds:
            off += np.maximum(0.0, values[metric] / max(bound, 1e-12) - 1.0)
        if self.constraints.peak_bytes is not None:
            off += np.maximum(0.0, peak / max(float(self.constraints.peak_bytes), 1e-12) - 1.0)
        relative = self._relative(values, LATENCY)
        if self.objective == "peak-memory":
            score = peak / max(self._reference_peak, 1e-12) + TIE * relative
        elif self.objective == "parameters":
            score = self._relative(values, PARAMETER_BYTES) + TIE * relative
        else:
            score = relative
        score = score + CHANGE * (candidates != self._default).sum(axis=1)
        return off, score

    @property
    def weights(self) -> Mapping[int, float]:
        """The metrics whose weighted sum, with :data:`CHANGE` for every change, is a feasible candidate's score.

        Raises:
            ValueError: peak memory is minimised, which is no such sum.
        """
        if self.objective == "peak-memory":
            raise ValueError("peak memory does not add up")
        latency = 1.0 / max(float(self.reference[LATENCY]), 1e-12)
        if self.objective == "latency":
            return {LATENCY: latency}
        return {PARAMETER_BYTES: 1.0 / max(float(self.reference[PARAMETER_BYTES]), 1e-12), LATENCY: TIE * latency}

    def _relative(self, values: Mapping[int, npt.NDArray[np.float64]], metric: int) -> npt.NDArray[np.float64]:
        relative: npt.NDArray[np.float64] = values[metric] / max(float(self.reference[metric]), 1e-12)
        return relative

    def feasible(self, score: float) -> bool:
        """Whether a score belongs to a candidate that keeps every constraint."""
        return score < self.INFEASIBLE
