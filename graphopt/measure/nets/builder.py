"""Writes small convolutional nets as ONNX, float32, batch 1, every shape static.

Weights are normal with He's scale. Quantised to int8 for each output channel they spread as those of trained networks
do (standard deviation 33 to 94 of 127 in EfficientNet-Lite0, 30 to 78 in PP-OCR), which matters to compilers that
compress weights. Biases are normal, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper

OPSET: Final = 17
IR_VERSION: Final = 10

ACTIVATIONS: Final = ("relu", "relu6", "hard-swish", "silu", "leaky-relu", "hard-sigmoid", "sigmoid", "")
"""What `NetBuilder.act` knows; ``""`` is none."""

Map = tuple[int, int, int]
"""Channels, height and width of a tensor, batch 1."""


class NetBuilder:
    """Grows one net. Every method returns the name of the tensor that it makes.

    Attributes:
        rng: for weights.
        shapes: channels, height, width by tensor name; height and width are 0 for a vector, width is 0 for rows.
        macs: multiply-accumulates so far.
        parameters: weights so far, biases not counted.
        weightless: whether nothing but counting is wanted; such a net has no model.
        symmetric: whether strided convolutions pad alike on both sides (PyTorch), or more at the end (TensorFlow).
    """

    def __init__(self, seed: int, image: Map, *, symmetric: bool = True, weightless: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.weightless = weightless
        self.symmetric = symmetric
        self.shapes: dict[str, Map] = {"image": image}
        self.macs = 0
        self.parameters = 0
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._read: set[str] = set()

    # -- convolutions and matrix products --------------------------------------------------------------------------

    def conv(
        self,
        x: str,
        channels: int,
        kernel: int = 1,
        stride: int | tuple[int, int] = 1,
        *,
        groups: int = 1,
        act: str = "",
    ) -> str:
        """A convolution with bias that keeps the size (over the stride), and an activation."""
        down, across = (stride, stride) if isinstance(stride, int) else stride
        c, h, w = self.shapes[x]
        shape = (channels, c // groups, kernel, kernel)
        to = (channels, -(-h // down), -(-w // across))
        top, bottom = self._pads(h, kernel, down)
        left, right = self._pads(w, kernel, across)
        self._count(math.prod(shape), to[1] * to[2])
        made = self._node(
            "Conv", [x, *self._parameters(shape, math.prod(shape[1:]), channels)], to,
            kernel_shape=[kernel, kernel], strides=[down, across], pads=[top, left, bottom, right], group=groups,
        )  # fmt: skip
        return self.act(made, act)

    def depthwise(self, x: str, kernel: int = 3, stride: int | tuple[int, int] = 1, *, act: str = "") -> str:
        """One filter for each channel."""
        channels = self.shapes[x][0]
        return self.conv(x, channels, kernel, stride, groups=channels, act=act)

    def transposed(self, x: str, channels: int, *, act: str = "") -> str:
        """A transposed convolution, 2x2 with stride 2: twice as high and wide."""
        c, h, w = self.shapes[x]
        shape = (c, channels, 2, 2)
        self._count(math.prod(shape), h * w)
        made = self._node(
            "ConvTranspose", [x, *self._parameters(shape, c, channels)], (channels, 2 * h, 2 * w),
            kernel_shape=[2, 2], strides=[2, 2],
        )  # fmt: skip
        return self.act(made, act)

    def fc(self, x: str, channels: int, *, act: str = "") -> str:
        """A fully connected layer on everything that is in ``x``."""
        c, h, w = self.shapes[x]
        size = c * max(h, 1) * max(w, 1)
        flat = x if h == 0 else self._node("Flatten", [x], (size, 0, 0), axis=1)
        self._count(size * channels, 1)
        made = self._node(
            "Gemm", [flat, *self._parameters((channels, size), size, channels)], (channels, 0, 0), transB=1
        )
        return self.act(made, act)

    def _pads(self, size: int, kernel: int, stride: int) -> tuple[int, int]:
        """Before and after, so that ceil(size / stride) positions come out."""
        if self.symmetric and kernel % 2:
            return kernel // 2, kernel // 2
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2

    def _parameters(self, shape: tuple[int, ...], fan_in: int, channels: int) -> list[str]:
        if self.weightless:
            return ["", ""]
        weight = self.rng.standard_normal(shape, dtype=np.float32) * np.float32(math.sqrt(2.0 / fan_in))
        bias = self.rng.standard_normal(channels, dtype=np.float32) * np.float32(0.1)
        return [self.constant(weight), self.constant(bias)]

    def _count(self, weights: int, positions: int) -> None:
        self.parameters += weights
        self.macs += weights * positions

    # -- everything else -------------------------------------------------------------------------------------------

    def act(self, x: str, kind: str) -> str:
        """An activation of `ACTIVATIONS`."""
        shape = self.shapes[x]
        match kind:
            case "":
                return x
            case "relu":
                return self._node("Relu", [x], shape)
            case "relu6":
                bounds = [self.constant(np.array(value, np.float32)) for value in (0.0, 6.0)]
                return self._node("Clip", [x, *bounds], shape)
            case "hard-swish":  # as onnxruntime's basic optimisation, and so our normalising, spells it
                return self._node("Mul", [x, self.act(x, "hard-sigmoid")], shape)
            case "silu":
                return self._node("Mul", [x, self._node("Sigmoid", [x], shape)], shape)
            case "leaky-relu":
                return self._node("LeakyRelu", [x], shape, alpha=0.1)
            case "hard-sigmoid":
                return self._node("HardSigmoid", [x], shape, alpha=1.0 / 6.0, beta=0.5)
            case "sigmoid":
                return self._node("Sigmoid", [x], shape)
            case _:
                raise ValueError(f"no activation {kind!r}")

    def add(self, x: str, y: str, *, act: str = "") -> str:
        """The sum of two tensors of one shape."""
        return self.act(self._node("Add", [x, y], self.shapes[x]), act)

    def gate(self, x: str, factors: str) -> str:
        """``x`` times one factor for each channel."""
        return self._node("Mul", [x, factors], self.shapes[x])

    def concat(self, tensors: Sequence[str]) -> str:
        """Channels after one another."""
        _, h, w = self.shapes[tensors[0]]
        return self._node("Concat", tensors, (sum(self.shapes[t][0] for t in tensors), h, w), axis=1)

    def pool(self, x: str, kind: str, kernel: int = 2, stride: int = 2) -> str:
        """``kind`` is ``Max`` or ``Average``."""
        c, h, w = self.shapes[x]
        (top, bottom), (left, right) = self._pads(h, kernel, stride), self._pads(w, kernel, stride)
        return self._node(
            f"{kind}Pool", [x], (c, -(-h // stride), -(-w // stride)),
            kernel_shape=[kernel, kernel], strides=[stride, stride], pads=[top, left, bottom, right],
        )  # fmt: skip

    def global_pool(self, x: str) -> str:
        """The mean of each channel."""
        return self._node("GlobalAveragePool", [x], (self.shapes[x][0], 1, 1))

    def resize(self, x: str, factor: int, *, mode: str = "nearest") -> str:
        """``factor`` times as high and wide; ``mode`` is ``nearest`` or ``linear``."""
        c, h, w = self.shapes[x]
        scales = self.constant(np.array([1, 1, factor, factor], np.float32))
        how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        if mode == "linear":
            how = {"coordinate_transformation_mode": "half_pixel"}
        return self._node("Resize", [x, "", scales], (c, factor * h, factor * w), mode=mode, **how)

    def pad_channels(self, x: str, channels: int, *, concat: bool = False) -> str:
        """Zero channels at the end: a Pad, or a concatenation with zeros."""
        c, h, w = self.shapes[x]
        if concat:
            zeros = self.constant(np.zeros((1, channels - c, h, w), np.float32))
            return self._node("Concat", [x, zeros], (channels, h, w), axis=1)
        pads = self.constant(np.array([0, 0, 0, 0, 0, channels - c, 0, 0], np.int64))
        return self._node("Pad", [x, pads], (channels, h, w))

    def rows(self, x: str, columns: int) -> str:
        """A map as rows of ``columns`` numbers, channels last: what a detector puts out."""
        c, h, w = self.shapes[x]
        last = self._node("Transpose", [x], (h, w, c), perm=[0, 2, 3, 1])
        shape = self.constant(np.array([1, h * w * c // columns, columns], np.int64))
        return self._node("Reshape", [last, shape], (h * w * c // columns, columns, 0))

    def join_rows(self, parts: Sequence[str]) -> str:
        """Rows after one another."""
        columns = self.shapes[parts[0]][1]
        return self._node("Concat", parts, (sum(self.shapes[part][0] for part in parts), columns, 0), axis=1)

    def softmax(self, x: str) -> str:
        """Over the channels of a vector."""
        return self._node("Softmax", [x], self.shapes[x], axis=1)

    def constant(self, values: np.ndarray[tuple[int, ...], np.dtype[np.float32 | np.int64]]) -> str:
        """An initializer with these values."""
        name = f"w{len(self._weights)}"
        kind = TensorProto.FLOAT if values.dtype == np.float32 else TensorProto.INT64
        self._weights.append(helper.make_tensor(name, kind, values.shape, values.tobytes(), raw=True))
        return name

    def _node(self, op_type: str, inputs: Sequence[str], shape: Map, **attributes: Any) -> str:
        name = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(op_type, list(inputs), [name], **attributes))
        self._read.update(inputs)
        self.shapes[name] = shape
        return name

    def model(self) -> onnx.ModelProto:
        """The finished net; whatever nothing reads is an output."""
        made = [node.output[0] for node in self._nodes]
        graph = helper.make_graph(
            self._nodes,
            "net",
            [self._value("image")],
            [self._value(tensor) for tensor in made if tensor not in self._read],
            self._weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="graphopt")
        model.ir_version = IR_VERSION
        return model

    def _value(self, tensor: str) -> onnx.ValueInfoProto:
        shape = [1, *(size for size in self.shapes[tensor] if size)]
        return helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape)
