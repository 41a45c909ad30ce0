"""Results as plain values for JSON: the stable keys that scripts may rely on.

Keys are the attributes' names (units are in them). What JSON cannot say, ``nan`` and the infinities, is ``null``.
Plans are given by digest and text. Lists of kernels are given where they are asked for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.cost.estimate import Estimate
from graphopt.results import FrontPoint, MemoryFit, OptimizeResult, ScanResult, ZooRow
from graphopt.verification import Verification

if TYPE_CHECKING:
    from graphopt.finetuning import FinetuneResult
    from graphopt.fronts import Front
    from graphopt.search.strategy import Certificate
    from graphopt.verification.drift import Drift
    from graphopt.verification.evaluate import Evaluation

HEADLINE = (
    "latency_us",
    "peak_activation_bytes",
    "parameters",
    "parameter_bytes",
    "macs",
    "dram_bytes",
    "energy_uj",
)
"""Numbers of an estimate that summaries show, in their order."""

_TUNED = ("model", "teacher", "output", "loss", "samples", "held_out", "steps", "kept")
"""What a fine-tuned model's values begin with."""


def estimate_values(estimate: Estimate, *, kernels: bool = False) -> dict[str, Any]:
    """``target``, ``kind`` (always ``estimate``), the headline numbers, ``uncertainty`` and ``extrapolating``.

    And, if asked for, ``kernels``.
    """
    values: dict[str, Any] = {"kind": "estimate", "target": estimate.target}
    values |= {name: clean(getattr(estimate, name)) for name in (*HEADLINE, "uncertainty", "extrapolating")}
    if kernels:
        values["kernels"] = [clean(kernel) for kernel in estimate.kernels]
    return values


def verification_values(proof: Verification) -> dict[str, Any]:
    """``verdict``, ``reason``, ``samples``, ``inputs``, ``seed`` and ``outputs``."""
    values: dict[str, Any] = clean(proof)
    return values


def drift_values(drift: Drift) -> dict[str, Any]:
    """The model's ``value`` with ``measure``, ``standard_error`` and, where it is infinite (``null``), the ``reason``;
    ``top1_agreement``, ``samples`` and ``outputs``."""
    return {
        "value": clean(drift.value),
        "measure": drift.worst.measure,
        "standard_error": clean(drift.standard_error),
        "reason": drift.reason,
        "top1_agreement": clean(drift.top1_agreement),
        "samples": drift.samples,
        "outputs": [clean(output) for output in drift.outputs],
    }


