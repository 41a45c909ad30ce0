"""A drift budget: what single decisions cost is measured, kept, added up, and checked on the whole model."""

from __future__ import annotations

import json
import math
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from graphopt import candidates, sensitivity
from graphopt.draft import Job
from graphopt.errors import ConfigError
from graphopt.pipeline import optimize
from graphopt.resources import sample_models_dir
from graphopt.results import Options
from graphopt.search.local import Found
from graphopt.search.objective import Constraints
from graphopt.sensitivity import Sensitivity, measure_sensitivity
from graphopt.space.table import DRIFT, INVALID

SAMPLE = sample_models_dir() / "fashion_classifier.onnx"


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    """A budget over the last blocks only: most of the model is protected, so that little is measured."""
    folder = tmp_path_factory.mktemp("data")
    images = np.load(sample_models_dir() / "fashion_calibration.npz")["image"][:64]
    np.savez(folder / "images.npz", image=images)
    return Options(
        calibration=str(folder / "images.npz"),
        max_drift=0.02,
        cache=str(folder / "cache"),
        protect=("getitem_?", "getitem_[1-57-8]?", "getitem_60", "getitem_63", "logits"),
    )


@pytest.fixture(scope="module")
def job(options: Options) -> Job:
    return Job(SAMPLE, options)


def measured(job: Job) -> Sensitivity:
    assert job.data is not None
    cache = Path(job.options.cache or "")
    return measure_sensitivity(job.space, job.table, job.data, SAMPLE, job.subject.digest, cache=cache)


def test_fewer_channels_drift_more_and_more_channels_not_at_all(job: Job) -> None:
    single = measured(job)
    assert single.measure == "kl"
    assert single.measured > 0
    for v, variable in enumerate(job.table.variables):
        if variable.kind == "width":
            width = next(width for width in job.space.widths if width.group.id == variable.id)
            by_channels = sorted(zip((o.width for o in width.options), single.drift[v], strict=True))
            drifts = [drift for _, drift in by_channels]
            assert drifts == sorted(drifts, reverse=True)
            assert all(drift == 0.0 for channels, drift in by_channels if channels >= width.group.size)
            assert drifts[0] > 0.0


def test_measurements_are_kept_and_a_cut_off_line_costs_one(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measured(job)
    again = measured(job)
    assert again.reused == again.measured == first.measured
    assert all(np.array_equal(again.drift[v], first.drift[v]) for v in first.drift)
    (journal,) = Path(job.options.cache or "").glob("*.jsonl")
    text = journal.read_text("utf-8")
    journal.write_text(text[:-20], "utf-8")
    resumed = measured(job)
    assert resumed.reused == resumed.measured - 1
    assert all(np.allclose(resumed.drift[v], first.drift[v], rtol=1e-5) for v in first.drift)

    def refuse(*_: object) -> float:
        raise AssertionError("measured again")

    monkeypatch.setattr(sensitivity._Meter, "measure", refuse)
    measured(job)


def test_a_drift_without_end_is_beyond_every_budget(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is kept of it is JSON, which has no infinity."""
    monkeypatch.setattr(sensitivity._Meter, "measure", lambda *_: math.inf)
    other = copy(job)
    other.options = replace(job.options, cache=str(tmp_path))
    single = measured(other)
    table = job.table.with_drift(single.drift)
    for v, drift in single.drift.items():
        assert np.isfinite(drift).all()
        changed = job.table.default()
        changed[v] = int(drift.argmax())
        if drift.max() > 0:
            assert table.evaluate(changed[None], [DRIFT])[0, 0] > 100
    (journal,) = tmp_path.glob("*.jsonl")
    for line in journal.read_text("utf-8").splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_channels_chosen_otherwise_are_measured_anew(job: Job) -> None:
    measured(job)
    other = replace(job.data, importance="energy")
    folder = Path(job.options.cache or "")
    kept, anew = (sensitivity._Journal(folder, job.subject.digest, d.limited(64, 128)) for d in (job.data, other))
    assert kept._known
    assert not anew._known


def test_the_table_adds_them_up(job: Job) -> None:
    single = measured(job)
    table = job.table.with_drift(single.drift)
    row = np.array([len(variable.options) - 1 for variable in table.variables])
    total = sum(float(drift[row[v]]) for v, drift in single.drift.items())
    assert table.evaluate(row[None], (DRIFT,))[0, 0] == pytest.approx(total)
    assert table.evaluate(table.default()[None], (DRIFT, INVALID))[:, 0].tolist() == [0.0, 0.0]


def test_the_bound_holds_on_held_out_samples(job: Job, options: Options) -> None:
    result = optimize(SAMPLE, None, options)
    assert result.outcome == "optimized"
    assert result.safety == "repaired"
    assert result.after is not None
    assert result.before is not None
    assert result.after.latency_us < result.before.latency_us
    assert result.drift is not None
    assert 0.0 < result.drift.value <= 0.02
    assert job.data is not None
    assert result.drift.samples == len(job.data.held_out)
    tight = optimize(SAMPLE, None, replace(options, max_drift=1e-7))
    assert tight.drift is None or tight.drift.value <= 1e-7
    assert tight.after is not None
    assert tight.after.latency_us >= result.after.latency_us


def test_least_drift_chooses_among_every_curated_width(job: Job, options: Options) -> None:
    free = replace(options, max_drift=None, objective="drift>latency")
    assert [v.options for v in Job(SAMPLE, free).table.variables] == [v.options for v in job.table.variables]
    assert job.space.widths
    scaled = replace(free, depth_multipliers=(1.0,), allow="retrain")
    assert max(len(width.options) for width in Job(SAMPLE, scaled).space.widths) < max(
        len(width.options) for width in job.space.widths
    )


def test_a_bound_needs_samples() -> None:
    with pytest.raises(ConfigError, match="add --calibration"):
        optimize(SAMPLE, None, Options(max_drift=0.1))


@dataclass(frozen=True)
class Met:
    """A candidate that a search within a drift budget may meet."""

    score: float
    latency_us: float
    drift: float
    peak_bytes: int = 100


@pytest.mark.parametrize(
    ("met", "best"),
    [
        ([Met(0.9, 50, 0.001), Met(0.8, 90, 0.001), Met(0.85, 40, 0.001)], 1),  # the objective is no latency
        ([Met(0.5, 10, 0.5), Met(0.9, 90, 0.001), Met(0.95, 80, 0.001)], 1),  # over the bound
        ([Met(0.5, 10, 0.001, 300), Met(0.9, 90, 0.001), Met(0.6, 20, 0.001, 300)], 1),  # the arena is over its bound
    ],
)
def test_the_best_within_the_drift_is_the_best_by_the_objective(
    met: list[Met], best: int, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded = copy(job)
    bounded.options = replace(job.options, objective="peak-memory", constraints=Constraints(peak_bytes=200))
    waiting = iter(met)

    def search(*_: object) -> tuple[Found, object]:
        one = next(waiting, Met(0.99, 99, 0.001))
        after = replace(job.subject.before, latency_us=one.latency_us, peak_activation_bytes=one.peak_bytes)
        drift = SimpleNamespace(value=one.drift, worst=SimpleNamespace(measure="kl"))
        draft = SimpleNamespace(
            after=after, drift=drift, safety="repaired", number=met.index(one) if one in met else -1
        )
        return Found(job.table.default(), one.score, (), 1), draft

    monkeypatch.setattr(candidates, "search", search)
    _, draft, _ = candidates.search_within_drift(bounded, 0.02, None)
    assert draft.number == best
