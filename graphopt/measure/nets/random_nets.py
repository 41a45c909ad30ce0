"""Random nets that look like what people put on small chips: mixes of known blocks, in stages that halve the image.

A net draws its habits first (activation, width step, preferred kernels, block kinds and expansions), then its stages.
What it may cost is bounded by drawn limits on multiply-accumulates and weights: widths are cut where a block would
break them, and the net goes on to its head when nothing fits. A few nets are a single layer or two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx

from graphopt.errors import ConfigError, did_you_mean
from graphopt.measure.nets import blocks, heads
from graphopt.measure.nets.blocks import Block, round_width
from graphopt.measure.nets.builder import Map, NetBuilder
from graphopt.measure.nets.parts import random_paddings, random_part, random_stem

MakeBlock = Callable[[NetBuilder, str, Block], str]

_BLOCKS: Final[tuple[tuple[MakeBlock, float], ...]] = (
    (blocks.inverted, 5.0),
    (blocks.fused, 2.0),
    (blocks.residual, 1.5),
    (blocks.dense, 1.5),
    (blocks.separable, 1.5),
    (blocks.bottleneck, 0.7),
    (blocks.inception, 0.6),
    (blocks.fire, 0.4),
    (blocks.channel_padded, 0.6),
)
"""Block kinds and how often they are preferred."""

_LAYER_SHARE: Final = 0.06
"""Share of the nets that are a layer or two."""

_BLOCK_SHARE: Final = 0.25
"""Share of what a net may cost that one block may take."""

_LEAST_MACS_PER_PIXEL: Final = 600
"""What a net may at least cost for each pixel of its image; MobileNetV2 at width 0.35 has 1200."""

_MAX_WIDTH: Final = 1024
_SMALLEST_MAP: Final = 3


@dataclass(frozen=True, slots=True)
class _Habits:
    """What stays the same through one net."""

    act: str
    step: int
    kinds: tuple[float, ...]
    kernels: tuple[float, ...]
    expansions: tuple[float, ...]
    squeeze_share: float
    max_macs: float
    max_parameters: float


_KERNELS: Final = (3, 5, 7, 1)
_EXPANSIONS: Final = (6.0, 4.0, 3.0, 2.0, 1.0, 5.0, 8.0)


def random_net(seed: int, family: str = "mixed") -> onnx.ModelProto:
    """A random net: float32, batch 1, static shapes, opset 17. The same seed gives the same bytes in any process.

    Args:
        seed: which one, 0 or more.
        family: ``mixed``, all kinds of nets; ``mobilenet``, one MobileNetV2 at 96x96 whose widths alone vary;
            ``parts``, single ops that whole nets seldom have, between convolutions; ``parts-padding``, many
            paddings of channels; ``parts-stem``, stems of far strides; or ``single``, a layer or two.

    Raises:
        ConfigError: when there is no such family.
    """
    if family not in FAMILIES:
        raise ConfigError(f"no family of nets {family!r}{did_you_mean(family, FAMILIES)}; known: {', '.join(FAMILIES)}")
    rng = np.random.default_rng([seed, sorted(FAMILIES).index(family)])
    return FAMILIES[family](rng, int(rng.integers(2**31))).model()


def _mixed(rng: np.random.Generator, weights: int) -> NetBuilder:
    if rng.random() < _LAYER_SHARE:
        return _layers(rng, weights)
    image = _image(rng)
    habits = _habits(rng, image)
    b = NetBuilder(weights, image, symmetric=bool(rng.random() < 0.7))
    ends = _stages(rng, b, habits)
    heads.random_head(rng, b, ends, habits.act, habits.step, affordable=_parameters_left(b, habits))
    return b


def _habits(rng: np.random.Generator, image: Map) -> _Habits:
    weights = np.array([weight for _, weight in _BLOCKS])
    squeezed = rng.random() < 0.35
    return _Habits(
        act=str(rng.choice(["relu6", "relu", "hard-swish", "silu", "leaky-relu"], p=[0.33, 0.29, 0.2, 0.1, 0.08])),
        step=int(rng.choice([8, 16, 4, 1, 32], p=[0.4, 0.2, 0.15, 0.15, 0.1])),
        kinds=tuple(rng.dirichlet(weights / weights.sum() * 3)),
        kernels=tuple(rng.dirichlet([2.0, 0.8, 0.25, 0.15])),
        expansions=tuple(rng.dirichlet([1.2, 0.7, 0.6, 0.5, 0.3, 0.2, 0.15])),
        squeeze_share=float(rng.uniform(0.2, 1.0)) if squeezed else 0.0,
        max_macs=float(
            np.exp(rng.uniform(np.log(max(1.5e7, _LEAST_MACS_PER_PIXEL * image[1] * image[2])), np.log(1.2e9)))
        ),
        max_parameters=float(np.exp(rng.uniform(np.log(2e5), np.log(1.2e7)))),
    )


def _image(rng: np.random.Generator) -> Map:
    """Mostly squares of a multiple of 32; sometimes anything."""
    step = int(rng.choice([32, 16, 8, 1], p=[0.6, 0.2, 0.1, 0.1]))
    sides = [int(np.clip(round(rng.uniform(32, 320) / step) * step, 32, 320)) for _ in range(2)]
    height, width = sides if rng.random() < 0.25 else (sides[0], sides[0])
    return int(rng.choice([3, 1, 4], p=[0.85, 0.12, 0.03])), height, width


def _stages(rng: np.random.Generator, b: NetBuilder, habits: _Habits) -> list[str]:
    """Stem and stages; returns the last tensor of each size of map."""
    _, height, _ = b.shapes["image"]
    width = float(np.exp(rng.uniform(np.log(4), np.log(48))))
    growth = float(rng.uniform(1.2, 2.1))
    stem = Block(
        _width(rng, width, habits),
        int(rng.choice([3, 5, 7, 4], p=[0.8, 0.1, 0.08, 0.02])),
        1 if height < 48 and rng.random() < 0.6 else int(rng.choice([2, 4], p=[0.96, 0.04])),
        habits.act,
    )
    x = blocks.dense(b, "image", stem)
    if rng.random() < 0.12:
        x = b.pool(x, "Max", 3, 2)
    ends = [x]
    fits = True
    for stage in range(int(rng.integers(3, 8))):
        stride = _stride(rng, b, x, likely=0.6 if stage == 0 else 0.8 if fits else 1.0)
        width = min(width * (growth if stride != 1 else 1.3), _MAX_WIDTH)
        channels = _width(rng, width, habits)
        made = _stage(rng, b, x, habits, Block(channels, stride=stride, act=habits.act, width=habits.step))
        fits = made != x
        x = made
        if b.shapes[x][1:] == b.shapes[ends[-1]][1:]:
            ends[-1] = x
        else:
            ends.append(x)
    return ends


def _stride(rng: np.random.Generator, b: NetBuilder, x: str, *, likely: float) -> int | tuple[int, int]:
    _, h, w = b.shapes[x]
    if min(h, w) < 2 * _SMALLEST_MAP or rng.random() >= likely:
        return 1
    return (2, 1) if h != w and rng.random() < 0.15 else 2


def _stage(rng: np.random.Generator, b: NetBuilder, x: str, habits: _Habits, first: Block) -> str:
    main = int(rng.choice(len(_BLOCKS), p=habits.kinds))
    kernel = int(rng.choice(_KERNELS, p=habits.kernels))
    expansion = float(rng.choice(_EXPANSIONS, p=habits.expansions))
    squeeze = int(rng.choice([4, 8, 16])) if rng.random() < habits.squeeze_share else 0
    block = replace(first, kernel=kernel, expansion=expansion, squeeze=squeeze, groups=int(rng.choice([1, 1, 1, 2, 4])))
    for _ in range(int(rng.integers(1, 5))):
        kind = main if rng.random() < 0.75 else int(rng.choice(len(_BLOCKS), p=habits.kinds))
        here = block
        if rng.random() < 0.2:
            here = replace(here, kernel=int(rng.choice(_KERNELS, p=habits.kernels)))
        if rng.random() < 0.2:
            here = replace(here, expansion=float(rng.choice(_EXPANSIONS, p=habits.expansions)))
        made = _affordable(b, x, _BLOCKS[kind][0], here, habits)
        if made == x:
            return x
        x = made
        block = replace(block, stride=1)
    return x


def _affordable(b: NetBuilder, x: str, make: MakeBlock, block: Block, habits: _Habits) -> str:
    """The block, narrowed until it fits into what the net may cost; ``x`` where nothing does."""
    macs = min(habits.max_macs - b.macs, habits.max_macs * _BLOCK_SHARE)
    parameters = min(habits.max_parameters - b.parameters, habits.max_parameters * _BLOCK_SHARE)
    for narrower in (1.0, 0.6, 0.35, 0.2):
        tried = replace(block, channels=round_width(block.channels * narrower, block.width))
        trial = NetBuilder(0, b.shapes[x], symmetric=b.symmetric, weightless=True)
        make(trial, "image", tried)
        if trial.macs < macs and trial.parameters < parameters:
            return make(b, x, tried)
    return x


def _parameters_left(b: NetBuilder, habits: _Habits) -> int:
    return max(int(habits.max_parameters) - b.parameters, 50_000)


def _width(rng: np.random.Generator, channels: float, habits: _Habits) -> int:
    """A width near ``channels`` in the net's step; now and then one that is not."""
    step = habits.step if rng.random() < 0.9 else 1
    return min(round_width(channels * rng.uniform(0.8, 1.25), step), _MAX_WIDTH)


