"""What the models are fed with: given inputs cut into samples, made-up ones from a seed, and neighbours of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx.helper

from graphopt.errors import VerificationError
from graphopt.ir.op import Array
from graphopt.verification.compare import is_float
from graphopt.verification.interface import Interface, Spec, one_line, type_name

NEIGHBOUR = 0.05
"""How far a neighbour lies from its sample, as a share of the way to another sample."""

_IMAGE_SIZE = 224
_OTHER_SIZE = 16


def concrete_shape(spec: Spec, given: Sequence[int] | None) -> tuple[int, ...]:
    """The shape of one sample (with its batch axis)."""
    if given is not None:
        return tuple(given)
    if spec.shape is None:
        raise VerificationError(f"input '{spec.name}' has no known rank; give its shape: --input-shape {spec.name}:...")
    open_size = _IMAGE_SIZE if len(spec.shape) == 4 else _OTHER_SIZE
    return tuple(d if isinstance(d, int) else (1 if axis == 0 else open_size) for axis, d in enumerate(spec.shape))


def _dtype(spec: Spec) -> np.dtype[Any]:
    """Numpy type of an input that onnxruntime's Python interface can be fed with."""
    if spec.elem_type:
        dtype: np.dtype[Any] = onnx.helper.tensor_dtype_to_np_dtype(spec.elem_type)
        if dtype.kind in "fiub":
            return dtype
    raise VerificationError(f"input '{spec.name}' is {type_name(spec)}, which cannot be made up or fed here")


def made_up(
    specs: Interface, shapes: Mapping[str, tuple[int, ...]], count: int, rng: np.random.Generator
) -> list[dict[str, Array]]:
    """Return ``count`` seeded samples."""
    feeds: list[dict[str, Array]] = []
    for position in range(count):
        feed: dict[str, Array] = {}
        for name, spec in specs.inputs.items():
            shape, dtype = shapes[name], _dtype(spec)
            channels = _image_axis(shape)
            if dtype.kind == "b" or (dtype.kind in "iu" and (channels is None or dtype.itemsize > 1)):
                feed[name] = rng.integers(0, 2, shape).astype(dtype)
                continue
            if channels is None or (position == 0 and count > 1):
                values = rng.standard_normal(shape)
            else:
                values = _scene(shape, channels, rng)
            if dtype.kind in "iu":
                middle = 128 if dtype.kind == "u" else 0
                values = np.clip(np.rint(middle + 48 * values), np.iinfo(dtype).min, np.iinfo(dtype).max)
            feed[name] = values.astype(dtype)
        feeds.append(feed)
    return feeds


def _image_axis(shape: tuple[int, ...]) -> int | None:
    """The channel axis of what looks like images (1, 3 or 4 channels, first or last), else ``None``."""
    if len(shape) != 4:
        return None
    for axis in (1, 3):
        if shape[axis] in (1, 3, 4) and min(shape[a] for a in (1, 2, 3) if a != axis) >= 8:
            return axis
    return None


