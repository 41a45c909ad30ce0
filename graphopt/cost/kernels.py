"""Decompose a model into kernels: the ops that a target runs as one, and the unit that is priced.

A kernel grows from an *anchor*. A convolution or matrix product takes what folds into its weights
(BatchNormalization, arithmetic with constants), the activation (also spelled out over several ops), the Add of a
residual block and the activation after that, as far as the target's fusion table goes and as long as nobody else reads
what lies between. Every other op that does work is an anchor, too, and takes the activation behind it where the target
can do that.

Views and ops on constants alone are free: they belong to no kernel, except for views in the middle of one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from graphopt.cost.categories import WEIGHT_SLOT, Category, category
from graphopt.ir.graph import Graph
from graphopt.ir.liveness import constant_tensors, is_view
from graphopt.ir.op import Op
from graphopt.targets.target import ARITHMETIC, Target

MAX_REGION_OPS = 10
"""Ops of one spelled-out activation at most."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """Ops that the target runs as one.

    Attributes:
        key: output tensor of the anchor op.
        anchor: key of the anchor op.
        category: what kind of work it is.
        ops: keys of its ops, in file order.
        reads: activations that come from outside.
        writes: activations that outside ops (or the caller) read; the last is what the last op makes.
        weights: constants that it reads, shape constants included.
        owns_weights: whether no earlier kernel reads its largest constant; parameters are counted where they are owned.
    """

    key: str
    anchor: str
    category: Category
    ops: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    weights: tuple[str, ...]
    owns_weights: bool = True


def decompose(graph: Graph, target: Target) -> tuple[Kernel, ...]:
    """Return the kernels of ``graph`` on ``target`` in an order in which they can run.

    Every op is in exactly one kernel, or is free (a view outside of all kernels, or an op on constants alone).
    """
    kernels = _Decomposer(graph, target).kernels()
    seen: set[str] = set()
    out = []
    for kernel in kernels:
        largest = max(kernel.weights, key=lambda name: _size(graph, name), default=None)
        out.append(replace(kernel, owns_weights=largest not in seen))
        seen.update(kernel.weights)
    return tuple(out)


def _size(graph: Graph, tensor: str) -> int:
    weight = graph.weight(tensor)
    if weight is not None:
        return weight.size
    size = 1
    for dim in graph.static_shape(tensor) or ():
        size *= dim
    return size


class _Decomposer:
    def __init__(self, graph: Graph, target: Target) -> None:
        self.graph = graph
        self.fusion = target.fusion
        self.constants = constant_tensors(graph)
        self.claimed: set[str] = set()

    def kernels(self) -> list[Kernel]:
        """Grow kernels: convolutions and matrix products first, the last first (it is the one that takes a residual
        Add, since it runs when the other operand is there), then everything else from front to back."""
        working = [op for op in self.graph.ops() if not self._is_free(op)]
        heavy = [op for op in working if op.domain == "" and op.op_type in WEIGHT_SLOT]
        found = [self._kernel(op, self._grow_heavy(op)) for op in reversed(heavy)]
        for op in working:
            if op.key not in self.claimed and not is_view(op):
                found.append(self._kernel(op, self._grow_light(op)))
        # by the place of the last op: everything that a kernel reads is made before its last op
        return sorted(found, key=lambda kernel: self.graph.position(kernel.ops[-1]))

    def _is_free(self, op: Op) -> bool:
        outputs = [tensor for tensor in op.outputs if tensor]
        return bool(outputs) and all(tensor in self.constants for tensor in outputs)

    def _grow_heavy(self, anchor: Op) -> list[Op]:
        ops = [anchor]
        while self.fusion.affine and (more := self._affine(ops[-1].outputs[0])):
            ops += more
        self._grow_activations(ops)
        if self.fusion.residual_add and (add := self._residual_add(ops[-1].outputs[0])):
            ops.append(add)
            self._grow_activations(ops)
        return ops

    def _grow_light(self, anchor: Op) -> list[Op]:
        ops = [anchor]
        if self.fusion.gates and (gate := self._gate(anchor)):
            ops.append(gate)
        if self.fusion.elementwise_chains and len(anchor.outputs) == 1 and not anchor.captures:
            self._grow_activations(ops)
        return ops

    def _gate(self, anchor: Op) -> Op | None:
        """The Mul behind a Sigmoid that makes it x * sigmoid(x)."""
        use = self.graph.only_use(anchor.outputs[0]) if anchor.op_type == "Sigmoid" else None
        if use is None or use.op.op_type != "Mul" or use.op.key in self.claimed:
            return None
        return use.op if set(use.op.inputs) == {anchor.inputs[0], anchor.outputs[0]} else None

    def _grow_activations(self, ops: list[Op]) -> None:
        while more := self._activation(ops[-1].outputs[0]):
            ops += more

    def _affine(self, tensor: str) -> list[Op] | None:
        """The next op that folds into the weights, with the views before it."""
        found: list[Op] = []
        while (use := self.graph.only_use(tensor)) is not None and use.op.key not in self.claimed:
            op = use.op
            found.append(op)
            if self._is_affine(op, tensor):
                return found
            if not is_view(op) or use.slot != 0:
                return None
            tensor = op.outputs[0]
        return None

    def _is_affine(self, op: Op, tensor: str) -> bool:
        if op.domain or not self._others_constant(op, {tensor}):
            return False
        if op.op_type == "BatchNormalization":
            return op.inputs[0] == tensor and not any(op.outputs[1:])
        return op.op_type in ARITHMETIC and self._keeps_shape(op, tensor)

    def _activation(self, tensor: str) -> list[Op] | None:
        """The fewest ops behind ``tensor`` that are one activation: only ``tensor`` enters, one tensor leaves."""
        if self.graph.is_output(tensor):
            return None
        inside = [tensor]
        region: list[Op] = []
        keys: set[str] = set()
        while len(region) < MAX_REGION_OPS:
            leaving = [t for t in inside if self._leaves(t, keys)]
            if region and len(leaving) == 1 and leaving[0] == region[-1].outputs[0] and not is_view(region[-1]):
                return region if self._is_fused(region) else None
            users = {u.op.key: u.op for t in inside for u in self.graph.uses(t) if u.op.key not in keys}
            ordered = sorted(users.values(), key=lambda op: self.graph.position(op.key))
            step = next((op for op in ordered if self._is_pointwise(op, inside)), None)
            if step is None:
                return None
            region.append(step)
            keys.add(step.key)
            inside.append(step.outputs[0])
        return None

    def _leaves(self, tensor: str, inner: set[str]) -> bool:
        """Whether anything outside the ops ``inner`` reads ``tensor`` (nothing at all counts as outside)."""
        uses = self.graph.uses(tensor)
        return self.graph.is_output(tensor) or not uses or any(use.op.key not in inner for use in uses)

    def _is_pointwise(self, op: Op, inside: list[str]) -> bool:
        if op.domain or op.captures or op.key in self.claimed or not self._others_constant(op, set(inside)):
            return False
        if is_view(op):
            return op.inputs[0] in inside
        operands = [tensor for tensor in op.inputs if tensor in inside]
        if not self._keeps_shape(op, operands[0]):
            return False
        return op.op_type in self.fusion.activations or op.op_type in self.fusion.spelled_out_activations

    def _is_fused(self, region: list[Op]) -> bool:
        """Whether the target fuses an activation of these ops: one that it lists, or several spelled-out ones."""
        types = [op.op_type for op in region if not is_view(op)]
        if len(types) == 1:  # arithmetic: the end of a spelled-out activation, such as a hard-swish's division by 6
            return types[0] in self.fusion.activations | ARITHMETIC
        return self.fusion.spelled_out_activations.issuperset(types)

    def _others_constant(self, op: Op, data: set[str]) -> bool:
        return all(not tensor or tensor in data or tensor in self.constants for tensor in op.inputs)

    def _keeps_shape(self, op: Op, tensor: str) -> bool:
        """Whether the op's output is as large as ``tensor`` (a constant may broadcast against it, not the reverse)."""
        shape = self.graph.shape(op.outputs[0])
        return shape is not None and shape == self.graph.shape(tensor)

    def _residual_add(self, tensor: str) -> Op | None:
        use = self.graph.only_use(tensor)
        if use is None or use.op.key in self.claimed or use.op.domain or use.op.op_type not in ("Add", "Sum"):
            return None
        others = [name for name in use.op.inputs if name != tensor]
        if len(use.op.inputs) != 2 or len(others) != 1 or others[0] in self.constants:
            return None
        shapes = {self.graph.shape(name) for name in (*use.op.inputs, use.op.outputs[0])}
        return use.op if len(shapes) == 1 and None not in shapes else None

    def _kernel(self, anchor: Op, ops: Iterable[Op]) -> Kernel:
        members = sorted(ops, key=lambda op: self.graph.position(op.key))
        keys = {op.key for op in members}
        self.claimed |= keys
        made = [tensor for op in members for tensor in op.outputs if tensor]
        read = dict.fromkeys(tensor for op in members for tensor in (*op.inputs, *op.captures) if tensor)
        return Kernel(
            key=anchor.key,
            anchor=anchor.key,
            category=category(self.graph, anchor),
            ops=tuple(op.key for op in members),
            reads=tuple(tensor for tensor in read if tensor not in made and tensor not in self.constants),
            writes=tuple(tensor for tensor in made if self._leaves(tensor, keys)),
            weights=tuple(tensor for tensor in read if tensor in self.constants),
        )
