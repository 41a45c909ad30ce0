"""Gradients, in PyTorch (the ``[train]`` extra). No other room imports it, and these modules are imported when used."""

from __future__ import annotations

from importlib.util import find_spec

from graphopt.errors import ConfigError


def check_torch(asked: str) -> None:
    """Raise :class:`ConfigError` where PyTorch is missing and ``asked`` (an option) needs it."""
    if find_spec("torch") is None:
        raise ConfigError(f"{asked} needs PyTorch: pip install 'graphopt[train]'")
