"""The error tree. Everything graphopt raises on purpose is a :class:`GraphoptError`.

The command line turns these into one line on stderr and exit code 2; the zoo turns them into an outcome.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GraphoptError(Exception):
    """Base of every error that a user can cause and mend. The message is one line that says what would work."""


class ConfigError(GraphoptError):
    """A card, pack, target, option or preprocess file is wrong.

    Args:
        message: what is wrong and what would work.
        file: the file that holds the mistake, if one does.
        field: the key inside the file (dotted), if one can be named.
    """

    def __init__(self, message: str, *, file: str | None = None, field: str | None = None) -> None:
        self.file = file
        self.field = field
        where = ": ".join(part for part in (file, field) if part)
        super().__init__(f"{where}: {message}" if where else message)


class MisfitError(ConfigError):
    """Data is sound, and made for a model with other inputs."""


class ModelError(GraphoptError):
    """A model file cannot be read, is not valid, or lacks something that the job needs."""


class PlanError(GraphoptError):
    """A plan cannot be read, is for another model, or asks for something impossible."""


class VerificationError(GraphoptError):
    """The proof could not be made: a model does not load or run. (A proof that fails is a value, not an error.)"""


def did_you_mean(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return ``" (nearest: a, b)"`` with the names closest to ``name``, or ``""`` when nothing is near."""
    options = sorted(set(known))
    near = difflib.get_close_matches(name, options, n=limit, cutoff=0.5)
    near += [option for option in options if name and name.lower() in option.lower() and option not in near]
    return f" (nearest: {', '.join(near[:limit])})" if near else ""
