"""A zoo with calibration data and labels: what its rows tell, and what makes it begin anew."""

from __future__ import annotations

import csv
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from graphopt import ConfigError, Options, optimize_zoo
from graphopt.cli import app
from graphopt.verification.drift import Drift
from graphopt.zoo.data import options_for, without_data
from graphopt.zoo.journal import _fingerprint
from graphopt.zoo.run import _Runner


@pytest.fixture
def place(tmp_path: Path, small_model_bytes: bytes) -> Path:
    """A folder with a zoo of one model, and data beside it."""
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "small.onnx").write_bytes(small_model_bytes)
    images = np.random.default_rng(0).standard_normal((24, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "real.npz", image=images[:16])
    np.savez(tmp_path / "labelled.npz", image=images, label=np.arange(24) % 10)
    return tmp_path


def test_rows_have_drift_and_metric_also_from_an_earlier_run(place: Path) -> None:
    options = Options(calibration=str(place / "real.npz"), evaluate=str(place / "labelled.npz"))
    (row,) = optimize_zoo(place / "zoo", place / "out", options)
    assert row.outcome == "optimized", row.reason
    assert row.result is not None  # it came through a pickle
    assert row.result.drift is not None
    assert row.result.evaluation is not None
    assert any(unit.kept for unit in row.result.repaired)
    numbers = row.numbers
    assert numbers is not None
    assert (numbers.safety, numbers.verdict) == ("repaired", None)
    assert numbers.drift == row.result.drift.value > 0
    before, after = (dict(one.metrics)["top1"] for one in row.result.evaluation)
    assert (numbers.metric, numbers.metric_before, numbers.metric_after) == ("top1", before, after)
    assert numbers.metric_error is not None
    assert numbers.metric_error == row.result.evaluation[0].paired_errors(row.result.evaluation[1])["top1"]
    with (place / "out" / "graphopt-zoo.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert float(line["drift"]) == numbers.drift
    assert line["metric"] == "top1"

    (again,) = optimize_zoo(place / "zoo", place / "out", options)
    assert again.result is None
    assert again.numbers == numbers
    arguments = ["zoo", str(place / "zoo"), "-o", str(place / "out"), "--calibration", str(place / "real.npz")]
    done = CliRunner().invoke(app, [*arguments, "--evaluate", str(place / "labelled.npz")])
    assert done.exit_code == 0, done.stderr
    assert "drift" in done.stdout
    assert f"top-1 accuracy {100 * before:.2f} % -> " in done.stdout
    assert f" +/- {100 * numbers.metric_error:.2f} points)" in done.stdout
    values = json.loads(
        CliRunner().invoke(app, [*arguments, "-t", "npu-32-no-depthwise", "--no-repair", "--json"]).stdout
    )
    assert values["rows"][0]["numbers"]["drift"] is None  # exact, and so proved
    assert values["rows"][0]["numbers"]["verdict"] == "equal"


def test_an_infinite_drift_is_written_down_and_said(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(calibration=str(place / "real.npz"))
    (row,) = optimize_zoo(place / "zoo", place / "out", options)
    assert row.result is not None
    assert row.result.drift is not None
    lost = replace(row.result.drift.worst, value=math.inf, reason="it is not finite")
    broken = replace(row.result, drift=Drift((lost,), 8))
    monkeypatch.setattr(_Runner, "_ask", lambda *_: broken)
    (row,) = optimize_zoo(place / "zoo", place / "out", options, force=True)
    assert row.reason == "the drift of 'scores' is infinite: it is not finite"
    assert row.numbers is not None
    assert row.numbers.drift == math.inf
    json.loads((place / "out" / "graphopt-zoo.json").read_text(), parse_constant=pytest.fail)
    (again,) = optimize_zoo(place / "zoo", place / "out", options)
    assert (again.reason, again.numbers, again.result) == (row.reason, row.numbers, None)
    arguments = ["zoo", str(place / "zoo"), "-o", str(place / "out"), "--calibration", str(place / "real.npz")]
    told = CliRunner().invoke(app, arguments)
    assert "small.onnx: optimized: the drift of 'scores' is infinite" in told.stdout
    values = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout, parse_constant=pytest.fail)
    assert (values["rows"][0]["numbers"]["drift"], values["rows"][0]["reason"]) == (None, row.reason)


def test_the_table_has_no_column_for_what_nobody_measured(place: Path) -> None:
    done = CliRunner().invoke(app, ["zoo", str(place / "zoo"), "-o", str(place / "out"), "--no-verify"])
    assert done.exit_code == 0, done.stderr
    assert "drift" not in done.stdout
    assert "metric" not in done.stdout


def test_what_the_options_name_counts_for_going_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    (place / "photos" / "deep").mkdir(parents=True)
    (place / "photos" / "deep" / "a.png").write_bytes(b"picture")
    (place / "mine.toml").write_text("resize = 'squash'")
    (place / "metrics.py").write_text("def f(run): return 1.0\n")
    folder = Options(calibration="photos", preprocess="mine.toml", evaluate="metrics:f", max_drift=0.1)
    data = Options(calibration="real.npz", evaluate="labelled.npz")
    here = Options(calibration="real.npz", evaluate="metrics.py:f")

    changes: tuple[tuple[Options, dict[str, bytes]], ...] = (
        (folder, {"photos/deep/a.png": b"other", "photos/b.png": b"new", "mine.toml": b"#", "metrics.py": b"#"}),
        (data, {"real.npz": b"x", "labelled.npz": b"x"}),
        (here, {"metrics.py": b"x"}),
    )
    for options, files in changes:
        for name, content in files.items():
            before = _fingerprint(options)
            assert _fingerprint(options) == before
            (place / name).write_bytes(content)
            os.utime(place / name, ns=(1, 1))
            assert _fingerprint(options) != before, name
    known = {_fingerprint(folder)}
    for change in ({"max_drift": 0.2}, {"repair": False}, {"preprocess": "unit"}, {"memory_limit_bytes": 1 << 20}):
        known.add(_fingerprint(replace(folder, **change)))
    assert len(known) == 5
    assert _fingerprint(replace(folder, cache="elsewhere")) in known


def renamed(content: bytes, name: str) -> bytes:
    """The small model with another input name: no data for ``image`` fits it."""
    model = onnx.load_model_from_string(content)
    model.graph.input[0].name = model.graph.node[0].input[0] = name
    return bytes(model.SerializeToString())


def test_a_model_that_the_shared_set_does_not_fit_is_optimized_without(place: Path, small_model_bytes: bytes) -> None:
    (place / "zoo" / "other.onnx").write_bytes(renamed(small_model_bytes, "photo"))
    real = str(place / "real.npz")
    options = Options(target="npu-32-no-depthwise", calibration=real, importance="energy")
    other, small = optimize_zoo(place / "zoo", place / "out", options)
    assert (small.outcome, small.reason) == ("optimized", "")
    assert other.outcome == "optimized", other.reason
    assert other.reason == f"without calibration: {real}: lacks the model's input 'photo'; it holds image"
    assert other.numbers is not None
    assert (other.numbers.safety, other.numbers.drift) == ("exact", None)
    arguments = ["zoo", str(place / "zoo"), "-o", str(place / "out"), "-t", "npu-32-no-depthwise"]
    told = CliRunner().invoke(app, [*arguments, "--calibration", real, "--importance", "energy"])
    assert told.exit_code == 0
    assert f"other.onnx: optimized: {other.reason}" in told.stdout


def test_each_model_may_have_calibration_data_of_its_own(place: Path, small_model_bytes: bytes) -> None:
    sets = place / "sets"
    (sets / "pictures").mkdir(parents=True)
    (place / "zoo" / "deep").mkdir()
    for name in ("deep/other.v2", "wrong", "none", "pictures"):
        (place / "zoo" / f"{name}.onnx").write_bytes(renamed(small_model_bytes, f"in-{name}"))
    images = np.load(place / "real.npz")["image"]
    np.savez(sets / "small.npz", image=images)
    np.savez(sets / "other.v2.npz", **{"in-deep/other.v2": images})
    np.savez(sets / "wrong.npz", image=images)
    options = Options(calibration=str(sets), preprocess="unit", verify=False)
    rows = {row.model: row for row in optimize_zoo(place / "zoo", place / "out", options, jobs=2)}
    for name in ("small.onnx", "deep/other.v2.onnx"):
        assert rows[name].outcome == "optimized", rows[name].reason
        assert rows[name].numbers is not None
        assert (rows[name].reason, rows[name].numbers.safety) == ("", "repaired")
    assert rows["wrong.onnx"].outcome == "failed"  # its own set must fit
    assert "lacks the model's input 'in-wrong'" in rows["wrong.onnx"].reason
    assert rows["pictures.onnx"].outcome == "failed"
    assert "holds no images" in rows["pictures.onnx"].reason
    assert rows["none.onnx"].reason.endswith(
        f"without calibration: {sets}: has no none.npz, no folder none and no images"
    )


def test_without_data_nothing_that_needs_it_is_left() -> None:
    given = Options(calibration="c", preprocess="unit", max_drift=0.1, importance="energy", allow="retrain")
    assert without_data(given) == Options(allow="exact")
    assert without_data(replace(given, max_drift=None, importance="l2")) == Options(allow="retrain", importance="l2")


def test_pictures_for_all_are_for_those_without_their_own(place: Path) -> None:
    (place / "sets" / "small").mkdir(parents=True)
    shared = Options(calibration=str(place / "sets"), preprocess="unit")
    for folder in ("sets", "sets/small"):
        (place / folder / "a.png").write_bytes(b"")
    assert options_for("small.onnx", shared) == (replace(shared, calibration=str(place / "sets" / "small")), True)
    assert options_for("deep/small.onnx", shared)[1]
    assert options_for("other.onnx", shared) == (shared, False)
    one = Options(calibration=str(place / "real.npz"))
    assert options_for("small.onnx", one) == (one, False)


def test_no_such_calibration_data_stops_the_whole_zoo(place: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        optimize_zoo(place / "zoo", place / "out", Options(calibration=str(place / "no.npz")))
    assert not (place / "out").exists()
