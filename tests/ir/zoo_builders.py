"""Well-known architectures with random weights, faithful in topology and widths."""

from __future__ import annotations

import numpy as np
import onnx

from tests.ir.builder import Builder

_LCNET: tuple[tuple[tuple[int, int, int, int, bool], ...], ...] = (
    ((3, 16, 32, 1, False),),
    ((3, 32, 64, 2, False), (3, 64, 64, 1, False)),
    ((3, 64, 128, 2, False), (3, 128, 128, 1, False)),
    ((3, 128, 256, 2, False), *((5, 256, 256, 1, False),) * 5),
    ((5, 256, 512, 2, True), (5, 512, 512, 1, True)),
)
"""PP-LCNet x1.0 (arXiv:2109.15099, table 2): kernel, in, out, stride, squeeze-excite."""


def pp_lcnet(classes: int = 1000, size: int = 64, folded: bool = True) -> onnx.ModelProto:
    """PP-LCNet x1.0: 32 convolutions, depthwise-separable, hard-swish, two squeeze-excite blocks, 1280-wide head."""
    b = Builder(opset=12)

    def unit(x: str, cin: int, cout: int, kernel: int, stride: int = 1, group: int = 1) -> str:
        x = b.conv(x, cin, cout, kernel, stride, group, bias=folded)
        return b.hard_swish(x if folded else b.batch_norm(x, cout))

    x = unit(b.input("x", 1, 3, size, size), 3, 16, 3, 2)
    for stage in _LCNET:
        for kernel, cin, cout, stride, squeeze in stage:
            x = unit(x, cin, cin, kernel, stride, group=cin)
            if squeeze:
                pooled = b.op("GlobalAveragePool", x)
                hidden = b.op("Relu", b.conv(pooled, cin, cin // 4))
                gate = b.op("HardSigmoid", b.conv(hidden, cin // 4, cin), alpha=1 / 6, beta=0.5)
                x = b.op("Mul", x, gate)
            x = unit(x, cin, cout, 1)
    x = b.hard_swish(b.conv(b.op("GlobalAveragePool", x), 512, 1280, bias=False))
    x = b.op("Flatten", x, axis=1)
    x = b.op("Add", b.op("MatMul", x, b.random(1280, classes, low=-0.05, high=0.05)), b.random(classes))
    b.outputs.append(b.op("Softmax", x, axis=1))
    return b.model()


class _Yolo:
    """YOLOv8n as Ultralytics exports it: depth 0.33, width 0.25, SiLU, BN folded, decoded detection head."""

    def __init__(self, size: int, classes: int) -> None:
        self.b = Builder(opset=17)
        self.size = size
        self.classes = classes

    def conv(self, x: str, cin: int, cout: int, kernel: int = 1, stride: int = 1) -> str:
        return self.b.silu(self.b.conv(x, cin, cout, kernel, stride))

    def c2f(self, x: str, cin: int, cout: int, count: int, shortcut: bool) -> str:
        half = cout // 2
        parts = self.b.split(self.conv(x, cin, cout), [half, half])
        for _ in range(count):
            y = self.conv(self.conv(parts[-1], half, half, 3), half, half, 3)
            parts.append(self.b.op("Add", parts[-1], y) if shortcut else y)
        return self.conv(self.b.op("Concat", *parts, axis=1), half * len(parts), cout)

    def sppf(self, x: str, channels: int) -> str:
        half = channels // 2
        parts = [self.conv(x, channels, half)]
        for _ in range(3):
            parts.append(self.b.op("MaxPool", parts[-1], kernel_shape=[5, 5], pads=[2, 2, 2, 2]))
        return self.conv(self.b.op("Concat", *parts, axis=1), 4 * half, channels)

    def build(self) -> onnx.ModelProto:
        b = self.b
        x = self.conv(b.input("x", 1, 3, self.size, self.size), 3, 16, 3, 2)
        x = self.c2f(self.conv(x, 16, 32, 3, 2), 32, 32, 1, True)
        p3 = self.c2f(self.conv(x, 32, 64, 3, 2), 64, 64, 2, True)
        p4 = self.c2f(self.conv(p3, 64, 128, 3, 2), 128, 128, 2, True)
        x = self.c2f(self.conv(p4, 128, 256, 3, 2), 256, 256, 1, True)
        p5 = self.sppf(x, 256)
        n4 = self.c2f(b.op("Concat", b.upsample(p5), p4, axis=1), 384, 128, 1, False)
        n3 = self.c2f(b.op("Concat", b.upsample(n4), p3, axis=1), 192, 64, 1, False)
        m4 = self.c2f(b.op("Concat", self.conv(n3, 64, 64, 3, 2), n4, axis=1), 192, 128, 1, False)
        m5 = self.c2f(b.op("Concat", self.conv(m4, 128, 128, 3, 2), p5, axis=1), 384, 256, 1, False)
        self.detect(((n3, 64), (m4, 128), (m5, 256)))
        return b.model()

    def detect(self, levels: tuple[tuple[str, int], ...]) -> None:
        """Box branch of 4 x 16 bins, class branch, distribution focal loss, decode to centre and size."""
        b, flat, width = self.b, [], max(64, self.classes)
        cells = [(self.size // stride) ** 2 for stride in (8, 16, 32)]
        for (x, channels), count in zip(levels, cells, strict=True):
            box = b.conv(self.conv(self.conv(x, channels, 64, 3), 64, 64, 3), 64, 64)
            kind = b.conv(self.conv(self.conv(x, channels, width, 3), width, width, 3), width, self.classes)
            flat.append(b.reshape(b.op("Concat", box, kind, axis=1), 1, 64 + self.classes, count))
        box, kind = b.split(b.op("Concat", *flat, axis=2), [64, self.classes])
        total = sum(cells)
        bins = b.op("Transpose", b.reshape(box, 1, 4, 16, total), perm=[0, 2, 1, 3])
        weight = b.const(np.arange(16).reshape(1, 16, 1, 1))
        distance = b.reshape(b.op("Conv", b.op("Softmax", bins, axis=1), weight, kernel_shape=[1, 1]), 1, 4, total)
        low, high = b.slice(distance, [0], [2], [1]), b.slice(distance, [2], [4], [1])
        anchors, strides = b.random(1, 2, total, low=0.0, high=8.0), b.const(np.full((1, total), 8.0))
        first, last = b.op("Sub", anchors, low), b.op("Add", anchors, high)
        centre = b.op("Div", b.op("Add", first, last), b.const(2.0))
        boxes = b.op("Mul", b.op("Concat", centre, b.op("Sub", last, first), axis=1), strides)
        b.outputs.append(b.op("Concat", boxes, b.op("Sigmoid", kind), axis=1))


def yolov8n(size: int = 64, classes: int = 80) -> onnx.ModelProto:
    """YOLOv8n: 64 convolutions (that of the distribution focal loss included)."""
    return _Yolo(size, classes).build()


def shufflenet_v2(size: int = 64) -> onnx.ModelProto:
    """ShuffleNetV2 x0.5 (arXiv:1807.11164): split, shuffle by reshape and transpose, 56 convolutions."""
    b = Builder(opset=13)

    def unit(x: str, cin: int, cout: int, kernel: int = 1, stride: int = 1) -> str:
        return b.op("Relu", b.batch_norm(b.conv(x, cin, cout, kernel, stride, bias=False), cout))

    def depthwise(x: str, channels: int, stride: int) -> str:
        return b.batch_norm(b.conv(x, channels, channels, 3, stride, group=channels, bias=False), channels)

    side = size // 4
    x = unit(b.input("x", 1, 3, size, size), 3, 24, 3, 2)
    x = b.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 24
    for out, count in ((48, 4), (96, 8), (192, 4)):
        for i in range(count):
            half = out // 2
            if i == 0:
                side //= 2
                left = unit(depthwise(x, channels, 2), channels, half)
                right, cin = x, channels
            else:
                left, right = b.split(x, [half, half])
                cin = half
            right = unit(depthwise(unit(right, cin, half), half, 2 if i == 0 else 1), half, half)
            x = b.reshape(b.op("Concat", left, right, axis=1), 1, 2, half, side, side)
            x = b.reshape(b.op("Transpose", x, perm=[0, 2, 1, 3, 4]), 1, out, side, side)
        channels = out
    x = b.with_axes("ReduceMean", 18, unit(x, 192, 1024), [2, 3], keepdims=0)
    b.outputs.append(b.op("Gemm", x, b.random(1000, 1024), b.random(1000), transB=1))
    return b.model()
