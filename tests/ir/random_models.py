"""Random small models out of every kind of op that channels can run through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from tests.ir.builder import Builder


@dataclass(frozen=True)
class Tensor:
    """A tensor in NCHW layout."""

    name: str
    shape: tuple[int, int, int, int]


class Garden:
    """Grows a model: keeps every tensor made so far, and picks among them."""

    def __init__(self, opset: int, seed: int) -> None:
        self.b = Builder(opset, seed)
        self.rng = self.b.rng
        shape = (int(self.rng.integers(1, 3)), 3, 6, 6)
        self.tensors = [Tensor(self.b.input("x", *shape), shape)]
        self.conv(self.tensors[0])

    def pick(self) -> Tensor:
        """A tensor, more likely a late one."""
        last = len(self.tensors) - 1
        return self.tensors[max(0, last - int(self.rng.geometric(0.45)) + 1)]

    def like(self, shape: tuple[int, ...]) -> Tensor:
        """A tensor of this shape: one that is there, or a convolution to it."""
        same = [t for t in self.tensors[1:] if t.shape == shape]
        if same and self.rng.random() < 0.7:
            return same[int(self.rng.integers(len(same)))]
        near = [t for t in self.tensors if t.shape[0] == shape[0] and t.shape[2:] == shape[2:]]
        source = near[int(self.rng.integers(len(near)))]
        return self.keep(self.b.conv(source.name, source.shape[1], shape[1]), shape)

    def keep(self, name: str, shape: tuple[int, ...]) -> Tensor:
        n, c, h, w = shape
        self.tensors.append(Tensor(name, (n, c, h, w)))
        self.b.shapes[name] = (n, c, h, w)
        return self.tensors[-1]

    def one_of(self, *choices: str) -> str:
        return choices[int(self.rng.integers(len(choices)))]

    def model(self) -> onnx.ModelProto:
        """Two heads: a classifier on everything that is left over, and sometimes a map."""
        b = self.b
        pooled: list[str] = []
        total = 0
        for t in self.tensors[-3:]:
            if self.rng.random() < 0.5:
                flat = b.op("Flatten", t.name)
                total += t.shape[1] * t.shape[2] * t.shape[3]
            else:
                flat = b.op("Flatten", b.op("GlobalAveragePool", t.name))
                total += t.shape[1]
            pooled.append(flat)
        joined = b.op("Concat", *pooled, axis=1) if len(pooled) > 1 else pooled[0]
        if self.rng.random() < 0.5:
            b.outputs.append(b.op("Gemm", joined, b.random(4, total), b.random(4), transB=1))
        else:
            b.outputs.append(b.op("Add", b.op("MatMul", joined, b.random(total, 4)), b.random(4)))
        if self.rng.random() < 0.3:
            t = self.pick()
            b.outputs.append(b.conv(t.name, t.shape[1], 2))
        return b.model()

    # -- growing --------------------------------------------------------------------------------------------------

    def conv(self, t: Tensor) -> None:
        n, c, h, w = t.shape
        out, kernel = int(self.rng.integers(1, 9)), int(self.rng.choice([1, 3]))
        name = self.b.conv(t.name, c, out, kernel, bias=self.rng.random() < 0.7)
        if self.rng.random() < 0.4:
            name = self.b.batch_norm(name, out)
        self.keep(name, (n, out, h, w))

    def strided(self, t: Tensor) -> None:
        n, c, h, w = t.shape
        out = int(self.rng.integers(2, 9))
        self.keep(self.b.conv(t.name, c, out, 3, 2), (n, out, (h + 1) // 2, (w + 1) // 2))

    def depthwise(self, t: Tensor) -> None:
        n, c, h, w = t.shape
        times = int(self.rng.integers(1, 3))
        self.keep(self.b.conv(t.name, c, c * times, 3, group=c), (n, c * times, h, w))

    def multiple(self, t: Tensor, of: int) -> Tensor:
        """The tensor, convolved to a multiple of ``of`` channels where it has none."""
        n, c, h, w = t.shape
        return t if c % of == 0 else self.keep(self.b.conv(t.name, c, 2 * of), (n, 2 * of, h, w))

    def grouped(self, t: Tensor) -> None:
        group = int(self.rng.choice([2, 3]))
        t = self.multiple(t, group)
        n, c, h, w = t.shape
        out = group * int(self.rng.integers(1, 4))
        self.keep(self.b.conv(t.name, c, out, 3, group=group), (n, out, h, w))

    def conv_transpose(self, t: Tensor) -> None:
        n, c, h, w = t.shape
        group = int(self.rng.choice([1, c] + [2] * (c % 2 == 0)))
        each = int(self.rng.integers(1, 4))
        weight, bias = self.b.random(c, each, 2, 2), self.b.random(each * group)
        name = self.b.op("ConvTranspose", t.name, weight, bias, kernel_shape=[2, 2], strides=[2, 2], group=group)
        self.keep(self.b.op("MaxPool", name, kernel_shape=[2, 2], strides=[2, 2]), (n, each * group, h, w))

    def per_channel(self, t: Tensor) -> None:
        b, c = self.b, t.shape[1]
        kind = self.one_of("BN", "IN", "PRelu", "Add", "Mul", "Sub", "Div", "DivBy", "Map", "Late", "Pow", "Where")
        if kind == "BN":
            name = b.batch_norm(t.name, c)
        elif kind == "IN":
            name = b.op("InstanceNormalization", t.name, b.random(c), b.random(c))
        elif kind == "Late":  # a constant that reaches its op through others
            name = b.op("Add", t.name, b.with_axes("Unsqueeze", 13, b.const(self.rng.random(c), node=True), [0, 2, 3]))
        elif kind == "Map":
            name = b.op("Mul", t.name, b.random(*t.shape[1:]))
        elif kind == "Pow":
            name = b.op("Pow", t.name, b.const(2.0))
        elif kind == "Where":
            name = b.op("Where", b.op("Greater", t.name, b.random(c, 1, 1)), t.name, b.random(1, c, 1, 1))
        elif kind == "DivBy":
            name = b.op("Div", b.random(c, 1, 1), b.op("Add", b.op("Abs", t.name), b.const(1.0)))
        else:
            name = b.op(kind, t.name, b.random(c, 1, 1, low=0.5))
        self.keep(name, t.shape)

    def activation(self, t: Tensor) -> None:
        b = self.b
        kind = self.one_of(
            "Relu", "Clip", "HardSwish", "Silu", "LeakyRelu", "HardSigmoid", "Tanh", "Log", "Neg", "Cast"
        )
        if kind == "Clip":
            name = b.clip(t.name, 0.0, 6.0)
        elif kind == "HardSwish":
            name = b.hard_swish(t.name)
        elif kind == "Silu":
            name = b.silu(t.name)
        elif kind == "Log":
            name = b.op("Log", b.op("Add", b.op("Abs", t.name), b.const(0.5)))
        elif kind == "Cast":
            name = b.op("Cast", b.op("Cast", t.name, to=TensorProto.DOUBLE), to=TensorProto.FLOAT)
        else:
            name = b.op(kind, t.name)
        self.keep(name, t.shape)

    def join(self, t: Tensor) -> None:
        other = self.like(t.shape)
        kind = self.one_of("Add", "Add", "Mul", "Sub", "Max", "Min", "Sum", "Mean")
        self.keep(self.b.op(kind, t.name, other.name), t.shape)

    def ratio(self, t: Tensor) -> None:
        b, other = self.b, self.like(t.shape)
        self.keep(b.op("Div", t.name, b.op("Add", b.op("Abs", other.name), b.const(1.0))), t.shape)

    def gate(self, t: Tensor) -> None:
        """Squeeze-excite, its pooling spelled one way or the other, or one map for all channels."""
        b, c = self.b, t.shape[1]
        if self.rng.random() < 0.3:
            gate = b.op("Sigmoid", b.conv(t.name, c, 1))
        else:
            mean = b.with_axes("ReduceMean", 18, t.name, [2, 3], keepdims=1)
            pooled = b.op("GlobalAveragePool", t.name) if self.rng.random() < 0.5 else mean
            hidden = int(self.rng.integers(1, 4))
            gate = b.op("Sigmoid", b.conv(b.op("Relu", b.conv(pooled, c, hidden)), hidden, c))
        self.keep(b.op("Mul", t.name, gate), t.shape)

    def concat(self, t: Tensor) -> None:
        n, c, h, w = t.shape
        parts = [(t.name, c)]
        for _ in range(int(self.rng.integers(1, 3))):
            near = [o for o in self.tensors if o.shape[0] == n and o.shape[2:] == (h, w)]
            other = near[int(self.rng.integers(len(near)))]
            parts.append((other.name, other.shape[1]))
        if self.rng.random() < 0.2:
            parts.append((self.b.random(n, 2, h, w), 2))
        if self.rng.random() < 0.2:
            shape = self.b.ints(n, 2, h, w)
            parts.append((self.b.op("ConstantOfShape", shape), 2))
        order = self.rng.permutation(len(parts))
        name = self.b.op("Concat", *(parts[i][0] for i in order), axis=1)
        self.keep(name, (n, sum(size for _, size in parts), h, w))

    def split(self, t: Tensor) -> None:
        n, c, h, w = t.shape
        if c < 2:
            return
        cut = int(self.rng.integers(1, c))
        even = c % 2 == 0 and self.rng.random() < 0.5
        sizes = [c // 2, c // 2] if even else [cut, c - cut]
        parts = self.b.split(t.name, sizes, explicit=not even or self.rng.random() < 0.5)
        for part, size in zip(parts, sizes, strict=True):
            self.keep(part, (n, size, h, w))

    def cut(self, t: Tensor) -> None:
        n, c, h, w = t.shape
        low = int(self.rng.integers(0, c))
        high = int(self.rng.integers(low + 1, c + 1))
        end = int(self.rng.choice([high, 2**31])) if high == c else high
        start = low - c if self.rng.random() < 0.3 else low
        self.keep(self.b.slice(t.name, [start], [end], [1]), (n, high - low, h, w))

    def gather(self, t: Tensor) -> None:
        n, c, h, w = t.shape
        picked = [int(i) for i in self.rng.integers(0, c, size=int(self.rng.integers(1, c + 2)))]
        self.keep(self.b.op("Gather", t.name, self.b.ints(*picked), axis=1), (n, len(picked), h, w))

    def pad(self, t: Tensor) -> None:
        n, c, h, w = t.shape
        deep = int(self.rng.random() < 0.3)
        name = self.b.pad(t.name, [0, 0, 1, 0, 0, deep, 0, 1])
        self.keep(self.b.slice(name, [0, 0], [h, w], [2, 3]), (n, c + deep, h, w))

    def shuffle(self, t: Tensor) -> None:
        group = int(self.rng.choice([2, 3]))
        t = self.multiple(t, group)
        n, c, h, w = t.shape
        name = self.b.reshape(t.name, n, group, c // group, h, w)
        name = self.b.op("Transpose", name, perm=[0, 2, 1, 3, 4])
        self.keep(self.b.reshape(name, n, int(self.rng.choice([-1, c])), h, w), t.shape)

    def depth_to_space(self, t: Tensor) -> None:
        n, c, h, w = t.shape
        if self.rng.random() < 0.4 and h % 2 == 0 and w % 2 == 0:
            self.keep(self.b.op("SpaceToDepth", t.name, blocksize=2), (n, 4 * c, h // 2, w // 2))
            return
        t = self.multiple(t, 4)
        mode = {"mode": self.one_of("DCR", "CRD")} if self.b.opset >= 11 else {}
        self.keep(self.b.op("DepthToSpace", t.name, blocksize=2, **mode), (n, t.shape[1] // 4, 2 * h, 2 * w))

    def pool(self, t: Tensor) -> None:
        kind = self.one_of("MaxPool", "AveragePool")
        self.keep(self.b.op(kind, t.name, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), t.shape)

    def upsample(self, t: Tensor) -> None:
        n, c, h, w = t.shape
        if h <= 6:
            sizes = (n, c, 2 * h, 2 * w) if self.rng.random() < 0.5 else ()
            self.keep(self.b.upsample(t.name, sizes), (n, c, 2 * h, 2 * w))

    def channel_last(self, t: Tensor) -> None:
        """Work on the last axis and come back: bias, MatMul, softmax or layer norm."""
        b, (n, c, h, w) = self.b, t.shape
        name = b.op("Transpose", t.name, perm=[0, 2, 3, 1])
        out = c
        kind = self.one_of("Add", "MatMul", "Softmax", "Tokens", "Transposed", "Split", "LayerNorm")
        if kind == "Add":
            name = b.op("Add", name, b.random(c))
        elif kind == "MatMul":
            out = int(self.rng.integers(1, 7))
            name = b.op("Add", b.op("MatMul", name, b.random(c, out)), b.random(out))
        elif kind == "Transposed":
            out = int(self.rng.integers(1, 7))
            name = b.op("MatMul", name, b.op("Transpose", b.random(out, c), perm=[1, 0]))
        elif kind == "Softmax":
            name = b.op("Softmax", name, axis=3)
        elif kind == "LayerNorm" and b.opset >= 17:
            name = b.op("LayerNormalization", name, b.random(c), b.random(c))
        elif kind == "Split" and c > 1:
            left, right = b.split(name, [1, c - 1], axis=3)
            name = b.op("Concat", right, left, axis=3 if b.opset < 11 else -1)
        elif kind == "Tokens":
            name = b.reshape(name, n, h * w, c)
            name = b.op("MatMul", name, b.random(c, c))
            name = b.reshape(name, *((n, h, w, c) if self.rng.random() < 0.5 else (0, h, w, -1)))
        self.keep(b.op("Transpose", name, perm=[0, 3, 1, 2]), (n, out, h, w))

    def squeeze(self, t: Tensor) -> None:
        b, (n, c, h, w) = self.b, t.shape
        name = b.with_axes("Unsqueeze", 13, t.name, [int(self.rng.choice([1, 2]))])
        name = b.op("Relu", name)
        if name and self.rng.random() < 0.5:
            name = b.reshape(name, n, c, h, w)
        else:
            shape = b.op("Tile", b.reshape(name, n, c * h, w), b.ints(1, 1, 1))
            name = b.reshape(shape, n, c, h, w)
        self.keep(name, t.shape)

    def attention(self, t: Tensor) -> None:
        """Two products of computed tensors."""
        b, (n, c, h, w) = self.b, t.shape
        q = b.reshape(b.conv(t.name, c, 4), n, 4, h * w)
        k = b.reshape(b.conv(t.name, c, 4), n, 4, h * w)
        v = b.reshape(b.conv(t.name, c, 5), n, 5, h * w)
        scores = b.op("Softmax", b.op("MatMul", b.op("Transpose", q, perm=[0, 2, 1]), k), axis=2)
        mixed = b.op("MatMul", v, b.op("Transpose", scores, perm=[0, 2, 1]))
        self.keep(b.reshape(mixed, n, 5, h, w), (n, 5, h, w))

    def shared(self, t: Tensor) -> None:
        """One weight for two convolutions."""
        n, c, h, w = t.shape
        weight, bias = self.b.random(4, c, 1, 1), self.b.random(4)
        for source in (t, self.like(t.shape)):
            self.keep(self.b.op("Conv", source.name, weight, bias), (n, 4, h, w))

    def quantised_weight(self, t: Tensor) -> None:
        n, c, h, w = t.shape
        if self.b.opset < 13:
            return
        values = self.b.const(self.rng.integers(-99, 99, (5, c, 1, 1)), np.int8)
        scale, zero = self.b.random(5, low=0.01, high=0.02), self.b.const([0] * 5, np.int8)
        weight = self.b.op("DequantizeLinear", values, scale, zero, axis=0)
        self.keep(self.b.op("Conv", t.name, weight), (n, 5, h, w))

    def quantised(self, t: Tensor) -> None:
        """Activations through QuantizeLinear and DequantizeLinear, per tensor or per channel."""
        b, c = self.b, t.shape[1]
        if b.opset < 13:
            return
        name, size = t.name, () if self.rng.random() < 0.5 else (c,)
        scale, zero = b.random(*size, low=0.01, high=0.1), b.const(np.full(size, 3), np.uint8)
        for kind in ("QuantizeLinear", "DequantizeLinear"):
            name = b.op(kind, name, scale, zero, axis=1)
        self.keep(name, t.shape)

    def group_norm(self, t: Tensor) -> None:
        """Group normalisation as PyTorch exports it."""
        b, (n, c, h, w) = self.b, t.shape
        group = next((g for g in (4, 3, 2) if c % g == 0), 1)
        name = b.op("InstanceNormalization", b.reshape(t.name, n, group, -1), b.random(group), b.random(group))
        name = b.reshape(name, n, c, h, w)
        self.keep(b.op("Add", b.op("Mul", name, b.random(c, 1, 1)), b.random(c, 1, 1)), t.shape)

    def mean_over(self, t: Tensor) -> None:
        """Statistics over rows, columns or channels, kept or dropped, and given back."""
        b = self.b
        axis = int(self.rng.integers(1, 4))
        kind = self.one_of("ReduceMean", "ReduceMax", "ReduceL2")
        if self.rng.random() < 0.5:
            name = b.with_axes(kind, 18, t.name, [axis - 4], keepdims=1)
        else:
            name = b.with_axes("Unsqueeze", 13, b.with_axes(kind, 18, t.name, [axis], keepdims=0), [axis])
        self.keep(b.op("Add", t.name, name), t.shape)

    def left_matmul(self, t: Tensor) -> None:
        """A constant on the left mixes the channels of a flattened map; or a vector on the right closes it."""
        b, (n, c, h, w) = self.b, t.shape
        flat, out = b.reshape(t.name, n, c, h * w), int(self.rng.integers(1, 6))
        if self.rng.random() < 0.5:
            self.keep(b.reshape(b.op("MatMul", b.random(out, c), flat), n, out, h, w), (n, out, h, w))
        else:
            vector = b.op("MatMul", b.op("Transpose", flat, perm=[0, 2, 1]), b.random(c))
            self.keep(b.op("Add", t.name, b.reshape(vector, n, 1, h, w)), t.shape)

    def constants(self, t: Tensor) -> None:
        """Zeros made by ConstantOfShape, a cast constant, one scalar from many."""
        b, (n, c, h, w) = self.b, t.shape
        kind = self.one_of("Zeros", "Cast", "Scalar", "Identity")
        if kind == "Zeros":
            other = b.op("ConstantOfShape", b.ints(n, c, h, w))
        elif kind == "Cast":
            other = b.op("Cast", b.const(self.rng.random((c, 1, 1)), np.float64), to=TensorProto.FLOAT)
        elif kind == "Identity":
            other = b.op("Identity", b.random(c, 1, 1, low=0.5))
        else:
            other = b.op("Gather", b.random(5, low=0.5), b.const(2, np.int64), axis=0)
        self.keep(b.op("Add" if kind == "Zeros" else "Div", t.name, other), t.shape)

    def one_channel(self, t: Tensor) -> None:
        """One channel picked by a scalar index, given to all."""
        b, c = self.b, t.shape[1]
        picked = b.op("Gather", t.name, b.const(int(self.rng.integers(c)), np.int64), axis=1)
        self.keep(b.op("Mul", t.name, b.with_axes("Unsqueeze", 13, picked, [1])), t.shape)

    def computed_shape(self, t: Tensor) -> None:
        """Shapes computed from shapes, as tracing exporters write them; sometimes with arithmetic on them."""
        b, (n, c, h, w) = self.b, t.shape
        shape = b.op("Shape", t.name)
        kind = self.one_of("View", "Heads", "Resize", "Expand", "Zeros", "Arithmetic", "Foreign", "Number")
        batch = b.with_axes("Unsqueeze", 13, b.op("Gather", shape, b.const(0, np.int64), axis=0), [0])
        if kind == "View":
            flat = b.op("Reshape", t.name, b.op("Concat", batch, b.ints(*self.pair((-1, h * w), (0, -1))), axis=0))
            name = b.op("Reshape", flat, b.op("Identity", shape))
        elif kind == "Heads":
            depth = b.slice(shape, [1], [2], [0])
            flat = b.op("Reshape", t.name, b.op("Concat", batch, depth, b.ints(-1), axis=0))
            name = b.reshape(flat, n, c, h, w)
        elif kind == "Resize" and b.opset >= 11 and h <= 6:
            empty = b.const(np.zeros(0))
            sizes = b.op("Concat", b.slice(shape, [0], [2], [0]), b.ints(2 * h, 2 * w), axis=0)
            name = b.op("Resize", t.name, empty, empty, sizes, mode="nearest")
            h, w = 2 * h, 2 * w
        elif kind == "Expand":
            name = b.op("Expand", b.op("GlobalAveragePool", t.name), shape)
        elif kind == "Foreign":
            name = b.op("Reshape", self.like(t.shape).name, shape)
        elif kind == "Number":
            name = b.op("Reshape", t.name, b.op("Concat", batch, b.ints(c, h, w), axis=0))
        elif kind == "Arithmetic":
            half = b.op("Div", b.op("Mul", b.slice(shape, [1], [2], [0]), b.ints(h)), b.ints(h))
            name = b.op("Reshape", t.name, b.op("Concat", batch, half, b.ints(h, w), axis=0))
        else:
            name = b.op("Add", t.name, b.op("ConstantOfShape", shape))
        self.keep(name, (n, c, h, w))

    def pair(self, *choices: tuple[int, int]) -> tuple[int, int]:
        return choices[int(self.rng.integers(len(choices)))]

    def expand(self, t: Tensor) -> None:
        n, c, h, w = t.shape
        pooled = self.b.op("GlobalMaxPool", t.name)
        self.keep(self.b.op("Expand", pooled, self.b.ints(n, int(self.rng.choice([1, c])), h, w)), t.shape)

    def stranger(self, t: Tensor) -> None:
        """Ops that mix channels, or that no transfer function knows."""
        b, (n, c, h, w) = self.b, t.shape
        kind = self.one_of("Softmax", "LRN", "ReduceMax", "Einsum", "Shape", "Norm")
        if kind == "Softmax":
            name = b.op("Softmax", t.name, axis=1)
        elif kind == "LRN":
            name = b.op("LRN", t.name, size=3)
        elif kind == "ReduceMax":
            name = b.op("Sub", t.name, b.with_axes("ReduceMax", 18, t.name, [1], keepdims=1))
        elif kind == "Einsum" and b.opset >= 12:
            name = b.op("Einsum", t.name, equation="nchw->ncwh")
        elif kind == "Shape":
            name = b.op("Div", t.name, b.op("Cast", b.op("Size", t.name), to=TensorProto.FLOAT))
        else:
            name = b.op("LpNormalization", b.op("Add", t.name, b.const(1.0)), axis=1)
        self.keep(name, (n, c, w, h) if kind == "Einsum" else t.shape)


STEPS: tuple[Callable[[Garden, Tensor], None], ...] = (
    Garden.conv,
    Garden.conv,
    Garden.strided,
    Garden.depthwise,
    Garden.grouped,
    Garden.conv_transpose,
    Garden.per_channel,
    Garden.per_channel,
    Garden.activation,
    Garden.activation,
    Garden.join,
    Garden.join,
    Garden.ratio,
    Garden.gate,
    Garden.concat,
    Garden.concat,
    Garden.split,
    Garden.cut,
    Garden.gather,
    Garden.pad,
    Garden.shuffle,
    Garden.depth_to_space,
    Garden.pool,
    Garden.upsample,
    Garden.channel_last,
    Garden.channel_last,
    Garden.squeeze,
    Garden.attention,
    Garden.shared,
    Garden.quantised_weight,
    Garden.expand,
    Garden.stranger,
    Garden.quantised,
    Garden.group_norm,
    Garden.mean_over,
    Garden.left_matmul,
    Garden.constants,
    Garden.one_channel,
    Garden.computed_shape,
)


def random_model(opset: int, seed: int, steps: list[int]) -> onnx.ModelProto:
    """A model grown by ``steps`` (indices into `STEPS`, each applied to a random earlier tensor)."""
    garden = Garden(opset, seed)
    for step in steps:
        tensor = garden.pick()
        if tensor.shape[1] <= 48 and max(tensor.shape[2:]) <= 12:
            STEPS[step](garden, tensor)
    return garden.model()
