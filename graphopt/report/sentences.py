"""What calibration and labels make it possible to say of a result, in words that the summary and the page share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.report import format as f

if TYPE_CHECKING:
    from graphopt.cost.estimate import Estimate
    from graphopt.resolution.model import Resolution, ShapeChange
    from graphopt.results import MemoryFit, OptimizeResult, OrderView
    from graphopt.search.strategy import Certificate
    from graphopt.verification.drift import Drift
    from graphopt.verification.evaluate import Evaluation
    from graphopt.weights.repair import RepairedUnit

MEASURES = {"kl": "KL divergence (nats)", "relative-l2": "relative L2", "differing": "share that differs"}
"""What an output's drift value is."""

_SHARES = {"top1": "top-1 accuracy", "top5": "top-5 accuracy"}


def order_sentence(order: OrderView) -> str:
    """What another order of the ops does, alone and here."""
    if order.alone_bytes < order.file_bytes:
        alone = f"by memory: alone it takes the original's peak from {f.size(order.file_bytes)} to "
        alone += f.size(order.alone_bytes)
    else:
        alone = "by memory"
    bound = "" if order.bound_bytes == order.bytes else f" than {f.size(order.bound_bytes)}"
    return f"{alone}; no order of the result needs less{bound}"


def fit_sentence(fit: MemoryFit) -> str:
    """How a model fits into memory, and what the memory is."""
    parts = [
        f"{f.size(split.total_bytes)} ({f.size(split.parameter_bytes)} of parameters + {f.size(split.peak_bytes)} of "
        "peak activations)"
        for split in (fit.before, fit.after)
    ]
    spare = abs(fit.spare_bytes)
    verdict = f"fits with {f.size(spare)} to spare" if fit.spare_bytes >= 0 else f"misses by {f.size(spare)}"
    return f"{parts[0]} -> {parts[1]}; {verdict} of {f.size(fit.bound_bytes)}"


def meaning(result: OptimizeResult) -> str:
    """What the safety of a result means for whoever uses it."""
    if result.safety == "exact":
        return "the outputs are the same but for rounding"
    fitted = any(unit.kept for unit in result.repaired)
    if result.safety == "retrain":
        done = "; what could be repaired is" if fitted else ""
        return f"the weights need training before use{done}"
    if fitted:
        return "close, not the same: weights repaired on calibration data, see the drift"
    if result.repaired or result.drift is not None:
        return "first-method weights, none repaired: see the drift"
    if result.outcome == "failed":
        return "nothing was written, so no weights were repaired"
    return "first-method weights; give --calibration to repair them"


def uncertainty_sentence(estimate: Estimate) -> str:
    """How far to trust a latency that was learned from measurements; ``""`` for one that was not."""
    if estimate.uncertainty is None:
        return ""
    text = f"latency learned from measurements, one sigma {f.share(estimate.uncertainty)}"
    if estimate.extrapolating:
        text += f"; {estimate.extrapolating} of {f.plural(len(estimate.kernels), 'kernel')} beyond what was measured"
    return text


def capacity_sentence(result: OptimizeResult) -> str:
    """How much of the channels is left, and what chose them where some went."""
    chosen = "" if result.importance is None else f", chosen by {result.importance}"
    return f"{result.capacity_kept:.1%} of the channels, weighted by parameters{chosen}"


def certificate_sentence(certificate: Certificate) -> str:
    """How far the plan is from the optimum at most, and what else may be behind the gap."""
    if certificate.gap == 0:
        return "0 % (certified)"
    reason = certificate.reason and f"; {certificate.reason}"
    if not math.isfinite(certificate.gap):
        return f"not known (no bound found{reason})"
    shown = {"latency": f.latency, "macs": f.number, "energy": f.energy}.get(certificate.objective, f.size)
    if "=" in certificate.objective:
        shown = "{:.4g} of the original's".format
    percent = math.ceil(1e4 * certificate.gap - 1e-6) / 100  # upwards: it is a promise
    return f"at most {percent:.2f} % (certified: no plan is under {shown(certificate.bound)}{reason})"


