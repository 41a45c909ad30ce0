"""Fine-tune a rewritten model: with the original as teacher, with labels, or with both.

A quarter of the samples is held out, and decides whether the new weights are kept: on samples that no step has seen
the result is never worse than the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from graphopt.draft import find_evaluator
from graphopt.errors import ConfigError
from graphopt.ir.graph import Graph
from graphopt.ir.op import Array
from graphopt.onnx_io.load import load
from graphopt.onnx_io.save import check_output, save
from graphopt.outputs import staged
from graphopt.resolution.sizes import show_size
from graphopt.results import Options
from graphopt.train import check_torch
from graphopt.version import __version__

if TYPE_CHECKING:  # these load onnxruntime or PyTorch
    from graphopt.teacher import Teacher
    from graphopt.train.finetune import Loss
    from graphopt.verification.drift import Drift
    from graphopt.verification.evaluate import Evaluation
    from graphopt.weights.calibration import Calibration, Indices
    from graphopt.weights.sized import Frames

Progress = Callable[[int, int, str], None]
"""Called with (steps done, all, what)."""

LossName = Literal["distillation", "labels", "both"]

HELD_OUT: Final = 0.25
"""Share of the samples that no step sees."""

MEMORY_BYTES: Final = 3 << 30
"""For the samples, where nobody says how much."""

_LABEL: Final = "label"
_TEACHER: Final = "teacher:"
"""Before the names of the teacher's inputs, where its images are of another size."""

_HINT: Final = "; to learn without labels, name the original: --teacher ORIGINAL.onnx"


