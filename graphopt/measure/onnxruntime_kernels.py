"""Which ops of a model each node of onnxruntime's optimised graph runs.

The ops of the model that onnxruntime gets are named after their outputs (`name_ops`), because that is what survives: a
node keeps its last op's output tensor or, where it works on blocked channels (NCHWc), a name made of it. What was
fused without a trace is found by what the node says of itself: a convolution's attribute ``activation``, its fourth
input (the residual Add); all else went into the node that reads it.

Nodes that only move data between layouts (reorders, transposes, views) are no kernels. They are run for the sake of a
neighbour that cannot work on blocked channels, so their time is counted at that neighbour.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx

from graphopt.ir.graph import Graph
from graphopt.ir.liveness import constant_tensors, is_view
from graphopt.ir.op import Op

_TO_BLOCKED, _FROM_BLOCKED = "ReorderInput", "ReorderOutput"
_SUFFIX = re.compile(r"(_nchwc|/\w+Fusion/)(_token_\d+)?$")
_SUM_SLOT = 3
_SPELLED_OUT = {"HardSwish": ("HardSigmoid", "Mul")}
"""Activations of a convolution that are several ops in the model."""


@dataclass(frozen=True, slots=True)
class RunKernel:
    """What onnxruntime runs as one.

    Attributes:
        tensors: outputs of the model's ops in it, in file order.
        nodes: positions of the optimised graph's nodes whose time is counted here.
    """

    tensors: tuple[str, ...]
    nodes: tuple[int, ...]


def name_ops(model: onnx.ModelProto) -> None:
    """Name every node of a model after its first output."""
    for node in model.graph.node:
        node.name = next(filter(None, node.output), "")


def run_kernels(graph: Graph, optimised: onnx.ModelProto) -> tuple[RunKernel, ...]:
    """Return what onnxruntime runs of ``graph``, in the optimised graph's order.

    Args:
        graph: the model, saved and named by `name_ops` before onnxruntime got it.
        optimised: what onnxruntime made of it.
    """
    nodes = list(optimised.graph.node)
    owner = _owners(graph, nodes)
    tensors: dict[int, list[str]] = {}
    for op in graph.ops():
        if op.key in owner and not is_view(op):
            tensors.setdefault(owner[op.key], []).extend(filter(None, op.outputs))
    payers = _payers(nodes, set(tensors))
    return tuple(
        RunKernel(tuple(made), tuple(node for node, payer in enumerate(payers) if payer == kernel))
        for kernel, made in sorted(tensors.items())
    )


def _owners(graph: Graph, nodes: Sequence[onnx.NodeProto]) -> dict[str, int]:
    """The node that runs each op, by the op's key. Ops on constants alone, and what nobody reads, have none."""
    constants = constant_tensors(graph)
    owner: dict[str, int] = {}
    ended: set[int] = set()
    makers = {tensor: position for position, node in enumerate(nodes) for tensor in node.output if tensor}
    for position, node in enumerate(nodes):
        runs = makers.get(node.input[0], position) if node.op_type == _FROM_BLOCKED else position
        last = [op for tensor in node.output if tensor and (op := graph.producer(tensor)) is not None]
        if last:
            ended.add(runs)
        for op in last or _named(node, graph):
            owner[op.key] = runs
    left = [op for op in graph.ops() if op.key not in owner and op.key not in constants]
    for op in left:
        found = [owner[maker.key] for maker in _makers(op, graph) if maker.key in owner]
        found = [position for position in found if position not in ended and _takes(nodes[position], op)]
        if found:
            owner[op.key] = max(found)  # a residual Add: the later convolution, since it needs the earlier one's output
    for op in reversed(left):
        readers = [owner[use.op.key] for tensor in op.outputs for use in graph.uses(tensor) if use.op.key in owner]
        if op.key not in owner and readers:
            owner[op.key] = min(readers)
    return owner


def _named(node: onnx.NodeProto, graph: Graph) -> list[Op]:
    """The op that a node's name speaks of. One that works on blocked channels may run more ops behind it."""
    found = graph.producer(node.name) or graph.producer(_SUFFIX.sub("", node.name))
    return [] if found is None else [found]


def _makers(op: Op, graph: Graph) -> Iterator[Op]:
    for tensor in op.inputs:
        maker = graph.producer(tensor) if tensor else None
        if maker is not None:
            yield maker


def _takes(node: onnx.NodeProto, op: Op) -> bool:
    """Whether a node says that it runs an op like this one behind its own."""
    if op.op_type in ("Add", "Sum"):
        return "Conv" in node.op_type and len(node.input) > _SUM_SLOT and node.input[_SUM_SLOT] != ""
    activation = next((a.s.decode() for a in node.attribute if a.name == "activation"), "")
    return op.op_type in _SPELLED_OUT.get(activation, (activation,))


def _payers(nodes: Sequence[onnx.NodeProto], kernels: set[int]) -> list[int | None]:
    """For each node the kernel at which its time counts: itself, or the nearest that it moves data for."""
    makers = {tensor: position for position, node in enumerate(nodes) for tensor in node.output if tensor}
    readers: dict[str, int] = {}
    for position, node in enumerate(nodes):
        for tensor in node.input:
            readers.setdefault(tensor, position)

    def before(position: int | None) -> int | None:
        while position is not None and position not in kernels:
            position = makers.get(nodes[position].input[0]) if nodes[position].input else None
        return position

    def after(position: int | None) -> int | None:
        while position is not None and position not in kernels:
            position = readers.get(nodes[position].output[0])
        return position

    payers = []
    for position, node in enumerate(nodes):
        ways = (before, after) if node.op_type == _TO_BLOCKED else (after, before)
        payers.append(next((found for way in ways if (found := way(position)) is not None), None))
    return payers
