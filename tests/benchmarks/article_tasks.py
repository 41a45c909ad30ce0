"""The three sample tasks as `articles.py` needs them: data to train and to choose on, a loss, a metric.

Needs PyTorch (`pip install 'graphopt[train]'`) and Fashion-MNIST (Debian: `apt install dataset-fashion-mnist`): the
first 55,000 training images to train on, the other 5,000 for choices. Figures are from test images, which nothing here
trains on or chooses by: all 10,000 for the classifier, 4,000 canvases of the committed 2,000 for the others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphopt.onnx_io.load import load
from graphopt.onnx_io.save import save
from graphopt.resources import sample_models_dir
from graphopt.train.finetune import Loss, Progress, Recipe, Tensors, cross_entropy, distillation, finetune, summed
from graphopt.verification.session import Session

sys.path.insert(0, str(sample_models_dir()))

import fashion_tasks as made
import train_fashion_classifier as classifier
import train_fashion_tasks as trained

FOLDER = sample_models_dir()
TUNING_SEED = 40_000

Arrays = dict[str, np.ndarray[Any, Any]]
Metrics = dict[str, float]


@dataclass(frozen=True)
class Task:
    """One sample model with what it takes to fine-tune and judge it.

    Attributes:
        name: for tables.
        metric: name of the metric that choices and figures go by, a share.
        model, calibration: its files.
        training: makes so many labelled samples to fine-tune on; the same ones once made, for all variants.
        samples: how many are made.
        loss: of the labels.
        judge: the metrics of a model file on a split, ``validation`` or ``test``.
        taught: whether the original's outputs are learned from beside the labels.
    """

    name: str
    metric: str
    model: Path
    calibration: Path
    training: Callable[[int], Arrays]
    samples: int
    loss: Loss
    judge: Callable[[Path, str], Metrics]
    taught: bool = False

    def tune(self, start: Path, out: Path, share: float = 1.0, progress: Progress | None = None) -> None:
        """Fine-tune a model file for two passes over (a share of) the samples, and write the result."""
        loss = summed(self.loss, distillation(load(self.model))) if self.taught else self.loss
        data = self.training(round(share * self.samples))
        save(finetune(load(start), data, loss, Recipe(epochs=2.0, learning_rate=2e-3, batch=64), progress).graph, out)


def detector() -> Task:
    """Presence and box of one item."""

    def loss(outputs: Tensors, batch: Tensors) -> torch.Tensor:
        return trained.detection_loss((outputs["object"], outputs["box"]), dict(batch))

    return _canvas_task("detector", "ap50", 65_536, loss)


def segmenter() -> Task:
    """What every pixel shows."""

    def loss(outputs: Tensors, batch: Tensors) -> torch.Tensor:
        return trained.segmentation_loss(outputs["segment"], dict(batch))

    return _canvas_task("segmenter", "miou", 24_576, loss)


def fashion_classifier() -> Task:
    """The ten classes of Fashion-MNIST."""

    @cache
    def split(part: str) -> tuple[Any, Any]:
        if part == "test":
            return classifier.read_split(classifier.DEBIAN_FOLDER, "t10k")
        pixels, classes = trained.read_items(classifier.DEBIAN_FOLDER, slice(trained.TRAINING_ITEMS, None))
        return _fed(pixels), classes.astype(np.int64)

    def judge(path: Path, part: str) -> Metrics:
        session, (images, labels) = Session(path), split(part)
        found = [session.run({"image": images[i : i + 500]})["logits"].argmax(1) for i in range(0, len(images), 500)]
        return {"top1": float((np.concatenate(found) == labels).mean())}

    @cache
    def training(count: int) -> Arrays:
        pixels, classes = trained.training_items(classifier.DEBIAN_FOLDER)
        images, labels = torch.from_numpy(_fed(pixels)), torch.from_numpy(classes.astype(np.int64))
        generator, parts, got = torch.Generator().manual_seed(TUNING_SEED), [], 0
        while got < count:
            for batch, target in classifier.batches(images, labels, generator):
                parts.append((batch.contiguous().numpy(), target.numpy()))
                got += len(target)
                if got >= count:
                    break
        return {"image": np.concatenate([x for x, _ in parts]), "label": np.concatenate([y for _, y in parts])}

    files = FOLDER / "fashion_classifier.onnx", FOLDER / "fashion_calibration.npz"
    return Task("classifier", "top1", *files, training, 32_768, cross_entropy(), judge, taught=True)


def _canvas_task(name: str, metric: str, samples: int, loss: Loss) -> Task:
    task = trained.TASKS[name]

    @cache
    def scenes(part: str) -> made.Scenes:
        if part == "test":
            return task.scenes(*made.test_items(), made.TEST_CANVASES, made.TEST_SEED)
        return trained.validation_scenes(task, classifier.DEBIAN_FOLDER)

    def judge(path: Path, part: str) -> Metrics:
        session = Session(path)
        return task.metrics(lambda feed: session.run(feed), scenes(part))

    @cache
    def training(count: int) -> Arrays:
        found = task.scenes(*trained.training_items(classifier.DEBIAN_FOLDER), count, TUNING_SEED)
        return {"image": found.images, "boxes": found.boxes, "masks": found.masks}

    files = FOLDER / f"fashion_{name}.onnx", FOLDER / f"fashion_{name}_calibration.npz"
    return Task(name, metric, *files, training, samples, loss, judge)


def _fed(pixels: Any) -> Any:
    return (pixels[:, None].astype(np.float32) - 64) / 128


TASKS = {"detector": detector, "classifier": fashion_classifier, "segmenter": segmenter}
