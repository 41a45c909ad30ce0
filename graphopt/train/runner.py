"""Run a graph, or a slice of it, in PyTorch, so that its weights can follow a gradient.

Parameters are weights and biases of linear ops, scale and shift of batch normalisation, and constant operands of Mul
and Add with more than one element; all other constants stay. What several ops share is one parameter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from graphopt.errors import ModelError
from graphopt.ir.graph import Graph, Patch
from graphopt.ir.op import Array, Op, Weight
from graphopt.onnx_io.model_file import ModelFile
from graphopt.rewrites.convs import fresh_name
from graphopt.train.call import Call
from graphopt.train.ops_elementwise import ELEMENTWISE
from graphopt.train.ops_linear import LINEAR
from graphopt.train.ops_shape import SHAPE
from graphopt.weights.taps import ancestors, default_value

OPS = {**ELEMENTWISE, **LINEAR, **SHAPE}
"""Op functions by op type."""

_TRAINABLE = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2),
    "Mul": (0, 1),
    "Add": (0, 1),
}
"""Slots of weights that are trained, by op type."""

_STATISTICS = (3, 4)
"""Slots of BatchNormalization that training moves without a gradient."""


class Runner:
    """A graph, or a slice of it, as a differentiable function.

    Args:
        graph: the model.
        inputs: tensors that are given; the model's inputs unless said otherwise.
        outputs: tensors to compute; the model's outputs unless said otherwise.
        trainable: keys of the ops whose weights are parameters; all unless said otherwise.

    Attributes:
        inputs: as above.
        outputs: as above.
        ops: the ops between them, in order.
        training: whether batch normalisation uses the statistics of the batch and learns them (`train`, `eval`).

    Raises:
        ModelError: when an op has no function here, or ``outputs`` depend on more than ``inputs``.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        trainable: Collection[str] | None = None,
    ) -> None:
        self.inputs = tuple(graph.inputs if inputs is None else inputs)
        self.outputs = tuple(graph.outputs if outputs is None else outputs)
        self.training = False
        self._graph = graph
        self.opset = _opset(graph)
        self.ops = _slice(graph, self.inputs, self.outputs)
        self._constants = {name: _tensor(graph, name) for name in _constants(graph, self.ops, self.outputs)}
        self._parameters: dict[str, Tensor] = {}
        self._statistics: list[str] = []
        for op in self.ops:
            if trainable is None or op.key in trainable:
                self._claim(op)
        self._last = {name: op.key for op in self.ops for name in op.inputs}

    def _claim(self, op: Op) -> None:
        """Make parameters of the op's weights."""
        for slot in _TRAINABLE.get(op.op_type, ()):
            value = self._constants.get(op.input(slot))
            if value is None or not value.is_floating_point():
                continue
            if op.op_type not in ("Mul", "Add") or value.numel() > 1:
                self._parameters.setdefault(op.input(slot), value.requires_grad_())
        if op.op_type == "BatchNormalization":
            self._statistics += [op.input(slot) for slot in _STATISTICS if op.input(slot) in self._constants]

    def __call__(self, feed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs by name, for ``feed`` with (at least) the inputs that they need."""
        values: dict[str, Tensor] = {**self._constants, **{name: feed[name] for name in self.inputs if name in feed}}
        for op in self.ops:
            operands = tuple(values[name] if name else None for name in op.inputs)
            result: Any = OPS[op.op_type](Call(op, operands, self.opset, self.training))
            parts = result if isinstance(result, tuple) else (result,)
            values.update((name, part) for name, part in zip(op.outputs, parts, strict=False) if name)
            for name in op.inputs:  # what nothing reads any more need not stay in memory
                if self._last[name] == op.key and name not in self.outputs and name not in self._constants:
                    values.pop(name, None)
        return {name: values[name] for name in self.outputs}

    def parameters(self) -> list[Tensor]:
        """The trainable tensors, in the order of the ops; an optimiser may change them in place."""
        return list(self._parameters.values())

    def train(self) -> None:
        """Let batch normalisation use the statistics of the batch, and learn them."""
        self.training = True

    def eval(self) -> None:
        """Let batch normalisation use the statistics it has."""
        self.training = False

    def state(self) -> dict[str, Tensor]:
        """A copy of everything that training changes, for `restore`."""
        return {name: self._constants[name].detach().clone() for name in (*self._parameters, *self._statistics)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to what `state` returned."""
        with torch.no_grad():
            for name, value in state.items():
                self._constants[name].copy_(value)

    def trained(self) -> Graph:
        """The whole graph with this slice's present weights, under new names: ops outside may share the old ones."""
        weights = self._graph.weights
        found = {name: value.numpy() for name, value in self.state().items()}
        changed = {name: value for name, value in found.items() if not np.array_equal(value, weights[name].array())}
        names: dict[str, str] = {}
        patches = []
        for op in self.ops:
            made = []
            for slot, name in enumerate(op.inputs):
                if name in changed and name not in names:
                    names[name] = fresh_name(self._graph, f"{op.key}/graphopt.trained_{slot}")
                    made.append(_weight(names[name], changed[name]))
            if not names.keys().isdisjoint(op.inputs):
                inputs = tuple(names.get(name, name) for name in op.inputs)
                patches.append(Patch((op.key,), (replace(op, inputs=inputs, source=None),), tuple(made)))
        return self._graph.edited(patches)


def _slice(graph: Graph, inputs: Sequence[str], outputs: Sequence[str]) -> list[Op]:
    """The ops between ``inputs`` and ``outputs``, in order, constants' own ops left out."""
    keys = ancestors(graph, outputs, inputs)
    if keys is None:
        raise ModelError(f"gradients: {', '.join(outputs)} cannot be computed from {', '.join(inputs)} alone")
    ops = [op for op in map(graph.op, sorted(keys, key=graph.position)) if op.key not in graph.weights]
    for op in ops:
        if op.op_type not in OPS or op.domain not in ("", "ai.onnx"):
            raise ModelError(f"gradients: {op} has an op type that the [train] extra does not run")
    return ops


def _constants(graph: Graph, ops: Sequence[Op], outputs: Sequence[str]) -> list[str]:
    """Names of the constants that ``ops`` read, each once."""
    read = dict.fromkeys(name for name in (*(name for op in ops for name in op.inputs), *outputs) if name)
    return [name for name in read if name in graph.weights or default_value(graph, name) is not None]


def _tensor(graph: Graph, name: str) -> Tensor:
    default = None if name in graph.weights else default_value(graph, name)
    values = graph.weights[name].array() if default is None else onnx.numpy_helper.to_array(default)
    return torch.from_numpy(np.array(values, order="C"))


def _weight(name: str, values: Array) -> Weight:
    return Weight(name, values.shape, values.dtype, lambda: values)


def _opset(graph: Graph) -> int:
    """Version of the default domain."""
    model = graph.model
    assert isinstance(model, ModelFile)
    version: int = next(o.version for o in model.proto.opset_import if o.domain in ("", "ai.onnx"))
    return version
