"""The command line. Only here does graphopt parse arguments, print or exit."""

from graphopt.cli.app import app, main

__all__ = ["app", "main"]
