"""The judgement of one output: values in, numbers and a verdict out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from graphopt.ir.op import Array

Verdict = Literal["equal", "differs", "inconclusive"]

FACTOR = 8
ULPS = 4
RESPONSE = 100


@dataclass(frozen=True, slots=True)
class OutputComparison:
    """One output, original (without optimisations) against rewritten (without optimisations), over all samples.

    Attributes:
        name: tensor name.
        max_abs: largest absolute difference of an element; ``nan`` where shapes or values allow none.
        relative_l2: L2 norm of the difference over the L2 norm of the original.
        cosine: cosine of the angle between the two, all samples as one vector.
        noise_max_abs: largest absolute difference that rounding alone makes in the original (:func:`compare`).
        noise_relative_l2: the same as a relative L2 distance.
        top1_agreement: share of rows with the same arg-max where the output looks like class scores (float, rank 2,
            two columns or more), else ``None``.
        verdict: ``equal``, ``differs`` or ``inconclusive``.
        reason: why it is not ``equal``, else ``""``.
    """

    name: str
    max_abs: float
    relative_l2: float
    cosine: float
    noise_max_abs: float
    noise_relative_l2: float
    top1_agreement: float | None
    verdict: Verdict
    reason: str = ""


def compare(
    name: str,
    reference: list[Array],
    optimised: list[Array],
    result: list[Array],
    pairs: Sequence[tuple[int, int]] = (),
    twins: Sequence[tuple[int, Array]] = (),
) -> OutputComparison:
    """Judge one output over all samples.

    Args:
        name: of the output.
        reference: the original's values without optimisations, one array for each sample.
        optimised: the original's values with all optimisations.
        result: the rewritten model's values without optimisations.
        pairs: numbers of samples that are neighbours.
        twins: number of a sample, and the original's values on it when its inputs are off by one rounding.
    """
    for before, after in zip(reference, result, strict=True):
        if before.shape != after.shape or before.dtype != after.dtype:
            reason = f"output is {after.dtype} {after.shape}, and was {before.dtype} {before.shape}"
            return _no_numbers(name, "differs", reason)
    if not is_float(reference[0]):
        return _compare_discrete(name, reference, optimised, result, pairs)
    if not all(np.isfinite(values).all() for values in (*reference, *optimised)):
        return _no_numbers(name, "inconclusive", "the original's values are not finite")
    if not all(np.isfinite(values).all() for values in result):
        return _no_numbers(name, "differs", "the rewritten model's values are not finite")
    if not any(values.size for values in reference):
        return _no_numbers(name, "inconclusive", "the output is empty")

    eps = float(np.finfo(reference[0].dtype).eps)
    scale = max(_largest(values) for values in reference)
    max_abs, relative_l2, cosine = _distance(reference, result)
    noise_max, noise_l2 = _noise(reference, optimised, twins)
    tolerance_max = FACTOR * max(noise_max, ULPS * eps * scale)
    tolerance_l2 = FACTOR * max(noise_l2, ULPS * eps)
    response = max((_largest(_minus(reference[a], reference[b])) for a, b in pairs), default=0.0)
    verdict: Verdict = "equal"
    reason = ""
    if max_abs > tolerance_max or relative_l2 > tolerance_l2:
        verdict = "differs"
        reason = f"off by {max_abs:.3g} where rounding explains {tolerance_max:.3g}"
        if max_abs <= tolerance_max:
            reason = f"relative L2 distance {relative_l2:.3g} where rounding explains {tolerance_l2:.3g}"
    elif response < RESPONSE * tolerance_max or response == 0:
        verdict = "inconclusive"
        reason = "it hardly reacts to these inputs (constant or saturated); give real ones"
    return OutputComparison(
        name, max_abs, relative_l2, cosine, noise_max, noise_l2, _top1(reference, result), verdict, reason
    )


def _compare_discrete(
    name: str, reference: list[Array], optimised: list[Array], result: list[Array], pairs: Sequence[tuple[int, int]]
) -> OutputComparison:
    """Judge integers, bools and strings: identical, or not."""
    verdict: Verdict = "equal"
    reason = ""
    if any((a != b).any() for a, b in zip(reference, result, strict=True)):
        verdict, reason = "differs", "whole numbers are not identical"
        if any((a != b).any() for a, b in zip(reference, optimised, strict=True)):
            verdict, reason = "inconclusive", "onnxruntime's optimisations alone change these whole numbers"
    elif all(np.array_equal(reference[a], reference[b]) for a, b in pairs):
        verdict, reason = "inconclusive", "it does not react to these inputs; give real ones"
    if reference[0].dtype.kind not in "iub":
        return _no_numbers(name, verdict, reason)
    max_abs, relative_l2, cosine = _distance(reference, result)
    noise_max, noise_l2, _ = _distance(reference, optimised)
    return OutputComparison(name, max_abs, relative_l2, cosine, noise_max, noise_l2, None, verdict, reason)


def _noise(reference: list[Array], optimised: list[Array], twins: Sequence[tuple[int, Array]]) -> tuple[float, float]:
    """What rounding alone does: the larger of the two ways to provoke it, absolute and as relative L2 distance."""
    ways = [_distance(reference, optimised)]
    usable = [(reference[i], values) for i, values in twins if np.isfinite(values).all()]
    if usable:
        ways.append(_distance([a for a, _ in usable], [b for _, b in usable]))
    return max(way[0] for way in ways), max(way[1] for way in ways)


def _no_numbers(name: str, verdict: Verdict, reason: str) -> OutputComparison:
    nan = float("nan")
    return OutputComparison(name, nan, nan, nan, nan, nan, None, verdict, reason)


def _minus(first: Array, second: Array) -> Array:
    """Difference in double precision; empty where the shapes differ (they may depend on the values)."""
    if first.shape != second.shape:
        return np.empty(0)
    difference: Array = first.astype(np.float64) - second.astype(np.float64)
    return difference


def _largest(values: Array) -> float:
    return float(np.abs(values).max()) if values.size else 0.0


def _distance(first: list[Array], second: list[Array]) -> tuple[float, float, float]:
    """Largest absolute difference, relative L2 distance and cosine, all samples together."""
    largest = square = norm_a = norm_b = dot = 0.0
    for a, b in zip(first, second, strict=True):
        difference = _minus(a, b).ravel()
        x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        largest = max(largest, _largest(difference))
        square += float(difference @ difference)
        norm_a += float(x @ x)
        norm_b += float(y @ y)
        dot += float(x @ y) if x.shape == y.shape else 0.0
    relative = float(np.sqrt(square / norm_a)) if norm_a else (0.0 if square == 0 else float("inf"))
    cosine = dot / float(np.sqrt(norm_a) * np.sqrt(norm_b)) if norm_a and norm_b else (1.0 if norm_a == norm_b else 0.0)
    return largest, relative, cosine


def _top1(reference: list[Array], result: list[Array]) -> float | None:
    """Share of rows with the same arg-max, where the output looks like class scores."""
    if reference[0].ndim != 2 or reference[0].shape[1] < 2:
        return None
    same = [np.argmax(a, axis=1) == np.argmax(b, axis=1) for a, b in zip(reference, result, strict=True)]
    return float(np.concatenate(same).mean())


def is_float(values: Array) -> bool:
    """Whether the elements are floating-point numbers that numpy computes with."""
    return values.dtype.kind == "f"
