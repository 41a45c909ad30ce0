"""What is minimised, as people write it: ``latency``, ``latency=1,parameters=0.2``, ``latency+2%>parameters``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from graphopt.errors import ConfigError, did_you_mean
from graphopt.space.table import DRIFT, ENERGY, LATENCY, MACS, METRICS, PARAMETER_BYTES

Quantity = Literal["latency", "peak-memory", "parameters", "memory", "macs", "energy", "drift"]
"""What can be minimised or bound. ``memory`` is parameters and peak activations together."""

PEAK = METRICS + 1
"""Peak activation memory where metrics are numbered; it does not add up over the factors (``METRICS`` itself counts
changed decisions in :mod:`graphopt.search.elimination`)."""

TERMS: Mapping[Quantity, tuple[int, ...]] = {
    "latency": (LATENCY,),
    "peak-memory": (PEAK,),
    "parameters": (PARAMETER_BYTES,),
    "memory": (PARAMETER_BYTES, PEAK),
    "macs": (MACS,),
    "energy": (ENERGY,),
    "drift": (DRIFT,),
}
"""The metrics that add up to each quantity."""

TOLERANCE = 0.01
"""How much worse the first of two quantities may get for the second, where nothing is said."""

_LEVEL = re.compile(r"(?P<terms>[^+]*)(\+(?P<percent>[0-9.]+)%)?")


@dataclass(frozen=True, slots=True)
class Level:
    """A weighted sum of quantities, each relative to the original's value (drift, which has none, as it is).

    Attributes:
        weights: of each quantity; they add up to 1.
        tolerance: how much worse than its best value the sum may get for the sake of the levels after it, relative.
    """

    weights: tuple[tuple[Quantity, float], ...]
    tolerance: float = 0.0

    @property
    def quantity(self) -> Quantity | None:
        """The quantity, where there is only one."""
        return self.weights[0][0] if len(self.weights) == 1 else None

    def __str__(self) -> str:
        return self.quantity or ",".join(f"{quantity}={weight:.3g}" for quantity, weight in self.weights)


@dataclass(frozen=True, slots=True)
class Objective:
    """What is minimised: the first level, then, within its tolerance, the next."""

    levels: tuple[Level, ...]

    @property
    def quantities(self) -> frozenset[Quantity]:
        """Everything that is minimised somewhere."""
        return frozenset(quantity for level in self.levels for quantity, _ in level.weights)


def parse_objective(text: str) -> Objective:
    """Read an objective.

    Raises:
        ConfigError: it cannot be read; the message says how one is written.
    """
    parts = text.split(">")
    return Objective(tuple(_level(part.strip(), text, last=i == len(parts) - 1) for i, part in enumerate(parts)))


def _level(part: str, text: str, *, last: bool) -> Level:
    match = _LEVEL.fullmatch(part)
    if match is None or (last and match["percent"]):
        raise _unreadable(text, f"'{part}' is no level of it")
    weights: dict[Quantity, float] = {}
    terms = match["terms"].split(",")
    for term in terms:
        name, equals, number = (piece.strip() for piece in term.partition("="))
        quantity = next((known for known in TERMS if known == name), None)
        if quantity is None:
            raise _unreadable(text, f"there is no {name!r}{did_you_mean(name, TERMS)}")
        if quantity in weights:
            raise _unreadable(text, f"{name} is there twice")
        if not equals and len(terms) > 1:
            raise _unreadable(text, f"{name} has no weight")
        weights[quantity] = _number(number if equals else "1", text)
    total = math.fsum(weights.values())
    tolerance = 0.0 if last else _number(match["percent"], text) / 100 if match["percent"] else TOLERANCE
    return Level(tuple((quantity, weight / total) for quantity, weight in weights.items()), tolerance)


def _number(text: str, objective: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < 1e6:
        raise _unreadable(objective, f"'{text}' is no number over 0 (and under a million)")
    return number


def _unreadable(text: str, why: str) -> ConfigError:
    return ConfigError(
        f"objective {text!r}: {why}; write one of {', '.join(TERMS)}, a weighted sum as "
        "latency=1,parameters=0.2, or first one and then, within a tolerance, another as latency+1%>parameters"
    )
