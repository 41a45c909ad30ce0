"""The TFLite model while it is being written: tensors in their layouts, ops, and how an op says no.

ONNX keeps channels first and TFLite last, so each activation is stored in a *layout*: the permutation that turns the
ONNX axes into the stored ones. A Transpose is then no op at all, it only renames axes; where an op needs its input in
another layout than the stored one, a RESHAPE (if only axes of length 1 move) or a TRANSPOSE is put in between.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from graphopt.ir.graph import Graph
from graphopt.ir.op import Array, Op
from graphopt.measure.tflite_file import Quantisation, TfModel, TfOp, TfTensor
from graphopt.measure.tflite_scales import bounds

Layout = tuple[int, ...]

WeightSource = Literal["model", "synthetic"]

CHANNELS_LAST: Final[Layout] = (0, 2, 3, 1)

_ACTIVATIONS: Final = {(0.0, math.inf): 1, (-1.0, 1.0): 2, (0.0, 6.0): 3}
"""Bounds of a clipped activation -> the schema's ActivationFunctionType."""


class Unwritable(Exception):
    """An op that cannot be written: the sentence says why."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where an activation is: a tensor number, and the layout it is stored in."""

    number: int
    layout: Layout


class Writer:
    """Collects tensors and ops. One op is written at a time; what is written meanwhile covers its outputs."""

    def __init__(self, graph: Graph, scales: dict[str, Quantisation], weights: WeightSource) -> None:
        self.graph = graph
        self.scales = scales
        self.weights = weights
        self.done: set[str] = set()
        self._tensors: list[TfTensor] = []
        self._ops: list[TfOp] = []
        self._covers: list[list[str]] = []
        self._stored: dict[str, Stored] = {}
        self._views: dict[tuple[str, Layout], int] = {}
        self._covered: list[str] = []

    # -- looking --------------------------------------------------------------------------------------------------

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Static ONNX shape of a tensor."""
        shape = self.graph.static_shape(tensor)
        if shape is None:
            raise Unwritable(f"tensor {tensor!r} has no static shape; fix the inputs' shapes (--input-shape)")
        return shape

    def values(self, tensor: str, what: str) -> Array:
        """Values of a constant, as they are in the model."""
        weight = self.graph.weight(tensor)
        if weight is None:
            raise Unwritable(f"its {what} is computed while the model runs; TFLite needs a constant")
        return weight.array()

    def kernel(self, op: Op) -> Array:
        """Float weights of a convolution or matrix product, as the options want them."""
        weights = self.values(op.inputs[1], "weight")
        if self.weights == "model":
            return weights
        return np.random.default_rng(weights.size).standard_t(20, weights.shape).astype(np.float32)

    def is_stored(self, tensor: str) -> bool:
        """Whether an op has made ``tensor``."""
        return tensor in self._stored

    def layout(self, tensor: str) -> Layout:
        """Layout in which an activation is stored."""
        return self._stored[tensor].layout

    def fused_activation(self, op: Op) -> tuple[str, int]:
        """The tensor behind ``op`` and the number of the activation that the op itself carries out.

        Bounds that are no activation of the schema need none where the stored range ends at them.
        """
        tensor = op.outputs[0]
        use = self.graph.only_use(tensor)
        if use is None or use.op.domain or use.slot != 0 or use.op.op_type not in ("Relu", "Clip"):
            return tensor, 0
        bounds = self.bounds(use.op)
        if bounds not in _ACTIVATIONS and not self.saturates(use.op):
            return tensor, 0
        self.take(use.op)
        return use.op.outputs[0], _ACTIVATIONS.get(bounds, 0)

    def saturates(self, op: Op) -> bool:
        """Whether the stored range of a Clip's output lies within its bounds, so that storing it clips."""
        low, high = self.bounds(op)
        scale = self.scales[op.outputs[0]]
        lowest, highest = ((end - scale.zero_point[0]) * scale.scale[0] for end in (-128, 127))
        slack = scale.scale[0]
        return low - slack <= lowest and highest <= high + slack

    def bounds(self, op: Op) -> tuple[float, float]:
        """Lowest and highest value of a Relu or Clip."""
        found = bounds(self.graph, op)
        if found is None:
            raise Unwritable("its bounds are computed while the model runs; TFLite needs constants")
        return found

    def axes(self, op: Op, slot: int) -> tuple[int, ...]:
        """Axes of an op: an attribute in old opsets, an input in new ones."""
        if op.input(slot):
            return tuple(int(axis) for axis in self.values(op.inputs[slot], "axes").reshape(-1))
        return tuple(op.attribute("axes", ()))

    # -- writing --------------------------------------------------------------------------------------------------

    def begin(self, op: Op) -> None:
        """What is written from now on stands for ``op``."""
        self._covered = []
        self.take(op)

    def take(self, op: Op) -> None:
        """``op`` is written together with the one that began."""
        self.done.add(op.key)
        self._covered += [tensor for tensor in op.outputs if tensor]

    def input(self, tensor: str, layout: Layout) -> int:
        """Make a model input."""
        number = self.tensor(tensor, self._permuted(self.shape(tensor), layout), self.scales.get(tensor))
        self._stored[tensor] = Stored(number, layout)
        return number

    def read(self, tensor: str, layout: Layout | None = None) -> int:
        """Return the number of an activation (or constant) in ``layout``, by default the one it is stored in."""
        weight = self.graph.weight(tensor)
        if weight is not None:
            return self.constant_like(tensor, weight.array(), layout)
        stored = self._stored.get(tensor)
        if stored is None:
            raise Unwritable(f"it reads {tensor!r}, which no op before it makes")
        if layout is None or layout == stored.layout:
            return stored.number
        if (tensor, layout) not in self._views:
            self._views[tensor, layout] = self._relaid(tensor, stored, layout)
        return self._views[tensor, layout]

    def _relaid(self, tensor: str, stored: Stored, layout: Layout) -> int:
        shape = self.shape(tensor)
        moving = [axis for axis in layout if shape[axis] > 1]
        target = self.tensor(tensor, self._permuted(shape, layout), self.scales[tensor])
        if moving == [axis for axis in stored.layout if shape[axis] > 1]:
            self.reshape(stored.number, target)
        else:
            order = [stored.layout.index(axis) for axis in layout]
            self.raw("TRANSPOSE", (stored.number, self.integers(order)), target, "TransposeOptions")
        return target

    def reshape(self, source: int, target: int) -> None:
        """Write a RESHAPE between two tensors."""
        shape = self.integers(self._tensors[target].shape)
        self.raw("RESHAPE", (source, shape), target, "ReshapeOptions")

    def emit(
        self,
        kind: str,
        inputs: Sequence[int],
        output: str,
        layout: Layout,
        table: str = "",
        *,
        quantisation: Quantisation | None = None,
        **options: Any,
    ) -> None:
        """Write one op that makes the ONNX tensor ``output`` in ``layout``.

        Where the operator demands a ``quantisation`` that is not the tensor's, a QUANTIZE follows.
        """
        shape = self._permuted(self.shape(output), layout)
        own = self.scales[output]
        number = self.tensor(output, shape, quantisation or own)
        self.raw(kind, inputs, number, table, **options)
        if quantisation is not None and quantisation != own:
            rescaled = self.tensor(output, shape, own)
            self.raw("QUANTIZE", (number,), rescaled, "QuantizeOptions")
            number = rescaled
        self._stored[output] = Stored(number, layout)

    def alias(self, tensor: str, source: str, layout: Layout) -> None:
        """``tensor`` is what ``source`` is stored as, with its axes named by ``layout``."""
        self._stored[tensor] = Stored(self.read(source), layout)

    def raw(self, kind: str, inputs: Sequence[int], output: int, table: str = "", **options: Any) -> None:
        """Write one op between tensor numbers."""
        self._ops.append(TfOp(kind, tuple(inputs), (output,), table, options))
        self._covers.append(self._covered)

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        quantisation: Quantisation | None,
        values: Array | None = None,
    ) -> int:
        """Add a tensor and return its number; of constants the type says how they are stored."""
        dtype = "int8" if values is None else str(values.dtype)
        number = len(self._tensors)
        self._tensors.append(TfTensor(_plain(name, number), tuple(shape), dtype, quantisation, values))
        return number

    def integers(self, values: Sequence[int] | Array) -> int:
        """Add an int32 constant: axes, paddings, shapes."""
        array = np.asarray(values, np.int32)
        return self.tensor("integers", array.shape, None, array)

    def constant_like(self, tensor: str, values: Array, layout: Layout | None) -> int:
        """Add a float constant that an elementwise op reads, in int8 with the tensor's own largest value as scale."""
        if values.dtype.kind != "f":
            raise Unwritable(f"the constant {tensor!r} is of type {values.dtype}; only floats are written")
        if layout is not None:
            values = values.reshape((1,) * (len(layout) - values.ndim) + values.shape).transpose(layout)
        scale = float(np.abs(values).max(initial=0.0)) / 127 or 1.0
        stored = np.clip(np.round(values / scale), -127, 127).astype(np.int8)
        return self.tensor(tensor, stored.shape, Quantisation((scale,), (0,)), np.ascontiguousarray(stored))

    def finish(self, inputs: Sequence[int]) -> tuple[TfModel, tuple[Layout, ...]]:
        """Return the model and the layouts of its outputs."""
        outputs = [self._stored[tensor] for tensor in self.graph.outputs]
        numbers = tuple(stored.number for stored in outputs)
        ops = (replace(op, covers=tuple(covers)) for op, covers in zip(self._ops, self._covers, strict=True))
        model = TfModel(tuple(self._tensors), tuple(ops), tuple(inputs), numbers)
        return model, tuple(stored.layout for stored in outputs)

    def _permuted(self, shape: Sequence[int], layout: Layout) -> tuple[int, ...]:
        return tuple(shape[axis] for axis in layout)


OpWriter = Callable[[Writer, Op], None]
"""Writes one op, or raises `Unwritable`."""


def natural(rank: int) -> Layout:
    """The layout in which the axes stand as in ONNX."""
    return tuple(range(rank))


def _plain(name: str, number: int) -> str:
    """A tensor name that is safe in every listing, and unique."""
    return f"{re.sub(r'[^A-Za-z0-9_./:-]', '_', name)[:80]}#{number}"
