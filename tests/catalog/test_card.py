"""A card with a mistake is one line that names the file, the field and what would work."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.catalog.card import load_cards, read_card
from graphopt.catalog.rules import bind
from graphopt.catalog.values import TargetRef
from graphopt.errors import ConfigError
from graphopt.rewrites.round_channels import RoundParams
from graphopt.rewrites.scale_depth import ScaleParams
from graphopt.strict import MAX_FILE_BYTES
from tests.catalog.cards import CARD, DENSE, write


def test_a_card_is_read(tmp_path: Path) -> None:
    card = read_card(write(tmp_path, "widths/mine.toml", CARD))
    assert (card.id, card.group, card.rewrite.name, card.safety) == ("mine", "widths", "round-channels", "exact")
    assert card.params == {"multiple": TargetRef("parallelism")}
    assert bind(card, {"parallelism": 16}).params == RoundParams(16, "up")
    assert bind(card, {"parallelism": 16}, {"direction": "down"}).params == RoundParams(16, "down")


@pytest.mark.parametrize(
    ("old", "new", "field", "message"),
    [
        ("summary =", "sumary =", "sumary", "unknown key (nearest: summary"),
        ('limits  = "None."', "", "limits", "is missing"),
        ('"Because."', "7", "why", "must be a text, not 7"),
        ('"Because."', '" "', "why", "must not be empty"),
        ("references = []", 'references = "x"', "references", "must be a list of texts, not 'x'"),
        ('"exact"', '"exakt"', "safety", "'exakt' is none of exact, repaired, retrain (nearest: exact)"),
        ('"stable"', '"old"', "status", "'old' is none of preview, stable, deprecated"),
        ('"round-channels"', '"round-chanels"', "rewrite", "unknown rewrite 'round-chanels' (nearest: round-channels"),
        (
            "multiple =",
            "multple =",
            "params.multple",
            "unknown parameter of rewrite 'round-channels' (nearest: multiple)",
        ),
        ('{ target = "parallelism" }', '"8"', "params.multiple", "must be a whole number, not '8'"),
        ('{ target = "parallelism" }', "8.5", "params.multiple", "must be a whole number, not 8.5"),
        ('{ target = "parallelism" }', "true", "params.multiple", "must be a whole number, not True"),
        ('{ target = "parallelism" }', "{ tarket = 'x' }", "params.multiple", "a table must be { target ="),
        (
            "multiple =",
            "direction = 'sideways'\nmultiple =",
            "params.direction",
            "must be one of up, down, not 'sideways'",
        ),
        ("[params]", "params = 3\n[x]", "x", "unknown key"),
        ("summary =", '"a\\nb" = 1\nsummary =', "a b", "unknown key"),
        (
            "[params]",
            "[[example]]\nname = 'n'\nbefore = 'b'\n[params]",
            "example[0].after",
            "either 'after' or 'unchanged'",
        ),
        ("[params]", "[example]\n[params]", "example", "must be an array of tables"),
        (
            "[params]",
            "[[example]]\nname = 'n'\nbefore = 'b'\nafter = 'a'\nparams = { multiple = 'a' }\n[params]",
            "example[0].params.multiple",
            "must be a whole number",
        ),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, field: str, message: str) -> None:
    assert old in CARD
    file = write(tmp_path, "mine.toml", CARD.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        read_card(file)
    assert caught.value.file == str(file)
    assert caught.value.field == field
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"summary = \n", "is no valid TOML: Invalid value (at line 1"),
        (b"summary = '\xff'", "is not UTF-8 text (byte 11)"),
        (b"#" * (MAX_FILE_BYTES + 1), "is larger than"),
        (b"a = " + b"[" * 100_000, "is no valid TOML"),
    ],
)
def test_broken_files(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_card(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)


def test_names(tmp_path: Path) -> None:
    write(tmp_path, "My_Rule.toml", CARD)
    with pytest.raises(ConfigError, match="small letters"):
        load_cards([tmp_path])
    with pytest.raises(ConfigError, match="is no folder"):
        load_cards([tmp_path / "nowhere"])


def test_two_cards_of_one_name(tmp_path: Path) -> None:
    first = write(tmp_path, "a/mine.toml", CARD)
    second = write(tmp_path, "b/mine.toml", CARD)
    with pytest.raises(ConfigError) as caught:
        load_cards([tmp_path])
    assert str(first) in str(caught.value)
    assert caught.value.file == str(second)


def test_packs_are_no_cards(tmp_path: Path) -> None:
    write(tmp_path, "packs/mine.toml", "rules = []")
    write(tmp_path, "widths/mine.toml", CARD)
    write(tmp_path, "loose.toml", DENSE)
    assert sorted(load_cards([tmp_path])) == ["loose", "mine"]


def test_binding(tmp_path: Path) -> None:
    card = read_card(write(tmp_path, "mine.toml", CARD))
    with pytest.raises(ConfigError) as caught:
        bind(card, {"paralelism": 8})
    assert caught.value.field == "params.multiple"
    assert "no property 'parallelism' (nearest: paralelism); known: paralelism" in str(caught.value)
    with pytest.raises(ConfigError, match="property is not a whole number"):
        bind(card, {"parallelism": "many"})
    with pytest.raises(ConfigError, match="multiple must be at least 1, not 0"):
        bind(card, {"parallelism": 0})


def test_a_parameter_that_nobody_sets(tmp_path: Path) -> None:
    card = read_card(write(tmp_path, "mine.toml", CARD.split("[params]")[0]))
    with pytest.raises(ConfigError) as caught:
        bind(card, {"parallelism": 8})
    assert caught.value.field == "params.multiple"


def test_lists_and_numbers(tmp_path: Path) -> None:
    text = CARD.replace("round-channels", "scale-depth") + "multipliers = [1, 0.5]\nonly = ['stage2/*']\n"
    card = read_card(write(tmp_path, "mine.toml", text))
    assert bind(card, {"parallelism": 8}).params == ScaleParams(8, (1.0, 0.5), ("stage2/*",))
    bad = write(tmp_path, "bad.toml", text.replace("0.5", "'half'"))
    with pytest.raises(ConfigError, match=r"params.multipliers: must be a list, each a number, not \[1, 'half'\]"):
        read_card(bad)
