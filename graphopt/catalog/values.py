"""From TOML values to typed ones: every mistake in a card or a pack becomes one line that names file and field."""

from __future__ import annotations

import dataclasses
import tomllib
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from graphopt.errors import ConfigError, did_you_mean

MAX_FILE_BYTES = 1 << 20
"""Cards and packs are pages of text; anything bigger is a mistake, and is not read."""

Property = int | float | str


@dataclasses.dataclass(frozen=True, slots=True)
class TargetRef:
    """A parameter's value that is a property of the target: ``{ target = "parallelism" }``."""

    name: str


class Table:
    """One table of a TOML file, read key by key; every key must be asked for."""

    def __init__(self, values: Mapping[str, Any], file: str, where: str = "") -> None:
        self.values = values
        self.file = file
        self.where = where

    def field(self, key: str) -> str:
        """Dotted name of a key."""
        return f"{self.where}.{key}" if self.where else key

    def error(self, key: str, message: str) -> ConfigError:
        """An error that names the file and ``key``."""
        return ConfigError(message, file=self.file, field=" ".join(self.field(key).split()))

    def allow(self, *known: str) -> None:
        """Raise on the first key that is none of ``known``."""
        for key in self.values:
            if key not in known:
                raise self.error(key, f"unknown key{did_you_mean(key, known)}; known: {', '.join(known)}")

    def text(self, key: str, default: str | None = None) -> str:
        """A string; required where there is no ``default``."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.error(key, f"must be a text, not {describe(value)}")
        if default is None and not value.strip():
            raise self.error(key, "must not be empty")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings, empty where the key is missing."""
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, f"must be a list of texts, not {describe(value)}")
        return tuple(value)

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """A string that must be one of ``choices``."""
        value = self.text(key)
        if value not in choices:
            raise self.error(key, f"{value!r} is none of {', '.join(choices)}{did_you_mean(value, choices)}")
        return value

    def table(self, key: str) -> Table:
        """A table, empty where the key is missing."""
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, f"must be a table, not {describe(value)}")
        return Table(value, self.file, self.field(key))

    def tables(self, key: str) -> tuple[Table, ...]:
        """An array of tables, empty where the key is missing."""
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(key, f"must be an array of tables ([[{key}]]), not {describe(value)}")
        return tuple(Table(item, self.file, f"{self.field(key)}[{i}]") for i, item in enumerate(value))

    def _get(self, key: str, default: Any) -> Any:
        if key not in self.values and default is None:
            raise self.error(key, "is missing")
        return self.values.get(key, default)


def read_table(file: Path) -> Table:
    """Read a TOML file.

    Raises:
        ConfigError: it cannot be read, is too big, or is no TOML (with the line).
    """
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"is larger than {MAX_FILE_BYTES} bytes", file=str(file))
        return Table(tomllib.loads(file.read_bytes().decode("utf-8")), str(file))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(file)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8 text (byte {error.start})", file=str(file)) from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"is no valid TOML: {error}", file=str(file)) from error


def read_params(table: Table, params_type: type[Any], owner: str) -> dict[str, Any]:
    """Read parameters that a card, an example or a pack sets: typed values and :class:`TargetRef`.

    Args:
        table: the TOML table.
        params_type: dataclass that declares them.
        owner: who takes them, for messages.

    Raises:
        ConfigError: unknown parameter, or a value of the wrong type.
    """
    hints = get_type_hints(params_type)
    found: dict[str, Any] = {}
    for key, value in table.values.items():
        if key not in hints:
            known = f"known: {', '.join(hints)}" if hints else "it has none"
            raise table.error(key, f"unknown parameter of {owner}{did_you_mean(key, hints)}; {known}")
        found[key] = _reference(table, key, value) if isinstance(value, dict) else _typed(table, key, value, hints[key])
    return found


def bind_params(
    params_type: type[Any],
    values: Mapping[str, Any],
    properties: Mapping[str, Property],
    error: Callable[..., ConfigError],
) -> Any:
    """Make the parameters of a rewrite: target properties looked up, types checked, defaults filled in.

    Args:
        params_type: dataclass that declares them.
        values: what is set, from :func:`read_params`.
        properties: what the target offers to cards.
        error: makes the exception from a parameter's name and a message.

    Raises:
        ConfigError: a property that the target lacks, a parameter that nobody set, an impossible value.
    """
    hints = get_type_hints(params_type)
    bound: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, TargetRef):
            if value.name not in properties:
                near = did_you_mean(value.name, properties)
                raise error(
                    key, f"the target has no property {value.name!r}{near}; known: {', '.join(sorted(properties))}"
                )
            value = convert(properties[value.name], hints[key])
            if value is None:
                raise error(key, f"the target's property is not {spell(hints[key])}")
        bound[key] = value
    for declared in dataclasses.fields(params_type):
        required = declared.default is dataclasses.MISSING and declared.default_factory is dataclasses.MISSING
        if required and declared.name not in bound:
            raise error(declared.name, "is missing, and the rewrite has no default for it")
    try:
        return params_type(**bound)
    except ValueError as problem:
        raise error("", str(problem)) from problem


def convert(value: Any, wanted: Any) -> Any:
    """Return ``value`` as the annotation ``wanted`` asks; ``None``, which no TOML value is, where it does not fit."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        fits = (convert(value, one) for one in arguments if one is not type(None))
        return next((one for one in fits if one is not None), None)
    if origin is Literal:
        return value if value in arguments else None
    if origin is tuple:
        items = [convert(item, arguments[0]) for item in value] if isinstance(value, list | tuple) else [None]
        return None if any(item is None for item in items) else tuple(items)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) and wanted is not bool:
        return None
    return value if isinstance(value, wanted) else None


def spell(wanted: Any) -> str:
    """Say in words what an annotation asks for."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return " or ".join(spell(one) for one in arguments if one is not type(None))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        return f"a list, each {spell(arguments[0])}"
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[wanted]


def describe(value: Any) -> str:
    """Say what a TOML value is, shortly."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _reference(table: Table, key: str, value: dict[str, Any]) -> TargetRef:
    if list(value) != ["target"] or not isinstance(value["target"], str):
        raise table.error(key, 'a table must be { target = "name of a property" }')
    return TargetRef(value["target"])


def _typed(table: Table, key: str, value: Any, wanted: Any) -> Any:
    typed = convert(value, wanted)
    if typed is None:
        raise table.error(key, f"must be {spell(wanted)}, not {describe(value)}")
    return typed
