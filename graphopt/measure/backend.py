"""What every measuring device answers: the latency of a model, kernel by kernel where it can tell them apart.

Measurements and estimates are different types and never mixed: an estimate is computed here, a measurement comes
from a device, a simulator or a compiler's own performance model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from graphopt.cost.learned import UNITS, Unit
from graphopt.ir.graph import Graph
from graphopt.rewrites.rewrite import Refusal

__all__ = ["Backend", "Measurement", "Refusal", "Row", "busy_in_turn"]


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel as the device ran it.

    Attributes:
        tensors: output tensors of the ops in it, as the measured graph names them; at least one.
        latency_us: microseconds.
        busy_us: (unit, microseconds) of each unit of the device, where the backend tells how long each is busy: they
            work side by side, so the longest is the latency. Estimates of what is told apart are better.
    """

    tensors: tuple[str, ...]
    latency_us: float
    busy_us: tuple[tuple[Unit, float], ...] = ()

    def __post_init__(self) -> None:
        """Check the units.

        Raises:
            ValueError: when there is no such unit.
        """
        if wrong := [unit for unit, _ in self.busy_us if unit not in UNITS]:
            raise ValueError(f"no unit {wrong[0]!r}; known: {', '.join(UNITS)}")


def busy_in_turn(rows: Sequence[Row]) -> tuple[tuple[Unit, float], ...]:
    """What keeps each unit busy while rows run one after the other; ``()`` where one of them that took time tells not.

    Each row waits for the slowest unit of the one before. The sums are stretched until the longest is the rows' time.
    """
    taking = [row for row in rows if row.latency_us > 0]
    if not all(row.busy_us for row in taking):
        return ()
    sums: dict[Unit, float] = {}
    for row in taking:
        for unit, us in row.busy_us:
            sums[unit] = sums.get(unit, 0.0) + us
    stretch = sum(row.latency_us for row in taking) / (max(sums.values(), default=0.0) or 1.0)
    return tuple((unit, us * stretch) for unit, us in sums.items())


@dataclass(frozen=True, slots=True)
class Measurement:
    """One model on one device.

    Attributes:
        total_us: microseconds of one run of the whole model.
        rows: its kernels, which add up to the total (nearly); empty when the device tells the total only.
        spread: relative spread of the total from repeat to repeat, 0.0 for a tool that always says the same.
        energy_uj: energy of one run in microjoules, ``None`` when the device does not tell.
    """

    total_us: float
    rows: tuple[Row, ...]
    spread: float
    energy_uj: float | None = None


class Backend(Protocol):
    """A device, or a tool that answers for one."""

    @property
    def name(self) -> str:
        """``onnxruntime``, ``vela``, ``totals`` or a user's own."""
        ...

    def version(self) -> str:
        """Tool and version in one line; the target file records it."""
        ...

    def measure(self, graphs: Sequence[Graph]) -> list[Measurement | Refusal]:
        """Measure models, which a backend may interleave or repeat as it likes.

        Args:
            graphs: loaded and normalised models with static shapes.

        Returns:
            One answer for each graph, in order. A graph that cannot be measured is a refusal (op and reason) and
            never stops the others.
        """
        ...
