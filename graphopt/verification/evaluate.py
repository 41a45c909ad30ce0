"""Accuracy where there are labels, or any other number that a person can compute: before and after.

``--evaluate data.npz``: the model's inputs by name and whole-number class labels as ``label`` or ``labels``. The first
output with class scores, ``(samples, classes)``, is judged: ``top1``, and ``top5`` with six classes or more.

``--evaluate module:function`` (or ``file.py:function``): called as ``function(run)``, where ``run`` takes a batch of
inputs by name and returns the outputs by name; what it returns, a number or several by name, is the metric. The module
is imported because it was named, and only then.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from graphopt.errors import ConfigError, VerificationError, did_you_mean
from graphopt.ir.op import Array
from graphopt.verification.interface import one_line
from graphopt.verification.session import Model, Session
from graphopt.weights.arrays import InputTypes
from graphopt.weights.calibration import Calibration
from graphopt.weights.sized import Frames, fit, open_sized

Run = Callable[[Mapping[str, Array]], dict[str, Any]]

LABELS: Final = ("label", "labels")
_TOP: Final = 5


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a metric said of one model.

    Attributes:
        metrics: (name, value) pairs; shares are 0..1.
        samples: number of samples that the model was run on.
        hits: for the metrics that are shares of samples, which samples count, in their order.
    """

    metrics: tuple[tuple[str, float], ...]
    samples: int
    hits: tuple[tuple[str, tuple[bool, ...]], ...] = ()

    @property
    def standard_errors(self) -> dict[str, float]:
        """Binomial standard error of the metrics that are shares of samples, by name: ``sqrt(p (1 - p) / n)``."""
        return {name: float(np.std(hits) / math.sqrt(len(hits))) for name, hits in self.hits}

    def paired_errors(self, after: Evaluation) -> dict[str, float]:
        """Standard error of the difference of two models' metrics on the same samples, by name.

        The difference of each sample is -1, 0 or 1, so only the samples on which the models disagree count: it is
        smaller than that of two shares from different samples.
        """
        before = dict(self.hits)
        pairs = {name: np.subtract(hits, before[name], dtype=int) for name, hits in after.hits if name in before}
        return {name: float(np.std(pair) / math.sqrt(len(pair))) for name, pair in pairs.items()}


@dataclass(frozen=True, slots=True, eq=False)
class LabelledData:
    """Inputs with class labels.

    Attributes:
        file: where they come from.
        data: the inputs.
        labels: class of each sample, ``(samples,)``.
    """

    file: str
    data: Calibration
    labels: npt.NDArray[np.int64]

    def evaluate(self, model: Model) -> Evaluation:
        """Measure the accuracy. Raises `VerificationError` or `ConfigError`."""
        session = Session(model)
        best: list[bool] = []
        in_top5: list[bool] = []
        classes = 0
        for chunk in self.data.chunks(range(self.data.count), self.data.batch_size()):
            scores = self._scores(session.run(self.data.take(chunk)), len(chunk))
            classes = scores.shape[1]
            labels = self.labels[chunk][:, None]
            if labels.max() >= classes:
                raise ConfigError(
                    f"holds the class {labels.max()}, and the model knows 0 to {classes - 1}", file=self.file
                )
            best += (np.argmax(scores, axis=1) == labels[:, 0]).tolist()
            top = np.argsort(-scores, axis=1, kind="stable")[:, :_TOP]
            in_top5 += (top == labels).any(axis=1).tolist()
        hits = [("top1", tuple(best))] + ([("top5", tuple(in_top5))] if classes > _TOP else [])
        return Evaluation(tuple((name, sum(those) / len(best)) for name, those in hits), len(best), tuple(hits))

    def _scores(self, outputs: Mapping[str, Any], rows: int) -> npt.NDArray[np.float64]:
        for values in outputs.values():
            if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.ndim >= 2:
                trailing_ones = values.shape[0] == rows and values.size == rows * values.shape[1]
                if trailing_ones and values.shape[1] > 1:
                    return values.reshape(rows, -1).astype(np.float64)
        shapes = ", ".join(f"{name} {getattr(values, 'shape', 'no tensor')}" for name, values in outputs.items())
        raise ConfigError(
            f"labels need an output with class scores, (samples, classes), and the model has {shapes}; "
            "--evaluate module:function takes any metric",
            file=self.file,
        )


