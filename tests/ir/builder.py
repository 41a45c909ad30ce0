"""Write ONNX models op by op, with seeded random weights, in the spelling of any opset from 9 to 18."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Builder:
    """A model under construction. Methods append ops and return the name of their (first) output."""

    def __init__(self, opset: int = 17, seed: int = 0) -> None:
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[str] = []
        self.shapes: dict[str, tuple[int, ...]] = {}  # what shape inference might not find
        self._count = 0

    # -- plumbing -------------------------------------------------------------------------------------------------

    def fresh(self, kind: str) -> str:
        self._count += 1
        return f"{kind.lower()}_{self._count}"

    def input(self, name: str, *shape: int) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def const(self, values: Any, dtype: Any = np.float32, node: bool = False) -> str:
        """A constant: an initializer, or a Constant op."""
        name = self.fresh("const")
        tensor = numpy_helper.from_array(np.asarray(values, dtype=dtype), name)
        if node:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.weights.append(tensor)
        return name

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def random(self, *shape: int, low: float = -1.0, high: float = 1.0) -> str:
        return self.const(self.rng.uniform(low, high, shape))

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        return self.ops(kind, *inputs, outputs=outputs, **attributes)[0]

    def ops(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        names = [self.fresh(kind) for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"n_{names[0]}", **attributes))
        return names

    def model(self) -> onnx.ModelProto:
        outputs = [helper.make_empty_tensor_value_info(name) for name in self.outputs]
        known = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in self.shapes.items()]
        graph = helper.make_graph(self.nodes, "g", self.inputs, outputs, self.weights, value_info=known)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        onnx.checker.check_model(inferred, full_check=True)
        return inferred

    def save(self, path: Path) -> Path:
        onnx.save(self.model(), path)
        return path

    # -- ops that make channels -----------------------------------------------------------------------------------

    def conv(
        self,
        x: str,
        cin: int,
        cout: int,
        kernel: int | tuple[int, int] = 1,
        stride: int | tuple[int, int] = 1,
        group: int = 1,
        bias: bool = True,
        weight: str = "",
    ) -> str:
        """Convolution with padding that keeps odd kernels' size."""
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        strides = (stride, stride) if isinstance(stride, int) else stride
        if not weight:
            scale = (6.0 / (cin // group * kh * kw)) ** 0.5
            weight = self.random(cout, cin // group, kh, kw, low=-scale, high=scale)
        inputs = [x, weight, *([self.random(cout)] if bias else [])]
        pads = [kh // 2, kw // 2, kh // 2, kw // 2]
        return self.op("Conv", *inputs, kernel_shape=[kh, kw], strides=list(strides), pads=pads, group=group)

    def batch_norm(self, x: str, channels: int) -> str:
        scale, bias, mean = self.random(channels, low=0.5, high=1.5), self.random(channels), self.random(channels)
        return self.op("BatchNormalization", x, scale, bias, mean, self.random(channels, low=0.5, high=1.5))

    # -- ops whose spelling depends on the opset ------------------------------------------------------------------

    def clip(self, x: str, low: float, high: float) -> str:
        if self.opset < 11:
            return self.op("Clip", x, min=low, max=high)
        return self.op("Clip", x, self.const(low), self.const(high))

    def with_axes(self, kind: str, since: int, x: str, axes: Sequence[int], **attributes: Any) -> str:
        """Squeeze, Unsqueeze, ReduceMean ...: axes are an input from opset ``since`` on."""
        if self.opset < since:
            return self.op(kind, x, axes=list(axes), **attributes)
        return self.op(kind, x, self.ints(*axes), **attributes)

    def split(self, x: str, sizes: Sequence[int], axis: int = 1, explicit: bool = True) -> list[str]:
        if self.opset < 13:
            return self.ops("Split", x, outputs=len(sizes), axis=axis, **({"split": list(sizes)} if explicit else {}))
        if explicit:
            return self.ops("Split", x, self.ints(*sizes), outputs=len(sizes), axis=axis)
        extra = {"num_outputs": len(sizes)} if self.opset >= 18 else {}
        return self.ops("Split", x, outputs=len(sizes), axis=axis, **extra)

    def slice(self, x: str, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int]) -> str:
        if self.opset < 10:
            return self.op("Slice", x, starts=list(starts), ends=list(ends), axes=list(axes))
        return self.op("Slice", x, self.ints(*starts), self.ints(*ends), self.ints(*axes))

    def pad(self, x: str, pads: Sequence[int]) -> str:
        if self.opset < 11:
            return self.op("Pad", x, pads=list(pads))
        return self.op("Pad", x, self.ints(*pads))

    def upsample(self, x: str, sizes: Sequence[int] = ()) -> str:
        """Twice the height and width, by scales, or by ``sizes``."""
        if self.opset < 10:
            return self.op("Upsample", x, self.const([1, 1, 2, 2]), mode="nearest")
        if self.opset < 11:
            return self.op("Resize", x, self.const([1, 1, 2, 2]), mode="nearest")
        roi = self.const(np.zeros(0)) if self.opset < 13 else ""
        if not sizes:
            return self.op("Resize", x, roi, self.const([1, 1, 2, 2]), mode="nearest")
        scales = self.const(np.zeros(0)) if self.opset < 13 else ""
        return self.op("Resize", x, roi, scales, self.ints(*sizes), mode="nearest")

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.ints(*shape))

    # -- activations ----------------------------------------------------------------------------------------------

    def hard_swish(self, x: str) -> str:
        """Spelled out, as exporters before opset 14 do."""
        gate = self.clip(self.op("Add", x, self.const(3.0)), 0.0, 6.0)
        return self.op("Div", self.op("Mul", x, gate), self.const(6.0))

    def silu(self, x: str) -> str:
        return self.op("Mul", x, self.op("Sigmoid", x))
