"""The bundled cards keep what they show, and a card that does not is caught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.catalog.card import read_card
from graphopt.catalog.examples import check_card, check_cards
from graphopt.catalog.rules import load_catalog
from graphopt.errors import ConfigError
from graphopt.ir.graph import Graph, Patch
from graphopt.ir.op import Op
from graphopt.resources import rules_dir
from graphopt.rewrites.fold_space_to_depth_stem import FoldSpaceToDepthStem
from graphopt.rewrites.rewrite import Match
from tests.catalog.cards import write

DENSE = rules_dir() / "depthwise" / "swap-depthwise-for-dense.toml"
GROUPED = rules_dir() / "depthwise" / "swap-depthwise-for-grouped.toml"
BOTH_ENDS = "(float[1,4,8,8] x) => (float[1,4,8,8] y)"
ROUND = rules_dir() / "widths" / "round-channels.toml"


def test_bundled_cards() -> None:
    cards = list(load_catalog().cards.values())
    assert [str(problem) for problem in check_cards(cards)] == []
    for card in cards:
        assert any(example.after for example in card.examples), card.id
        assert any(example.unchanged for example in card.examples), card.id


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (DENSE, "the depth multiplier is not 1", "because", "is 'the depth multiplier is not 1', not 'because'"),
        (DENSE, "<float[8,8,3,3] w", "<float[8,4,3,3] w", "reads a weight float32[8, 8, 3, 3]; wanted float32[8, 4"),
        (DENSE, "y = Conv<kernel_shape", "y = Conv<dilations = [1, 1], kernel_shape", "'after' is not what the rule"),
        (DENSE, "<float[8,1,3,3] w, float[8] b>", "<float[8,1,3,3] w, float[8] b", "no valid ONNX text"),
        (DENSE, "Conv<group = 8>(x, w) }", "Conv<group = 4>(x, v) }", "no valid ONNX text"),
        (ROUND, "params = { multiple = 8 }", "", "the example must set the parameter 'multiple'"),
        (ROUND, "<float[8,4,3,3] wa, float[8] ba", "<float[7,4,3,3] wa, float[7] ba", "reads a weight"),
        (ROUND, "float[6,4,3,3] wa", "float[60000,400,3,3] wa", "'wa' is too big for an example"),
        (ROUND, BOTH_ENDS, BOTH_ENDS.replace("8,8", "80000,80000"), "'x' is too big for an example"),
        (ROUND, "float[6,4,3,3] wa", "float[N,4,3,3] wa", "weight 'wa' without a value must have a float type"),
        (ROUND, "float[6,4,3,3] wa", "string[6,4,3,3] wa", "weight 'wa' without a value must have a float type"),
        (GROUPED, "params = { group_width = 8 }", "params = { group_width = 6 }", "16 channels are no multiple of 6"),
        (ROUND, "8 channels are a multiple", "9 channels are a multiple", "the refusal is"),
    ],
)
def test_a_wrong_example_is_caught(tmp_path: Path, file: Path, old: str, new: str, message: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    card = read_card(write(tmp_path, file.name, text.replace(old, new, 1)))
    (problem, *_) = check_card(card)
    assert message in problem.message
    assert problem.file == str(card.file)
    assert problem.field.startswith("example[")


def test_a_rule_that_fires_where_its_card_says_it_does_not(tmp_path: Path) -> None:
    text = DENSE.read_text(encoding="utf-8")
    head, _, tail = text.partition("after = ")
    refused = head + 'unchanged = "never"\n' + tail[tail.index("[[example]]") :]
    (problem,) = check_card(read_card(write(tmp_path, DENSE.name, refused)))
    assert problem.message == "the rule applies, and the example says that it does not"


def test_a_rule_that_does_not_fire_where_its_card_says_it_does(tmp_path: Path) -> None:
    text = DENSE.read_text(encoding="utf-8").replace("group = 8, kernel_shape = [3, 3]", "kernel_shape = [3, 3]")
    text = text.replace("<float[8,1,3,3] w, float[8] b>", "<float[8,8,3,3] w, float[8] b>")
    (problem,) = check_card(read_card(write(tmp_path, DENSE.name, text)))
    assert problem.message == "the rule does not apply: nothing here concerns the rewrite"


class SpoiltStem(FoldSpaceToDepthStem):
    """The real thing, with the channels of its weights in the wrong order."""

    def rewrite(self, graph: Graph, match: Match, params: Any) -> Patch:
        patch = super().rewrite(graph, match, params)
        weight = patch.weights[0]
        return replace(patch, weights=(replace(weight, make=lambda: weight.make()[:, ::-1]),))


class CarelessStem(FoldSpaceToDepthStem):
    """The real thing, with a kernel that gives another size."""

    def rewrite(self, graph: Graph, match: Match, params: Any) -> Patch:
        patch = super().rewrite(graph, match, params)
        return replace(patch, add=tuple(_unpadded(op) for op in patch.add))


def _unpadded(op: Op) -> Op:
    return op.with_attributes(pads=None)


def test_wrong_numbers_are_caught() -> None:
    card = load_catalog().card("fold-space-to-depth-stem")
    problems = check_card(replace(card, rewrite=SpoiltStem()))
    assert [problem.field for problem in problems] == ["example[0]", "example[1]"]
    assert all("of its largest value; exact means" in problem.message for problem in problems)


def test_wrong_structure_is_caught() -> None:
    card = load_catalog().card("fold-space-to-depth-stem")
    problems = check_card(replace(card, rewrite=CarelessStem()))
    assert all("'after' is not what the rule makes" in problem.message for problem in problems)
    assert problems


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(rules_dir().glob("*/*.toml"))), st.data())
def test_a_damaged_card_is_an_error_of_its_own_kind(file: Path, data: st.DataObject) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=3))
    with TemporaryDirectory() as name:
        damaged = Path(name) / file.name
        damaged.write_bytes(content)
        message = ""
        try:
            read_card(damaged)
        except ConfigError as error:
            message = str(error)
        assert not message or message.startswith(f"{damaged}: ")
        assert "\n" not in message
