"""Cut a repaired model into blocks that are refined one after the other.

A block ends where little is alive: of the places behind its first few linear ops the one with the fewest bytes. That is
behind the narrow tensor that ends a residual block or an inverted bottleneck, never inside one. Everything alive there
has to be comparable with the original's tensor of the same name.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Graph
from graphopt.ir.op import Op
from graphopt.weights.linear import LINEAR
from graphopt.weights.taps import alive, cut_bytes, default_value
from graphopt.weights.units import Kept, is_changed, is_comparable

_FEWEST = 3
_MOST = 6
"""Linear ops of a block, where there are places to cut at."""


@dataclass(frozen=True, slots=True)
class Block:
    """A run of ops whose weights are refined together.

    Attributes:
        inputs: what it reads.
        outputs: what it makes for the ops behind it, and outputs of the model.
        first: key of its first op.
        last: key of its last linear op: the block's name.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    first: str
    last: str


def find_blocks(original: Graph, repaired: Graph, kept: Kept) -> list[Block]:
    """Return the blocks with a linear op that a change touched, or that reads what a touched one makes, in order."""
    ops = repaired.ops()
    touched: set[str] = set()
    for op in ops:
        if is_changed(original, repaired, op) or not touched.isdisjoint(op.inputs):
            touched.update(op.outputs)
    found, start = [], 0
    while start < len(ops):
        end = _end(original, repaired, kept, start)
        linear = [op for op in ops[start:end] if op.op_type in LINEAR]
        block = None
        if any(not touched.isdisjoint(op.outputs) for op in linear):
            block = _block(original, repaired, kept, ops[start:end], linear[-1])
        if block is not None:
            found.append(block)
        start = end
    return found


def _end(original: Graph, graph: Graph, kept: Kept, start: int) -> int:
    """The place behind the last op of the block that begins at ``start``."""
    ops, sizes = graph.ops(), cut_bytes(graph)
    linear, best = 0, len(ops)
    for place in range(start + 1, len(ops)):
        linear += ops[place - 1].op_type in LINEAR
        if linear > _MOST and best < len(ops):
            break
        if linear < _FEWEST or (best < len(ops) and sizes[place] >= sizes[best]):
            continue
        if all(is_comparable(original, graph, tensor, kept) for tensor in alive(graph, place)):
            best = place
    return best


def _block(original: Graph, graph: Graph, kept: Kept, ops: tuple[Op, ...], last: Op) -> Block | None:
    """The block of ``ops``; ``None`` when nothing that it makes can be compared."""
    inside = {op.key for op in ops}
    made = {tensor for op in ops for tensor in op.outputs if tensor}
    read = dict.fromkeys(tensor for op in ops for tensor in op.inputs if tensor and tensor not in made)
    inputs = [name for name in read if name not in graph.weights and default_value(graph, name) is None]
    outputs = [
        tensor
        for op in ops
        for tensor in op.outputs
        if (graph.is_output(tensor) or any(use.op.key not in inside for use in graph.uses(tensor)))
        and is_comparable(original, graph, tensor, kept)
    ]
    return Block(tuple(inputs), tuple(outputs), ops[0].key, last.key) if outputs else None
