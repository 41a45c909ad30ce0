"""The order of ops that needs the smallest arena on a target.

Kernels run as one, so they are what is put in order (`ir.order`); the ops of each stay together. The search minimises
the live set, a lower bound of the arena; an order is taken only where its arena is smaller, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.cost.kernels import Kernel, decompose
from graphopt.cost.memory import activation_sizes, aligned_bytes, peak_activation_bytes
from graphopt.ir.graph import Graph
from graphopt.ir.liveness import storages
from graphopt.ir.order import MAX_STATES, best_order
from graphopt.targets.target import Target


@dataclass(frozen=True, slots=True)
class Schedule:
    """A graph in the order that needs the least memory, as far as that is known.

    Attributes:
        graph: the same ops, in order.
        before: arena of the order that was given, bytes.
        after: arena of this order, bytes; never above ``before``.
        bound: no order has a smaller arena, bytes.
    """

    graph: Graph
    before: int
    after: int
    bound: int

    @property
    def has_moved(self) -> bool:
        """Whether the order is another one than was given."""
        return self.after < self.before

    @property
    def is_best(self) -> bool:
        """Whether no order has a smaller arena."""
        return self.after == self.bound


def schedule(graph: Graph, target: Target, *, max_states: int = MAX_STATES) -> Schedule:
    """Put the ops of a graph in the order that needs the smallest arena on ``target``.

    Args:
        graph: the model.
        target: how ops become kernels, and the size of an element.
        max_states: see :func:`graphopt.ir.order.best_order`.

    Raises:
        ModelError: when an activation has no static shape.
    """
    kernels = decompose(graph, target)
    before = peak_activation_bytes(graph, kernels, target)
    tensors = storages(graph, [kernel.ops for kernel in kernels])
    sizes = [aligned_bytes(size) for size in activation_sizes(graph, [one.tensor for one in tensors], target)]
    order = best_order(len(kernels), tensors, sizes, max_states=max_states)
    if order.steps == tuple(range(len(kernels))):
        return Schedule(graph, before, before, before if order.is_only else order.bound)
    ordered = graph.reordered(op_order(graph, [kernels[step] for step in order.steps]))
    after = peak_activation_bytes(ordered, decompose(ordered, target), target)
    if after < before:
        return Schedule(ordered, before, after, order.bound)
    return Schedule(graph, before, before, order.bound)


def op_order(graph: Graph, kernels: Sequence[Kernel]) -> tuple[str, ...]:
    """The keys of all ops when ``kernels`` run in this order; an op in no kernel stands before the first that reads it,
    at the end where none does."""
    inside = {key for kernel in kernels for key in kernel.ops}
    placed: dict[str, None] = {}
    rest = [op.key for op in graph.ops() if op.key not in inside]
    for key in (*(key for kernel in kernels for key in kernel.ops), *rest):
        waiting = [key]
        while waiting:
            now = graph.op(waiting[-1])
            makers = {m.key for t in (*now.inputs, *now.captures) if t and (m := graph.producer(t)) is not None}
            missing = sorted(makers - placed.keys() - {now.key} - inside, key=graph.position, reverse=True)
            if missing:
                waiting += missing
            else:
                placed[waiting.pop()] = None
    return tuple(placed)