def _scene(shape: tuple[int, ...], channel_axis: int, rng: np.random.Generator) -> Array:
    """Smooth shades, rectangles of all sizes, lines of strokes, a little noise; about zero mean and unit variance.

    White noise leaves detectors cold (PP-OCR's text detector answers 0 everywhere); edges and strokes wake them.
    """
    sizes = [shape[axis] for axis in (1, 2, 3) if axis != channel_axis]
    out = np.empty((shape[0], *sizes, shape[channel_axis]))
    for image in out:
        height, width, channels = image.shape
        coarse = rng.standard_normal((max(2, height // 32), max(2, width // 32), channels))
        image[:] = _stretched(_stretched(coarse, height, 0), width, 1)
        for _ in range(24):
            top, left = int(rng.integers(0, height)), int(rng.integers(0, width))
            tall, wide = int(rng.integers(1, max(2, height // 4))), int(rng.integers(1, max(2, width // 4)))
            image[top : top + tall, left : left + wide] = 1.5 * rng.standard_normal(channels)
        for _ in range(4):
            _draw_strokes(image, rng)
    out += 0.05 * rng.standard_normal(out.shape)
    return np.moveaxis(out, 3, channel_axis)


def _draw_strokes(image: Array, rng: np.random.Generator) -> None:
    """Draw a line of letter-like strokes into ``image`` (height, width, channels), dark on light or the reverse."""
    height, width, channels = image.shape
    tall = int(rng.integers(max(4, height // 24), max(5, height // 8)))
    wide = int(rng.integers(width // 4, max(width // 4 + 1, 3 * width // 4)))
    top, left = int(rng.integers(0, max(1, height - tall))), int(rng.integers(0, max(1, width - wide)))
    sign = 1.0 if rng.integers(0, 2) else -1.0
    image[top : top + tall, left : left + wide] = sign * (1 + np.abs(rng.standard_normal(channels)))
    edge, pen = tall // 4, max(1, tall // 6)
    column = left + edge
    while column < left + wide - tall // 2:
        image[top + edge : top + tall - edge, column : column + pen] = -1.5 * sign
        row = int(rng.integers(top + edge, top + tall - edge))
        image[row : row + pen, column : column + tall // 3] = -1.5 * sign
        column += pen + 1 + int(tall * rng.uniform(0.4, 0.7))


def _stretched(values: Array, size: int, axis: int) -> Array:
    """Resize ``axis`` linearly to ``size``."""
    place = np.linspace(0, values.shape[axis] - 1, size)
    low = np.minimum(place.astype(int), values.shape[axis] - 2)
    share = (place - low).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    stretched: Array = np.take(values, low, axis) * (1 - share) + np.take(values, low + 1, axis) * share
    return stretched


def read_npz(path: str | Path) -> dict[str, Array]:
    """Read the arrays of an `.npz` file. Raises `VerificationError`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise VerificationError(f"{path}: not an .npz file of inputs by name")
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError) as error:
        raise VerificationError(f"{path}: cannot read the inputs: {one_line(error)}") from error


def given_samples(
    specs: Interface, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, Array], count: int
) -> list[dict[str, Array]]:
    """Cut given arrays into at most ``count`` samples, spread evenly over what is there."""
    cut: dict[str, list[Array]] = {}
    for name, spec in specs.inputs.items():
        if name not in values:
            raise VerificationError(
                f"the inputs lack '{name}'; they hold {', '.join(sorted(values)) or 'nothing'}, "
                f"the model wants {', '.join(specs.inputs)}"
            )
        array, dtype = np.asarray(values[name]), _dtype(spec)
        if not np.can_cast(array.dtype, dtype, "same_kind"):
            raise VerificationError(f"input '{name}' must be {dtype}, and the given array is {array.dtype}")
        cut[name] = _cut(name, array.astype(dtype, copy=False), spec, shapes[name])
    available = max((len(parts) for parts in cut.values()), default=1)
    for name, parts in cut.items():
        if len(parts) not in (1, available):
            raise VerificationError(f"input '{name}' has {len(parts)} samples where another has {available}")
    chosen = np.unique(np.linspace(0, available - 1, min(count, available)).astype(int))
    return [{name: parts[i if len(parts) > 1 else 0] for name, parts in cut.items()} for i in chosen]


def _cut(name: str, array: Array, spec: Spec, shape: tuple[int, ...]) -> list[Array]:
    """Cut one array along its first axis into pieces of the model's batch size."""
    declared = spec.shape if spec.shape is not None else (None,) * array.ndim
    fits = array.ndim == len(declared) and all(
        axis == 0 or not isinstance(dim, int) or dim == size
        for axis, (dim, size) in enumerate(zip(declared, array.shape, strict=True))
    )
    batch = shape[0] if shape else 1
    if not fits or (shape and array.shape[0] < batch):
        wanted = ", ".join(str(dim or "?") for dim in (("N", *declared[1:]) if declared else ()))
        raise VerificationError(f"input '{name}' must have shape ({wanted}), and the given array has {array.shape}")
    if not shape:
        return [array]
    return [array[start : start + batch] for start in range(0, array.shape[0] - batch + 1, batch)]


def with_neighbours(base: list[dict[str, Array]], count: int) -> tuple[list[dict[str, Array]], list[tuple[int, int]]]:
    """Add neighbours until there are ``count`` samples (or each has one); return all and the pairs of indices."""
    feeds = list(base)
    pairs: list[tuple[int, int]] = []
    for index in reversed(range(len(base))):
        if len(feeds) >= count and pairs:
            break
        feed, towards = base[index], base[index - 1]
        pairs.append((index, len(feeds)))
        feeds.append({name: _moved(values, towards[name]) for name, values in feed.items()})
    if not any(is_float(values) for values in base[0].values()):  # nothing to move a little: compare the samples
        pairs = [(index - 1, index) for index in range(1, len(base))]
        feeds = feeds[: len(base)]
    return feeds, pairs


def rounded_twins(base: list[dict[str, Array]]) -> list[dict[str, Array]]:
    """The samples with each float moved by one unit in the last place, up or down; none where there are no floats."""
    rng = np.random.default_rng(0)

    def moved(values: Array) -> Array:
        if not is_float(values):
            return values
        eps = np.finfo(values.dtype).eps
        twin: Array = (values * (1 + eps * rng.choice((-1.0, 1.0), values.shape))).astype(values.dtype)
        return twin

    if not any(is_float(values) for values in base[0].values()):
        return []
    return [{name: moved(values) for name, values in feed.items()} for feed in base]


def _moved(values: Array, towards: Array) -> Array:
    if not is_float(values):
        return values
    if towards is values or towards.shape != values.shape:
        towards = np.flip(values)
    return (values + NEIGHBOUR * (towards.astype(np.float64) - values)).astype(values.dtype)