def resolution_sentences(resolution: Resolution) -> Iterator[str]:
    """What another input size did to the interface, and what was seen of it."""
    inputs = ", ".join(map(_moved, resolution.inputs))
    followed = f"; constants of {f.plural(resolution.constants, 'op')} followed" if resolution.constants else ""
    left = " (the file leaves the size open)" if resolution.open else ""
    yield f"{inputs}{left}{followed}"
    moved = [change for change in resolution.outputs if change.before != change.after]
    if moved:
        yield f"output {', '.join(map(_moved, moved))}: what reads it has to follow"
    else:
        yield "the outputs keep their shapes"
    run = "it runs" if resolution.finite else "it runs, and not all of its outputs are finite"
    yield f"{run}; verified against the untouched model at this size; costs and metric before are at its own size"


def _moved(change: ShapeChange) -> str:
    before, after = (
        "x".join("?" if dim is None else str(dim) for dim in shape) for shape in (change.before, change.after)
    )
    return f"{change.name} {before} -> {after}"


def drift_sentence(drift: Drift) -> str:
    """The value with its measure and standard error, and how many samples are behind it."""
    worst = drift.worst
    error = "" if drift.standard_error is None else f" +/- {f.small(drift.standard_error)}"
    where = f", worst of {len(drift.outputs)} outputs" if len(drift.outputs) > 1 else ""
    agreement = "" if drift.top1_agreement is None else f"; top-1 agreement {f.share(drift.top1_agreement)}"
    samples = f.plural(drift.samples, "held-out sample")
    reason = f"; {drift.reason}" if drift.reason else ""
    return f"{f.small(drift.value)}{error} {MEASURES[worst.measure]}{where}, on {samples}{agreement}{reason}"


def repair_sentences(units: tuple[RepairedUnit, ...]) -> Iterator[str]:
    """How many ops have new weights and by which method, and how many have not and why."""
    methods = Counter(unit.method for unit in units if unit.kept)
    yield f"{f.plural(methods.total(), 'op')} repaired{_counted(methods)}"
    reasons = Counter(unit.note for unit in units if not unit.kept)
    if reasons:
        yield f"{f.plural(reasons.total(), 'op')} left alone{_counted(reasons)}"


def refine_sentence(units: tuple[RepairedUnit, ...]) -> str:
    """How many blocks gradient steps made better, and why the others are as they were."""
    better = sum(unit.kept for unit in units)
    left = _counted(Counter(unit.note for unit in units if not unit.kept))
    return f"gradient steps made {better} of {f.plural(len(units), 'block')} better{left and f'; the others{left}'}"


def _counted(counts: Counter[str]) -> str:
    """``: a (3x); b (1x)``, the most frequent first."""
    pairs = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return f": {'; '.join(f'{what} ({count}x)' for what, count in pairs)}" if pairs else ""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric before and after, as text; the difference is in points where the metric is a share."""

    name: str
    before: str
    after: str
    difference: str

    def __str__(self) -> str:
        return f"{self.name} {self.before} -> {self.after} ({self.difference})"


def metrics(evaluation: tuple[Evaluation, Evaluation]) -> list[Metric]:
    """The metrics of both models, those of the original first, with standard errors where there are some."""
    before, after = (dict(one.metrics) for one in evaluation)
    errors = [*(one.standard_errors for one in evaluation), evaluation[0].paired_errors(evaluation[1])]
    return [
        metric_change(name, before.get(name), after.get(name), [one.get(name) for one in errors])
        for name in {**before, **after}
    ]


def metric_change(
    name: str, before: float | None, after: float | None, errors: Sequence[float | None] = (None, None, None)
) -> Metric:
    """One metric as text; a value that is not there is ``-``.

    Args:
        name: of the metric.
        before: its value for the original.
        after: its value for the result.
        errors: standard errors of the two and of their difference; shown for shares.
    """
    values = [value for value in (before, after) if value is not None]
    is_share = name in _SHARES and all(0 <= value <= 1 for value in values)
    difference = "-"
    if before is not None and after is not None:
        difference = f.points(before, after, errors[2]) if is_share else f.metric(after - before, sign=True)
    old, new = (
        "-" if value is None else f"{f.share(value, 2)}{f.share_error(error)}" if is_share else f.metric(value)
        for value, error in zip((before, after), errors[:2], strict=True)
    )
    return Metric(_SHARES[name] if is_share else name, old, new, difference)
