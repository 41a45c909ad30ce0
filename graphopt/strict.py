"""Strict reading of TOML files that people write: every mistake becomes one line that names file and field."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.errors import ConfigError, did_you_mean

MAX_FILE_BYTES = 1 << 20
"""Such files are pages of text; anything bigger is a mistake, and is not read."""


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

    def number(self, key: str, default: float | None = None, *, above: float = -math.inf) -> float:
        """A finite number greater than ``above``; required where there is no ``default``."""
        return self.as_number(key, self._get(key, default), above=above)

    def as_number(self, key: str, value: object, *, above: float = -math.inf) -> float:
        """As :meth:`number`, of a value that stands in a list under ``key``."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, f"is {describe(value)}; must be a number without quotes")
        try:
            number = float(value)
        except OverflowError:  # TOML's whole numbers have no end here
            number = math.inf
        if not above < number < math.inf:
            wanted = "finite" if math.isinf(above) else f"finite and greater than {above:g}"
            raise self.error(key, f"is {describe(value)}; must be {wanted}")
        return number

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


def describe(value: Any) -> str:
    """Say what a TOML value is, shortly."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
