"""What the table of a zoo shows of one model, from its result."""

from __future__ import annotations

from graphopt.results import OptimizeResult, ZooNumbers


def numbers_of(result: OptimizeResult) -> ZooNumbers | None:
    """The numbers of a result, ``None`` where the model was not priced."""
    if result.before is None:
        return None
    before, after = result.estimates
    metric, metric_before, metric_after, metric_error = "", None, None, None
    if result.evaluation is not None:
        first, second = (dict(one.metrics) for one in result.evaluation)
        metric = next(iter(first), "")
        metric_before, metric_after = first.get(metric), second.get(metric)
        metric_error = result.evaluation[0].paired_errors(result.evaluation[1]).get(metric)
    return ZooNumbers(
        latency_us_before=before.latency_us,
        latency_us_after=after.latency_us,
        peak_activation_bytes_before=before.peak_activation_bytes,
        peak_activation_bytes_after=after.peak_activation_bytes,
        parameters_before=before.parameters,
        parameters_after=after.parameters,
        macs_before=before.macs,
        macs_after=after.macs,
        safety=result.safety,
        changes=result.plan.changes,
        verdict=None if result.verification is None else result.verification.verdict,
        plan_digest=result.plan.digest,
        drift=None if result.drift is None else result.drift.value,
        metric=metric,
        metric_before=metric_before,
        metric_after=metric_after,
        metric_error=metric_error,
        gap=None if result.certificate is None else result.certificate.gap,
    )
