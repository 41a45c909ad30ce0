"""The command line, run in this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from graphopt.cli import app

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """Run `graphopt` with the given arguments; the result has exit_code, stdout and stderr."""

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call
