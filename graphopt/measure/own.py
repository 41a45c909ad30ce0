"""Find a user's own Python: ``module:attribute``, where the module may lie in the working directory."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from graphopt.errors import ConfigError


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


def one_line(error: Exception) -> str:
    """What an error of code that is not ours says, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
