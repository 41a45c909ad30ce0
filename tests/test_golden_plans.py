"""Golden plans: what is chosen for the sample model on every bundled target. A change here is a change for users, so
read the diff; then write the new ones with  python -m tests.test_golden_plans
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from graphopt.pipeline import optimize
from graphopt.resources import sample_models_dir
from graphopt.results import Options
from graphopt.targets.target import bundled_targets

GOLDEN = Path(__file__).parent / "golden"
MODEL = sample_models_dir() / "fashion_classifier.onnx"
MODES = {
    "exact": Options(verify=False),
    "retrain": Options(allow="retrain", depth_multipliers=(1.0, 0.75), objective="latency", verify=False),
}


def choices(target: str, mode: str) -> str:
    """The decisions that change something, one a line, and what they come to."""
    result = optimize(MODEL, None, replace(MODES[mode], target=target))
    plan = result.plan
    lines = [f"{site.site}: {site.choice}" for site in plan.sites if site.choice != "keep"]
    lines += [f"{width.group}: {width.size} -> {width.width}" for width in plan.widths if width.width != width.size]
    lines += [f"{name} = {value:g}" for name, value in plan.knobs]
    lines.append(f"latency {result.before.latency_us:.2f} -> {result.after.latency_us:.2f} us")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", bundled_targets())
def test_plan_is_the_golden_one(target: str, mode: str) -> None:
    assert choices(target, mode) == (GOLDEN / f"{target}.{mode}.txt").read_text(encoding="utf-8")


if __name__ == "__main__":
    for name in bundled_targets():
        for kind in MODES:
            (GOLDEN / f"{name}.{kind}.txt").write_text(choices(name, kind), encoding="utf-8")
