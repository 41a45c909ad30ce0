"""A user's own Python: found by ``module:attribute``, where the module may lie in the working directory, and run so
that what it raises is one line about it and no defect of ours."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from graphopt.errors import ConfigError, GraphoptError
from graphopt.ir.graph import Graph
from graphopt.measure.backend import Backend, Measurement, Refusal

_Answer = TypeVar("_Answer")


def find(spec: str) -> Any:
    """Import what ``module:attribute`` names.

    Raises:
        ConfigError: when the module cannot be imported, or has no such attribute.
    """
    module, colon, attribute = spec.partition(":")
    if not (module and colon and attribute):
        raise ConfigError(f"{spec!r} is not of the form MODULE:NAME, for example my_chip:measure")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except Exception as error:  # it is the user's code
        raise ConfigError(f"{spec}: cannot be imported: {one_line(error)}") from error
    if not hasattr(found, attribute):
        raise ConfigError(f"{spec}: the module {module!r} has no {attribute!r}")
    return getattr(found, attribute)


class OwnBackend:
    """A backend of the user's."""

    def __init__(self, spec: str, arguments: Sequence[str]) -> None:
        """Import what ``module:class`` names, and make it.

        Raises:
            ConfigError: when it cannot be imported or made.
        """
        self._spec = spec
        self._backend: Backend = self._asked(lambda: find(spec)(*arguments))

    @property
    def name(self) -> str:
        """Its own."""
        return self._backend.name

    def version(self) -> str:
        """What it says of itself."""
        return self._asked(self._backend.version)

    def measure(self, graphs: Sequence[Graph]) -> list[Measurement | Refusal]:
        """Its answers.

        Raises:
            ConfigError: when it raises, or does not answer for each graph.
        """
        answers = self._asked(lambda: list(self._backend.measure(graphs)))
        if len(answers) != len(graphs):
            raise ConfigError(f"{self._spec}: measure() gives {len(answers)} answers for {len(graphs)} models")
        return answers

    def _asked(self, ask: Callable[[], _Answer]) -> _Answer:
        try:
            return ask()
        except GraphoptError:
            raise
        except Exception as error:  # it is the user's code
            raise ConfigError(f"{self._spec} failed: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """What an error of code that is not ours says, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
