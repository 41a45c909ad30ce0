"""Peak activation memory: where an allocator would put the tensors, and a fast lower bound of it.

The allocator is tflite-micro's ``GreedyMemoryPlanner``: biggest tensor first (of equal ones the later made), each at
the lowest offset where it overlaps nothing that lives at the same time, offsets aligned to 16 bytes. It reproduces
that runtime's arena exactly. (What a search can afford to price is a lower bound of it: `space.memory`.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphopt.cost.kernels import Kernel
from graphopt.cost.workload import tensor_bytes
from graphopt.errors import ModelError
from graphopt.ir.graph import Graph
from graphopt.ir.liveness import Lifetime, lifetimes
from graphopt.targets.target import Target

ALIGNMENT_BYTES = 16


def aligned_bytes(size: int) -> int:
    """What a tensor of ``size`` bytes takes up."""
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def place(spans: Sequence[Lifetime], sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the offset of each tensor in the arena, bytes.

    Args:
        spans: lifetimes, in the order in which the tensors are made.
        sizes: bytes of each.
    """
    aligned = [aligned_bytes(size) for size in sizes]
    offsets = [0] * len(spans)
    placed: list[int] = []
    for index in sorted(range(len(spans)), key=lambda i: (-aligned[i], -i)):
        span = spans[index]
        alive = [p for p in placed if spans[p].first <= span.last and span.first <= spans[p].last]
        offset = 0
        for other in sorted(alive, key=lambda i: (offsets[i], i)):
            if offsets[other] - offset >= aligned[index]:
                break
            offset = max(offset, offsets[other] + aligned[other])
        offsets[index] = offset
        placed.append(index)
    return tuple(offsets)


def arena(spans: Sequence[Lifetime], sizes: Sequence[int]) -> int:
    """Return the bytes that the allocator needs for tensors of ``sizes`` bytes: its highest end."""
    offsets = place(spans, sizes)
    ends = (offset + aligned_bytes(size) for offset, size in zip(offsets, sizes, strict=True))
    return max(ends, default=0)


def activation_lifetimes(graph: Graph, kernels: Sequence[Kernel]) -> tuple[Lifetime, ...]:
    """Lifetimes of the activations between kernels; step ``i`` is ``kernels[i]``."""
    return lifetimes(graph, [kernel.ops for kernel in kernels])


def peak_activation_bytes(graph: Graph, kernels: Sequence[Kernel], target: Target) -> int:
    """Return the arena for the activations of ``graph`` on ``target``, bytes.

    Raises:
        ModelError: when a tensor has no static shape.
    """
    spans = activation_lifetimes(graph, kernels)
    return arena(spans, activation_sizes(graph, [span.tensor for span in spans], target))


def activation_sizes(graph: Graph, tensors: Iterable[str], target: Target) -> list[int]:
    """Return the bytes of each activation in the target's precision.

    Raises:
        ModelError: when a tensor has no static shape.
    """
    sizes = []
    for tensor in tensors:
        shape = graph.static_shape(tensor)
        if shape is None:
            raise ModelError(f"tensor {tensor!r} has no static shape; fix the inputs' shapes (--input-shape)")
        sizes.append(int(tensor_bytes(graph.dtype(tensor), shape, target)))
    return sizes
