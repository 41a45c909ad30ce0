"""The distance of one output, summed up batch by batch; `drift.py` says what the numbers mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from graphopt.ir.op import Array

Measure = Literal["kl", "relative-l2", "differing"]
"""What an output's value is: KL divergence (nats), relative L2 distance, or the share of differing elements."""

FLAT_NATS = 0.05
"""Softmaxes that are nearer to uniform than this say nothing about classes."""

_TOP = 5
_ROW_SUM_TOLERANCE = 1e-2

_NOT_FINITE = "it is not finite in the same places as the original"
_ZERO = "the original is zero throughout and the rewritten model is not"

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OutputDrift:
    """Distance of one output over all samples.

    Attributes:
        name: tensor name.
        measure: what `value` is.
        value: 0 for no change; infinite where the rewritten model is not finite and the original is, and where the
            original is zero throughout and the rewritten model is not.
        standard_error: of `value`, by samples; ``None`` with fewer than two or where `value` is infinite.
        relative_l2: L2 norm of the difference over the L2 norm of the original.
        max_abs: largest absolute difference of an element.
        cosine: cosine of the angle between the two, all samples as one vector.
        kl: mean KL divergence in nats of class scores, else ``None``.
        top1_agreement: share of samples with the same best column, for floats of rank 2 with two columns or more.
        top5_agreement: share of samples whose best column in the original is among the rewritten model's best five,
            for six columns or more.
        reason: why `value` is infinite, else ``""``.
    """

    name: str
    measure: Measure
    value: float
    standard_error: float | None
    relative_l2: float
    max_abs: float
    cosine: float
    kl: float | None = None
    top1_agreement: float | None = None
    top5_agreement: float | None = None
    reason: str = ""


@dataclass(slots=True)
class _Scores:
    """Sums over samples of what only class scores have; both readings of the rows until all were seen."""

    columns: int
    are_probabilities: bool = True
    are_shares: bool = True
    kl_logits: list[Doubles] = field(default_factory=list)
    kl_rows: list[Doubles] = field(default_factory=list)
    to_uniform: list[Doubles] = field(default_factory=list)
    same_top1: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    in_top5: list[npt.NDArray[np.bool_]] = field(default_factory=list)

    def add(self, before: Doubles, after: Doubles) -> None:
        share = bool((before >= 0).all() and (before <= 1).all())
        sums = np.abs(before.sum(axis=1) - 1) <= _ROW_SUM_TOLERANCE
        self.are_shares &= share
        self.are_probabilities &= bool(share and sums.all())
        p, q = _log_softmax(before), _log_softmax(after)
        self.kl_logits.append((np.exp(p) * (p - q)).sum(axis=1))
        self.to_uniform.append((np.exp(p) * (p + np.log(self.columns))).sum(axis=1))
        if self.are_probabilities:
            self.kl_rows.append(_kl_of_rows(before, after))
        best = np.argmax(before, axis=1)
        self.same_top1.append(best == np.argmax(after, axis=1))
        if self.columns > _TOP:
            order = np.argsort(-after, axis=1, kind="stable")[:, :_TOP]
            self.in_top5.append((order == best[:, None]).any(axis=1))

    def kl(self) -> Doubles | None:
        """KL of each sample, ``None`` where the rows are no class scores after all."""
        if self.are_probabilities:
            return np.concatenate(self.kl_rows)
        flat = float(np.concatenate(self.to_uniform).mean()) < FLAT_NATS
        return None if self.are_shares or flat else np.concatenate(self.kl_logits)


