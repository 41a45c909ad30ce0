"""The plan's file: what is written is read back, whatever the names; what is wrong is named by file and field."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import PlanError
from graphopt.ir.op import IMPORTANCES
from graphopt.plan import KEEP, Plan, PlannedRule, SiteChoice, WidthChoice, plan_from_toml, plan_to_toml, read_plan

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
NUMBERS = st.integers(1, 4096)
VALUES = st.one_of(st.integers(-5, 5), st.booleans(), NAMES, st.lists(st.integers(0, 9), max_size=3).map(tuple))

PLANS = st.builds(
    Plan,
    model=NAMES,
    model_digest=NAMES,
    target=NAMES,
    normalised=st.booleans(),
    rules=st.lists(
        st.builds(
            PlannedRule,
            id=NAMES,
            rewrite=NAMES,
            safety=st.just("exact"),
            params=st.dictionaries(NAMES, VALUES, max_size=3).map(lambda values: tuple(values.items())),
        ),
        max_size=3,
    ).map(tuple),
    sites=st.lists(st.builds(SiteChoice, site=NAMES, choice=NAMES), max_size=4).map(tuple),
    widths=st.lists(st.builds(WidthChoice, group=NAMES, size=NUMBERS, width=NUMBERS), max_size=4).map(tuple),
    knobs=st.dictionaries(NAMES, st.floats(0.1, 4.0), max_size=2).map(lambda values: tuple(values.items())),
    input_shapes=st.dictionaries(NAMES, st.lists(NUMBERS, max_size=4).map(tuple), max_size=2).map(
        lambda values: tuple(values.items())
    ),
    allow=st.sampled_from(["exact", "repaired", "retrain"]),
    protect=st.lists(NAMES, max_size=3).map(tuple),
    importance=st.sampled_from(IMPORTANCES),
)

PLAN = Plan(
    model="m.onnx",
    model_digest="sha256:1",
    target="npu-32",
    normalised=True,
    rules=(PlannedRule("r", "round-channels", "exact", (("multiple", 32),)),),
    sites=(SiteChoice("a", KEEP), SiteChoice("b", "r")),
    widths=(WidthChoice("a", 18, 32),),
    knobs=(("depth-multiplier", 0.75),),
)


@given(plan=PLANS, note=NAMES)
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read_back(plan: Plan, note: str) -> None:
    notes = {("site", site.site): [note, "two\nlines"] for site in plan.sites}
    notes |= {("width", width.group): [note] for width in plan.widths}
    text = plan_to_toml(plan, notes)
    assert plan_from_toml(text) == plan
    assert plan_from_toml(text).digest == plan.digest


def test_a_site_and_a_width_of_one_name_have_notes_of_their_own() -> None:
    text = plan_to_toml(PLAN, {("site", "a"): ["of the site"], ("width", "a"): ["of the width"]})
    site, width = text.index("#   of the site"), text.index("#   of the width")
    assert text.index("[[site]]") < site < text.index("[[width]]") < width


def test_the_digest_is_of_what_a_replay_depends_on() -> None:
    assert replace(PLAN, model="other.onnx", target="mine").digest == PLAN.digest
    assert replace(PLAN, sites=PLAN.sites[1:]).digest == PLAN.digest
    for other in (
        replace(PLAN, model_digest="sha256:2"),
        replace(PLAN, sites=()),
        replace(PLAN, widths=(WidthChoice("a", 18, 64),)),
        replace(PLAN, rules=(replace(PLAN.rules[0], params=(("multiple", 16),)),)),
        replace(PLAN, protect=("x",)),
        replace(PLAN, importance="energy"),
    ):
        assert other.digest != PLAN.digest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("format = 1", "format = 2", "format: this graphopt reads plan format 1"),
        ("format = 1", "", "format: is missing"),
        ("format = 1", 'format = 1\nop_order = "fast"', "op_order: must be one of file, memory, not 'fast'"),
        ("width = 32", "width = 0", "width[0].width: must be at least 1, not 0"),
        ("width = 32", 'width = "32"', "width[0].width: must be int, not '32'"),
        ("width = 32", "width = true", "width[0].width: must be int, not True"),
        ("normalised = true", "normalised = 1", "model.normalised: must be bool, not 1"),
        ('choice = "keep"', 'choise = "keep"', "site[0].choise: unknown key"),
        ("[model]", "[mode]", "mode: unknown key"),
        ('allow = "retrain"', 'allow = "all"', "scope.allow: must be one of exact, repaired, retrain"),
        ('importance = "auto"', 'importance = "all"', "scope.importance: must be one of auto, l2, energy, column-"),
        ('safety = "exact"', "safety = 3", "rule[0].safety: must be str, not 3"),
        ("format = 1", "format = [", "not a plan"),
    ],
)
def test_a_mistake_is_named_by_file_and_field(old: str, new: str, message: str, tmp_path: Path) -> None:
    text = plan_to_toml(PLAN)
    assert old in text
    path = tmp_path / "plan.toml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for name in ("none.toml", "binary.toml", "."):
        with pytest.raises(PlanError, match="cannot read the plan"):
            read_plan(tmp_path / name)


def test_the_text_is_plain_toml() -> None:
    data = tomllib.loads(plan_to_toml(PLAN))
    assert data["width"] == [{"group": "a", "size": 18, "width": 32}]
    assert data["rule"][0]["params"] == {"multiple": 32}
