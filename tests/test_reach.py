"""A bound that no plan keeps is told with its proof; what every plan of a small space costs is the witness."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graphopt.draft import Job
from graphopt.pipeline import optimize
from graphopt.reach import unreachable
from graphopt.results import Options
from graphopt.search.objective import Constraints
from graphopt.space.table import INVALID, LATENCY, MACS

OPTIONS = Options(allow="repaired", verify=False)


@pytest.fixture
def small(small_model_bytes: bytes, tmp_path: Path) -> Path:
    (tmp_path / "small.onnx").write_bytes(small_model_bytes)
    return tmp_path / "small.onnx"


def every(job: Job) -> dict[int, np.ndarray]:
    """What every plan of the space costs."""
    rows = np.array([*itertools.product(*map(range, job.table.sizes))])
    metrics = job.table.evaluate(rows)
    return {metric: metrics[metric][metrics[INVALID] <= 0] for metric in (LATENCY, MACS)}


def test_alone(small: Path, tmp_path: Path) -> None:
    least = int(every(Job(small, OPTIONS))[MACS].min())
    result = optimize(small, tmp_path / "out.onnx", replace(OPTIONS, constraints=Constraints(macs=least - 1)))
    assert result.outcome == "failed"
    said = (
        f"no plan keeps --max-macs {least - 1:,}: with --allow repaired the smallest on offer is {least:,} (certified)"
    )
    assert result.reason == f"{said}; nothing was written"
    assert not (tmp_path / "out.onnx").exists()
    assert unreachable(Job(small, replace(OPTIONS, constraints=Constraints(macs=least)))) == ""


def test_one_beside_another(small: Path) -> None:
    """Each bound alone can be kept, both together cannot."""
    costs = every(Job(small, OPTIONS))
    fastest, fewest = float(costs[LATENCY].min()), float(costs[MACS].min())
    kept = costs[MACS] <= fewest
    assert costs[LATENCY][kept].min() > fastest
    both = Constraints(latency_us=fastest * 1.001, macs=int(fewest))
    assert both.latency_us is not None
    assert costs[LATENCY][kept].min() > both.latency_us
    said = unreachable(Job(small, replace(OPTIONS, constraints=both)))
    found = re.search(r"beside --max-macs ([\d,]+): .* is (?:under )?([\d.]+) \(certified\)", said)
    assert found is not None
    assert int(found[1].replace(",", "")) == fewest
    assert both.latency_us < float(found[2]) <= costs[LATENCY][kept].min() + 0.01
