"""Samples for a model at another input size.

Images are decoded to the new size. Arrays, which are stored at one size, are resized: bilinear, and with the filter
stretched where they shrink (Pillow's resampling, so the extra ``graphopt[images]``). Interpolating and normalising
pixels commute, so prepared pixels may be resized as well as raw ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from graphopt.ir.op import Array
from graphopt.weights.arrays import Indices, InputTypes
from graphopt.weights.calibration import Calibration, Source, open_calibration
from graphopt.weights.images import pillow


@dataclass(frozen=True, slots=True)
class Frame:
    """Where an input has its height and width, and what they shall be."""

    axes: tuple[int, int]
    size: tuple[int, int]

    def opened(self, dims: tuple[object, ...], *, fixed: bool) -> tuple[object, ...]:
        """``dims`` with height and width left open, or fixed to the size."""
        sides = dict(zip(self.axes, self.size, strict=True))
        return tuple((sides[axis] if fixed else None) if axis in sides else dim for axis, dim in enumerate(dims))


Frames = Mapping[str, Frame]
"""By input name; inputs that are no images, or stay, are not in it."""


@dataclass(frozen=True, slots=True, eq=False)
class SizedSource:
    """Samples of a source, resized."""

    source: Source
    frames: Frames

    @property
    def count(self) -> int:
        """Number of samples."""
        return self.source.count

    @property
    def ignored(self) -> tuple[str, ...]:
        """What was there and is no input."""
        return self.source.ignored

    @property
    def sample_bytes(self) -> int:
        """Memory of one sample as the model wants it."""
        return sum(values[:1].nbytes for values in self.rows(np.zeros(1, np.intp)).values())

    @property
    def digest(self) -> str:
        """SHA-256 of the content and the sizes, hexadecimal."""
        sizes = [(name, frame.axes, frame.size) for name, frame in sorted(self.frames.items())]
        return hashlib.sha256(f"{self.source.digest}{sizes}".encode()).hexdigest()

    def rows(self, indices: Indices) -> dict[str, Array]:
        """Return samples by input name. Raises `ConfigError`."""
        return fit(self.source.rows(indices), self.frames)


def fit(feed: Mapping[str, Array], frames: Frames) -> dict[str, Array]:
    """Resize the images of a batch that are of another size. Raises `ConfigError` where Pillow would be needed."""
    return {name: _fitted(values, frames[name]) if name in frames else values for name, values in feed.items()}


def _fitted(values: Array, frame: Frame) -> Array:
    have = tuple(values.shape[axis] for axis in frame.axes) if values.ndim == 4 else frame.size
    if have == frame.size:
        return values
    image, _ = pillow()
    height, width = frame.size
    planes = np.moveaxis(values, frame.axes, (2, 3))
    made = np.empty((*planes.shape[:2], height, width), np.float32)
    for place in np.ndindex(planes.shape[:2]):
        plane = image.fromarray(np.ascontiguousarray(planes[place], np.float32))
        made[place] = np.asarray(plane.resize((width, height), image.Resampling.BILINEAR))
    if values.dtype.kind in "iu":
        made = np.rint(made)
    return np.ascontiguousarray(np.moveaxis(made, (2, 3), frame.axes).astype(values.dtype))


def open_sized(
    path: str | Path, inputs: InputTypes, frames: Frames, *, preprocess: str | Path | None = None
) -> Calibration:
    """As `open_calibration`, for a model whose images are of the sizes ``frames``.

    Args:
        path: as `open_calibration`; arrays may be of any size.
        inputs: the model's inputs, at any size.
        frames: the sizes wanted.
        preprocess: how images are prepared.

    Raises:
        ConfigError: as `open_calibration`, and where arrays must be resized and Pillow is missing.
    """
    images = Path(path).is_dir()
    types = {
        name: (frames[name].opened(shape, fixed=images) if name in frames and shape else shape, dtype)
        for name, (shape, dtype) in inputs.items()
    }
    calibration = open_calibration(path, types, preprocess=preprocess)  # type: ignore[arg-type]
    return calibration if images or not frames else replace(calibration, source=SizedSource(calibration.source, frames))
