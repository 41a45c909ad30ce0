"""Train the sample detector or segmenter, on canvases made of Fashion-MNIST (see `fashion_tasks.py`).

    python sample_models/train_fashion_tasks.py detector|segmenter [--data DIR] [--out DIR] [--epochs N] [--seed N]

Needs what `train_fashion_classifier.py` needs. One thread and one seed: the same machine gives the same weights.
Items of the first 55,000 training images are trained on, the other 5,000 are for choices (nothing was tuned on the test
images). Every epoch sees canvases of its own.

Writes into the output folder, for the detector (the segmenter's are alike):

* `fashion_detector.onnx`: input `image` [N,1,64,64], outputs `object` [N,1,8,8] and `box` [N,4,8,8], float32;
* `fashion_detector_calibration.npz`: `image`, 256 canvases of training items, without labels.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fashion_tasks as tasks
import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional
from train_fashion_classifier import DEBIAN_FOLDER, InvertedBottleneck, conv_bn_relu6, export

TRAINING_ITEMS = 55_000
CANVASES = 16_384
"""Of each epoch."""

VALIDATION_CANVASES = 4000
VALIDATION_SEED = 10_000
CALIBRATION_CANVASES = 256
CALIBRATION_SEED = 30_000
BATCH = 64

DETECTOR_STEM = 16
# (expansion, channels, blocks, stride of the first block): 32x32, 16x16, then 8x8 twice.
DETECTOR_STAGES = ((5, 16, 1, 1), (6, 20, 2, 2), (6, 36, 2, 2), (6, 80, 2, 1))
DETECTOR_HEAD = 160

SEGMENTER_STEM = 16
SEGMENTER_FINE = ((5, 16, 1, 1),)
SEGMENTER_MIDDLE = ((6, 24, 2, 2),)
SEGMENTER_COARSE = ((6, 40, 2, 2), (6, 80, 1, 1))
SEGMENTER_DECODER = (72, 40)


class FashionDetector(nn.Module):
    """An inverted-bottleneck backbone and two 1x1 heads on an 8x8 grid."""

    def __init__(self) -> None:
        super().__init__()
        stages, width = inverted_bottlenecks(DETECTOR_STEM, DETECTOR_STAGES)
        self.features = nn.Sequential(
            *conv_bn_relu6(1, DETECTOR_STEM, kernel=3, stride=2),
            *stages,
            *conv_bn_relu6(width, DETECTOR_HEAD, kernel=1),
        )
        self.object = nn.Conv2d(DETECTOR_HEAD, 1, 1)
        self.box = nn.Conv2d(DETECTOR_HEAD, 4, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map [N, 1, 64, 64] to logits [N, 1, 8, 8] and sides [N, 4, 8, 8]; see `fashion_tasks.decode`."""
        features = self.features(image)
        return self.object(features), self.box(features)