def _layers(rng: np.random.Generator, weights: int) -> NetBuilder:
    """One or two layers of any shape: the corners that whole nets seldom reach."""
    size = int(np.exp(rng.uniform(np.log(2), np.log(120))))
    most = min(_MAX_WIDTH, int(4e6 / size**2) + 8)
    channels, out = (int(np.exp(rng.uniform(0, np.log(most)))) for _ in range(2))
    b = NetBuilder(weights, (channels, size, size))
    kernel = int(rng.choice([1, 3, 5, 7, 9, 11], p=[0.3, 0.35, 0.15, 0.1, 0.05, 0.05]))
    stride = int(rng.choice([1, 2])) if size > 2 else 1
    act = str(rng.choice(["relu6", "relu", "", "hard-swish"]))
    match int(rng.integers(6)):
        case 0 | 1:
            b.conv("image", _cut(out, 4e8 / (size**2 * channels * kernel**2)), kernel, stride, act=act)
        case 2:
            b.depthwise("image", kernel, stride, act=act)
        case 3:
            b.transposed("image", _cut(out, 1e8 / (size**2 * channels * 4)), act=act)
        case 4:
            b.fc(b.global_pool("image"), out, act=act if act != "hard-swish" else "")
        case _:
            b.add(b.pool("image", str(rng.choice(["Max", "Average"])), 3, 1), "image")
    return b


