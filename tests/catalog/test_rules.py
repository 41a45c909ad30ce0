"""Packs, and what is in force when packs, --rule, --no-rule and parameters come together."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from graphopt.catalog.rules import Catalog, load_catalog, rules_table
from graphopt.errors import ConfigError
from graphopt.resources import rules_dir
from graphopt.rewrites import REWRITES
from tests.catalog.cards import CARD, DENSE, write

TARGET = {"parallelism": 32}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def ids(rules: tuple[object, ...]) -> list[str]:
    return [rule.id for rule in rules]  # type: ignore[attr-defined]


def test_what_ships(catalog: Catalog) -> None:
    assert set(catalog.packs) == {"default", "edge-npu", "exact"}
    assert set(catalog.cards) == {
        "curate-widths",
        "fold-space-to-depth-stem",
        "fuse-inverted-bottleneck",
        "merge-linear-convs",
        "round-channels",
        "round-channels-down",
        "scale-depth",
        "swap-depthwise-for-dense",
        "swap-depthwise-for-grouped",
    }
    assert set(ids(catalog.rules_in_force(TARGET))) == set(catalog.cards)
    exact = {card.id for card in catalog.cards.values() if card.safety == "exact"}
    assert set(ids(catalog.rules_in_force(TARGET, packs=["exact"]))) == exact


def test_edge_npu_limits_fusing(catalog: Catalog) -> None:
    rules = {rule.id: rule for rule in catalog.rules_in_force(TARGET, packs=["edge-npu"])}
    assert rules["fuse-inverted-bottleneck"].params.max_expanded_channels == 384
    rules = {rule.id: rule for rule in catalog.rules_in_force(TARGET)}
    assert rules["fuse-inverted-bottleneck"].params.max_expanded_channels is None


def test_parameters_come_from_the_target(catalog: Catalog) -> None:
    for rule in catalog.rules_in_force({"parallelism": 24}):
        for name in ("multiple", "group_width"):
            assert getattr(rule.params, name, 24) == 24


def test_adding_and_leaving_out(catalog: Catalog) -> None:
    assert ids(catalog.rules_in_force(TARGET, packs=[], rules=["scale-depth"])) == ["scale-depth"]
    added = ids(catalog.rules_in_force(TARGET, packs=["exact"], rules=["fusion/*"], no_rules=["swap-*"]))
    assert "fuse-inverted-bottleneck" in added
    assert not [name for name in added if name.startswith("swap")]


def test_parameters_given_by_the_caller(catalog: Catalog) -> None:
    rules = {
        rule.id: rule
        for rule in catalog.rules_in_force(
            TARGET,
            packs=["edge-npu"],
            params={"scale-depth": {"multipliers": [0.75]}, "fuse-inverted-bottleneck": {"max_expanded_channels": 5}},
        )
    }
    assert rules["scale-depth"].params.multipliers == (0.75,)
    assert rules["fuse-inverted-bottleneck"].params.max_expanded_channels == 5
    with pytest.raises(ConfigError, match=r"rule scale-depth\.multipliers: must be a list, each a number"):
        catalog.rules_in_force(TARGET, params={"scale-depth": {"multipliers": "0.75"}})
    with pytest.raises(ConfigError, match="unknown parameter of rule 'scale-depth'"):
        catalog.rules_in_force(TARGET, params={"scale-depth": {"multiplier": [0.75]}})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"packs": ["defualt"]}, "no pack 'defualt' (nearest: default, exact); known: default, edge-npu, exact"),
        ({"rules": ["scale-deth"]}, "no rule 'scale-deth' (nearest: scale-depth, "),
        ({"no_rules": ["nonsense-*"]}, "no rule 'nonsense-*'"),
        ({"params": {"scale": {}}}, "no rule 'scale' (nearest: scale-depth)"),
    ],
)
def test_unknown_names(catalog: Catalog, asked: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        catalog.rules_in_force(TARGET, **asked)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_an_experts_folder(tmp_path: Path) -> None:
    write(tmp_path, "chip-x/dense-here.toml", DENSE)
    write(tmp_path, "chip-x/round-to-ten.toml", CARD.replace('{ target = "parallelism" }', "10"))
    write(tmp_path, "chip-x/not-yet.toml", DENSE.replace("stable", "preview"))
    write(
        tmp_path,
        "packs/chip-x.toml",
        """summary = "Chip X."
        rules = ["chip-x/*"]
        protect = ["head/*", "body/?"]
        overrides.round-to-ten.direction = "down" """,
    )
    catalog = load_catalog([tmp_path])
    rules = catalog.rules_in_force(TARGET, packs=["chip-x"])
    assert ids(rules) == ["dense-here", "round-to-ten"]
    assert (rules[1].params.multiple, rules[1].params.direction) == (10, "down")
    assert catalog.protected(["chip-x", "default"]) == ("body/?", "head/*")
    assert "not-yet" in ids(catalog.rules_in_force(TARGET, packs=["chip-x"], rules=["not-yet"]))
    assert "dense-here" in ids(catalog.rules_in_force(TARGET)), "the default pack is every stable rule"
    assert "dense-here" not in ids(catalog.rules_in_force(TARGET, packs=["exact"]))


def test_an_expert_cannot_shadow_a_rule_or_a_pack(tmp_path: Path) -> None:
    write(tmp_path, "mine/round-channels.toml", CARD)
    with pytest.raises(ConfigError, match="there is a rule 'round-channels' already, in "):
        load_catalog([tmp_path])
    other = tmp_path / "other"
    write(other, "packs/exact.toml", "summary = 'Mine.'\nrules = []")
    with pytest.raises(ConfigError, match="there is a pack 'exact' already, in "):
        load_catalog([other])


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ("rules = []", "summary", "is missing"),
        ("summary = 'x'", "rules", "is missing"),
        ("summary = 'x'\nrules = ['*']\nrule = 1", "rule", "unknown key (nearest: rules"),
        ("summary = 'x'\nrules = ['exact', 'scale-depht']", "rules[0]", "no rule 'exact'"),
        (
            "summary = 'x'\nrules = []\noverrides.scale.x = 1",
            "overrides.scale",
            "no rule 'scale' (nearest: scale-depth)",
        ),
        (
            "summary = 'x'\nrules = []\noverrides.scale-depth.multiplier = 1",
            "overrides.scale-depth.multiplier",
            "unknown parameter of rule 'scale-depth' (nearest: multipliers, multiple)",
        ),
        ("summary = 'x'\nrules = []\nprotect = 'head'", "protect", "must be a list of texts"),
    ],
)
def test_mistakes_in_packs(tmp_path: Path, text: str, field: str, message: str) -> None:
    file = write(tmp_path, "packs/mine.toml", text)
    with pytest.raises(ConfigError) as caught:
        load_catalog([tmp_path])
    assert (caught.value.file, caught.value.field) == (str(file), field)
    assert message in str(caught.value)


def test_the_readmes_table_is_current(catalog: Catalog) -> None:
    assert rules_table(catalog) in (rules_dir() / "README.md").read_text(encoding="utf-8")


def test_the_readme_names_every_parameter() -> None:
    lines = (rules_dir() / "README.md").read_text(encoding="utf-8").splitlines()
    for rewrite in REWRITES:
        names = {field.name for field in fields(rewrite.Params)}
        (line,) = [line for line in lines if line.startswith(f"| `{rewrite.name}` |")] if names else [""]
        assert set(re.findall("`([a-z_]+)`", line)) == names
