"""Well-known nets by name, with made-up weights: what an estimator is judged on besides random nets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Final

import onnx

from graphopt.measure.nets import blocks, heads
from graphopt.measure.nets.blocks import Block, round_width
from graphopt.measure.nets.builder import NetBuilder
from graphopt.resources import sample_models_dir

Stage = tuple[int, int, int, int]
"""Expansion, channels, repeats, stride."""

_MOBILENET_V1: Final = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
    (1024, 2), (1024, 1),
)  # fmt: skip
"""Channels and stride of each separable block."""

_MOBILENET_V2: Final[Sequence[Stage]] = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip

_SMALL_V3: Final = (
    # kernel, inner width, channels, squeeze-excite, activation, stride
    (3, 16, 16, True, "relu", 2), (3, 72, 24, False, "relu", 2), (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, "hard-swish", 2), (5, 240, 40, True, "hard-swish", 1), (5, 240, 40, True, "hard-swish", 1),
    (5, 120, 48, True, "hard-swish", 1), (5, 144, 48, True, "hard-swish", 1), (5, 288, 96, True, "hard-swish", 2),
    (5, 576, 96, True, "hard-swish", 1), (5, 576, 96, True, "hard-swish", 1),
)  # fmt: skip

_LARGE_V3: Final = (
    (3, 16, 16, False, "relu", 1), (3, 64, 24, False, "relu", 2), (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2), (5, 120, 40, True, "relu", 1), (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "hard-swish", 2), (3, 200, 80, False, "hard-swish", 1), (3, 184, 80, False, "hard-swish", 1),
    (3, 184, 80, False, "hard-swish", 1), (3, 480, 112, True, "hard-swish", 1), (3, 672, 112, True, "hard-swish", 1),
    (5, 672, 160, True, "hard-swish", 2), (5, 960, 160, True, "hard-swish", 1), (5, 960, 160, True, "hard-swish", 1),
)  # fmt: skip

_LITE0: Final = (
    # expansion, channels, repeats, stride, kernel
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)  # fmt: skip


def mobilenet_v1(width: float, resolution: int) -> NetBuilder:
    """MobileNetV1 (arXiv:1704.04861)."""
    b = NetBuilder(1, (3, resolution, resolution))
    x = b.conv("image", round_width(32 * width), 3, 2, act="relu6")
    for channels, stride in _MOBILENET_V1:
        x = blocks.separable(b, x, Block(round_width(channels * width), stride=stride, act="relu6"))
    heads.classifier(b, x, 1000)
    return b


def mobilenet_v2(width: float, resolution: int, *, fused: Collection[int] = ()) -> NetBuilder:
    """MobileNetV2 (arXiv:1801.04381); the blocks numbered in ``fused`` run as fused inverted bottlenecks."""
    b = NetBuilder(2, (3, resolution, resolution))
    x = b.conv("image", round_width(32 * width), 3, 2, act="relu6")
    number = 0
    for expansion, channels, repeats, stride in _MOBILENET_V2:
        for repeat in range(repeats):
            block = Block(
                round_width(channels * width),
                stride=stride if repeat == 0 else 1,
                act="relu6",
                expansion=expansion,
            )
            x = (blocks.fused if number in fused else blocks.inverted)(b, x, block)
            number += 1
    heads.classifier(b, x, 1000, features=max(1280, round_width(1280 * width)), act="relu6")
    return b


def mobilenet_v3(*, large: bool, resolution: int = 224) -> NetBuilder:
    """MobileNetV3 (arXiv:1905.02244), small or large."""
    b = NetBuilder(3, (3, resolution, resolution))
    x = b.conv("image", 16, 3, 2, act="hard-swish")
    for kernel, inner, channels, squeeze, act, stride in _LARGE_V3 if large else _SMALL_V3:
        expansion = inner / b.shapes[x][0]
        block = Block(channels, kernel, stride, act, expansion, squeeze=4 if squeeze else 0)
        x = blocks.inverted(b, x, block)
    x = b.conv(x, 960 if large else 576, act="hard-swish")
    heads.classifier(b, x, 1000, features=1280 if large else 1024, act="hard-swish", late=True)
    return b


def efficientnet_lite0(resolution: int = 224) -> NetBuilder:
    """EfficientNet-Lite0: EfficientNet-B0 with ReLU6 and without squeeze-excite."""
    b = NetBuilder(4, (3, resolution, resolution), symmetric=False)
    x = b.conv("image", 32, 3, 2, act="relu6")
    for expansion, channels, repeats, stride, kernel in _LITE0:
        for repeat in range(repeats):
            x = blocks.inverted(b, x, Block(channels, kernel, stride if repeat == 0 else 1, "relu6", expansion))
    heads.classifier(b, x, 1000, features=1280, act="relu6")
    return b


def resnet18(resolution: int = 224) -> NetBuilder:
    """ResNet-18 (arXiv:1512.03385)."""
    b = NetBuilder(5, (3, resolution, resolution))
    x = b.pool(b.conv("image", 64, 7, 2, act="relu"), "Max", 3, 2)
    for channels, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        x = blocks.residual(b, x, Block(channels, stride=stride, act="relu"))
    heads.classifier(b, x, 1000)
    return b


def resnet8() -> NetBuilder:
    """The image classifier of MLPerf Tiny (32x32)."""
    b = NetBuilder(6, (3, 32, 32), symmetric=False)
    x = b.conv("image", 16, 3, act="relu")
    for channels, stride in ((16, 1), (32, 2), (64, 2)):
        x = blocks.residual(b, x, Block(channels, stride=stride, act="relu"))
    heads.classifier(b, x, 10, softmax=True)
    return b


def _fashion_classifier() -> onnx.ModelProto:
    return onnx.load(sample_models_dir() / "fashion_classifier.onnx")


def named_nets() -> dict[str, Callable[[], onnx.ModelProto]]:
    """Makers of well-known nets by name."""
    nets: dict[str, Callable[[], NetBuilder]] = {}
    for width, resolution in (
        (0.25, 96), (0.25, 224), (0.5, 128), (0.5, 160), (0.75, 192), (1.0, 128), (1.0, 224),
    ):  # fmt: skip
        nets[f"mobilenet-v1-{width}-{resolution}"] = partial(mobilenet_v1, width, resolution)
    for width, resolution in (
        (0.35, 96), (0.35, 160), (0.35, 224), (0.5, 128), (0.5, 192), (0.75, 96), (0.75, 160), (0.75, 224),
        (1.0, 96), (1.0, 128), (1.0, 160), (1.0, 192), (1.0, 224), (1.4, 160), (1.4, 224),
    ):  # fmt: skip
        nets[f"mobilenet-v2-{width}-{resolution}"] = partial(mobilenet_v2, width, resolution)
    for name, fused in (("strided", (1, 3, 6, 13)), ("early", range(1, 6)), ("all", range(1, 17))):
        for width, resolution in ((0.5, 128), (1.0, 160), (1.0, 224)):
            made = partial(mobilenet_v2, width, resolution, fused=frozenset(fused))
            nets[f"mobilenet-v2-{width}-{resolution}-fused-{name}"] = made
    nets["mobilenet-v3-small-224"] = partial(mobilenet_v3, large=False)
    nets["mobilenet-v3-large-224"] = partial(mobilenet_v3, large=True)
    nets["efficientnet-lite0-224"] = efficientnet_lite0
    nets["resnet-18-224"] = resnet18
    nets["resnet-8-32"] = resnet8
    return {"fashion-classifier": _fashion_classifier} | {name: partial(_model, made) for name, made in nets.items()}


def _model(make: Callable[[], NetBuilder]) -> onnx.ModelProto:
    return make().model()
