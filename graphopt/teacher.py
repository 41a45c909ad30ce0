"""The original at its own size, where a job is about the same model at another one: what only it can say.

Drift compares what both make of the same samples, each at its own size, in the outputs whose shape is the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from graphopt.ir.graph import Graph
from graphopt.prepare import Subject
from graphopt.resolution.model import Resolution
from graphopt.resolution.sizes import image_inputs
from graphopt.results import Options
from graphopt.verification.drift import Drift, Reference, drift_from, reference_outputs
from graphopt.verification.evaluate import Evaluation, Evaluator, open_evaluator
from graphopt.verification.interface import input_types, read_interface
from graphopt.weights.calibration import Calibration, Indices
from graphopt.weights.sized import Frame, Frames, open_sized


class Divided(Protocol):
    """Samples at the other size, divided once."""

    @property
    def calibration(self) -> Calibration:
        """All samples."""

    @property
    def held_out(self) -> Indices:
        """Those that judge."""


@dataclass(slots=True)
class Teacher:
    """The original at its own size.

    Attributes:
        path: its file.
        calibration: the samples at its size, ``None`` without any.
        evaluator: the metric at its size, ``None`` without one.
        outputs: the outputs whose shape is the same at both sizes.
    """

    path: Path
    calibration: Calibration | None
    evaluator: Evaluator | None
    outputs: tuple[str, ...]
    _reference: Reference | None = field(default=None, repr=False)

    @property
    def can_compare(self) -> bool:
        """Whether there are samples, and an output to compare them in."""
        return self.calibration is not None and bool(self.outputs)

    def drift(self, data: Divided, rewritten: Path) -> Drift:
        """Measure the drift of a model at the other size, on the samples held out (always the same ones).

        Raises:
            VerificationError: when a model does not load or run.
        """
        assert self.calibration is not None
        if self._reference is None:
            found = reference_outputs(self.path, self.calibration, data.held_out)
            batches = tuple({name: batch[name] for name in self.outputs} for batch in found.batches)
            self._reference = replace(found, batches=batches)
        return drift_from(self._reference, rewritten, data.calibration)

    def evaluate(self) -> Evaluation | None:
        """The metric of the original."""
        return None if self.evaluator is None else self.evaluator.evaluate(self.path)


def frames_of(subject: Subject) -> Frames:
    """The sizes of the images at the subject's size; none where it is the model's own."""
    return {} if subject.resolution is None else _frames(subject.original, subject.resolution)


def frames_apart(model: Graph, other: Graph) -> tuple[Frames, Frames]:
    """The sizes of the images that are of one size in ``model`` and of another in ``other``, in both."""
    first, second = ({image.name: image for image in image_inputs(graph)} for graph in (model, other))
    names = [name for name in first if name in second and first[name].size != second[name].size]
    one, two = ({name: Frame(images[name].axes, images[name].size) for name in names} for images in (first, second))
    return one, two


def _frames(model: Graph, resolution: Resolution) -> Frames:
    """The sizes, in a model, of the images that a change of resolution changes."""
    changed = {change.name for change in resolution.inputs}
    return {image.name: Frame(image.axes, image.size) for image in image_inputs(model) if image.name in changed}


def find_teacher(subject: Subject, options: Options) -> Teacher | None:
    """The original at its own size; ``None`` where the subject is that. Raises `ConfigError` where data do not fit."""
    own, resolution = subject.own, subject.resolution
    if own is None or resolution is None:
        return None
    frames = _frames(own.original, resolution)
    inputs = input_types(read_interface(own.path))
    calibration = evaluator = None
    if options.calibration is not None:
        calibration = open_sized(options.calibration, inputs, frames, preprocess=options.preprocess)
    if options.evaluate is not None:
        evaluator = open_evaluator(options.evaluate, inputs, frames)
    same = tuple(change.name for change in resolution.outputs if change.before == change.after)
    return Teacher(own.path, calibration, evaluator, same)