class FashionSegmenter(nn.Module):
    """An inverted-bottleneck encoder, and a decoder that enlarges twice and concatenates what the encoder made."""

    def __init__(self) -> None:
        super().__init__()
        stem, (first, second) = SEGMENTER_STEM, SEGMENTER_DECODER
        self.stem = nn.Sequential(*conv_bn_relu6(1, stem, kernel=3, stride=2))
        layers, fine = inverted_bottlenecks(stem, SEGMENTER_FINE)
        self.fine = nn.Sequential(*layers)
        layers, middle = inverted_bottlenecks(fine, SEGMENTER_MIDDLE)
        self.middle = nn.Sequential(*layers)
        layers, coarse = inverted_bottlenecks(middle, SEGMENTER_COARSE)
        self.coarse = nn.Sequential(*layers)
        self.first = nn.Sequential(*separable(coarse + middle, first))
        self.second = nn.Sequential(*separable(first + fine, second))
        self.head = nn.Conv2d(second, len(tasks.SEGMENTS), 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map [N, 1, 64, 64] to logits [N, 5, 64, 64]."""
        fine = self.fine(self.stem(image))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        joined = self.first(torch.cat([larger(coarse), middle], dim=1))
        joined = self.second(torch.cat([larger(joined), fine], dim=1))
        return larger(self.head(joined))


def inverted_bottlenecks(width: int, stages: tuple[tuple[int, int, int, int], ...]) -> tuple[list[nn.Module], int]:
    """The blocks of some stages behind ``width`` channels, and how many channels they end with."""
    layers: list[nn.Module] = []
    for expansion, channels, blocks, first_stride in stages:
        for block in range(blocks):
            layers.append(InvertedBottleneck(width, channels, expansion, first_stride if block == 0 else 1))
            width = channels
    return layers, width


def separable(channels_in: int, channels_out: int) -> list[nn.Module]:
    """1x1 and depthwise 3x3, as decoders for processors have them."""
    return [
        *conv_bn_relu6(channels_in, channels_out, kernel=1),
        *conv_bn_relu6(channels_out, channels_out, kernel=3, groups=channels_out),
        *conv_bn_relu6(channels_out, channels_out, kernel=1),
    ]


def larger(x: Tensor) -> Tensor:
    """Twice as high and wide."""
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def detection_loss(outputs: tuple[Tensor, Tensor], scenes: dict[str, Tensor]) -> Tensor:
    """Cross entropy of the cells, and 1 - IoU plus the sides' distance in the cells around an item's middle."""
    logits, sides = outputs
    boxes = scenes["boxes"] * (tasks.CELLS / tasks.SIZE)
    middle = (torch.arange(tasks.CELLS) + 0.5).view(1, -1)
    present = (boxes[:, 2:3] > 0).float()
    far = [((boxes[:, a] + boxes[:, a + 2]) / 2)[:, None] - middle for a in (0, 1)]
    inside, around = (
        ((far[1].abs() <= near)[:, :, None] & (far[0].abs() <= near)[:, None, :]).float() * present[:, :, None]
        for near in (0.5, 1.5)
    )
    ignored = around * (1 - inside)  # the neighbours of the right cell may say what they like
    cells = functional.binary_cross_entropy_with_logits(logits[:, 0], inside.clamp(max=1), reduction="none")
    wanted = torch.stack(
        [
            (middle - boxes[:, 0:1])[:, None, :].expand(-1, tasks.CELLS, -1),
            (middle - boxes[:, 1:2])[:, :, None].expand(-1, -1, tasks.CELLS),
            (boxes[:, 2:3] - middle)[:, None, :].expand(-1, tasks.CELLS, -1),
            (boxes[:, 3:4] - middle)[:, :, None].expand(-1, -1, tasks.CELLS),
        ],
        dim=1,
    )
    common = torch.minimum(sides, wanted)
    both = (common[:, 0] + common[:, 2]).clamp(min=0) * (common[:, 1] + common[:, 3]).clamp(min=0)
    areas = [(s[:, 0] + s[:, 2]).clamp(min=0) * (s[:, 1] + s[:, 3]).clamp(min=0) for s in (sides, wanted)]
    off = 1 - both / (areas[0] + areas[1] - both).clamp(min=1e-3)
    off = off + 0.2 * functional.smooth_l1_loss(sides, wanted, reduction="none").sum(dim=1)
    return (cells * (1 - ignored)).sum() / len(logits) + 2 * (off * around).sum() / around.sum().clamp(min=1)


def segmentation_loss(outputs: Tensor, scenes: dict[str, Tensor]) -> Tensor:
    """Cross entropy of the pixels; the segments, a quarter of all pixels, weigh twice."""
    weight = torch.tensor([1.0, *[2.0] * (len(tasks.SEGMENTS) - 1)])
    return functional.cross_entropy(outputs, scenes["masks"].long(), weight=weight)


@dataclass(frozen=True)
class Task:
    """What differs between the two."""

    model: type[nn.Module]
    scenes: Callable[..., tasks.Scenes]
    loss: Callable[[Any, dict[str, Tensor]], Tensor]
    metrics: Callable[..., dict[str, float]]
    outputs: tuple[str, ...]
    epochs: int


TASKS = {
    "detector": Task(
        FashionDetector, tasks.detection_scenes, detection_loss, tasks.detection_metrics, ("object", "box"), 9
    ),
    "segmenter": Task(
        FashionSegmenter, tasks.segmentation_scenes, segmentation_loss, tasks.segmentation_metrics, ("segment",), 8
    ),
}


def read_items(folder: Path, part: slice) -> tuple[tasks.Pixels, Any]:
    """Some of the training images, (samples, 28, 28), and their classes."""
    with gzip.open(folder / "train-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / "train-labels-idx1-ubyte.gz") as file:
        classes = np.frombuffer(file.read(), np.uint8, offset=8)
    return pixels[part], classes[part]


def training_items(folder: Path) -> tuple[tasks.Pixels, Any]:
    """The images that are trained on."""
    return read_items(folder, slice(0, TRAINING_ITEMS))


def validation_scenes(task: Task, folder: Path) -> tasks.Scenes:
    """Canvases for choices: of items that nothing is trained or tested on."""
    return task.scenes(*read_items(folder, slice(TRAINING_ITEMS, None)), VALIDATION_CANVASES, VALIDATION_SEED)


def tensors(scenes: tasks.Scenes) -> dict[str, Tensor]:
    """Scenes as training takes them."""
    return {
        "image": torch.from_numpy(scenes.images).contiguous(memory_format=torch.channels_last),
        "boxes": torch.from_numpy(scenes.boxes),
        "masks": torch.from_numpy(scenes.masks),
    }


def batches(task: Task, items: tuple[tasks.Pixels, Any], seed: int, epoch: int) -> Iterator[dict[str, Tensor]]:
    """Yield one epoch of canvases that no other epoch has."""
    scenes = tensors(task.scenes(*items, CANVASES, [seed, epoch]))
    for start in range(0, CANVASES, BATCH):
        yield {name: values[start : start + BATCH] for name, values in scenes.items()}


def train(task: Task, items: tuple[tasks.Pixels, Any], *, epochs: int, seed: int) -> nn.Module:
    """Train from scratch: AdamW, one-cycle learning rate."""
    torch.manual_seed(seed)
    model = task.model().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=6e-3, epochs=epochs, steps_per_epoch=CANVASES // BATCH, pct_start=0.2
    )
    for epoch in range(epochs):
        started, total = time.perf_counter(), 0.0
        for scenes in batches(task, items, seed, epoch):
            loss = task.loss(model(scenes["image"]), scenes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1}/{epochs}: loss {total / (CANVASES // BATCH):.4f}, {seconds:.0f} s", flush=True)
    return model.eval()


def runner(path: Path) -> tasks.Run:
    """What the metrics call, with onnxruntime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(None, dict(feed)), strict=True))


