"""Packs: a selection of rules with overrides and protected parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from graphopt.catalog.card import PACKS, Card
from graphopt.catalog.values import read_params
from graphopt.errors import ConfigError, did_you_mean
from graphopt.strict import read_table

_WILD = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Pack:
    """One pack.

    Attributes:
        id: name, the file's stem.
        file: where it was read.
        summary: what it is for.
        rules: ids of the rules that it selects, sorted.
        overrides: rule id to the parameters that it sets.
        protect: globs on tensor and op names that no rule may touch.
    """

    id: str
    file: Path
    summary: str
    rules: tuple[str, ...]
    overrides: Mapping[str, Mapping[str, Any]]
    protect: tuple[str, ...]


def load_packs(directories: Iterable[Path], cards: Mapping[str, Card]) -> dict[str, Pack]:
    """Read every pack: ``<dir>/packs/<id>.toml``.

    Raises:
        ConfigError: a pack with a mistake, or two packs of one id.
    """
    packs: dict[str, Pack] = {}
    for directory in directories:
        for file in sorted((directory / PACKS).glob("*.toml")):
            pack = read_pack(file, cards)
            if pack.id in packs:
                raise ConfigError(f"there is a pack {pack.id!r} already, in {packs[pack.id].file}", file=str(file))
            packs[pack.id] = pack
    return packs


def read_pack(file: Path, cards: Mapping[str, Card]) -> Pack:
    """Read one pack and resolve its rules.

    Raises:
        ConfigError: with the file and the field, when anything in it is unknown, missing or of the wrong type.
    """
    table = read_table(file)
    table.allow("summary", "rules", "overrides", "protect")
    if "rules" not in table.values:
        raise table.error("rules", "is missing")
    rules: set[str] = set()
    for index, name in enumerate(table.texts("rules")):
        found = select_rules(name, cards)
        if not found:
            raise table.error(f"rules[{index}]", unknown_rule(name, cards))
        rules |= set(found)
    overrides = table.table("overrides")
    for name in overrides.values:
        if name not in cards:
            raise overrides.error(name, unknown_rule(name, cards))
    return Pack(
        id=file.stem,
        file=file,
        summary=table.text("summary"),
        rules=tuple(sorted(rules)),
        overrides={
            name: read_params(overrides.table(name), cards[name].rewrite.Params, f"rule {name!r}")
            for name in overrides.values
        },
        protect=table.texts("protect"),
    )


def select_rules(name: str, cards: Mapping[str, Card]) -> tuple[str, ...]:
    """Ids that ``name`` selects: the rule itself, or the stable rules whose id or ``group/id`` fits the glob."""
    if not _WILD & set(name):
        return tuple(card.id for card in cards.values() if name in (card.id, f"{card.group}/{card.id}"))
    return tuple(
        card.id
        for card in cards.values()
        if card.status == "stable" and (fnmatchcase(card.id, name) or fnmatchcase(f"{card.group}/{card.id}", name))
    )


def unknown_rule(name: str, cards: Mapping[str, Card]) -> str:
    """One sentence about a name that selects nothing."""
    return f"no rule {name!r}{did_you_mean(name, cards)}; `graphopt rules list` shows all"
