"""The real thing beside an estimate: one model measured, kernel by kernel where the backend tells them apart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graphopt.errors import ConfigError
from graphopt.measure.backend import Measurement, Refusal
from graphopt.measure.choice import BUNDLED, Choice
from graphopt.measure.journal import Entry
from graphopt.measure.runner import measure_nets
from graphopt.measure.spec import NetFile
from graphopt.targets.target import Target

_ACCELERATOR = re.compile(r"ethos-u\d+-\d+")


@dataclass(frozen=True, slots=True)
class Beside:
    """What the backend of a target says of a model.

    Attributes:
        backend: its name.
        tool: tool and version, one line.
        answer: the measurement, or why there is none.
    """

    backend: str
    tool: str
    answer: Measurement | Refusal


def choose(target: Target, backend: str | None = None, config: str = "") -> Choice:
    """The backend that measures what ``target`` estimates.

    Args:
        target: the chip; its ``[estimator]`` table says what it was learned from, else its name tells.
        backend: a name that overrides this: one of `BUNDLED`, or ``module:class`` of your own.
        config: the backend's device or command; overrides what the target says.

    Raises:
        ConfigError: when nothing says how the target could be measured.
    """
    learned = target.estimator
    told = _ACCELERATOR.search(f"{target.name} {learned.tool if learned else ''}")
    accelerator = told[0] if told else ""
    name = backend or (learned.backend if learned else "")
    if not name:
        name = "vela" if accelerator else "onnxruntime" if "cpu" in target.name else ""
    if not name:
        raise ConfigError(
            f"nothing says how the target {target.name!r} is measured; name it: --backend {' or '.join(BUNDLED)}"
        )
    if name == "vela" and not (config or accelerator):
        raise ConfigError(f"{target.name!r} names no accelerator; name one: --config ethos-u55-256")
    if name == "totals" and not config:  # never taken from a target file: it may be a stranger's
        raise ConfigError(
            "the backend totals needs a command with {model}, or MODULE:FUNCTION: --config 'bench {model}'"
        )
    choice = Choice(name, config or (accelerator if name == "vela" else ""))
    return choice.as_before(learned.tool) if learned and learned.backend == name else choice


def measure_file(model: Path, choice: Choice, input_shapes: Mapping[str, tuple[int, ...]] | None = None) -> Beside:
    """Measure a model file in a process of its own.

    Raises:
        ConfigError: when the backend cannot be made.
    """
    backend = choice.make()
    tool = backend.version()
    file = NetFile(model, tuple(sorted((input_shapes or {}).items())))
    found: list[Entry] = []
    measure_nets([file.key()], choice.as_before(tool), files={file.key(): file}, done=found.append)
    return Beside(backend.name, tool, found[0].answer)