def _cut(channels: int, most: float) -> int:
    return max(1, min(channels, int(most)))


_MOBILE: Final[Sequence[tuple[int, int, int, int]]] = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 2, 2), (6, 64, 3, 2), (6, 96, 2, 1), (6, 160, 2, 2), (6, 320, 1, 1),
)  # fmt: skip
"""Expansion, channels, repeats, stride."""


def _mobilenet(rng: np.random.Generator, weights: int) -> NetBuilder:
    """One MobileNetV2 at 96x96; each stage's width is a multiple of 8 between 20 % and 150 % of the original."""

    def width(channels: int) -> int:
        steps = np.arange(8, channels * 3 // 2 + 1, 8)
        return int(rng.choice(steps[steps >= 0.2 * channels]))

    b = NetBuilder(weights, (3, 96, 96))
    x = b.conv("image", width(32), 3, 2, act="relu6")
    for expansion, channels, repeats, stride in _MOBILE:
        block = Block(width(channels), stride=stride, act="relu6", expansion=expansion)
        for repeat in range(repeats):
            x = blocks.inverted(b, x, block if repeat == 0 else replace(block, stride=1))
    heads.classifier(b, x, 100, features=width(640), act="relu6")
    return b


FAMILIES: Final[dict[str, Callable[[np.random.Generator, int], NetBuilder]]] = {
    "mixed": _mixed,
    "mobilenet": _mobilenet,
    "parts-padding": random_paddings,
    "parts": random_part,
    "parts-stem": random_stem,
    "single": _layers,
}
"""Families of nets by name."""