class Tally:
    """Sums of one output. Holds a few numbers for each sample, no outputs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._scores: _Scores | None = None
        self._maybe_scores = True
        self._discrete = False
        self._broken = False
        self._max_abs = self._dot = self._norm_after = 0.0
        self._distances: list[Doubles] = []
        self._norms: list[Doubles] = []

    def add(self, before: Array, after: Array, rows: int) -> None:
        """Add a batch of ``rows`` samples: the original's output and the rewritten model's."""
        if before.dtype.kind != "f":
            self._add_discrete(before, after, rows)
            return
        a, b = before.astype(np.float64), after.astype(np.float64)
        if a.shape != b.shape:
            self._maybe_scores = False
            norm = _by_sample(a * a, rows)
            self._distances.append(norm)
            self._norms.append(norm)
            self._norm_after += float((b * b).sum())
            self._max_abs = float("inf")
            return
        finite = np.isfinite(a)
        if not finite.all():
            self._maybe_scores = False
            self._broken |= not np.array_equal(a[~finite], b[~finite], equal_nan=True)
            a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
        if not np.isfinite(b).all():
            self._broken = True
            return
        self._sum(a, b, rows)
        if self._maybe_scores and a.ndim == 2 and a.shape[1] > 1 and len(a) == rows:
            self._scores = self._scores or _Scores(a.shape[1])
            self._maybe_scores = self._scores.columns == a.shape[1]
            if self._maybe_scores:
                self._scores.add(a, b)
        else:
            self._maybe_scores = False

    def _sum(self, a: Doubles, b: Doubles, rows: int) -> None:
        difference = b - a
        self._distances.append(_by_sample(difference * difference, rows))
        self._norms.append(_by_sample(a * a, rows))
        self._norm_after += float((b * b).sum())
        self._dot += float((a * b).sum())
        self._max_abs = max(self._max_abs, float(np.abs(difference).max(initial=0.0)))

    def _add_discrete(self, before: Array, after: Array, rows: int) -> None:
        """Count differing elements instead of squares; the norms count elements."""
        self._discrete = True
        same_shape = before.shape == after.shape
        differs = before != after if same_shape else np.ones(before.shape, bool)
        self._distances.append(_by_sample(differs.astype(np.float64), rows))
        self._norms.append(_by_sample(np.ones(before.shape), rows))
        if before.dtype.kind in "iub" and same_shape:
            gap = np.abs(after.astype(np.float64) - before.astype(np.float64))
            self._max_abs = max(self._max_abs, float(gap.max(initial=0.0)))
        else:
            self._max_abs = max(self._max_abs, float("inf") if differs.any() else 0.0)

    def result(self) -> OutputDrift:
        """The numbers over everything that was added."""
        nan, inf = float("nan"), float("inf")
        if self._broken:
            return OutputDrift(self.name, "relative-l2", inf, None, inf, inf, nan, reason=_NOT_FINITE)
        distances, norms = np.concatenate(self._distances), np.concatenate(self._norms)
        if self._discrete:
            share, error = _ratio(distances, norms)
            return OutputDrift(self.name, "differing", share, error, nan, self._max_abs, nan)
        ratio, ratio_error = _ratio(distances, norms)
        relative = float(np.sqrt(ratio))
        relative_error = None if ratio_error is None else (ratio_error / (2 * relative) if relative else 0.0)
        cosine = _cosine(self._dot, float(norms.sum()), self._norm_after)
        measure: Measure = "relative-l2"
        value, error = relative, relative_error
        kl = top1 = top5 = None
        if self._scores is not None and self._maybe_scores:
            top1 = float(np.concatenate(self._scores.same_top1).mean())
            top5 = float(np.concatenate(self._scores.in_top5).mean()) if self._scores.in_top5 else None
            by_sample = self._scores.kl()
            if by_sample is not None:
                kl = max(0.0, float(by_sample.mean()))
                measure, value, error = "kl", kl, _mean_error(by_sample)
        reason = "" if value < inf else _ZERO
        return OutputDrift(self.name, measure, value, error, relative, self._max_abs, cosine, kl, top1, top5, reason)


def _by_sample(values: Doubles, rows: int) -> Doubles:
    """Sums over each sample, or over the whole batch where the first axis does not run over samples."""
    if values.ndim and len(values) == rows and rows:
        sums: Doubles = values.reshape(rows, -1).sum(axis=1)
        return sums
    return np.array([values.sum()])


def _log_softmax(scores: Doubles) -> Doubles:
    shifted: Doubles = scores - scores.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _kl_of_rows(before: Doubles, after: Doubles) -> Doubles:
    """KL of rows that are probabilities, which rounding may have made 0; ``0 log 0 = 0``."""
    floor = float(np.finfo(np.float32).tiny)
    p = before / before.sum(axis=1, keepdims=True)
    q = np.maximum(after, floor)
    q = q / q.sum(axis=1, keepdims=True)
    terms = np.where(p > 0, p * (np.log(np.maximum(p, floor)) - np.log(q)), 0.0)
    sums: Doubles = terms.sum(axis=1)
    return sums


def _ratio(parts: Doubles, wholes: Doubles) -> tuple[float, float | None]:
    """``sum(parts) / sum(wholes)`` and its standard error (delta method, samples as units)."""
    part, whole, count = float(parts.sum()), float(wholes.sum()), len(parts)
    if not whole:
        return (0.0, 0.0) if not part else (float("inf"), None)
    ratio = part / whole
    if count < 2:
        return ratio, None
    spread = float(((parts - ratio * wholes) ** 2).sum()) / (count * (count - 1))
    return ratio, float(np.sqrt(spread)) / (whole / count)


def _mean_error(values: Doubles) -> float | None:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def _cosine(dot: float, norm_before: float, norm_after: float) -> float:
    if not norm_before or not norm_after:
        return 1.0 if norm_before == norm_after else 0.0
    return dot / float(np.sqrt(norm_before) * np.sqrt(norm_after))
