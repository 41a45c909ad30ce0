"""Calibration samples from a folder of pictures, read with Pillow (the extra ``graphopt[images]``).

Pictures are turned upright (EXIF), transparency is ignored, 16-bit greys keep their upper eight bits, and of an
animation the first frame is taken; then `preprocess.py` applies.

Memory: the resized pixels of the pictures read so far, one byte a value, up to :data:`CACHE_BYTES` (later pictures are
decoded again each time); while a batch is made, its float values twice, and one decoded picture of up to
:data:`RESIZED_PIXELS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from graphopt.errors import ConfigError, MisfitError
from graphopt.ir.op import Array, Dim, Shape
from graphopt.weights.arrays import Indices, InputTypes
from graphopt.weights.preprocess import Preprocess

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
CACHE_BYTES: Final = 256 << 20
RESIZED_PIXELS: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """What one model input wants.

    Attributes:
        height: in pixels.
        width: in pixels.
        colour: ``RGB``, ``BGR`` or ``GRAY``.
        channels_first: whether the layout is NCHW (else NHWC).
        dtype: element type.
    """

    height: int
    width: int
    colour: str
    channels_first: bool
    dtype: np.dtype[Any]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return 1 if self.colour == "GRAY" else 3


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Samples that are pictures.

    Attributes:
        input: name of the model's only input.
        files: the pictures, in the order of the samples.
        preprocess: how they are prepared.
        format: what the input wants.
    """

    input: str
    files: tuple[Path, ...]
    preprocess: Preprocess
    format: ImageFormat
    _cache: dict[int, Pixels] = field(default_factory=dict, repr=False)

    @property
    def count(self) -> int:
        """Number of pictures."""
        return len(self.files)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Nothing: other files in the folder are no business of ours."""
        return ()

    @property
    def sample_bytes(self) -> int:
        """Memory that one sample takes as the model wants it."""
        return self.format.height * self.format.width * self.format.channels * self.format.dtype.itemsize

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the pictures' bytes in order, and of how they are prepared; reads every file once."""
        digest = hashlib.sha256(repr((self.preprocess, self.format)).encode())
        for path in self.files:
            try:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise ConfigError(f"cannot read the image: {error.strerror or error}", file=str(path)) from error
        return digest.hexdigest()

    def rows(self, indices: Indices) -> dict[str, Array]:
        """Return the pictures ``indices`` as the model wants them. Raises `ConfigError` on a damaged one."""
        shape = (len(indices), self.format.height, self.format.width, self.format.channels)
        pixels = np.empty(shape, np.uint8)
        for row, index in enumerate(indices):
            pixels[row] = self._pixels(int(index))
        return {self.input: normalised(pixels, self.preprocess, self.format)}

    def _pixels(self, index: int) -> Pixels:
        cached = self._cache.get(index)
        if cached is None:
            cached = read_pixels(self.files[index], self.preprocess, self.format)
            if (len(self._cache) + 1) * cached.nbytes <= CACHE_BYTES:
                self._cache[index] = cached
        return cached


def find_images(folder: Path) -> list[Path]:
    """The pictures below ``folder``, by their endings, sorted by path."""
    files = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    return sorted((path for path in files if path.is_file()), key=lambda path: path.relative_to(folder).parts)


def open_images(folder: Path, inputs: InputTypes, preprocess: Preprocess) -> ImageSource:
    """Take the pictures below ``folder``, and see that each begins like one.

    Raises:
        ConfigError: when Pillow is not installed, there are no pictures, one cannot be read, or the model does not
            take one picture.
    """
    pillow()
    if len(inputs) != 1:
        names = ", ".join(inputs) or "none"
        raise MisfitError(f"images serve a model with one input, and it has {names}; use an .npz", file=str(folder))
    ((name, (shape, dtype)),) = inputs.items()
    wanted = image_format(name, shape, dtype, preprocess)
    files = find_images(folder)
    if not files:
        raise ConfigError(f"holds no images ({', '.join(SUFFIXES)})", file=str(folder))
    image, _ = pillow()
    for path in files:
        try:
            image.open(path).close()
        except _damage(image) as error:
            raise _unreadable(path, error) from error
    return ImageSource(name, tuple(files), preprocess, wanted)


def image_format(name: str, shape: Shape | None, dtype: np.dtype[Any] | None, preprocess: Preprocess) -> ImageFormat:
    """Settle size, layout and colours between the model and the preprocess file.

    Raises:
        ConfigError: when the input is no picture, or something is left open or contradicts.
    """
    dims: Shape = (None,) * 4 if shape is None else shape
    if dtype is None or dtype.kind not in "fiu" or len(dims) != 4:
        raise MisfitError(f"input {name!r} ({dtype or 'no tensor'}, {_text(dims)}) is no batch of images; use an .npz")
    counts = {1, 3} if preprocess.colour is None else {1 if preprocess.colour == "GRAY" else 3}
    counts = {count for count in counts if len(preprocess.mean) in (1, count) and len(preprocess.std) in (1, count)}
    fits = [layout for layout, axis in (("NCHW", 1), ("NHWC", 3)) if dims[axis] in counts]
    layout = preprocess.layout or (fits[0] if len(fits) == 1 else None)
    if layout is None:
        if not fits and all(isinstance(dims[axis], int) for axis in (1, 3)):
            raise _misfit(name, dims, counts, preprocess)
        raise _undecided(name, dims, preprocess, 'layout = "NCHW" or "NHWC"')
    channels = dims[1 if layout == "NCHW" else 3]
    if isinstance(channels, int) and channels not in counts:
        raise _misfit(name, dims, counts, preprocess)
    colour = preprocess.colour or ("GRAY" if channels == 1 or counts == {1} else "RGB")
    height, width = _size(name, dims, dims[2:4] if layout == "NCHW" else dims[1:3], preprocess)
    return ImageFormat(height, width, colour, layout == "NCHW", dtype)


