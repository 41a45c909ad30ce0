"""Rule cards: one TOML file per rule, read and checked, never executed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from graphopt.catalog.values import read_params
from graphopt.errors import ConfigError, did_you_mean
from graphopt.ir.op import SAFETY_LEVELS, Safety
from graphopt.rewrites import REWRITES
from graphopt.rewrites.rewrite import Rewrite
from graphopt.strict import Table, read_table

Status = Literal["preview", "stable", "deprecated"]
STATUSES: tuple[Status, ...] = ("preview", "stable", "deprecated")

PACKS = "packs"
"""Name of the folder beside the groups that holds packs."""

_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_REWRITES: dict[str, Rewrite] = {rewrite.name: rewrite for rewrite in REWRITES}


@dataclass(frozen=True, slots=True)
class Example:
    """One example on a card; it is also the card's test.

    Attributes:
        name: what it shows.
        before: the model before, ONNX text syntax.
        after: the model after, ``None`` where the example shows a refusal.
        unchanged: the reason of the refusal, ``None`` where the example shows a change.
        params: parameters for this example, over the card's (targets' properties are given here as numbers).
        field: where it stands in the file.
    """

    name: str
    before: str
    after: str | None
    unchanged: str | None
    params: Mapping[str, Any]
    field: str


@dataclass(frozen=True, slots=True)
class Card:
    """One rule card.

    Attributes:
        id: name of the rule, the file's stem.
        group: name of the folder that it lies in.
        file: where it was read.
        summary: what the rule does, one sentence.
        rewrite: the mechanism it uses.
        safety: what it promises where a match promises no better.
        status: ``stable``; globs in packs do not select ``preview`` and ``deprecated`` rules, names do.
        why: why it pays.
        limits: where it does not.
        references: where it comes from.
        params: parameters of the rewrite: values, or references to the target's properties.
        examples: examples, which are its tests.
    """

    id: str
    group: str
    file: Path
    summary: str
    rewrite: Rewrite
    safety: Safety
    status: Status
    why: str
    limits: str
    references: tuple[str, ...]
    params: Mapping[str, Any]
    examples: tuple[Example, ...]

    def error(self, param: str, message: str) -> ConfigError:
        """An error about one of the card's parameters (or all of them, where ``param`` is empty)."""
        return ConfigError(message, file=str(self.file), field=f"params.{param}" if param else "params")


def load_cards(directories: Iterable[Path]) -> dict[str, Card]:
    """Read every card below ``directories``: ``<dir>/<id>.toml`` and ``<dir>/<group>/<id>.toml``.

    Returns:
        The cards by id, in order of folder, group and id.

    Raises:
        ConfigError: a folder that is not there, a card with a mistake, or two cards of one id.
    """
    cards: dict[str, Card] = {}
    for directory in directories:
        if not directory.is_dir():
            raise ConfigError("is no folder of rule cards", file=str(directory))
        files = [file for file in sorted((*directory.glob("*.toml"), *directory.glob("*/*.toml"))) if file.is_file()]
        for file in files:
            if file.parent.name == PACKS:
                continue
            card = read_card(file)
            if card.id in cards:
                raise ConfigError(f"there is a rule {card.id!r} already, in {cards[card.id].file}", file=str(file))
            cards[card.id] = card
    return cards


def read_card(file: Path) -> Card:
    """Read one card.

    Raises:
        ConfigError: with the file and the field, when anything in it is unknown, missing or of the wrong type.
    """
    table = read_table(file)
    if not _ID.fullmatch(file.stem):
        raise ConfigError("a card's file name is small letters, digits and dashes", file=str(file))
    table.allow(
        "summary", "rewrite", "safety", "status", "why", "limits", "references", "params", "example"
    )  # fmt: skip
    name = table.text("rewrite")
    if name not in _REWRITES:
        near = did_you_mean(name, _REWRITES)
        raise table.error("rewrite", f"unknown rewrite {name!r}{near}; known: {', '.join(sorted(_REWRITES))}")
    rewrite = _REWRITES[name]
    return Card(
        id=file.stem,
        group=file.parent.name,
        file=file,
        summary=table.text("summary"),
        rewrite=rewrite,
        safety=cast(Safety, table.choice("safety", SAFETY_LEVELS)),
        status=cast(Status, table.choice("status", STATUSES)),
        why=table.text("why"),
        limits=table.text("limits"),
        references=table.texts("references"),
        params=read_params(table.table("params"), rewrite.Params, f"rewrite {name!r}"),
        examples=tuple(_example(example, rewrite) for example in table.tables("example")),
    )


def _example(table: Table, rewrite: Rewrite) -> Example:
    table.allow("name", "before", "after", "unchanged", "params")
    if ("after" in table.values) == ("unchanged" in table.values):
        raise table.error("after", "an example has either 'after' or 'unchanged'")
    return Example(
        name=table.text("name"),
        before=table.text("before"),
        after=table.text("after") if "after" in table.values else None,
        unchanged=table.text("unchanged") if "unchanged" in table.values else None,
        params=read_params(table.table("params"), rewrite.Params, f"rewrite {rewrite.name!r}"),
        field=table.where,
    )