def main() -> None:
    """Train, export, and write the data that goes with the model."""
    parser = argparse.ArgumentParser(description="Train a sample model on canvases of Fashion-MNIST items.")
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="folder of the gzipped IDX files")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the files go")
    parser.add_argument("--epochs", type=int, help="default: 9 for the detector, 8 for the segmenter")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)

    task = TASKS[options.task]
    items = training_items(options.data)
    model = train(task, items, epochs=options.epochs or task.epochs, seed=options.seed)
    parameters = sum(p.numel() for p in model.parameters())

    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"fashion_{options.task}.onnx"
    text = "On canvases made of Fashion-MNIST items; image = (pixel - 64) / 128"
    export(model, path, size=tasks.SIZE, outputs=task.outputs, text=text)
    data = options.out / f"fashion_{options.task}_calibration.npz"
    np.savez_compressed(data, image=task.scenes(*items, CALIBRATION_CANVASES, CALIBRATION_SEED).images)

    run = runner(path)
    test = task.scenes(*tasks.test_items(), tasks.TEST_CANVASES, tasks.TEST_SEED)
    print(f"{parameters} parameters")
    for name, scenes in (("validation", validation_scenes(task, options.data)), ("test", test)):
        found = ", ".join(f"{key} {value:.4f}" for key, value in task.metrics(run, scenes).items())
        print(f"{name} ({len(scenes.pixels)} canvases): {found}")
    for file in (path, data):
        content = file.read_bytes()
        print(f"{hashlib.sha256(content).hexdigest()}  {file.name} ({len(content)} bytes)")


if __name__ == "__main__":
    main()
