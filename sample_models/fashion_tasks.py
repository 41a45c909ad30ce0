"""Two tasks made of Fashion-MNIST: find the one item on a larger canvas, and say of every pixel what it shows.

Items of random size and place lie on uneven, noisy canvases of 64x64 grey pixels, among clutter: bars, frames and
shuffled pieces of other items. Everything follows from a seed and from the items, so that the test canvases need no
file of their own: they are made of the 2,000 test images in `fashion_test.npz` beside this module.

The metrics are made to be named on the command line:

    graphopt optimize fashion_detector.onnx --evaluate sample_models/fashion_tasks.py:detection
    graphopt optimize fashion_segmenter.onnx --evaluate sample_models/fashion_tasks.py:segmentation

Needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SIZE = 64
"""Pixels of a canvas's side."""

CELLS = 8
"""Cells of the detector's grid, along each side."""

SEGMENTS = ("background", "top", "trousers", "shoe", "bag")
SEGMENT_OF_CLASS = (1, 2, 1, 1, 1, 3, 1, 3, 4, 3)
"""What the segmenter calls each of Fashion-MNIST's ten classes."""

TEST_CANVASES = 4000
TEST_SEED = 20_000
LEAST_IOU = 0.5

_SOLID = 40
"""Grey value from which on a pixel belongs to its item."""

_ITEM_SIDES = (16, 44)
"""Smallest and largest side of a placed item."""

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Run = Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Scenes:
    """Canvases and what is on them.

    Attributes:
        pixels: grey values, (samples, 1, 64, 64).
        boxes: left, top, right, bottom of the item on top in pixels, (samples, 4); zeros where there is none.
        masks: number of the segment of each pixel, (samples, 64, 64).
    """

    pixels: Pixels
    boxes: Floats
    masks: Pixels

    @property
    def images(self) -> Floats:
        """The canvases as the models are fed: ``(pixel - 64) / 128``."""
        return (self.pixels.astype(np.float32) - 64) / 128


def detection_scenes(items: Pixels, classes: npt.NDArray[Any], count: int, seed: Any) -> Scenes:
    """Return ``count`` canvases, three quarters of them with one item; ``items`` is (samples, 28, 28)."""
    return _scenes(items, classes, count, seed, numbers=(0, 1, 1, 1))


def segmentation_scenes(items: Pixels, classes: npt.NDArray[Any], count: int, seed: Any) -> Scenes:
    """Return ``count`` canvases with up to three items, which may lie on one another."""
    return _scenes(items, classes, count, seed, numbers=(0, 1, 2, 2, 3, 3))


def test_items() -> tuple[Pixels, npt.NDArray[np.int64]]:
    """The 2,000 test images beside this module, (2000, 28, 28), and their classes."""
    with np.load(Path(__file__).with_name("fashion_test.npz")) as file:
        return np.round(file["image"][:, 0] * 128 + 64).astype(np.uint8), file["label"]


def detection(run: Run) -> dict[str, float]:
    """The detector's metrics on 4,000 test canvases.

    Args:
        run: takes ``image`` (samples, 1, 64, 64), returns ``object`` and ``box``.

    Returns:
        ``right``: share of canvases judged right, that is, with the item's box met (IoU of a half or more), or found
        empty. ``ap50``: average precision at that IoU, over all thresholds.
    """
    return detection_metrics(run, _test_scenes(detection_scenes))


def segmentation(run: Run) -> dict[str, float]:
    """The segmenter's metrics on 4,000 test canvases.

    Args:
        run: takes ``image`` (samples, 1, 64, 64), returns ``segment``.

    Returns:
        ``miou``: intersection over union, averaged over the five segments. ``pixels``: share of pixels named right.
    """
    return segmentation_metrics(run, _test_scenes(segmentation_scenes))


def detection_metrics(run: Run, scenes: Scenes) -> dict[str, float]:
    """As :func:`detection`, on any scenes."""
    found = [decode(run({"image": part})) for part in _parts(scenes.images)]
    scores, boxes = (np.concatenate(parts) for parts in zip(*found, strict=True))
    present = scenes.boxes[:, 2] > 0
    met = present & (iou(boxes, scenes.boxes) >= LEAST_IOU)
    right = np.where(present, met & (scores >= 0), scores < 0)
    return {"right": float(right.mean()), "ap50": average_precision(scores, met, int(present.sum()))}


def segmentation_metrics(run: Run, scenes: Scenes) -> dict[str, float]:
    """As :func:`segmentation`, on any scenes."""
    kinds = len(SEGMENTS)
    confusion = np.zeros((kinds, kinds), np.int64)
    for part, masks in zip(_parts(scenes.images), _parts(scenes.masks), strict=True):
        named = np.asarray(run({"image": part})["segment"]).argmax(axis=1)
        pairs = masks.astype(np.int64) * kinds + named
        confusion += np.bincount(pairs.ravel(), minlength=kinds * kinds).reshape(kinds, kinds)
    right = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - right
    return {"miou": float((right / np.maximum(union, 1)).mean()), "pixels": float(right.sum() / confusion.sum())}


