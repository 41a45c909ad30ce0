"""Which tensors need memory, and from when until when.

Time is counted in *steps*: groups of ops that run as one (the target's kernels). What passes between the ops of one
step takes no memory; a view shares the memory of what it looks at; constants are no activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ir.graph import Graph
from graphopt.ir.op import Op

VIEW_OPS = frozenset({
    "DequantizeLinear", "Dropout", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Unsqueeze",
})  # fmt: skip
"""Ops whose first output is their first input in another shape or notation: no work and no memory of their own.

QuantizeLinear and DequantizeLinear are among them: a target computes in its own precision, whatever the file says.
"""

_SHAPE_READERS = frozenset({"Shape", "Size"})
_RANDOM = frozenset({
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lifetime:
    """When a tensor occupies memory: from step ``first`` to step ``last``, both included."""

    tensor: str
    first: int
    last: int


INPUT = -1
"""Step that makes the model's inputs."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A tensor that occupies memory, whatever the order of the steps.

    Attributes:
        tensor: its name.
        made: the step that makes it, :data:`INPUT` for an input of the model.
        read: the steps that read it, or a view of it.
        kept: whether it, or a view of it, is an output of the model.
    """

    tensor: str
    made: int
    read: tuple[int, ...]
    kept: bool


def is_view(op: Op) -> bool:
    """Whether the op only looks at its first input in another way."""
    return op.domain == "" and op.op_type in VIEW_OPS and op.input(0) != "" and op.outputs[0] != ""


def constant_tensors(graph: Graph) -> frozenset[str]:
    """Tensors whose value does not depend on the model's inputs: weights, and what ops make of constants alone.

    Shapes are static here, so the outputs of Shape and Size are constants, too.
    """
    constants = set(graph.weights)
    for op in graph.ops():
        if op.domain or op.op_type in _RANDOM:
            continue
        read = [tensor for tensor in (*op.inputs, *op.captures) if tensor]
        if (
            op.op_type in _SHAPE_READERS
            or op.op_type == "Constant"
            or (read and all(tensor in constants for tensor in read))
        ):
            constants.update(tensor for tensor in op.outputs if tensor)
    return frozenset(constants)


def storages(graph: Graph, steps: Sequence[Sequence[str]]) -> tuple[Storage, ...]:
    """Return what needs memory, in the order in which it is made; what passes between the ops of one step does not.

    Args:
        graph: the model.
        steps: keys of the ops of each step, in running order. Ops in no step must be views or work on constants.
    """
    constants = constant_tensors(graph)
    step_of = {key: number for number, keys in enumerate(steps) for key in keys}
    root: dict[str, str] = {}
    made: dict[str, int] = {}
    for tensor in graph.inputs:
        if tensor not in constants:
            root[tensor] = tensor
            made[tensor] = INPUT
    for op in sorted(graph.ops(), key=lambda op: (step_of.get(op.key, -1), graph.position(op.key))):
        if op.key not in step_of:
            continue
        for tensor in op.outputs:
            if tensor and tensor not in constants:
                root[tensor] = tensor
                made[tensor] = step_of[op.key]
    for op in graph.ops():  # file order is topological, so the source of a view has its root already
        if op.key not in step_of and is_view(op) and op.inputs[0] in root:
            root[op.outputs[0]] = root[op.inputs[0]]
    read: dict[str, set[int]] = {tensor: set() for tensor in made}
    for op in graph.ops():
        if op.key in step_of:
            for tensor in (*op.inputs, *op.captures):
                if tensor in root:
                    read[root[tensor]].add(step_of[op.key])
    kept = {root[tensor] for tensor in graph.outputs if tensor in root}
    inner = _inner(graph, step_of)
    return tuple(
        Storage(tensor, made[tensor], tuple(sorted(read[tensor])), tensor in kept)
        for tensor in made
        if tensor not in inner
    )


def lifetimes(graph: Graph, steps: Sequence[Sequence[str]]) -> tuple[Lifetime, ...]:
    """Return the lifetimes of all activation tensors, in the order in which they are made.

    Graph inputs live from step 0 on and graph outputs to the last step, as in tflite-micro. A tensor that nothing reads
    lives during its own step.

    Args:
        graph: the model.
        steps: as of :func:`storages`.
    """
    final = max(len(steps) - 1, 0)
    found = []
    for one in storages(graph, steps):
        first = max(one.made, 0)
        found.append(Lifetime(one.tensor, first, final if one.kept else max((first, *one.read))))
    return tuple(found)


def _inner(graph: Graph, step_of: dict[str, int]) -> set[str]:
    """Tensors that are made and used up within one step."""
    inner = set()
    for op in graph.ops():
        if op.key in step_of:
            for tensor in op.outputs:
                uses = graph.uses(tensor) if tensor and not graph.is_output(tensor) else ()
                if uses and all(step_of.get(use.op.key) == step_of[op.key] for use in uses):
                    inner.add(tensor)
    return inner
