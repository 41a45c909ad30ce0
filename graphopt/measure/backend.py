"""What every measuring device answers: the latency of a model, kernel by kernel where it can tell them apart.

Measurements and estimates are different types and never mixed: an estimate is computed here, a measurement comes
from a device, a simulator or a compiler's own performance model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from graphopt.ir.graph import Graph
from graphopt.rewrites.rewrite import Refusal

__all__ = ["Backend", "Measurement", "Refusal", "Row"]


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel as the device ran it.

    Attributes:
        tensors: output tensors of the ops in it, as the measured graph names them; at least one.
        latency_us: microseconds.
    """

    tensors: tuple[str, ...]
    latency_us: float


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
