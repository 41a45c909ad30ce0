"""What is said of a certificate."""

from __future__ import annotations

import pytest

from graphopt.report.sentences import certificate_sentence
from graphopt.report.values import certificate_values
from graphopt.search.strategy import Certificate


@pytest.mark.parametrize(
    ("certificate", "text"),
    [
        (Certificate("latency", 1234.0, 1234.0, "the constraints are relaxed"), "0 % (certified)"),
        (Certificate("latency", 1001.01, 1000.0), "at most 0.11 % (certified: no plan is under 1.00 ms)"),
        (
            Certificate("parameters", 110.0, 100.0, "the constraints are relaxed"),
            "at most 10.00 % (certified: no plan is under 100 B; the constraints are relaxed)",
        ),
        (Certificate("latency", 5.0, 0.0), "not known (no bound found)"),
    ],
)
def test_a_gap_is_rounded_up(certificate: Certificate, text: str) -> None:
    assert certificate_sentence(certificate) == text


def test_without_a_bound_the_gap_is_null() -> None:
    assert certificate_values(Certificate("latency", 5.0, 0.0))["gap"] is None
