"""What real inputs make possible: channels chosen by what they do, weights repaired, drift measured."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from graphopt.ir.channels import Channels
from graphopt.ir.graph import Graph
from graphopt.ir.op import Array, Importance
from graphopt.ir.resize import Selection
from graphopt.results import Options
from graphopt.verification.drift import Drift, measure_drift
from graphopt.verification.interface import input_types, read_interface
from graphopt.weights.calibration import Calibration, Indices
from graphopt.weights.choose import select_channels
from graphopt.weights.kept import kept_positions
from graphopt.weights.repair import DEFAULT_MEMORY_BYTES, SOLVE_SAMPLES, Progress, Repaired, repair
from graphopt.weights.sized import Frames, open_sized

HELD_OUT = 0.25
"""Share of the calibration samples that no solve ever sees: drift is measured on them."""

ENOUGH_SAMPLES = math.ceil(SOLVE_SAMPLES / (1.0 - HELD_OUT))
"""Samples with which every op is re-fitted, those with one row per sample too."""

PROOF_SAMPLES = 4
"""Real samples that an exact plan is proved on, their neighbours left out."""


@dataclass(frozen=True, slots=True)
class Subset:
    """Some of the samples of a calibration set, as `weights` reads them."""

    calibration: Calibration
    indices: Indices

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.indices)

    def batches(self, indices: Sequence[int] | Indices, size: int) -> Iterator[Mapping[str, Array]]:
        """Yield samples in batches; see :meth:`Calibration.batches`."""
        return self.calibration.batches(self.indices[list(indices)], size)


@dataclass(frozen=True, slots=True)
class RealData:
    """Calibration samples for one model, divided once.

    Attributes:
        calibration: all samples.
        solve: what channels are chosen and weights are solved on.
        held_out: indices of the others.
        seed: of the division and of everything drawn later.
        memory_limit_bytes: what may grow with the samples.
        importance: what chooses the channels that stay.
    """

    calibration: Calibration
    solve: Subset
    held_out: Indices
    seed: int
    memory_limit_bytes: int
    importance: Importance

    def select(self, graph: Graph, channels: Channels, widths: Mapping[str, int]) -> dict[str, Selection]:
        """Return which channels stay, for each group that gets another width."""
        return select_channels(
            graph,
            channels,
            widths,
            self.solve,
            importance=self.importance,
            seed=self.seed,
            memory_limit_bytes=self.memory_limit_bytes,
        )

    def repair(
        self,
        original: Graph,
        rewritten: Graph,
        channels: Channels,
        selections: Mapping[str, Selection],
        *,
        only: Collection[str] | None = None,
        progress: Progress | None = None,
    ) -> Repaired:
        """Fit the weights of ``rewritten`` (all, or of the ops ``only``) to what ``original`` computes."""
        return repair(
            original,
            rewritten,
            kept_positions(channels, selections),
            self.solve,
            seed=self.seed,
            memory_limit_bytes=self.memory_limit_bytes,
            only=only,
            progress=progress,
        )

    def refine(
        self,
        original: Graph,
        repaired: Graph,
        channels: Channels,
        selections: Mapping[str, Selection],
        *,
        steps: int,
        progress: Progress | None = None,
    ) -> Repaired:
        """Take gradient steps from the weights of ``repaired``, block by block. (Imported here: it loads PyTorch.)"""
        from graphopt.train.refine import refine

        return refine(
            original,
            repaired,
            kept_positions(channels, selections),
            self.solve,
            steps=steps,
            seed=self.seed,
            memory_limit_bytes=self.memory_limit_bytes,
            progress=progress,
        )

    def limited(self, solve: int, held_out: int) -> RealData:
        """The same with fewer samples, drawn at random, for measurements that are made often."""
        rng = np.random.default_rng([self.seed, 1])
        return replace(
            self,
            solve=Subset(self.calibration, _some(self.solve.indices, solve, rng)),
            held_out=_some(self.held_out, held_out, rng),
        )

    def drift(self, original: Path, rewritten: Path) -> Drift:
        """Measure the drift on the samples that no solve has seen."""
        return measure_drift(original, rewritten, self.calibration, self.held_out)

    @property
    def few(self) -> str:
        """A sentence for the reader where more samples would make a better repair, else ``""``."""
        return self.calibration.too_few(ENOUGH_SAMPLES)

    def proof_inputs(self) -> dict[str, Array]:
        """A few samples to prove an exact plan on."""
        return self.calibration.take(self.held_out[:PROOF_SAMPLES])


def _some(indices: Indices, count: int, rng: np.random.Generator) -> Indices:
    """At most ``count`` of ``indices``, ascending."""
    return indices if len(indices) <= count else np.sort(rng.choice(indices, count, replace=False))


def open_real_data(model: Path, path: str, options: Options, frames: Frames | None = None) -> RealData:
    """Open the calibration data at ``path``, with images brought to the sizes ``frames``.

    Raises:
        ConfigError: when the data cannot be read or does not fit the model.
    """
    inputs = input_types(read_interface(model))
    calibration = open_sized(path, inputs, frames or {}, preprocess=options.preprocess)
    solve, held_out = calibration.split(HELD_OUT, options.seed)
    limit = options.memory_limit_bytes or DEFAULT_MEMORY_BYTES
    importance = options.measured_importance
    return RealData(calibration, Subset(calibration, solve), held_out, options.seed, limit, importance)
