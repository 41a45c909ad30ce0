"""What is known while the shapes of a model are re-derived: new shapes, values of small tensors, constants that follow.

A *value* here is what a shape computation (Shape, Gather, Concat ...) comes to at the new size. A shape that the model
computes from its input follows by itself; only what is constant has to be changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

import numpy as np

from graphopt.errors import ModelError
from graphopt.ir.graph import Graph
from graphopt.ir.op import Array, Op, Shape, Weight

VALUE_LIMIT = 1024
"""Larger tensors are no shape computation."""

FOLD_LIMIT = 1 << 22
"""Constants that ops make of constants are looked into up to so many values."""


class SizeMisfit(ModelError):
    """The model cannot have the size that was asked for; the message says which op forbids it, and why."""


def refuse(op: Op, reason: str) -> NoReturn:
    """Raise :class:`SizeMisfit`: ``op`` cannot follow."""
    raise SizeMisfit(f"{op}: {reason}")


@dataclass(slots=True)
class Sizes:
    """The re-derivation under way.

    Attributes:
        graph: the model at its own size.
        shapes: new shapes of the tensors that change, by name.
        values: values of small tensors that a shape computation makes, by name.
        ops: ops that change, by key.
        weights: new constants, by name.
        opsets: the model's, by domain.
        computed: tensors that ops make of constants alone.
        seen: for the height and width of every map (the last two of four axes), what they become.
    """

    graph: Graph
    opsets: Mapping[str, int]
    computed: Collection[str]
    shapes: dict[str, Shape] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)
    ops: dict[str, Op] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    seen: dict[tuple[int, int], set[tuple[int, int]]] = field(default_factory=dict)

    def old(self, tensor: str) -> tuple[int, ...]:
        """The shape at the model's own size. Raises :class:`SizeMisfit` where it is not static."""
        shape = self.graph.static_shape(tensor)
        if shape is None:
            raise SizeMisfit(f"tensor {tensor!r}: its shape is not known before the model runs")
        return shape

    def new(self, tensor: str) -> Shape:
        """The shape at the new size, as far as it is known."""
        if tensor in self.weights:
            return self.weights[tensor].shape
        found = self.shapes.get(tensor)
        return found if found is not None else self.graph.shape(tensor) or ()

    def static(self, tensor: str) -> tuple[int, ...]:
        """The shape at the new size. Raises :class:`SizeMisfit` where it is not static."""
        shape = tuple(dim for dim in self.new(tensor) if isinstance(dim, int))
        if len(shape) != len(self.new(tensor)):
            raise SizeMisfit(f"tensor {tensor!r}: its shape is not known before the model runs")
        return shape

    def op(self, op: Op) -> Op:
        """The op as it is by now."""
        return self.ops.get(op.key, op)

    def constant(self, tensor: str) -> Weight | None:
        """The constant behind ``tensor``, the new one where it has followed."""
        return self.weights.get(tensor) or self.graph.weight(tensor)

    def value(self, tensor: str) -> Array | None:
        """The value of a small tensor that is constant or computed from shapes, else ``None``."""
        if tensor in self.values:
            return self.values[tensor]
        weight = self.constant(tensor)
        return weight.array() if weight is not None and weight.size <= VALUE_LIMIT else None

    def ints(self, tensor: str) -> list[int] | None:
        """The same as whole numbers."""
        value = self.value(tensor) if tensor else None
        return None if value is None or value.dtype.kind not in "iu" else [int(v) for v in value.reshape(-1)]

    def note_map(self, tensor: str) -> None:
        """Remember what the height and width of a map became, or that they stayed."""
        old = self.graph.static_shape(tensor)
        if old is not None and len(old) == 4:
            height, width = self.new(tensor)[2:]
            if isinstance(height, int) and isinstance(width, int):
                self.seen.setdefault((old[2], old[3]), set()).add((height, width))

    def put_weight(self, op: Op, slot: int, values: Array) -> Op:
        """Return ``op`` with the constant at ``slot`` replaced."""
        old = op.inputs[slot]
        name, number = f"{old}.resized", 2
        while name in self.weights or name in self.graph.nx or name in self.graph.tensors:
            taken = self.weights.get(name)
            if taken is not None and taken.shape == values.shape and np.array_equal(taken.array(), values):
                break
            name, number = f"{old}.resized{number}", number + 1
        self.weights.setdefault(name, Weight(name, values.shape, values.dtype, lambda: values))
        return replace(op, inputs=(*op.inputs[:slot], name, *op.inputs[slot + 1 :]))

    def put_ints(self, op: Op, slot: int, wanted: Sequence[int]) -> Op:
        """Return ``op`` with whole numbers at input ``slot`` replaced: a constant, or the constants among the parts
        that a Concat puts together. Raises :class:`SizeMisfit` where they are computed otherwise."""
        tensor = op.inputs[slot]
        if self.ints(tensor) == list(wanted):
            return op
        weight = self.constant(tensor)
        if weight is not None:
            return self.put_weight(op, slot, np.asarray(wanted, weight.dtype).reshape(weight.shape))
        maker = self.graph.producer(tensor)
        if maker is None or maker.op_type != "Concat" or self.graph.only_use(tensor) is None:
            refuse(op, "the sizes it is told are computed in a way that does not follow the input")
        joined, start = self.op(maker), 0
        for place, part in enumerate(joined.inputs):
            have = self.ints(part) or []
            want = list(wanted[start : start + len(have)])
            start += len(have)
            if have == want:
                continue
            held = self.constant(part)
            if held is None:
                refuse(op, "the sizes it is told are computed in a way that does not follow the input")
            joined = self.put_weight(joined, place, np.asarray(want, held.dtype).reshape(held.shape))
        self.ops[joined.key] = joined
        self.values[tensor] = np.asarray(wanted, np.int64)
        return op


def refuse_misfit(sizes: Sizes, op: Op) -> NoReturn:
    """Raise :class:`SizeMisfit`: the shapes that ``op`` reads part at the new size."""
    shapes = (sizes.new(tensor) for tensor in op.inputs if tensor)
    shown = " and ".join("x".join("?" if dim is None else str(dim) for dim in shape) or "a number" for shape in shapes)
    refuse(op, f"what it reads no longer fits together: {shown}")