def _size(name: str, dims: Shape, sides: Sequence[Dim], preprocess: Preprocess) -> tuple[int, int]:
    sizes = []
    for axis, side in enumerate(sides):
        if isinstance(side, int):
            sizes.append(side)
        elif preprocess.size is not None:
            sizes.append(preprocess.size[axis])
        else:
            raise _undecided(name, dims, preprocess, "size = [height, width]")
    return sizes[0], sizes[1]


def _misfit(name: str, dims: Shape, counts: set[int], preprocess: Preprocess) -> ConfigError:
    wanted = " or ".join(map(str, sorted(counts)))
    return MisfitError(f"makes {wanted} channels, and input {name!r} is {_text(dims)}", file=preprocess.name)


def _undecided(name: str, dims: Shape, preprocess: Preprocess, line: str) -> ConfigError:
    return ConfigError(f"input {name!r} is {_text(dims)}, so a preprocess file must say {line}", file=preprocess.name)


def _text(dims: Shape) -> str:
    return "(" + ", ".join(str(dim or "?") for dim in dims) + ")"


def normalised(pixels: Pixels, preprocess: Preprocess, wanted: ImageFormat) -> Array:
    """Return ``(pixel / divide_by - mean) / std`` in the model's layout and type.

    Args:
        pixels: ``(samples, height, width, channels)``, channels in the model's order.
        preprocess: the numbers.
        wanted: layout and type.
    """
    values = pixels.astype(np.float32)
    values /= np.float32(preprocess.divide_by)
    values -= np.array(preprocess.mean, np.float32)
    values /= np.array(preprocess.std, np.float32)
    if wanted.dtype.kind in "iu":
        limits = np.iinfo(wanted.dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    if wanted.channels_first:
        values = values.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(values, wanted.dtype)


def read_pixels(path: Path, preprocess: Preprocess, wanted: ImageFormat) -> Pixels:
    """Decode and resize one picture: ``(height, width, channels)``. Raises `ConfigError` when it is damaged."""
    image, operations = pillow()
    try:
        with image.open(path) as opened:
            upright = operations.exif_transpose(opened)
            plain = _eight_bits(upright, image).convert("L" if wanted.colour == "GRAY" else "RGB")
            pixels = np.asarray(_resized(plain, preprocess, wanted), np.uint8)
    except _damage(image) as error:
        raise _unreadable(path, error) from error
    pixels = pixels.reshape(wanted.height, wanted.width, wanted.channels)
    return pixels[:, :, ::-1] if wanted.colour == "BGR" else pixels


def _eight_bits(picture: Image.Image, image: Any) -> Image.Image:
    """16-bit greys by their upper eight bits (Pillow's own conversion would cut them off at 255)."""
    if not picture.mode.startswith("I"):
        return picture
    greys: Image.Image = image.fromarray((np.clip(np.asarray(picture), 0, 65535) >> 8).astype(np.uint8))
    return greys


def _resized(picture: Image.Image, preprocess: Preprocess, wanted: ImageFormat) -> Image.Image:
    image, _ = pillow()
    method = image.Resampling[preprocess.filter.upper()]
    width, height = picture.size
    if preprocess.resize == "squash":
        return picture.resize((wanted.width, wanted.height), method)
    if preprocess.resize == "letterbox":
        if wanted.height * width <= wanted.width * height:
            inner = (max(1, round(wanted.height * width / height)), wanted.height)
        else:
            inner = (wanted.width, max(1, round(wanted.width * height / width)))
        fill = (preprocess.pad_value,) * wanted.channels
        canvas: Image.Image = image.new(picture.mode, (wanted.width, wanted.height), fill if len(fill) > 1 else fill[0])
        spare = (wanted.width - inner[0], wanted.height - inner[1])
        corner = (spare[0] // 2, spare[1] // 2) if preprocess.pad_at == "both-ends" else (0, 0)
        canvas.paste(picture.resize(inner, method), corner)
        return canvas
    cover_height, cover_width = (round(side / preprocess.crop_fraction) for side in (wanted.height, wanted.width))
    if cover_height * width >= cover_width * height:
        cover_width = max(cover_width, cover_height * width // height)
    else:
        cover_height = max(cover_height, cover_width * height // width)
    if cover_width * cover_height > RESIZED_PIXELS:
        raise ValueError(f"{width} x {height} pixels are too narrow to cut a piece out of")
    left, top = round((cover_width - wanted.width) / 2), round((cover_height - wanted.height) / 2)
    covering = picture.resize((cover_width, cover_height), method)
    return covering.crop((left, top, left + wanted.width, top + wanted.height))


def pillow() -> tuple[Any, Any]:
    """Pillow's modules ``Image`` and ``ImageOps``, loaded when a picture is first needed."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ConfigError("reading images needs Pillow: pip install 'graphopt[images]'") from error
    return Image, ImageOps


def _damage(image: Any) -> tuple[type[Exception], ...]:
    """What Pillow raises on files that are no pictures, damaged or absurdly large."""
    return (OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, KeyError, OverflowError, MemoryError,
            RuntimeError, image.DecompressionBombError)  # fmt: skip


def _unreadable(path: Path, error: Exception) -> ConfigError:
    reason = " ".join(str(error).replace(repr(str(path)), "it").split()) or type(error).__name__
    return ConfigError(f"cannot read the image: {reason}", file=str(path))
