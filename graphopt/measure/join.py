"""Bring what a device ran together with our kernels.

A device may fuse more or less than the target's fusion table says. Several rows inside one kernel are added up. A row
with ops of several kernels makes these a *group*, of which only the sum is known: it serves evaluation, not fitting. A
kernel of which no row tells took no time: the device did without it (a concatenation whose parts are written in place).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.cost.kernels import Kernel
from graphopt.cost.learned import Unit
from graphopt.ir.graph import Graph
from graphopt.measure.backend import Row, busy_in_turn


@dataclass(frozen=True, slots=True)
class Group:
    """Kernels whose latencies cannot be told apart.

    Attributes:
        kernels: their numbers in the decomposition, ascending; one number where the kernel was measured alone.
        latency_us: measured, all together.
        busy_us: (unit, microseconds) where the device tells (`graphopt.measure.backend.Row`).
    """

    kernels: tuple[int, ...]
    latency_us: float
    busy_us: tuple[tuple[Unit, float], ...] = ()

    @property
    def is_single(self) -> bool:
        """Whether this is one kernel's own latency."""
        return len(self.kernels) == 1


def join(graph: Graph, kernels: Sequence[Kernel], rows: Sequence[Row]) -> tuple[Group, ...]:
    """Give each row to the kernels that its tensors belong to.

    Args:
        graph: what was measured.
        kernels: its decomposition on the target.
        rows: what the device ran.

    Returns:
        Groups that hold each kernel once, in the order of their first kernels. A view that the device copies counts at
        the kernel that makes what it shows; what belongs to no kernel at all is left out.
    """
    owner = _owners(graph, kernels)
    parent = list(range(len(kernels)))

    def root(kernel: int) -> int:
        while parent[kernel] != kernel:
            parent[kernel] = parent[parent[kernel]]
            kernel = parent[kernel]
        return kernel

    placed: list[tuple[int, Row]] = []
    for row in rows:
        inside = sorted({owner[tensor] for tensor in row.tensors if tensor in owner})
        if not inside:
            continue
        for kernel in inside[1:]:
            parent[root(kernel)] = root(inside[0])
        placed.append((inside[0], row))
    ran: dict[int, list[Row]] = {}
    for kernel, row in placed:
        ran.setdefault(root(kernel), []).append(row)
    members: dict[int, list[int]] = {}
    for kernel in range(len(kernels)):
        members.setdefault(root(kernel), []).append(kernel)
    found = []
    for first, inside in sorted(members.items(), key=lambda one: one[1]):
        there = ran.get(first, [])
        found.append(Group(tuple(inside), sum((row.latency_us for row in there), start=0.0), busy_in_turn(there)))
    return tuple(found)


def _owners(graph: Graph, kernels: Sequence[Kernel]) -> dict[str, int]:
    """Which kernel each tensor belongs to: the one that makes it; a view's is the one that makes what it shows."""
    owner = {
        tensor: number
        for number, kernel in enumerate(kernels)
        for key in kernel.ops
        for tensor in graph.op(key).outputs
        if tensor
    }
    for op in graph.ops():
        if op.key not in owner and op.inputs and op.inputs[0] in owner:
            owner.update({tensor: owner[op.inputs[0]] for tensor in op.outputs if tensor})
    return owner
