"""Small graphs for the tests of pricing, made from ops directly: shapes are said, not inferred."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.cost.kernels import Kernel
from graphopt.cost.workload import Workload, workload
from graphopt.ir.graph import Graph
from graphopt.ir.op import Op, TensorInfo, Weight


class Builder:
    """Collects ops; tensors get names of their own and the shapes that the caller says."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.inputs: list[str] = []
        self.weights: dict[str, Weight] = {}
        self.tensors: dict[str, TensorInfo] = {}

    def input(self, *shape: int) -> str:
        name = f"in{len(self.inputs)}"
        self.inputs.append(name)
        self.tensors[name] = TensorInfo(np.dtype(np.float32), shape)
        return name

    def weight(self, *shape: int, dtype: str = "float32") -> str:
        name = f"w{len(self.weights)}"
        kind = np.dtype(dtype)
        self.weights[name] = Weight(name, shape, kind, lambda: np.ones(shape, kind))
        return name

    def op(
        self, op_type: str, inputs: list[str], shape: tuple[int, ...], dtype: str = "float32", **attributes: Any
    ) -> str:
        name = f"{op_type.lower()}{len(self.ops)}"
        self.ops.append(Op(op_type, tuple(inputs), (name,), tuple(attributes.items())))
        self.tensors[name] = TensorInfo(np.dtype(dtype), shape)
        return name

    def shape(self, tensor: str) -> tuple[int, ...]:
        if tensor in self.weights:
            return self.weights[tensor].shape
        shape = self.tensors[tensor].shape
        assert shape is not None
        return tuple(int(str(dim)) for dim in shape)

    def conv(self, x: str, out: int, kernel: int = 3, stride: int = 1, group: int = 1, bias: bool = False) -> str:
        """SAME padding."""
        batch, channels, *space = self.shape(x)
        weight = self.weight(out, channels // group, *(kernel for _ in space))
        shape = (batch, out, *(-(-size // stride) for size in space))
        inputs = [x, weight, *([self.weight(out)] if bias else [])]
        return self.op("Conv", inputs, shape, group=group)

    def batch_norm(self, x: str) -> str:
        channels = self.shape(x)[1]
        return self.op("BatchNormalization", [x, *(self.weight(channels) for _ in range(4))], self.shape(x))

    def unary(self, op_type: str, x: str) -> str:
        return self.op(op_type, [x], self.shape(x))

    def binary(self, op_type: str, x: str, y: str) -> str:
        return self.op(op_type, [x, y], tuple(np.broadcast_shapes(self.shape(x), self.shape(y))))

    def hard_swish(self, x: str) -> str:
        inner = self.binary("Add", x, self.weight())
        clipped = self.op("Clip", [inner, self.weight(), self.weight()], self.shape(x))
        return self.binary("Div", self.binary("Mul", x, clipped), self.weight())

    def graph(self, *outputs: str) -> Graph:
        return Graph(
            self.ops, inputs=self.inputs, outputs=outputs, weights=self.weights, tensors=self.tensors, model=None
        )


def load_of(graph: Graph, kernel: Kernel) -> Workload:
    """The workload of a kernel at the graph's own shapes."""

    def shape_of(tensor: str) -> tuple[int, ...]:
        shape = graph.static_shape(tensor)
        assert shape is not None
        return shape

    return workload(kernel, graph, shape_of)


def inverted_bottleneck(size: int, channels: int, out: int, stride: int, *, fused: bool) -> Graph:
    """An inverted bottleneck (expansion 6, ReLU6, residual where shapes allow), unfused or fused."""
    m = Builder()
    x = m.input(1, channels, size, size)
    hidden = 6 * channels
    if fused:
        y = m.unary("Clip", m.conv(x, hidden, 3, stride, bias=True))
    else:
        y = m.unary("Clip", m.conv(x, hidden, 1, bias=True))
        y = m.unary("Clip", m.conv(y, hidden, 3, stride, group=hidden, bias=True))
    y = m.conv(y, out, 1, bias=True)
    if stride == 1 and channels == out:
        y = m.binary("Add", y, x)
    return m.graph(y)
