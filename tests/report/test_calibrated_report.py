"""Drift, repair and evaluation as sentences, as values and on the page, with the numbers that are hard to show."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from graphopt import OptimizeResult, Options, optimize
from graphopt.report.error_bars import TALLEST, error_bars
from graphopt.report.html import html_report
from graphopt.report.sentences import drift_sentence, meaning, metric_change, metrics, repair_sentences
from graphopt.report.values import optimize_values
from graphopt.verification.drift import Drift
from graphopt.verification.evaluate import Evaluation
from graphopt.verification.tally import OutputDrift
from graphopt.weights.repair import RepairedUnit
from tests.report.test_report import Checker

NAN, INF = math.nan, math.inf
EVIL = "op</code><script>alert(1)</script>&\x1b"

SCORES = OutputDrift("scores", "kl", 0.0173, 0.00695, 0.143, 1.07, 0.99, 0.0173, 0.953, 1.0)
BROKEN = OutputDrift(EVIL, "relative-l2", INF, None, INF, INF, NAN, reason="it is not finite")
UNITS = (
    RepairedUnit(EVIL, "majorise-minimise", 1.42, 0.25, True),
    RepairedUnit("b", "least-squares", 0.4, 0.2, True),
    RepairedUnit("c", "least-squares", 35.0, INF, True),
    RepairedUnit("d", "unchanged", 0.3, 0.3, False, "no candidate was better"),
    RepairedUnit("e", "unchanged", NAN, NAN, False, "one row per sample"),
)
HITS = [(("top1", tuple(i < count for i in range(2000))),) for count in (1847, 1808)]
METRICS = (
    Evaluation((("top1", 0.9235), ("mAP", 0.5)), 2000, HITS[0]),
    Evaluation((("top1", 0.904), ("mAP", 0.4123456), ("new", 3.0)), 2000, HITS[1]),
)


@pytest.fixture(scope="module")
def lossy(small_model_bytes: bytes, tmp_path_factory: pytest.TempPathFactory) -> OptimizeResult:
    path = tmp_path_factory.mktemp("lossy") / "small.onnx"
    path.write_bytes(small_model_bytes)
    return optimize(path, None, Options(allow="repaired", verify=False))


@pytest.fixture(scope="module")
def full(lossy: OptimizeResult) -> OptimizeResult:
    return replace(lossy, drift=Drift((SCORES, BROKEN), 16), repaired=UNITS, evaluation=METRICS)


def test_the_meaning_is_true_with_and_without_repair(lossy: OptimizeResult, full: OptimizeResult) -> None:
    assert lossy.safety == "repaired"
    assert meaning(lossy) == "first-method weights; give --calibration to repair them"
    assert meaning(replace(lossy, outcome="failed")) == "nothing was written, so no weights were repaired"
    assert "weights repaired on calibration data" in meaning(full)
    assert "none repaired" in meaning(replace(full, repaired=()))
    assert "none repaired" in meaning(replace(full, repaired=UNITS[3:]))
    assert "but for rounding" in meaning(replace(full, safety="exact"))
    retrain = replace(lossy, safety="retrain")
    assert meaning(retrain) == "the weights need training before use"
    assert meaning(replace(full, safety="retrain")) == "the weights need training before use; what could be repaired is"


def test_sentences() -> None:
    alone = drift_sentence(Drift((SCORES,), 16))
    assert alone == "0.0173 +/- 0.00695 KL divergence (nats), on 16 held-out samples; top-1 agreement 95.3 %"
    both = drift_sentence(Drift((SCORES, BROKEN), 1))
    assert both.startswith("inf relative L2, worst of 2 outputs, on 1 held-out sample;")
    assert list(repair_sentences(UNITS)) == [
        "3 ops repaired: least-squares (2x); majorise-minimise (1x)",
        "2 ops left alone: no candidate was better (1x); one row per sample (1x)",
    ]
    assert list(repair_sentences(UNITS[4:])) == ["0 ops repaired", "1 op left alone: one row per sample (1x)"]
    assert len(list(repair_sentences(UNITS[:2]))) == 1


def test_only_shares_are_in_points() -> None:
    assert [str(one) for one in metrics(METRICS)] == [
        "top-1 accuracy 92.35 % +/- 0.59 -> 90.40 % +/- 0.66 (-1.95 +/- 0.31 points)",
        "mAP 0.5 -> 0.41235 (-0.087654)",
        "new - -> 3 (-)",
    ]
    assert str(metric_change("top1", 92.0, 90.5)) == "top1 92 -> 90.5 (-1.5)"  # somebody's percent


def test_values_have_every_number_and_null_for_what_json_cannot_say(
    lossy: OptimizeResult, full: OptimizeResult
) -> None:
    values = optimize_values(full)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    near = partial(pytest.approx, abs=1e-6)
    drift = values["drift"]
    assert (drift["value"], drift["measure"], drift["samples"]) == (None, "relative-l2", 16)
    assert drift["reason"].endswith(" is infinite: it is not finite")
    assert drift["outputs"][0]["kl"] == 0.0173
    assert drift["top1_agreement"] == 0.953
    assert [unit["error_after"] for unit in values["repaired"]] == [0.25, 0.2, None, 0.3, None]
    assert values["evaluation"] == {
        "before": {
            "metrics": {"top1": 0.9235, "mAP": 0.5}, "standard_errors": {"top1": near(0.005943)}, "samples": 2000,
        },
        "after": {
            "metrics": {"top1": 0.904, "mAP": 0.4123456, "new": 3.0}, "standard_errors": {"top1": near(0.006587)},
            "samples": 2000,
        },
        "difference_standard_errors": {"top1": near(0.003092)},
    }  # fmt: skip
    absent = optimize_values(lossy)
    assert [absent[key] for key in ("drift", "repaired", "evaluation")] == [None, None, None]


def test_the_page_shows_them_and_nothing_hostile(lossy: OptimizeResult, full: OptimizeResult) -> None:
    page = html_report(full)
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert "script" not in checker.seen
    assert "\x1b" not in page
    text = " ".join(checker.text)
    for shown in (
        "Drift",
        "KL divergence (nats)",
        "95.3 %",
        "Repaired weights",
        "majorise-minimise",
        "-1.95 +/- 0.31 points",
    ):
        assert shown in text
    bare = html_report(lossy)
    for title in ("<h2>Drift</h2>", "<h2>Repaired weights</h2>", "<h2>Evaluation</h2>"):
        assert title in page
        assert title not in bare
    assert "give --calibration" in bare


def test_bars_are_as_high_as_the_errors_and_stay_inside() -> None:
    checker = Checker()
    checker.feed(error_bars(UNITS))
    checker.close()
    heights = [float(value or "nan") for name, value in checker.attributes if name == "height"]
    frame, bars = heights[0], [height for height in heights if height != heights[0]]
    assert heights.count(frame) == len(UNITS) + 2  # a hit area each, and the two that end at the top
    assert bars == pytest.approx([frame * error / TALLEST for error in (1.42, 0.25, 0.4, 0.2, 0.3, 0.3)], abs=0.01)
    assert sum(value == "gone" for name, value in checker.attributes if name == "class") == 1
    assert error_bars(UNITS[4:]).count("<rect") == 1
    assert "nan" not in error_bars(UNITS)


def test_many_ops_fit(tmp_path: Path) -> None:
    picture = error_bars(UNITS[:2] * 300)
    checker = Checker()
    checker.feed(picture)
    places = [float(value or "nan") for name, value in checker.attributes if name == "x" and value]
    assert all(0 <= place <= 1080 for place in places)