def decode(outputs: Mapping[str, Any]) -> tuple[Floats, Floats]:
    """The best cell's score (a logit) and box in pixels, for each sample.

    ``object`` (samples, 1, 8, 8) holds the logits that an item's middle lies in a cell, ``box`` (samples, 4, 8, 8) how
    far the item's left, top, right and bottom are from the middle of the cell, in cells.
    """
    logits = np.asarray(outputs["object"]).reshape(-1, CELLS * CELLS)
    sides = np.asarray(outputs["box"]).reshape(-1, 4, CELLS * CELLS)
    best = logits.argmax(axis=1)
    row, column = np.divmod(best, CELLS)
    middle = np.stack([column, row, column, row], axis=1) + 0.5
    far = np.take_along_axis(sides, best[:, None, None], axis=2)[:, :, 0] * (-1, -1, 1, 1)
    boxes = np.clip((middle + far) * (SIZE // CELLS), 0, SIZE)
    return np.take_along_axis(logits, best[:, None], axis=1)[:, 0].astype(np.float32), boxes.astype(np.float32)


def iou(first: Floats, second: Floats) -> Floats:
    """Intersection over union of boxes, pair by pair, (samples, 4) each."""
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = [np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1) for boxes in (first, second)]
    return (common / np.maximum(areas[0] + areas[1] - common, 1e-9)).astype(np.float32)


def average_precision(scores: Floats, met: npt.NDArray[np.bool_], present: int) -> float:
    """Area under the precision-recall curve, precision made monotone (PASCAL VOC from 2010 on)."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(met[order])
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float((precision * met[order]).sum() / max(present, 1))


@cache
def _test_scenes(make: Callable[..., Scenes]) -> Scenes:
    return make(*test_items(), TEST_CANVASES, TEST_SEED)


def _parts(values: npt.NDArray[Any], size: int = 250) -> list[npt.NDArray[Any]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _scenes(items: Pixels, classes: npt.NDArray[Any], count: int, seed: int, numbers: tuple[int, ...]) -> Scenes:
    rng = np.random.default_rng(seed)
    pixels = np.empty((count, 1, SIZE, SIZE), np.uint8)
    boxes = np.zeros((count, 4), np.float32)
    masks = np.zeros((count, SIZE, SIZE), np.uint8)
    for n in range(count):
        canvas = _background(rng)
        for _ in range(rng.integers(0, 5)):
            _clutter(canvas, items, rng)
        for _ in range(rng.choice(numbers)):
            chosen = rng.integers(len(items))
            boxes[n] = _place(canvas, masks[n], items[chosen], SEGMENT_OF_CLASS[classes[chosen]], rng)
        canvas += rng.normal(0, rng.uniform(2, 10), canvas.shape)
        pixels[n, 0] = np.clip(np.round(canvas / 8) * 8, 0, 255)  # 32 grey values: files compress
    return Scenes(pixels, boxes, masks)


def _background(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """An uneven grey, from dark to half bright."""
    level, unevenness = rng.uniform(0, 90), rng.uniform(0, 40)
    return level + _stretched(rng.normal(0, unevenness, (5, 5)), SIZE, SIZE)


def _clutter(canvas: npt.NDArray[np.float64], items: Pixels, rng: np.random.Generator) -> None:
    """Add a bar, a frame, or a shuffled piece of an item."""
    height, width = rng.integers(4, 28, 2)
    top, left = rng.integers(0, SIZE - height), rng.integers(0, SIZE - width)
    grey = rng.uniform(30, 230)
    region = canvas[top : top + height, left : left + width]
    kind = rng.integers(3)
    if kind == 0:
        region[: max(2, height // 6)] = grey
    elif kind == 1:
        region[:2] = region[-2:] = grey
        region[:, :2] = region[:, -2:] = grey
    else:
        item = items[rng.integers(len(items))].reshape(4, 7, 4, 7).transpose(0, 2, 1, 3).reshape(16, 7, 7)
        piece = item[rng.permutation(16)].reshape(4, 4, 7, 7).transpose(0, 2, 1, 3).reshape(28, 28)
        _blend(region, _stretched(piece, int(height), int(width)))


def _place(
    canvas: npt.NDArray[np.float64], mask: Pixels, item: Pixels, segment: int, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Lay an item on the canvas and return its box."""
    height = int(rng.integers(*_ITEM_SIDES, endpoint=True))
    width = int(np.clip(height * rng.uniform(0.8, 1.25), *_ITEM_SIDES))
    top, left = rng.integers(0, SIZE - height + 1), rng.integers(0, SIZE - width + 1)
    picture = _stretched(item[:, ::-1] if rng.random() < 0.5 else item, height, width)
    _blend(canvas[top : top + height, left : left + width], picture * rng.uniform(0.6, 1.0))
    solid = picture >= _SOLID
    mask[top : top + height, left : left + width][solid] = segment
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    return left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1


def _blend(region: npt.NDArray[np.float64], picture: npt.NDArray[np.float64]) -> None:
    """Lay ``picture`` on ``region``; what is dark in it is transparent."""
    share = np.clip(picture / _SOLID, 0, 1)
    region *= 1 - share
    region += share * picture


def _stretched(picture: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[np.float64]:
    """Bilinear interpolation to ``height`` x ``width``."""
    return _weights(picture.shape[0], height) @ picture @ _weights(picture.shape[1], width).T


@cache
def _weights(old: int, new: int) -> npt.NDArray[np.float64]:
    """The matrix (new, old) that interpolates a line at half-pixel centres."""
    places = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(old)))
