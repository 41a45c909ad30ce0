"""Measure with a black box that tells one number for a model: a vendor's command, or a Python function.

The command gets the model's file in place of ``{model}`` and runs without a shell; the last line that it prints is the
latency, with or without a unit (``12.5``, ``12.5 ms``). What single kernels cost is then solved for by
:mod:`graphopt.measure.solve`.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

from graphopt.errors import ConfigError, GraphoptError
from graphopt.ir.graph import Graph
from graphopt.measure.backend import Measurement, Refusal
from graphopt.measure.own import find, one_line
from graphopt.onnx_io.save import save

Unit = Literal["us", "ms", "s"]

_PLACE: Final = "{model}"
_FUNCTION: Final = re.compile(r"[\w.]+:\w+")
_IN_US: Final = {"us": 1.0, "ms": 1e3, "s": 1e6}
_ANSWER: Final = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|[-+]?inf)\s*(us|ms|s)?", re.IGNORECASE)


class Totals:
    """The `Backend` named ``totals``."""

    name = "totals"

    def __init__(self, how: str, *, unit: Unit = "us", timeout_s: float = 600.0, repeats: int = 1) -> None:
        """Prepare to measure.

        Args:
            how: a command that holds ``{model}``, or ``module:function``, called with the path of an ONNX file.
            unit: of a number that says none itself.
            timeout_s: wall-clock limit of one run of the command.
            repeats: how often each model is measured; the median counts.

        Raises:
            ConfigError: when the command or function is not there, or an option is none.
        """
        if unit not in get_args(Unit):
            raise ConfigError(f"unit {unit!r}; must be one of {', '.join(get_args(Unit))}")
        if repeats < 1 or not timeout_s > 0:
            raise ConfigError(f"repeats must be 1 or more and the time limit positive, not {repeats} and {timeout_s}")
        if _PLACE not in how and not _FUNCTION.fullmatch(how):
            raise ConfigError(f"{how!r}: give a command that holds {_PLACE}, or MODULE:FUNCTION")
        self.how = how
        self.unit = unit
        self.timeout_s = timeout_s
        self.repeats = repeats
        self._command = _split(how) if _PLACE in how else ()
        self._function = None if self._command else find(how)
        if self._function is not None and not callable(self._function):
            raise ConfigError(f"{how} is no function")

    def version(self) -> str:
        """The command or function, as it was given."""
        return f"totals: {' '.join(self.how.split())}"

    def measure(self, graphs: Sequence[Graph]) -> list[Measurement | Refusal]:
        """See `Backend`. Measurements have no rows."""
        return [self._measure(graph) for graph in graphs]

    def _measure(self, graph: Graph) -> Measurement | Refusal:
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            model = Path(folder) / "model.onnx"
            try:
                save(graph, model)
                found = [self._once(model) for _ in range(self.repeats)]
            except GraphoptError as error:
                return Refusal("", str(error))
        total = statistics.median(found)
        return Measurement(total, (), (max(found) - min(found)) / total)

    def _once(self, model: Path) -> float:
        """Microseconds of one measurement. Raises `ConfigError` when the answer is none."""
        if self._command:
            return self._in_us(self._printed(model), f"the command {self._command[0]!r} printed")
        assert self._function is not None
        try:
            answer = self._function(str(model))
        except Exception as error:  # it is the user's code
            raise ConfigError(f"{self.how} failed: {one_line(error)}") from error
        return self._in_us(str(answer), f"{self.how} returned")

    def _printed(self, model: Path) -> str:
        """The last line that the command prints."""
        arguments = [part.replace(_PLACE, str(model)) for part in self._command]
        code, out, errors = run(arguments, self.timeout_s)
        lines = out.strip().splitlines()
        if code:
            said = (errors.strip().splitlines() or lines or ["nothing"])[-1]
            raise ConfigError(f"the command {arguments[0]!r} ended with {_how_it_ended(code)} and said: {said[:200]}")
        return lines[-1].strip() if lines else ""

    def _in_us(self, answer: str, who: str) -> float:
        found = _ANSWER.fullmatch(answer.strip())
        if found is None:
            raise ConfigError(f"{who} {answer[:80]!r}, not one number like 12.5 or '12.5 ms'")
        value = float(found[1]) * _IN_US[(found[2] or self.unit).lower()]
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{who} {answer[:80]!r}, and a latency is a finite number greater than 0")
        return value


def run(arguments: Sequence[str], timeout_s: float) -> tuple[int, str, str]:
    """Run a command without a shell; return its exit code and what it printed on both streams.

    Raises:
        ConfigError: when it cannot be started or takes too long (it is then ended with all that it started).
    """
    try:
        child: subprocess.Popen[Any] = subprocess.Popen(
            list(arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise ConfigError(f"the command {arguments[0]!r} cannot be started: {error.strerror or error}") from error
    try:
        out, errors = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"the command {arguments[0]!r} took longer than {timeout_s:g} s") from error
    finally:
        _end(child)
    return child.returncode, out, errors


def _end(child: subprocess.Popen[Any]) -> None:
    """End the command's whole session, where anything of it is left."""
    if child.poll() is not None:
        return
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.communicate()


def _split(template: str) -> tuple[str, ...]:
    try:
        parts = tuple(shlex.split(template))
    except ValueError as error:
        raise ConfigError(f"the command {template!r} cannot be split into words: {error}") from error
    if shutil.which(parts[0]) is None:
        raise ConfigError(f"there is no command {parts[0]!r}; give a path, or a name that is on PATH")
    return parts


def _how_it_ended(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