def evaluation_values(before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """``before`` and ``after``: ``metrics`` by name, ``standard_errors`` of those that are shares of the samples, and
    the number of ``samples``; ``difference_standard_errors``: of the differences, from pairs."""
    values: dict[str, Any] = {
        name: {"metrics": clean(dict(one.metrics)), "standard_errors": one.standard_errors, "samples": one.samples}
        for name, one in (("before", before), ("after", after))
    }
    return values | {"difference_standard_errors": before.paired_errors(after)}


def optimize_values(result: OptimizeResult) -> dict[str, Any]:
    """Everything about one optimised model but the plan's text; see `OptimizeResult`."""
    return {
        "outcome": result.outcome,
        "reason": result.reason,
        "model": result.model,
        "output": result.output,
        "safety": result.safety,
        "plan_digest": result.plan.digest,
        "before": None if result.before is None else estimate_values(result.before),
        "after": None if result.after is None else estimate_values(result.after),
        "capacity_kept": clean(result.capacity_kept),
        "importance": result.importance,
        "changes": [clean(change) for change in result.changes],
        "front": [_front_values(point) for point in result.front],
        "verification": None if result.verification is None else verification_values(result.verification),
        "drift": None if result.drift is None else drift_values(result.drift),
        "repaired": [clean(unit) for unit in result.repaired] or None,
        "refined": [clean(unit) for unit in result.refined] or None,
        "evaluation": None if result.evaluation is None else evaluation_values(*result.evaluation),
        "refusals": refusal_values(result),
        "notes": list(result.notes),
        "evaluations": result.evaluations,
        "certificate": None if result.certificate is None else certificate_values(result.certificate),
        "op_order": None if result.order is None else clean(result.order),
        "fit": None if result.fit is None else fit_values(result.fit),
        "resolution": None if result.resolution is None else clean(result.resolution),
    }


def fit_values(fit: MemoryFit) -> dict[str, Any]:
    """``bound_bytes``, ``spare_bytes`` (negative: it does not fit), and ``before`` and ``after``: ``parameter_bytes``,
    ``peak_bytes`` and ``total_bytes``."""
    values: dict[str, Any] = clean(fit)
    for name, split in (("before", fit.before), ("after", fit.after)):
        values[name]["total_bytes"] = split.total_bytes
    return values | {"spare_bytes": fit.spare_bytes}


def front_values(front: Front) -> dict[str, Any]:
    """Everything about a front.

    ``outcome``, ``reason``, ``model``, ``target``, ``axis`` (what is given up), ``before``, ``origin`` and ``points``
    (``latency_us`` and ``value``; see `fronts.Front`), ``candidates`` (``label``, the place in the front, and all that
    :func:`optimize_values` says), ``notes`` and ``evaluations``.
    """
    return {
        "outcome": front.outcome,
        "reason": front.reason,
        "model": front.model,
        "target": front.target,
        "axis": front.axis,
        "before": estimate_values(front.before),
        "origin": clean(front.origin),
        "points": [{"latency_us": float(latency), "value": float(value)} for latency, value in front.points],
        "candidates": [
            {"label": one.label, "latency_us": one.latency_us, "value": one.value, **optimize_values(one.result)}
            for one in front.candidates
        ],
        "notes": list(front.notes),
        "evaluations": front.evaluations,
    }


def finetune_values(result: FinetuneResult) -> dict[str, Any]:
    """Everything about one fine-tuned model; see `FinetuneResult`."""
    values: dict[str, Any] = clean({name: getattr(result, name) for name in _TUNED})
    for name, one in (("before", result.before), ("after", result.after)):
        drift = None if one.drift is None else drift_values(one.drift)
        values[name] = {"value": clean(one.value), "drift": drift}
    values["evaluation"] = None if result.evaluation is None else evaluation_values(*result.evaluation)
    return values | {"notes": list(result.notes)}


def certificate_values(certificate: Certificate) -> dict[str, Any]:
    """``gap`` (relative; ``null`` without a bound), ``objective``, ``value``, ``bound`` (us or bytes), ``reason``."""
    values: dict[str, Any] = clean(certificate)
    return {"gap": clean(certificate.gap)} | values


def scan_values(result: ScanResult) -> dict[str, Any]:
    """``before``, ``decisions`` with their options, ``refusals``, ``notes`` and the plan's digest."""
    return {
        "model": result.plan.model,
        "plan_digest": result.plan.digest,
        "before": estimate_values(result.before),
        "decisions": [clean(decision) for decision in result.decisions],
        "refusals": refusal_values(result),
        "notes": list(result.notes),
    }


def refusal_values(result: OptimizeResult | ScanResult) -> list[dict[str, str]]:
    """One object for each refusal: ``rule``, ``place``, ``reason``."""
    return [{"rule": one.rule, "place": one.refusal.place, "reason": one.refusal.reason} for one in result.refusals]


def zoo_values(rows: tuple[ZooRow, ...]) -> dict[str, Any]:
    """``outcomes`` (how many of each) and ``rows``: ``model``, ``outcome``, ``reason``, ``seconds``, ``numbers``."""
    outcomes = {
        kind: sum(row.outcome == kind for row in rows) for kind in ("optimized", "unchanged", "skipped", "failed")
    }
    return {"outcomes": outcomes, "rows": [zoo_row_values(row) for row in rows]}


def zoo_row_values(row: ZooRow) -> dict[str, Any]:
    """One row of :func:`zoo_values`."""
    return {
        "model": row.model,
        "outcome": row.outcome,
        "reason": row.reason,
        "seconds": clean(row.seconds),
        "numbers": clean(row.numbers),
    }


def _front_values(point: FrontPoint) -> dict[str, Any]:
    return {
        "latency_us": clean(point.latency_us),
        "peak_bytes": point.peak_bytes,
        "parameter_bytes": point.parameter_bytes,
        "macs": point.macs,
        "plan_digest": point.plan.digest,
    }


def clean(value: Any) -> Any:
    """Turn dataclasses, tuples, mappings, paths and numpy numbers into what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: clean(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [clean(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and not isinstance(value, str | bytes):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
