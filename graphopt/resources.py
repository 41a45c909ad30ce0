"""Find the data that ships with graphopt: rule cards, targets and sample models.

A wheel carries the top-level folders as ``graphopt/_data/<name>``; a checkout and an editable install have them
beside the package. Callers never need to know which.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def data_dir(name: str) -> Path:
    """Return the folder ``rules`` or ``sample_models``, wherever this installation keeps it.

    Raises:
        FileNotFoundError: when the installation is incomplete.
    """
    for candidate in (_PACKAGE / "_data" / name, _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"graphopt's installation lacks its {name!r} folder")


def rules_dir() -> Path:
    """The folder of rule cards and packs that ships with graphopt."""
    return data_dir("rules")


def sample_models_dir() -> Path:
    """The folder of small trained models that ships with graphopt."""
    return data_dir("sample_models")


def targets_dir() -> Path:
    """The folder of bundled target files (TOML)."""
    return _PACKAGE / "targets"
