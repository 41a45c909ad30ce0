"""Load-and-save leaves outputs equal. ``pytest -m corpus`` runs all of it and prints counts and exclusions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.onnx_io.corpus import SETS, Case, Outcome, file_cases, judge, node_cases, sample


def _judge_all(cases: list[Case], folder: Path, *, rewritten: bool) -> list[Outcome]:
    return [judge(case, folder, rewritten=rewritten) for case in cases]


def _report(outcomes: list[Outcome], title: str) -> str:
    lines = [f"\n{title}"]
    for group in SETS:
        found = [outcome for outcome in outcomes if outcome.case.group == group]
        count = Counter(outcome.verdict for outcome in found)
        lines.append(
            f"  {group:18} {len(found):5} models: {count['equal']:5} equal, {count['different']} different, "
            f"{count['excluded']} excluded"
        )
    reasons: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.reason:
            key = f"{outcome.verdict}, {outcome.case.group}: {outcome.reason}"
            reasons.setdefault(key, []).append(outcome.case.name)
    lines += [f"  {reason} ({len(names)}): {', '.join(names)}" for reason, names in sorted(reasons.items())]
    return "\n".join(lines)


def _different(outcomes: list[Outcome]) -> list[str]:
    return [f"{o.case.group}/{o.case.name}: {o.reason}" for o in outcomes if o.verdict == "different"]


@pytest.mark.corpus
@pytest.mark.parametrize("rewritten", [False, True], ids=["as it was", "every op exported anew"])
def test_outputs_stay_equal(
    rewritten: bool, real_models: tuple[Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [*file_cases(real_models), *node_cases()]
    outcomes = _judge_all(cases, tmp_path, rewritten=rewritten)
    title = "load and save, every op exported anew" if rewritten else "load and save"
    with capsys.disabled():
        print(_report(outcomes, title))
    assert not _different(outcomes)
    assert sum(outcome.verdict == "equal" for outcome in outcomes) > 1000


@pytest.mark.parametrize("rewritten", [False, True], ids=["as it was", "every op exported anew"])
def test_outputs_stay_equal_on_a_sample(rewritten: bool, tmp_path: Path) -> None:
    cases = [case for case in file_cases() if case.group not in ("light", "real")]
    nodes = [case for op_type in ("If", "Loop", "Conv", "Reshape", "Split") for case in node_cases(op_type)]
    outcomes = _judge_all([*sample(cases, 25, seed=1), *sample(nodes, 15, seed=1)], tmp_path, rewritten=rewritten)
    assert not _different(outcomes)
    assert sum(outcome.verdict == "equal" for outcome in outcomes) >= 25
