"""Drift: how far a rewritten model's outputs are from the original's on given inputs, without labels.

**One number.** Every output has a ``value``, 0 when nothing changed, and the worst output's is the model's
(``--max-drift``):

* class scores (floats of rank 2 with two columns or more): the mean over samples of ``KL(p || q)`` in nats, ``p`` and
  ``q`` being the softmax of the original's and the rewritten model's scores, or the rows themselves where they already
  are probabilities (no negative value, each row sums to 1). Of the label-free measures it ranks rewritten models best
  by the accuracy they will have; for small independent changes it adds up.
* other floats: the relative L2 distance ``sqrt(sum |a - b|^2 / sum |a|^2)`` over all samples. Its *square* adds up.
  Rank-2 outputs whose softmax would say nothing (independent probabilities between 0 and 1; unit-length embeddings,
  whose softmax is less than :data:`~graphopt.verification.tally.FLAT_NATS` from uniform) are judged so, too.
* whole numbers, bools and texts: the share of elements that differ.

A batch whose output changes its shape (a count of detections, say) counts as lost: its distance is its own norm.

Memory: one batch of inputs and both models' outputs for it; with a :class:`Reference` also the original's outputs
for all samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import VerificationError
from graphopt.verification.session import Model, Session
from graphopt.verification.tally import OutputDrift, Tally
from graphopt.weights.calibration import Calibration, Indices

_Run = tuple[int, Mapping[str, Any], Mapping[str, Any]]
"""Samples of a batch, the original's outputs, the rewritten model's."""


@dataclass(frozen=True, slots=True)
class Drift:
    """Distance of a rewritten model from the original.

    Attributes:
        outputs: one entry for each output of the original that is a tensor, in its order.
        samples: number of inputs behind the numbers.
    """

    outputs: tuple[OutputDrift, ...]
    samples: int

    @property
    def worst(self) -> OutputDrift:
        """The output that drifts most."""
        return max(self.outputs, key=lambda output: output.value)

    @property
    def value(self) -> float:
        """The worst output's value: what ``--max-drift`` bounds."""
        return self.worst.value

    @property
    def standard_error(self) -> float | None:
        """Standard error of `value` by samples, ``None`` with fewer than two."""
        return self.worst.standard_error

    @property
    def reason(self) -> str:
        """Why `value` is infinite, with the output's name, else ``""``."""
        return f"the drift of {self.worst.name!r} is infinite: {self.worst.reason}" if self.worst.reason else ""

    @property
    def top1_agreement(self) -> float | None:
        """The least agreement on the best class among outputs of rank 2, ``None`` without one."""
        found = [output.top1_agreement for output in self.outputs if output.top1_agreement is not None]
        return min(found, default=None)


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The original's outputs, computed once for many comparisons.

    Attributes:
        indices: the samples.
        batch_size: samples in a batch.
        batches: the outputs of each batch by name.
    """

    indices: Indices
    batch_size: int
    batches: tuple[Mapping[str, Any], ...]

    @property
    def bytes(self) -> int:
        """Memory that the outputs take."""
        return sum(
            values.nbytes for batch in self.batches for values in batch.values() if isinstance(values, np.ndarray)
        )


def reference_outputs(
    original: Model, calibration: Calibration, indices: Sequence[int] | Indices, *, batch_size: int | None = None
) -> Reference:
    """Run the original on the samples ``indices`` and keep what comes out; arguments as `measure_drift`.

    Raises:
        VerificationError: when the model does not load or run.
        ConfigError: when the samples do not fill one batch of the model, or cannot be read.
    """
    session = Session(original)
    batch_size = batch_size or calibration.batch_size()
    batches = tuple(session.run(feed) for feed in calibration.batches(indices, batch_size))
    return Reference(np.asarray(indices, np.intp), batch_size, batches)


def drift_from(reference: Reference, rewritten: Model, calibration: Calibration) -> Drift:
    """Compare a rewritten model with the kept outputs of the original, on the same samples.

    Raises:
        VerificationError: when the model does not load or run, or lacks an output.
        ConfigError: when a sample cannot be read.
    """
    session = Session(rewritten)
    chunks = calibration.chunks(reference.indices, reference.batch_size)
    return _drift(
        (len(chunk), before, session.run(calibration.take(chunk)))
        for chunk, before in zip(chunks, reference.batches, strict=True)
    )


def measure_drift(
    original: Model,
    rewritten: Model,
    calibration: Calibration,
    indices: Sequence[int] | Indices,
    *,
    batch_size: int | None = None,
) -> Drift:
    """Compare two models on the samples ``indices``, batch by batch, keeping no outputs.

    ``batch_size`` is `Calibration.batch_size` where it is not given.

    Raises:
        VerificationError: when a model does not load or run, or the rewritten one lacks an output.
        ConfigError: when the samples do not fill one batch of the model, or cannot be read.
    """
    first, second = Session(original), Session(rewritten)

    def runs() -> Iterator[_Run]:
        for chunk in calibration.chunks(indices, batch_size or calibration.batch_size()):
            feed = calibration.take(chunk)
            yield len(chunk), first.run(feed), second.run(feed)

    return _drift(runs())


def _drift(runs: Iterable[_Run]) -> Drift:
    tallies: dict[str, Tally] = {}
    samples = 0
    for rows, before, after in runs:
        samples += rows
        for name, values in before.items():
            if not isinstance(values, np.ndarray):
                continue
            other = after.get(name)
            if not isinstance(other, np.ndarray):
                raise VerificationError(f"the rewritten model lacks the output {name!r}")
            tallies.setdefault(name, Tally(name)).add(values, other, rows)
    if not tallies:
        raise VerificationError("no drift to measure: no samples, or no output is a tensor")
    return Drift(tuple(tally.result() for tally in tallies.values()), samples)