@dataclass(frozen=True, slots=True)
class FinetuneOptions:
    """How to fine-tune. The defaults are the command line's.

    Attributes:
        labels: whether to learn from the data's labels beside a teacher; without one they are what is learned from.
        epochs: passes over the samples that are not held out.
        batch: samples of a step; the model's own number where it fixes one.
        learning_rate: the highest of the schedule. The default made all sample models better from their 192 to 384
            samples, where 1e-3 made the classifier worse; from 72 samples no rate helped it.
        seed: of the division and the order of the samples. Same seed, same weights, in any process.
        preprocess: how a folder of images is prepared: a bundled preset, or a TOML file.
        memory_limit_bytes: bound for the samples; ``None`` is 3 GiB.
        evaluate: labelled `.npz`, or ``module:function``: the metric before and after.
    """

    labels: bool = False
    epochs: float = 20.0
    batch: int = 32
    learning_rate: float = 3e-4
    seed: int = 0
    preprocess: str | None = None
    memory_limit_bytes: int | None = None
    evaluate: str | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the held-out samples say of some weights.

    Attributes:
        value: what decides, the smaller the better: the drift from the teacher where it alone is learned from, else
            the mean loss.
        drift: distance from the teacher, ``None`` without one.
    """

    value: float
    drift: Drift | None


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """How a fine-tuning ended.

    Attributes:
        model: path of the model that was trained.
        teacher: path of the teacher, ``None`` without one.
        output: what was written, ``None`` for nothing.
        loss: what was learned from.
        samples: number of samples that were trained on.
        held_out: number of samples that were not.
        steps: gradient steps.
        before: of the weights at the start.
        after: of the trained weights.
        kept: whether those are better, and written; else the start was.
        evaluation: the metric of the start and of what was written.
        notes: sentences that the reader should see.
    """

    model: str
    teacher: str | None
    output: str | None
    loss: LossName
    samples: int
    held_out: int
    steps: int
    before: Judgement
    after: Judgement
    kept: bool
    evaluation: tuple[Evaluation, Evaluation] | None = None
    notes: tuple[str, ...] = ()


def finetune_model(
    model: str | Path,
    calibration: str,
    output: str | Path | None = None,
    *,
    teacher: str | Path | None = None,
    options: FinetuneOptions | None = None,
    progress: Progress | None = None,
) -> FinetuneResult:
    """Train the weights of a model, and write the better of start and result.

    Args:
        model: ONNX file, as `optimize` writes it.
        calibration: real inputs: `.npz` or `.npy` by input name, or a folder of images. Class labels, where they are
            learned from, are the array ``label`` or ``labels`` of an `.npz`.
        output: where to write; ``None`` writes nothing.
        teacher: the original, whose outputs are to be met; its images may be of another size (a model made by
            ``--resolutions``).
        options: how.
        progress: told after each step.

    Raises:
        ConfigError: PyTorch is missing, or the data or an option does not do.
        ModelError: a model cannot be loaded, or an op has no gradient here.
        VerificationError: a model does not run.
    """
    check_torch("fine-tuning")
    from graphopt.train.finetune import Recipe, finetune

    options = options or FinetuneOptions()
    start = load(model)
    if output is not None:
        check_output(start, output)
    original = None if teacher is None else load(teacher)
    frames, sized = _sized(start, calibration, original, options)
    data = _open_data(start, calibration, original, options, frames, sized)
    evaluator = find_evaluator(Path(model), Options(evaluate=options.evaluate), frames)
    name, loss = _loss(data, original)
    batch = data.calibration.batch or min(options.batch, len(data.trained))
    recipe = Recipe(epochs=options.epochs, batch=batch, learning_rate=options.learning_rate, seed=options.seed)

    def tell(done: int, steps: int, value: float) -> None:
        if progress is not None:
            progress(done, steps, f"loss {value:.4g}")

    done = finetune(start, data.arrays(data.trained), loss, recipe, tell)
    with staged(output) as stage:
        save(done.graph, stage.path, metadata=_metadata(name, options, data, original))
        before = _judge(start, Path(model), data, loss, original)
        after = _judge(done.graph, stage.path, data, loss, original)
        kept = after.value < before.value
        if not kept:
            save(start, stage.path)
        evaluation = None
        if evaluator is not None:
            evaluation = evaluator.evaluate(Path(model)), evaluator.evaluate(stage.path)
        stage.keep()
    return FinetuneResult(
        model=str(model),
        teacher=None if teacher is None else str(teacher),
        output=None if output is None else str(output),
        loss=name,
        samples=len(data.trained),
        held_out=len(data.held_out),
        steps=len(done.history),
        before=before,
        after=after,
        kept=kept,
        evaluation=evaluation,
        notes=data.notes,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Data:
    """Samples, divided once.

    Attributes:
        calibration: all of them.
        labels: where they are learned from.
        teacher: with the samples at its size, where that is another one.
        trained: samples to learn from.
        held_out: samples that judge.
        notes: sentences that the reader should see.
    """

    calibration: Calibration
    labels: Array | None
    teacher: Teacher | None
    trained: Indices
    held_out: Indices
    notes: tuple[str, ...]

    def arrays(self, indices: Indices) -> dict[str, Array]:
        """Samples as training takes them."""
        arrays = self.calibration.take(indices)
        if self.labels is not None:
            arrays = {**arrays, _LABEL: self.labels[indices]}
        if self.teacher is not None and self.teacher.calibration is not None:
            taught = self.teacher.calibration.take(indices)
            arrays |= {f"{_TEACHER}{name}": values for name, values in taught.items()}
        return arrays

    @property
    def sample_bytes(self) -> int:
        """Memory of one sample, at both sizes."""
        own = None if self.teacher is None else self.teacher.calibration
        return self.calibration.source.sample_bytes + (0 if own is None else own.source.sample_bytes)


def _sized(start: Graph, path: str, original: Graph | None, options: FinetuneOptions) -> tuple[Frames, Teacher | None]:
    """The sizes that samples are brought to where the teacher's images are of another one, and the teacher there.

    Raises:
        ConfigError: when the samples do not do, or no output of both models is of one shape.
    """
    from graphopt.teacher import Teacher, frames_apart
    from graphopt.verification.interface import input_types, read_interface
    from graphopt.weights.sized import open_sized

    frames, own = ({}, {}) if original is None else frames_apart(start, original)
    if original is None or not frames:
        return {}, None
    outputs = tuple(name for name in original.outputs if start.shape(name) == original.shape(name))
    if not outputs:
        raise ConfigError(
            "its images and its outputs are of other sizes than the model's, so the outputs cannot be compared: leave "
            "it out and learn from labels, or train with a loss of your own (graphopt.train.finetune)",
            file=str(original.model.path),
        )
    inputs = input_types(read_interface(original.model.path))
    samples = open_sized(path, inputs, own, preprocess=options.preprocess)
    return frames, Teacher(original.model.path, samples, None, outputs)


def _open_data(
    start: Graph,
    path: str,
    original: Graph | None,
    options: FinetuneOptions,
    frames: Frames,
    teacher: Teacher | None,
) -> _Data:
    """Read and divide the samples, before any long work. Raises `ConfigError`."""
    from graphopt.verification.evaluate import LabelledData, open_evaluator
    from graphopt.verification.interface import input_types, read_interface
    from graphopt.weights.sized import open_sized

    inputs = input_types(read_interface(start.model.path))
    labels = None
    if original is not None and not options.labels:
        calibration = open_sized(path, inputs, frames, preprocess=options.preprocess)
    else:
        hint = "" if original is not None else _HINT
        if not path.lower().endswith(".npz"):
            raise ConfigError(f"labels are read from an .npz{hint}", file=path)
        try:
            labelled = open_evaluator(path, inputs, frames)
        except ConfigError as error:
            raise ConfigError(f"{error}{hint}") from error
        assert isinstance(labelled, LabelledData)
        calibration, labels = labelled.data, labelled.labels
    trained, held_out = calibration.split(HELD_OUT, options.seed)
    data = _Data(calibration, labels, teacher, trained, held_out, tuple(_sizes_note(frames, teacher)))
    most = (options.memory_limit_bytes or MEMORY_BYTES) // data.sample_bytes
    if most >= len(trained):
        return data
    if most < (calibration.batch or 1):
        raise ConfigError("not one batch of samples fits into the memory limit: a larger --memory-limit would do")
    note = f"trained on {most} of {len(trained)} samples: more do not fit into the memory limit"
    return replace(data, trained=trained[:most], notes=(*data.notes, note))


def _sizes_note(frames: Frames, teacher: Teacher | None) -> Iterator[str]:
    if teacher is None:
        return
    sizes = ", ".join(f"{name!r} of {show_size(frame.size)}" for name, frame in frames.items())
    yield f"the model sees images {sizes}, the teacher its own size; compared in {', '.join(teacher.outputs)}"


def _loss(data: _Data, original: Graph | None) -> tuple[LossName, Loss]:
    from graphopt.train.finetune import cross_entropy, summed

    if original is None:
        return "labels", cross_entropy(_LABEL)
    taught = _taught(original, data.teacher)
    return ("distillation", taught) if data.labels is None else ("both", summed(cross_entropy(_LABEL), taught))


def _taught(original: Graph, teacher: Teacher | None) -> Loss:
    """The distance from the original, which sees the same images, or the same ones at its own size."""
    from graphopt.train.finetune import distillation

    if teacher is None:
        return distillation(original)
    distance = distillation(original, only=teacher.outputs)
    return lambda outputs, batch: distance(outputs, {name: batch[f"{_TEACHER}{name}"] for name in original.inputs})


def _judge(graph: Graph, path: Path, data: _Data, loss: Loss, original: Graph | None) -> Judgement:
    from graphopt.train.finetune import mean_loss
    from graphopt.verification.drift import measure_drift

    calibration, held_out = data.calibration, data.held_out
    drift = None
    if data.teacher is not None:
        drift = data.teacher.drift(data, path)
    elif original is not None:
        drift = measure_drift(original.model.path, path, calibration, held_out)
    if drift is not None and data.labels is None:
        return Judgement(drift.value, drift)
    chunks = calibration.chunks(held_out, calibration.batch_size())
    return Judgement(mean_loss(graph, (data.arrays(chunk) for chunk in chunks), loss), drift)


def _metadata(name: LossName, options: FinetuneOptions, data: _Data, original: Graph | None) -> Mapping[str, str]:
    """Where the weights come from."""
    parts = [name, f"seed {options.seed}", f"{options.epochs:g} epochs", f"data sha256:{data.calibration.digest}"]
    if original is not None:
        parts.append(f"teacher sha256:{original.model.digest}")
    return {"graphopt.version": __version__, "graphopt.finetuned": "; ".join(parts)}
