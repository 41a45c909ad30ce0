"""The blocks that convolutional nets for small chips are made of. Each reads one tensor and returns the next."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.measure.nets.builder import NetBuilder


def round_width(channels: float, multiple: int = 8) -> int:
    """The nearest multiple, at least one, and not more than a tenth below (as TensorFlow's MobileNets do)."""
    rounded = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * channels else rounded


@dataclass(frozen=True, slots=True)
class Block:
    """What a block is to be.

    Attributes:
        channels: of its output.
        kernel: height and width of its large kernels.
        stride: of its first large kernel; a pair for different strides down and across.
        act: activation, one of `builder.ACTIVATIONS`.
        expansion: inner width over input width (inverted bottlenecks).
        squeeze: reduction of a squeeze-excite gate, 0 for none.
        groups: groups of a residual block's second convolution.
        width: step that inner widths are rounded to.
    """

    channels: int
    kernel: int = 3
    stride: int | tuple[int, int] = 1
    act: str = "relu"
    expansion: float = 6.0
    squeeze: int = 0
    groups: int = 1
    width: int = 8


def dense(b: NetBuilder, x: str, block: Block) -> str:
    """One convolution."""
    return b.conv(x, block.channels, block.kernel, block.stride, act=block.act)


def separable(b: NetBuilder, x: str, block: Block) -> str:
    """Depthwise, then 1x1 (MobileNetV1)."""
    inner = b.depthwise(x, block.kernel, block.stride, act=block.act)
    return b.conv(inner, block.channels, act=block.act)


def inverted(b: NetBuilder, x: str, block: Block) -> str:
    """Expand 1x1, depthwise, project 1x1, with a residual where the shape stays (MobileNetV2 and V3)."""
    width = _inner(b, x, block)
    inner = x if block.expansion == 1 else b.conv(x, width, act=block.act)
    inner = squeeze_excite(b, b.depthwise(inner, block.kernel, block.stride, act=block.act), block)
    return _residual(b, x, b.conv(inner, block.channels))


def fused(b: NetBuilder, x: str, block: Block) -> str:
    """Expand KxK, project 1x1, with a residual where the shape stays."""
    inner = b.conv(x, _inner(b, x, block), block.kernel, block.stride, act=block.act)
    return _residual(b, x, b.conv(squeeze_excite(b, inner, block), block.channels))


def residual(b: NetBuilder, x: str, block: Block) -> str:
    """Two convolutions around a skip, itself a 1x1 convolution where the shape changes (ResNet-18)."""
    inner = b.conv(x, block.channels, block.kernel, block.stride, act=block.act)
    groups = block.groups if block.channels % block.groups == 0 else 1
    inner = b.conv(inner, block.channels, block.kernel, groups=groups)
    return b.add(inner, _skip(b, x, block), act=block.act)


def bottleneck(b: NetBuilder, x: str, block: Block) -> str:
    """Reduce 1x1, convolve, expand 1x1, around a skip (ResNet-50)."""
    width = round_width(block.channels / 4, block.width)
    inner = b.conv(x, width, act=block.act)
    inner = b.conv(inner, width, block.kernel, block.stride, act=block.act)
    return b.add(b.conv(inner, block.channels), _skip(b, x, block), act=block.act)


def inception(b: NetBuilder, x: str, block: Block) -> str:
    """A 1x1, a large, a double and a pooled branch, one after another along the channels."""
    part = round_width(block.channels / 4, block.width)
    rest = max(block.channels - 3 * part, block.width)
    wide = b.conv(b.conv(x, part, act=block.act), part, block.kernel, block.stride, act=block.act)
    double = b.conv(b.conv(x, part, 3, block.stride, act=block.act), part, 3, act=block.act)
    pooled = b.conv(b.pool(x, "Max", 3, 1), part, 1, block.stride, act=block.act)
    return b.concat([b.conv(x, rest, 1, block.stride, act=block.act), wide, double, pooled])


def fire(b: NetBuilder, x: str, block: Block) -> str:
    """Squeeze 1x1, expand 1x1 and 3x3 side by side (SqueezeNet)."""
    squeezed = b.conv(x, round_width(block.channels / 8, block.width), 1, block.stride, act=block.act)
    half = max(block.channels // 2, 1)
    return b.concat([b.conv(squeezed, half, act=block.act), b.conv(squeezed, block.channels - half, 3, act=block.act)])


def channel_padded(b: NetBuilder, x: str, block: Block) -> str:
    """Depthwise and 1x1 around a skip that is pooled and padded with zero channels (BlazeFace).

    Whether by a Pad or a concatenation is as arbitrary as in files: small expansions, which mean nothing here, decide.
    """
    c = b.shapes[x][0]
    stride = block.stride if isinstance(block.stride, int) else max(block.stride)
    channels = max(block.channels, c)
    inner = b.conv(b.depthwise(x, block.kernel, stride), channels)
    skip = x if stride == 1 else b.pool(x, "Max", stride, stride)
    skip = skip if channels == c else b.pad_channels(skip, channels, concat=block.expansion < 4)
    return b.add(inner, skip, act=block.act)


def squeeze_excite(b: NetBuilder, x: str, block: Block) -> str:
    """Each channel times a gate that all pixels decide on; ``x`` itself where the block has none."""
    if not block.squeeze:
        return x
    channels = b.shapes[x][0]
    squeezed = b.conv(b.global_pool(x), round_width(channels / block.squeeze, min(block.width, 8)), act="relu")
    gate = "hard-sigmoid" if block.act in ("hard-swish", "relu") else "sigmoid"
    return b.gate(x, b.conv(squeezed, channels, act=gate))


def _inner(b: NetBuilder, x: str, block: Block) -> int:
    return round_width(b.shapes[x][0] * block.expansion, block.width)


def _residual(b: NetBuilder, x: str, y: str) -> str:
    return b.add(x, y) if b.shapes[x] == b.shapes[y] else y


def _skip(b: NetBuilder, x: str, block: Block) -> str:
    same = block.stride == 1 and b.shapes[x][0] == block.channels
    return x if same else b.conv(x, block.channels, 1, block.stride)
