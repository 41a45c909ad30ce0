"""Small nets around one op that whole nets seldom have, in every shape: a training supplement, cheap to measure.

A net of thirty kernels has one padding of channels, if any, and nobody learns a stair from a hundred points. Here the
op stands between convolutions, as in a net, so that what surrounds it is not made up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from graphopt.measure.nets.builder import NetBuilder

_MOST_MACS: Final = 3e7
"""Of a convolution: a part takes no longer than a layer of a net."""

_MOST_CELLS: Final = 600_000
"""Elements of the largest map."""

_BRANCHES: Final = 6
"""Paddings of one net."""

_ACTS: Final = ("relu6", "relu", "hard-swish", "leaky-relu", "")


def random_part(rng: np.random.Generator, weights: int) -> NetBuilder:
    """One op and what it reads from and writes to."""
    make, _ = _PARTS[int(rng.choice(len(_PARTS), p=_shares()))]
    size = _log_uniform(rng, 2, 112)
    sides = (size, size if rng.random() < 0.7 else _log_uniform(rng, 2, 112))
    return make(rng, weights, sides)


def _padded(rng: np.random.Generator, weights: int, sides: tuple[int, int]) -> NetBuilder:
    """Zero channels behind the others, as before a residual Add (BlazeFace)."""
    wide = _channels(rng, sides)
    narrow = min(_channels(rng, sides), wide)
    b = NetBuilder(weights, (3, *sides))
    x = b.conv("image", narrow, act=_act(rng))
    if rng.random() < 0.5 and min(sides) > 3:
        x = b.pool(x, "Max")
    padded = b.pad_channels(x, narrow + wide, concat=bool(rng.random() < 0.5))
    skipped = b.conv(x, narrow + wide)
    b.depthwise(b.add(padded, skipped, act=_act(rng)), 3)
    return b


def random_paddings(rng: np.random.Generator, weights: int) -> NetBuilder:
    """Many paddings of channels side by side: what one costs jumps with its size as nothing else does."""
    size = _log_uniform(rng, 2, 100)
    sides = (size, size if rng.random() < 0.7 else _log_uniform(rng, 2, 100))
    b = NetBuilder(weights, (3, *sides))
    for _ in range(_BRANCHES):
        narrow = _channels(rng, sides)
        wide = narrow if rng.random() < 0.3 else _channels(rng, sides)
        x = b.conv("image", narrow, 1, int(rng.choice([1, 2])) if size > 3 else 1, act="relu")
        padded = b.pad_channels(x, narrow + wide, concat=bool(rng.random() < 0.5))
        b.add(padded, b.conv(x, narrow + wide), act="relu")
    return b


def random_stem(rng: np.random.Generator, weights: int) -> NetBuilder:
    """A convolution of stride 4 on an image: one net in thirty begins with one, and it is dear."""
    size = _log_uniform(rng, 32, 320)
    sides = (size, size if rng.random() < 0.7 else _log_uniform(rng, 32, 320))
    channels = int(rng.choice([3, 1, 4], p=[0.8, 0.14, 0.06]))
    b = NetBuilder(weights, (channels, *sides), symmetric=bool(rng.random() < 0.7))
    kernel = int(rng.choice([3, 5, 7, 4], p=[0.55, 0.2, 0.15, 0.1]))
    x = b.conv("image", min(_channels(rng, (64, 64)), 64), kernel, 4, act=_act(rng) if rng.random() < 0.8 else "silu")
    b.depthwise(x, 3, int(rng.choice([1, 2])))
    return b


def _joined(rng: np.random.Generator, weights: int, sides: tuple[int, int]) -> NetBuilder:
    """Two to four convolutions side by side, one after another along the channels."""
    b = NetBuilder(weights, (3, *sides))
    x = b.conv("image", _channels(rng, sides), act=_act(rng))
    parts = []
    for _ in range(int(rng.integers(2, 5))):
        kernel = int(rng.choice([1, 3, 5], p=[0.5, 0.4, 0.1]))
        parts.append(_conv(rng, b, x, kernel))
    joined = b.concat([x, *parts] if rng.random() < 0.3 else parts)
    _conv(rng, b, joined, int(rng.choice([1, 3])))
    return b


def _upsampled(rng: np.random.Generator, weights: int, sides: tuple[int, int]) -> NetBuilder:
    """A transposed convolution, first of all or behind another one."""
    sides = (min(sides[0], 40), min(sides[1], 40))
    b = NetBuilder(weights, (_channels(rng, sides), *sides))
    x = "image" if rng.random() < 0.5 else _conv(rng, b, "image", 1)
    c, h, w = b.shapes[x]
    out = max(1, min(_channels(rng, (2 * h, 2 * w)), int(_MOST_MACS / (4 * c * h * w))))
    made = b.transposed(x, out, act=_act(rng))
    if rng.random() < 0.5:
        _conv(rng, b, made, int(rng.choice([1, 3])))
    return b


def _averaged(rng: np.random.Generator, weights: int, sides: tuple[int, int]) -> NetBuilder:
    """The mean of each channel of a map of any size, and a classifier or a gate behind it."""
    b = NetBuilder(weights, (_channels(rng, sides), *sides))
    x = "image" if rng.random() < 0.4 else _conv(rng, b, "image", 1)
    mean = b.global_pool(x)
    if rng.random() < 0.5:
        b.fc(mean, _log_uniform(rng, 2, 300))
    else:
        b.gate(x, b.conv(mean, b.shapes[x][0], act="sigmoid"))
    return b


def _pooled(rng: np.random.Generator, weights: int, sides: tuple[int, int]) -> NetBuilder:
    """Pooling, alone or beside a skip."""
    b = NetBuilder(weights, (_channels(rng, sides), *sides))
    x = "image" if rng.random() < 0.5 else _conv(rng, b, "image", 1)
    kernel, stride = (3, 1) if rng.random() < 0.6 else (int(rng.choice([2, 3])), 2)
    average = kernel != stride + 1 and rng.random() < 0.5  # TFLite cannot average over padding at one end alone
    pooled = b.pool(x, "Average" if average else "Max", kernel, stride)
    if stride == 1 and rng.random() < 0.6:
        pooled = b.add(pooled, x)
    if rng.random() < 0.5:
        _conv(rng, b, pooled, 1)
    return b


def _stem(rng: np.random.Generator, weights: int, sides: tuple[int, int]) -> NetBuilder:
    """A convolution that reads an image of few channels with a large window or stride."""
    b = NetBuilder(weights, (int(rng.choice([1, 2, 3, 4, 6, 8])), 2 * sides[0], 2 * sides[1]))
    kernel = int(rng.choice([3, 4, 5, 7, 9], p=[0.4, 0.1, 0.25, 0.15, 0.1]))
    x = _conv(rng, b, "image", kernel, int(rng.choice([1, 2, 3, 4], p=[0.25, 0.5, 0.05, 0.2])))
    b.depthwise(x, 3, int(rng.choice([1, 2])))
    return b


def _single(rng: np.random.Generator, weights: int, sides: tuple[int, int]) -> NetBuilder:
    """One layer on a small map of any number of channels."""
    sides = (min(sides[0], 24), min(sides[1], 24))
    b = NetBuilder(weights, (_log_uniform(rng, 1, 640), *sides))
    kernel = int(rng.choice([1, 3, 5, 7], p=[0.4, 0.35, 0.15, 0.1]))
    stride = int(rng.choice([1, 2]))
    if rng.random() < 0.3:
        b.depthwise("image", kernel, stride, act=_act(rng))
    else:
        _conv(rng, b, "image", kernel, stride)
    return b


MakePart = Callable[[np.random.Generator, int, tuple[int, int]], NetBuilder]
_PARTS: Final[Sequence[tuple[MakePart, float]]] = (
    (_padded, 6.0),
    (_joined, 5.0),
    (_upsampled, 4.0),
    (_averaged, 2.0),
    (_pooled, 2.0),
    (_stem, 4.0),
    (_single, 3.0),
)
"""Kinds of parts and how often each is drawn."""


def _shares() -> list[float]:
    total = sum(weight for _, weight in _PARTS)
    return [weight / total for _, weight in _PARTS]


def _conv(rng: np.random.Generator, b: NetBuilder, x: str, kernel: int, stride: int = 1) -> str:
    """A convolution of any width that is not too much work."""
    c, h, w = b.shapes[x]
    made = (-(-h // stride)) * (-(-w // stride))
    most = max(1, int(_MOST_MACS / (made * c * kernel**2)))
    return b.conv(x, min(_channels(rng, (h, w)), most), kernel, stride, act=_act(rng))


def _channels(rng: np.random.Generator, sides: tuple[int, int]) -> int:
    """Any number, more often multiples of 8; fewer on large maps."""
    most = max(4, min(512, _MOST_CELLS // (sides[0] * sides[1])))
    found = _log_uniform(rng, 2, most)
    step = int(rng.choice([1, 4, 8, 16, 32], p=[0.25, 0.1, 0.35, 0.2, 0.1]))
    return max(step, found // step * step) if step <= most else found


def _act(rng: np.random.Generator) -> str:
    return str(rng.choice(_ACTS, p=[0.3, 0.3, 0.15, 0.05, 0.2]))


def _log_uniform(rng: np.random.Generator, low: int, high: int) -> int:
    return int(np.exp(rng.uniform(np.log(low), np.log(high + 1))))
