"""How a picture becomes a model's input: one TOML file, checked strictly, read into a frozen :class:`Preprocess`.

::

    summary = "..."                # optional: one sentence
    resize = "short-side"          # squash | short-side (then the centre is cut out) | letterbox (filled up)
    size = [224, 224]              # height, width, where the model leaves them open (its own count else)
    crop_fraction = 0.875          # short-side only: share of the short side that is kept (224 of 256)
    pad_value = 114                # letterbox only: 0..255
    pad_at = "both-ends"           # letterbox only: both-ends | end (right and below)
    filter = "bilinear"            # nearest | bilinear | bicubic | lanczos | box
    colour = "RGB"                 # RGB | BGR | GRAY; else RGB, or GRAY for one channel
    layout = "NCHW"                # NCHW | NHWC; else from the model's shape where that is obvious
    divide_by = 255                # value = (pixel / divide_by - mean) / std, pixel in 0..255
    mean = [0.485, 0.456, 0.406]   # one number, or one for each channel in the order of `colour`
    std = [0.229, 0.224, 0.225]

The element type is always the model's own; where that is whole numbers the values are rounded and clipped to its range.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from graphopt.errors import ConfigError, did_you_mean
from graphopt.strict import Table, read_table

_PRESETS: Final = Path(__file__).with_name("presets")

_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "resize": ("squash", "short-side", "letterbox"),
    "filter": ("nearest", "bilinear", "bicubic", "lanczos", "box"),
    "pad_at": ("both-ends", "end"),
    "colour": ("RGB", "BGR", "GRAY"),
    "layout": ("NCHW", "NHWC"),
}
_REQUIRED: Final = ("resize", "filter", "divide_by", "mean", "std")
_ONLY_WITH: Final[Mapping[str, str]] = {
    "crop_fraction": "short-side",
    "pad_value": "letterbox",
    "pad_at": "letterbox",
}
_KNOWN: Final = ("summary", *_REQUIRED, "size", *_ONLY_WITH, "colour", "layout")


@dataclass(frozen=True, slots=True)
class Preprocess:
    """One way to prepare pictures; the module's text says what each key means.

    Attributes:
        name: preset or file, for messages.
        resize: ``squash``, ``short-side`` or ``letterbox``.
        filter: how pixels are interpolated.
        divide_by: what pixels (0..255) are divided by first.
        mean: taken off next; one number, or one for each channel.
        std: what is divided by last; likewise.
        size: (height, width) in pixels where the model leaves them open.
        crop_fraction: share of the short side that is kept.
        pad_value: grey value that fills up.
        pad_at: where it fills up.
        colour: order of channels where the file says so.
        layout: order of axes where the file says so.
    """

    name: str
    resize: str
    filter: str
    divide_by: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None
    crop_fraction: float = 1.0
    pad_value: int = 0
    pad_at: str = "both-ends"
    colour: str | None = None
    layout: str | None = None


def bundled_presets() -> tuple[str, ...]:
    """Names of the presets that ship with graphopt, sorted."""
    return tuple(sorted(path.stem for path in _PRESETS.glob("*.toml")))


def load_preprocess(name_or_path: str | os.PathLike[str]) -> Preprocess:
    """Read a bundled preset by name, or any file by its path (ending in ``.toml``).

    Raises:
        ConfigError: when there is no such preset or file, or the file breaks the schema.
    """
    text = os.fspath(name_or_path)
    if text.endswith(".toml"):
        return _read(Path(text), text)
    names = bundled_presets()
    if text not in names:
        near = did_you_mean(text, names)
        raise ConfigError(
            f"unknown preset {text!r}{near}; there are {', '.join(names)}, and a path ending in .toml loads your own"
        )
    return _read(_PRESETS / f"{text}.toml", text)


def _read(path: Path, name: str) -> Preprocess:
    """Turn a file into a :class:`Preprocess`, or say which key is wrong and what would work."""
    table = read_table(path)
    table.allow(*_KNOWN)
    for key in _REQUIRED:
        if key not in table.values:
            raise table.error(key, "missing; a preset is a good start: " + ", ".join(bundled_presets()))
    choices = {key: table.choice(key, known) for key, known in _CHOICES.items() if key in table.values}
    for key, mode in _ONLY_WITH.items():
        if key in table.values and choices["resize"] != mode:
            raise table.error(key, f'only goes with resize = "{mode}"')
    table.text("summary", "")
    colour = choices.get("colour")
    return Preprocess(
        name=name,
        resize=choices["resize"],
        filter=choices["filter"],
        divide_by=table.number("divide_by", above=0.0),
        mean=_channels(table, "mean", colour),
        std=_channels(table, "std", colour, above=0.0),
        size=_size(table),
        crop_fraction=_fraction(table),
        pad_value=_grey(table),
        pad_at=choices.get("pad_at", "both-ends"),
        colour=colour,
        layout=choices.get("layout"),
    )


def _channels(table: Table, key: str, colour: str | None, *, above: float = -math.inf) -> tuple[float, ...]:
    value = table.values[key]
    if not isinstance(value, list):
        return (table.number(key, above=above),)
    wanted = (1, 3) if colour is None else ((1,) if colour == "GRAY" else (3,))
    if len(value) not in wanted:
        counts = " or ".join(map(str, wanted))
        raise table.error(key, f"has {len(value)} numbers; must be one number, or a list of {counts}")
    return tuple(table.as_number(key, item, above=above) for item in value)


def _size(table: Table) -> tuple[int, int] | None:
    value = table.values.get("size")
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(v) is int and 1 <= v <= 1 << 14 for v in value):
        raise table.error("size", f"is {value!r}; must be [height, width], whole numbers from 1 to {1 << 14}")
    return value[0], value[1]


def _fraction(table: Table) -> float:
    value = table.number("crop_fraction", 1.0, above=0.0)
    if not 0.1 <= value <= 1:
        raise table.error("crop_fraction", f"is {value!r}; must be from 0.1 to 1")
    return value


def _grey(table: Table) -> int:
    value = table.values.get("pad_value", 0)
    if type(value) is not int or not 0 <= value <= 255:
        raise table.error("pad_value", f"is {value!r}; must be a whole number from 0 to 255")
    return value
