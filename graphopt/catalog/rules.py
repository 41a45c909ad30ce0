"""From cards and packs to the rules in force: what the rest of graphopt sees of the catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.catalog.card import Card, load_cards
from graphopt.catalog.pack import Pack, load_packs, select_rules, unknown_rule
from graphopt.catalog.values import Property, bind_params, read_params
from graphopt.errors import ConfigError, did_you_mean
from graphopt.ir.op import Safety
from graphopt.resources import rules_dir
from graphopt.rewrites.rewrite import Rewrite
from graphopt.strict import Table


@dataclass(frozen=True, slots=True)
class Rule:
    """A card bound to a target: all that the rest of graphopt needs of it.

    Attributes:
        id: the card's id.
        rewrite: the mechanism.
        params: instance of ``rewrite.Params``.
        safety: what the rule promises where a match promises no better.
    """

    id: str
    rewrite: Rewrite
    params: Any
    safety: Safety


@dataclass(frozen=True, slots=True)
class Catalog:
    """All cards and packs that were found.

    Attributes:
        cards: by id, in order of folder, group and id.
        packs: by id.
    """

    cards: Mapping[str, Card]
    packs: Mapping[str, Pack]

    def rules_in_force(
        self,
        properties: Mapping[str, Property],
        packs: Sequence[str] = ("default",),
        rules: Sequence[str] = (),
        no_rules: Sequence[str] = (),
        params: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> tuple[Rule, ...]:
        """Return the rules that the packs select and the caller adds, bound to a target, in catalogue order.

        Safety filters nothing here: a place of a ``repaired`` rule may be exact, so ``--allow`` judges options.

        Args:
            properties: what the target offers to cards (``parallelism`` at least).
            packs: packs by name; a later one's overrides win.
            rules: rules to add, by id or glob (``fusion/*``).
            no_rules: rules to leave out, by id or glob.
            params: parameters by rule id, over the packs' overrides and the cards' own; a rule that is not in force
                does not mind.

        Raises:
            ConfigError: unknown pack, rule, parameter or target property, or an impossible value.
        """
        chosen: set[str] = set()
        settings: dict[str, dict[str, Any]] = {}
        for name in packs:
            pack = self.pack(name)
            chosen |= set(pack.rules)
            for rule, values in pack.overrides.items():
                settings.setdefault(rule, {}).update(values)
        for name in rules:
            chosen |= set(self._select(name))
        for name in no_rules:
            chosen -= set(self._select(name))
        for rule, given in (params or {}).items():
            card = self.card(rule)
            typed = read_params(Table(given, "", f"rule {rule}"), card.rewrite.Params, f"rule {rule!r}")
            settings.setdefault(rule, {}).update(typed)
        return tuple(bind(card, properties, settings.get(id)) for id, card in self.cards.items() if id in chosen)

    def protected(self, packs: Sequence[str] = ("default",)) -> tuple[str, ...]:
        """Globs on tensor and op names that ``packs`` protect, sorted."""
        return tuple(sorted({glob for name in packs for glob in self.pack(name).protect}))

    def card(self, name: str) -> Card:
        """The card of this id. Raises `ConfigError` with the nearest names when there is none."""
        if name not in self.cards:
            raise ConfigError(unknown_rule(name, self.cards))
        return self.cards[name]

    def pack(self, name: str) -> Pack:
        """The pack of this id. Raises `ConfigError` with the nearest names when there is none."""
        if name not in self.packs:
            raise ConfigError(
                f"no pack {name!r}{did_you_mean(name, self.packs)}; known: {', '.join(sorted(self.packs))}"
            )
        return self.packs[name]

    def _select(self, name: str) -> tuple[str, ...]:
        found = select_rules(name, self.cards)
        if not found:
            raise ConfigError(unknown_rule(name, self.cards))
        return found


def bind(card: Card, properties: Mapping[str, Property], overrides: Mapping[str, Any] | None = None) -> Rule:
    """Bind a card to a target's properties.

    Raises:
        ConfigError: a property that the target lacks, a parameter that is not set, or an impossible value.
    """
    params = bind_params(card.rewrite.Params, {**card.params, **(overrides or {})}, properties, card.error)
    return Rule(card.id, card.rewrite, params, card.safety)


def load_catalog(rule_dirs: Sequence[Path] = ()) -> Catalog:
    """Load the cards and packs that ship with graphopt, and those of ``rule_dirs``.

    Raises:
        ConfigError: a folder, a card or a pack with a mistake, or a name that is taken.
    """
    directories = (rules_dir(), *rule_dirs)
    cards = load_cards(directories)
    return Catalog(cards, load_packs(directories, cards))


def rules_table(catalog: Catalog) -> str:
    """The table of rules in Markdown, as `rules/README.md` shows it."""
    lines = ["| rule | what it does | safety | status |", "|---|---|---|---|"]
    lines += [
        f"| `{card.group}/{card.id}` | {card.summary} | {card.safety} | {card.status} |"
        for card in catalog.cards.values()
    ]
    return "\n".join(lines) + "\n"
