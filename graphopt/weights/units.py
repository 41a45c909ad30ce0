"""Which ops of a rewritten model are to be repaired, and towards what.

A unit is a linear op that a change has touched, or that reads what a touched op made. Its target is what the original
computed under the same tensor name; where the op's output goes into a residual Add and nowhere else, the target is the
original's sum, and what the rewritten model adds to it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.ir.graph import Graph
from graphopt.ir.op import Op
from graphopt.rewrites.activations import Activation, match_activation
from graphopt.rewrites.convs import is_standard
from graphopt.weights.linear import Linear, read_linear

Kept = Mapping[str, npt.NDArray[np.intp]]


@dataclass(frozen=True, slots=True)
class Unit:
    """One op to repair.

    Attributes:
        linear: the op, as the rewritten model has it.
        source: the tensor that it reads.
        target: the tensor whose original values are wanted: the op's output, or the sum it goes into.
        skip: the other operand of that sum, ``""`` without one.
        activation: what stands behind the target, where that is known.
        kept: original position of each channel of the target, ``None`` where they are the same.
    """

    linear: Linear
    source: str
    target: str
    skip: str
    activation: Activation | None
    kept: npt.NDArray[np.intp] | None

    @property
    def op(self) -> Op:
        """The op."""
        return self.linear.op


def is_changed(original: Graph, rewritten: Graph, op: Op) -> bool:
    """Whether the original has no op that computes the same from the same inputs."""
    if op.key not in original:
        return True
    old = original.op(op.key)
    if (old.op_type, old.domain, old.outputs, len(old.inputs)) != (op.op_type, op.domain, op.outputs, len(op.inputs)):
        return True
    if dict(old.attributes) != dict(op.attributes):
        return True
    for before, after in zip(old.inputs, op.inputs, strict=True):
        if before != after or original.weights.get(before) is not rewritten.weights.get(after):
            return True
    return False


def find_unit(original: Graph, rewritten: Graph, op: Op, kept: Kept) -> Unit | str | None:
    """Return the unit at ``op``, ``None`` when it is no linear op, or why it cannot be repaired."""
    linear = read_linear(rewritten, op)
    if linear is None or isinstance(linear, str):
        return linear
    output = op.outputs[0]
    if original.producer(output) is None:
        return "the original has no tensor of its name"
    target, skip = _sum(original, rewritten, op)
    if not is_comparable(original, rewritten, target, kept):
        return "its output has another shape than the original's"
    activation = match_activation(rewritten, target)
    return Unit(linear, op.inputs[0], target, skip, activation, kept.get(target))


def _sum(original: Graph, rewritten: Graph, op: Op) -> tuple[str, str]:
    """The residual sum that the op's output goes into, and the other operand; else the output itself and ``""``."""
    output = op.outputs[0]
    use = rewritten.only_use(output)
    if use is None or not is_standard(use.op, "Add"):
        return output, ""
    total, skip = use.op.outputs[0], use.op.inputs[1 - use.slot]
    same = rewritten.static_shape(output) == rewritten.static_shape(skip) == rewritten.static_shape(total)
    maker = rewritten.producer(skip)
    ready = maker is None or _last_linear(rewritten, skip) < rewritten.position(op.key)
    if not same or not ready or skip in rewritten.weights or original.producer(total) is None:
        return output, ""
    return total, skip


def _last_linear(graph: Graph, tensor: str) -> int:
    """Place of the last op that ``tensor`` is made through."""
    maker = graph.producer(tensor)
    return -1 if maker is None else graph.position(maker.key)


def is_comparable(original: Graph, rewritten: Graph, target: str, kept: Kept) -> bool:
    """Whether both models have the tensor ``target``, of the same shape but for channels that were cut or padded."""
    before, after = original.static_shape(target), rewritten.static_shape(target)
    if before is None or after is None or len(before) != len(after):
        return False
    positions = kept.get(target)
    width = before[1:2] if positions is None else (len(positions),)
    return before[:1] + width + before[2:] == after
