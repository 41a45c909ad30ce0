"""A layer or block by description, with one of its dimensions left open.

    KIND:HxW[:KEY=VALUE...]
    conv3x3:28x28:ci=64            convolution of 3x3 on 28x28 pixels, 64 channels in, 1 to 128 channels out
    conv3x3:28x28:ci=64:co=96      the same, 20 % to 150 % of 96 channels out
    conv1x1:14x14:co=64:sweep=ci:ci=16..160
    depthwise3x3:56x56:c=1..64:s=2
    ibn:28x28:ci=32:co=32:t=6      inverted bottleneck (1x1, depthwise, 1x1), output channels swept
    fused-ibn:28x28:ci=32:co=32:sweep=hidden

HxW is the input; ``s`` the stride (1), ``k`` the window of a block (3), ``t`` its expansion (6), or ``hidden`` its
inner channels. The swept dimension (``sweep``, else ``co``; ``c`` of a depthwise convolution) takes a range
``LOW..HIGH`` or a width to look around; of all others one number is needed. Padding is SAME, every convolution has a
bias and, but for a block's last one, a ReLU; a block has no residual connection, since its ends do not move together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import numpy as np

from graphopt.errors import ConfigError, did_you_mean
from graphopt.ir.channels import AxisSize
from graphopt.ir.graph import Graph
from graphopt.ir.op import Op, TensorInfo, Weight
from graphopt.landscape.sweep import Span, Subject, span_around
from graphopt.space.affine import AffineShape

MAX_CHANNELS = 8192
MAX_PIXELS = 4096
MAX_WINDOW = 31
MAX_STRIDE = 8
MAX_EXPANSION = 32

_KIND: Final = re.compile(r"(?P<kind>conv|depthwise)(?P<height>\d+)x(?P<width>\d+)")
_SIZE: Final = re.compile(r"(\d+)x(\d+)")
_RANGE: Final = re.compile(r"(\d+)\.\.(\d+)")
_DIMENSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "conv": ("co", "ci"),
    "depthwise": ("c",),
    "ibn": ("co", "ci", "hidden"),
    "fused-ibn": ("co", "ci", "hidden"),
}
"""Dimensions that can be swept; the first one is, where none is named."""


def layer(text: str) -> Subject:
    """Read a description (see the module's docstring).

    Raises:
        ConfigError: with one line that says which part is wrong and what would work.
    """
    return _Reader(text).subject()


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        kind, _, rest = text.partition(":")
        size, *pairs = rest.split(":")
        self.window: tuple[int, int] | None = None
        match = _KIND.fullmatch(kind)
        if match is not None:
            self.kind = match["kind"]
            self.window = (self.whole(kind, match["height"], MAX_WINDOW), self.whole(kind, match["width"], MAX_WINDOW))
        elif kind in ("ibn", "fused-ibn"):
            self.kind = kind
        else:
            known = ("conv3x3", "conv1x1", "depthwise3x3", "ibn", "fused-ibn")
            raise self.error(kind, f"no such kind{did_you_mean(kind, known)}; write one of {', '.join(known)}")
        pixels = _SIZE.fullmatch(size)
        if pixels is None:
            raise self.error(size, f"no input size; write for example {kind}:28x28")
        self.size = (self.whole(size, pixels[1], MAX_PIXELS), self.whole(size, pixels[2], MAX_PIXELS))
        self.values = self.pairs(pairs)

    def error(self, part: str, message: str) -> ConfigError:
        return ConfigError(message, file=f"--kernel {self.text}", field=part or None)

    def pairs(self, pairs: list[str]) -> dict[str, str]:
        block = self.kind in ("ibn", "fused-ibn")
        known = (*_DIMENSIONS[self.kind], "s", *(("t", "k") if block else ()), "sweep")
        values: dict[str, str] = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals or key not in known:
                raise self.error(
                    pair, f"unknown{did_you_mean(key, known)}; known here: {', '.join(known)}, as KEY=VALUE"
                )
            if key in values:
                raise self.error(pair, f"{key} is given twice")
            values[key] = value
        return values

    def whole(self, part: str, digits: str, most: int) -> int:
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 9 and 1 <= int(digits) <= most):
            raise self.error(part, f"must be a whole number from 1 to {most}")
        return int(digits)

    def number(self, key: str, most: int, default: int | None = None) -> int:
        if key not in self.values:
            if default is None:
                raise self.error(key, f"missing; write for example {key}=64")
            return default
        return self.whole(f"{key}={self.values[key]}", self.values[key], most)

    def span(self, swept: str, default: Span) -> Span:
        """The range of the swept dimension."""
        value = self.values.get(swept)
        if value is None:
            return default
        bounds = _RANGE.fullmatch(value)
        if bounds is None:
            if not value.isdecimal():
                raise self.error(f"{swept}={value}", "must be a range as 1..128, or a width to look around as 64")
            around = span_around(swept, self.number(swept, MAX_CHANNELS))
            if around.low == around.high:
                raise self.error(f"{swept}={value}", "leaves nothing to sweep; write a range as 1..128")
            return around
        low, high = (self.whole(f"{swept}={value}", digits, MAX_CHANNELS) for digits in bounds.groups())
        if low >= high:
            raise self.error(f"{swept}={value}", "must go from a smaller width to a larger one, as 1..128")
        return Span(swept, low, high)

    def subject(self) -> Subject:
        dimensions = _DIMENSIONS[self.kind]
        swept = self.values.get("sweep", dimensions[0])
        if swept not in dimensions:
            raise self.error(f"sweep={swept}", f"must be one of {', '.join(dimensions)}")
        fixed = {key: self.number(key, MAX_CHANNELS) for key in ("co", "ci") if key in dimensions and key != swept}
        if "t" in self.values and "hidden" in self.values:
            raise self.error(f"hidden={self.values['hidden']}", "t and hidden say the same; give one of them")
        expansion = self.number("t", MAX_EXPANSION, 6)
        plain = Span(swept, 1, 128)
        span = self.span(swept, span_around(swept, expansion * fixed["ci"]) if swept == "hidden" else plain)
        axes = {key: AxisSize(width) for key, width in fixed.items()} | {swept: AxisSize(0, ((swept, 1),))}
        if "hidden" in dimensions and swept != "hidden":
            if "hidden" in self.values:
                axes["hidden"] = AxisSize(self.number("hidden", MAX_CHANNELS))
            elif swept == "ci":
                axes["hidden"] = AxisSize(0, (("ci", expansion),))
            else:
                axes["hidden"] = AxisSize(expansion * fixed["ci"])
        stride = self.number("s", MAX_STRIDE, 1)
        side = self.number("k", MAX_WINDOW, 3)
        return _subject(self.text, self.kind, self.window or (side, side), self.size, stride, axes, span)


def _subject(
    name: str,
    kind: str,
    window: tuple[int, int],
    size: tuple[int, int],
    stride: int,
    axes: Mapping[str, AxisSize],
    span: Span,
) -> Subject:
    made = _Layers({span.name: span.high})
    x = made.activation("x", axes["c"] if kind == "depthwise" else axes["ci"], size)
    if kind == "conv":
        x = made.conv(x, axes["co"], window, stride)
    elif kind == "depthwise":
        x = made.conv(x, axes["c"], window, stride, depthwise=True)
    elif kind == "ibn":
        x = made.conv(x, axes["hidden"], (1, 1), 1)
        x = made.conv(x, axes["hidden"], window, stride, depthwise=True)
    else:
        x = made.conv(x, axes["hidden"], window, stride)
    if kind in ("ibn", "fused-ibn"):
        x = made.conv(x, axes["co"], (1, 1), 1, relu=False)
    graph = Graph(made.ops, inputs=("x",), outputs=(x,), weights=made.weights, tensors=made.tensors)
    return Subject(name, graph, lambda _: made.shapes, (span,), {})


class _Layers:
    """Collects convolutions, their shapes as functions of the swept width."""

    def __init__(self, widths: Mapping[str, int]) -> None:
        self.widths = widths
        self.ops: list[Op] = []
        self.weights: dict[str, Weight] = {}
        self.tensors: dict[str, TensorInfo] = {}
        self.shapes: dict[str, AffineShape] = {}

    def activation(self, name: str, channels: AxisSize, size: tuple[int, int]) -> str:
        self.shapes[name] = (AxisSize(1), channels, *map(AxisSize, size))
        self.tensors[name] = TensorInfo(np.dtype(np.float32), self.numbers(name))
        return name

    def numbers(self, name: str) -> tuple[int, ...]:
        return tuple(int(axis.at(self.widths)) for axis in self.shapes[name])

    def weight(self, name: str, *shape: AxisSize) -> str:
        self.shapes[name] = shape
        numbers = self.numbers(name)
        self.weights[name] = Weight(name, numbers, np.dtype(np.float32), lambda: np.zeros(numbers, np.float32))
        return name

    def conv(
        self,
        x: str,
        out: AxisSize,
        window: tuple[int, int],
        stride: int,
        *,
        depthwise: bool = False,
        relu: bool = True,
    ) -> str:
        _, channels, *size = self.shapes[x]
        number = len(self.ops)
        columns = AxisSize(1) if depthwise else channels
        weight = self.weight(f"w{number}", out, columns, *map(AxisSize, window))
        bias = self.weight(f"b{number}", out)
        after = (-(-size[0].constant // stride), -(-size[1].constant // stride))
        y = self.activation(f"conv{number}", out, after)
        group = int(out.at(self.widths)) if depthwise else 1
        attributes = (
            ("auto_pad", "SAME_UPPER"),
            ("group", group),
            ("kernel_shape", window),
            ("strides", (stride,) * 2),
        )
        self.ops.append(Op("Conv", (x, weight, bias), (y,), attributes))
        if not relu:
            return y
        z = self.activation(f"relu{number}", out, after)
        self.ops.append(Op("Relu", (y,), (z,)))
        return z
