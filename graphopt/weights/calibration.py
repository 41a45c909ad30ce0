"""Calibration data: real inputs without labels, in batches, from arrays or a folder of images.

Memory: what :class:`Calibration` holds is bounded by its source (`arrays.py`: mapped files; `images.py`: a cache of
decoded pixels); a batch of ``size`` samples takes ``size`` times the bytes of one sample's inputs on top.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from graphopt.errors import ConfigError
from graphopt.ir.op import Array
from graphopt.weights.arrays import Indices, InputTypes, check_arrays, read_arrays
from graphopt.weights.images import open_images
from graphopt.weights.preprocess import bundled_presets, load_preprocess

FEW: Final = 8
"""Held-out samples that `split` takes at least, where there are twice as many."""

BATCH_BYTES: Final = 8 << 20
"""What the inputs of a batch take where nobody says how many samples it has."""

_LARGEST_BATCH: Final = 64

__all__ = ["Calibration", "Indices", "InputTypes", "calibration_from_arrays", "open_calibration"]


class Source(Protocol):
    """Where samples come from."""

    @property
    def count(self) -> int:
        """Number of samples."""

    @property
    def ignored(self) -> tuple[str, ...]:
        """What was there and is no input."""

    @property
    def sample_bytes(self) -> int:
        """Memory of one sample as the model wants it."""

    @property
    def digest(self) -> str:
        """SHA-256 of the content, hexadecimal."""

    def rows(self, indices: Indices) -> dict[str, Array]:
        """Return samples by input name, in the model's types. Raises `ConfigError`."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Samples for one model.

    Attributes:
        source: what reads them.
        batch: the batch size that the model fixes, ``None`` where it takes any.
    """

    source: Source
    batch: int | None = None

    @property
    def count(self) -> int:
        """Number of samples."""
        return self.source.count

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of arrays in the file that are no inputs, such as labels."""
        return self.source.ignored

    @property
    def digest(self) -> str:
        """SHA-256 of the inputs' content (and of how images are prepared), hexadecimal."""
        return self.source.digest

    def batch_size(self, limit_bytes: int = BATCH_BYTES) -> int:
        """Samples in a batch whose inputs keep within ``limit_bytes`` (1 to 64); the model's own where it fixes one."""
        return self.batch or min(_LARGEST_BATCH, max(1, limit_bytes // max(1, self.source.sample_bytes)))

    def take(self, indices: Sequence[int] | Indices) -> dict[str, Array]:
        """Return the samples ``indices`` as one batch by input name. Raises :class:`ConfigError` as `batches`."""
        return self.source.rows(np.asarray(indices, np.intp))

    def chunks(self, indices: Sequence[int] | Indices, size: int) -> Iterator[Indices]:
        """Cut ``indices`` into batches without reading anything; see `batches`. Raises :class:`ConfigError`."""
        indices = np.asarray(indices, np.intp)
        if self.batch is not None:
            size = self.batch
            if len(indices) < size:
                raise ConfigError(f"the model takes batches of {size} samples, and there are only {len(indices)}")
            indices = indices[: len(indices) - len(indices) % size]
        for start in range(0, len(indices), max(1, size)):
            yield indices[start : start + max(1, size)]

    def batches(self, indices: Sequence[int] | Indices, size: int) -> Iterator[Mapping[str, Array]]:
        """Yield the samples ``indices`` in order, read when asked for.

        Args:
            indices: which samples, each in ``0..count-1``.
            size: samples in a batch. Where the model fixes its batch size that is taken instead, and samples that do
                not fill a last batch are left out.

        Raises:
            ConfigError: when there is not one full batch, or an image turns out to be damaged.
        """
        return (self.take(chunk) for chunk in self.chunks(indices, size))

    def split(self, held_out: float, seed: int) -> tuple[Indices, Indices]:
        """Divide the samples for solving and for judging, at random and always alike for one seed.

        Args:
            held_out: share to hold out. At least a few are (eight, or half of fewer than sixteen), in whole batches
                where the model fixes the batch size, and at least as many are left to solve with as one batch.
            seed: of the choice.

        Returns:
            Ascending indices to solve with, and ascending indices held out.

        Raises:
            ConfigError: when there are not two batches.
        """
        batch = self.batch or 1
        if self.count < 2 * batch:
            raise ConfigError(f"{self.count} calibration samples cannot be divided; at least {2 * batch} would do")
        wanted = max(round(self.count * held_out), min(FEW, self.count // 2), 1)
        wanted = min(-(-wanted // batch) * batch, (self.count - batch) // batch * batch)
        order = np.random.default_rng(seed).permutation(self.count)
        return np.sort(order[wanted:]), np.sort(order[:wanted])

    def too_few(self, needed: int) -> str:
        """A sentence for the reader when there are fewer samples than ``needed``, else ``""``."""
        if self.count >= needed:
            return ""
        return f"{self.count} calibration samples are few; {needed} would do"


def open_calibration(path: str | Path, inputs: InputTypes, *, preprocess: str | Path | None = None) -> Calibration:
    """Open calibration data for a model.

    Args:
        path: an `.npz` with arrays by input name (the first axis runs over samples; other arrays such as labels are
            ignored), an `.npy` for a model with one input, or a folder of images (looked through with all folders
            below it, in the order of the paths) for a model with one input that is a batch of pictures.
        inputs: the model's inputs as the file declares them: shape (``None`` or a symbol where open) and type.
        preprocess: how images are prepared: the name of a bundled preset or the path of a TOML file; for a folder of
            images only, and needed there.

    Raises:
        ConfigError: when the data cannot be read or does not fit the model; one line that says what would.
    """
    path = Path(path)
    if path.is_dir():
        if preprocess is None:
            presets = ", ".join(bundled_presets())
            raise ConfigError(f"images need --preprocess with a .toml file or a preset: {presets}", file=str(path))
        images = open_images(path, inputs, load_preprocess(preprocess))
        return Calibration(images, _fixed_batch(inputs, inputs, str(path)))
    if not path.exists():
        raise ConfigError("no such file or folder", file=str(path))
    if path.suffix.lower() not in (".npz", ".npy"):
        raise ConfigError("calibration data is an .npz, an .npy or a folder of images", file=str(path))
    if preprocess is not None:
        raise ConfigError("--preprocess is for a folder of images; arrays are fed as they are", file=str(path))
    source = read_arrays(path, inputs)
    return Calibration(source, _fixed_batch(inputs, source.samples, str(path)))


def calibration_from_arrays(arrays: Mapping[str, Array], inputs: InputTypes) -> Calibration:
    """As `open_calibration`, from arrays in memory."""
    source = check_arrays(arrays, inputs)
    return Calibration(source, _fixed_batch(inputs, source.samples, None))


def _fixed_batch(inputs: InputTypes, names: Iterable[str], file: str | None) -> int | None:
    """The batch size that the model fixes for the inputs ``names``, ``None`` where it leaves it open."""
    sizes = {name: shape[0] for name in names if (shape := inputs[name][0])}
    fixed = {name: size for name, size in sizes.items() if isinstance(size, int)}
    if len(set(fixed.values())) > 1:
        listed = ", ".join(f"{name!r} {size}" for name, size in fixed.items())
        raise ConfigError(f"the model's inputs want batches of different sizes: {listed}", file=file)
    return next(iter(fixed.values()), None)