@dataclass(frozen=True, slots=True, eq=False)
class MetricFunction:
    """A metric that somebody wrote.

    Attributes:
        name: ``module:function``.
        function: called with ``run``.
        frames: sizes that images are brought to before the model sees them.
    """

    name: str
    function: Callable[[Run], Any]
    frames: Frames = field(default_factory=dict)

    def evaluate(self, model: Model) -> Evaluation:
        """Call the function. Raises `VerificationError` when the model fails, `ConfigError` when the function does."""
        session = Session(model)
        samples = 0

        def run(feed: Mapping[str, Array]) -> dict[str, Any]:
            nonlocal samples
            outputs = session.run(fit(feed, self.frames))
            samples += next((len(values) for values in feed.values() if np.ndim(values)), 1)
            return outputs

        try:
            found = self.function(run)
        except VerificationError:
            raise
        except Exception as error:  # it is the user's code
            raise ConfigError(f"--evaluate {self.name}: raised {_said(error)}") from error
        return Evaluation(self._metrics(found), samples)

    def _metrics(self, found: Any) -> tuple[tuple[str, float], ...]:
        pairs = found if isinstance(found, Mapping) else {self.name.rpartition(":")[2]: found}
        metrics = []
        for key, value in pairs.items():
            try:
                number = float(value)
            except (TypeError, ValueError) as error:
                raise ConfigError(
                    f"--evaluate {self.name}: returned {type(value).__name__} for {key!r}; a number is wanted, or "
                    "numbers by name"
                ) from error
            if not math.isfinite(number):
                raise ConfigError(f"--evaluate {self.name}: {key!r} is {number}")
            metrics.append((str(key), number))
        if not metrics:
            raise ConfigError(f"--evaluate {self.name}: returned no numbers")
        return tuple(metrics)


Evaluator = LabelledData | MetricFunction


def open_evaluator(spec: str, inputs: InputTypes, frames: Frames | None = None) -> Evaluator:
    """Read what ``--evaluate`` names, before any long work.

    Args:
        spec: path of an `.npz`, or ``module:function``.
        inputs: what the model wants.
        frames: sizes that images are brought to, where they may be of another one.

    Raises:
        ConfigError: when the file or the function is not there or does not fit; one line.
    """
    if spec.lower().endswith(".npz"):
        return _labelled(spec, inputs, frames or {})
    module_name, colon, function_name = spec.rpartition(":")
    if not colon or not module_name or not function_name:
        raise ConfigError(f"--evaluate takes a labelled .npz or module:function, not {spec!r}")
    module = _import(spec, module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        near = did_you_mean(function_name, [name for name in vars(module) if not name.startswith("_")])
        raise ConfigError(f"--evaluate {spec}: no function {function_name!r} there{near}")
    return MetricFunction(spec, function, frames or {})


def _labelled(path: str, inputs: InputTypes, frames: Frames) -> LabelledData:
    data = open_sized(path, inputs, frames)
    name = next((name for name in LABELS if name in data.ignored), None)
    if name is None:
        held = ", ".join(data.ignored) or "nothing"
        raise ConfigError(f"lacks class labels ('label' or 'labels'); besides the inputs it holds {held}", file=path)
    try:
        with np.load(path, allow_pickle=False) as file:
            labels = np.asarray(file[name])
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {name!r}: {one_line(error)}", file=path) from error
    if labels.dtype.kind not in "iu" or labels.size != data.count or len(labels) != data.count:
        raise ConfigError(
            f"{name!r} must be {data.count} whole numbers, one for each sample, and is {labels.dtype} {labels.shape}",
            file=path,
        )
    flat = labels.reshape(-1).astype(np.int64)
    if flat.min() < 0:
        raise ConfigError(f"{name!r} holds the class {flat.min()}; classes begin at 0", file=path)
    return LabelledData(path, data, flat)


def _import(spec: str, name: str) -> ModuleType:
    """Import a module by name (the working directory counts) or by the path of its file."""
    try:
        if not name.endswith(".py"):
            here = str(Path.cwd())
            if here not in sys.path:
                sys.path.insert(0, here)
            return importlib.import_module(name)
        location = importlib.util.spec_from_file_location(f"graphopt_evaluate_{Path(name).stem}", name)
        if location is None or location.loader is None:
            raise ImportError(f"{name} is no Python file")
        module = importlib.util.module_from_spec(location)
        sys.modules[location.name] = module  # dataclasses look their module up there
        location.loader.exec_module(module)
        return module
    except Exception as error:  # it is the user's code
        raise ConfigError(f"--evaluate {spec}: cannot be imported: {_said(error)}") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"
