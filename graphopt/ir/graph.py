"""The model as a networkx graph.

Nodes are ops, keyed by their first non-empty output (:attr:`Op.key`), plus one node for each graph input and each
initializer, keyed by its tensor name. An edge is one use of a tensor: from what makes it to the op that reads it,
keyed by input slot (so ``Mul(x, x)`` has two), or by ``"capture:<tensor>"`` where a subgraph reads it.

A :class:`Graph` is never changed: :meth:`Graph.edited` returns a new one. Payloads are shared, weights included.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import numpy as np

from graphopt.ir.op import Op, Shape, TensorInfo, Weight

CAPTURE_SLOT = -1
"""Slot number of a :class:`Use` through a subgraph's capture."""


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a tensor: the op that reads it and the input slot (:data:`CAPTURE_SLOT` for a capture)."""

    op: Op
    slot: int


@dataclass(frozen=True)
class Patch:
    """A change to a graph, described without touching one.

    Attributes:
        remove: keys of the ops that go.
        add: ops that come. A new op may take over an output name of a removed one.
        weights: new weights; a changed weight always gets a new name, since others may share the old one.
        tensors: shapes and types of new or changed tensors.
    """

    remove: tuple[str, ...] = ()
    add: tuple[Op, ...] = ()
    weights: tuple[Weight, ...] = ()
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)


class Graph:
    """An immutable view of one model.

    Attributes:
        nx: the networkx graph. Read it freely, never change it.
        inputs: names of the graph inputs, in order.
        outputs: names of the graph outputs, in order.
        weights: every constant tensor by name, the values of Constant ops included. An initializer that a caller
            may override (it is listed among the inputs and the IR version is 4 or more) is *not* among them.
        tensors: type and shape of every tensor that is known.
        model: what `onnx_io` needs to write the model back (opaque here).
        open_inputs: inputs with a dimension (besides a leading batch) that the file leaves open. A number that stands
            for it in `tensors` serves pricing only; the rewritten model must work for others, too.
    """

    __slots__ = (
        "_order",
        "_producer",
        "_uses",
        "inputs",
        "model",
        "nx",
        "open_inputs",
        "outputs",
        "tensors",
        "weights",
    )

    def __init__(
        self,
        ops: Sequence[Op],
        *,
        inputs: Sequence[str],
        outputs: Sequence[str],
        weights: Mapping[str, Weight],
        tensors: Mapping[str, TensorInfo],
        model: Any = None,
        open_inputs: Collection[str] = (),
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.weights = dict(weights)
        self.tensors = dict(tensors)
        self.model = model
        self.open_inputs = frozenset(open_inputs)
        self._producer: dict[str, str] = {}
        self._order: dict[str, int] = {}
        self._uses: dict[str, tuple[Use, ...]] = {}
        self.nx: nx.MultiDiGraph = nx.MultiDiGraph()
        for position, op in enumerate(ops):
            self._order[op.key] = position
            self.nx.add_node(op.key, op=op)
            for output in op.outputs:
                if output:
                    self._producer[output] = op.key
        for name in (*self.inputs, *self.weights):
            if name not in self._producer:
                self.nx.add_node(name, op=None)
        for op in ops:
            for slot, tensor in enumerate(op.inputs):
                if tensor:
                    self._add_use(tensor, op.key, slot)
            for tensor in op.captures:
                self._add_use(tensor, op.key, f"capture:{tensor}")

    def _add_use(self, tensor: str, reader: str, slot: int | str) -> None:
        maker = self._producer.get(tensor, tensor)
        if maker not in self.nx:  # an overridable initializer, or a tensor of an enclosing scope
            self.nx.add_node(maker, op=None)
        self.nx.add_edge(maker, reader, key=slot, tensor=tensor)

    # -- looking --------------------------------------------------------------------------------------------------

    def ops(self) -> tuple[Op, ...]:
        """All ops, in the order of the file (a topological order)."""
        return tuple(self.nx.nodes[key]["op"] for key in self._order)

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, key: object) -> bool:
        return key in self._order

    def op(self, key: str) -> Op:
        """The op with this key. Raises ``KeyError`` when there is none."""
        op = self.nx.nodes[key]["op"]
        if op is None:
            raise KeyError(key)
        found: Op = op
        return found

    def position(self, key: str) -> int:
        """Place of the op in the order of :meth:`ops`."""
        return self._order[key]

    def producer(self, tensor: str) -> Op | None:
        """The op that makes ``tensor``; ``None`` for inputs, initializers and unknown names."""
        key = self._producer.get(tensor)
        return None if key is None else self.op(key)

    def uses(self, tensor: str) -> tuple[Use, ...]:
        """Every use of ``tensor``, captures included, in file order. A graph output is no use: ask `is_output`."""
        known = self._uses.get(tensor)
        if known is None:
            known = self._uses[tensor] = self._find_uses(tensor)
        return known

    def _find_uses(self, tensor: str) -> tuple[Use, ...]:
        maker = self._producer.get(tensor, tensor)
        if maker not in self.nx:
            return ()
        found = [
            Use(self.op(reader), slot if isinstance(slot, int) else CAPTURE_SLOT)
            for _, reader, slot, data in self.nx.out_edges(maker, keys=True, data=True)
            if data["tensor"] == tensor
        ]
        return tuple(sorted(found, key=lambda use: (self._order[use.op.key], use.slot)))

    def only_use(self, tensor: str) -> Use | None:
        """The single use of ``tensor``; ``None`` if it has several, none, or is a graph output."""
        if self.is_output(tensor):
            return None
        uses = self.uses(tensor)
        return uses[0] if len(uses) == 1 else None

    def is_output(self, tensor: str) -> bool:
        """Whether ``tensor`` is an output of the model."""
        return tensor in self.outputs

    def weight(self, tensor: str) -> Weight | None:
        """The constant behind ``tensor``, or ``None`` when its value depends on the inputs."""
        return self.weights.get(tensor)

    def shape(self, tensor: str) -> Shape | None:
        """Shape of ``tensor`` as far as it is known; ``None`` when even the rank is unknown."""
        weight = self.weights.get(tensor)
        if weight is not None:
            return weight.shape
        info = self.tensors.get(tensor)
        return None if info is None else info.shape

    def static_shape(self, tensor: str) -> tuple[int, ...] | None:
        """Shape of ``tensor`` when every dimension is a number, else ``None``."""
        shape = self.shape(tensor)
        if shape is None:
            return None
        static = tuple(dim for dim in shape if isinstance(dim, int))
        return static if len(static) == len(shape) else None

    def dtype(self, tensor: str) -> np.dtype[Any] | None:
        """Element type of ``tensor``, ``None`` when unknown."""
        weight = self.weights.get(tensor)
        if weight is not None:
            return weight.dtype
        info = self.tensors.get(tensor)
        return None if info is None else info.dtype

    # -- building -------------------------------------------------------------------------------------------------

    def edited(self, patches: Iterable[Patch]) -> Graph:
        """Return a new graph with ``patches`` applied, in order and all at once.

        Constants that nothing reads any more are dropped if the patches made them so. A new op stands where the op
        stood whose key it takes over, else where the last removed op of its patch stood; the order is repaired to a
        topological one where that does not suffice.

        Raises:
            ValueError: when a patch removes an op that is not there, or makes a tensor or weight that is.
        """
        patches = tuple(patches)
        gone = {key for patch in patches for key in patch.remove}
        unknown = sorted(key for key in gone if key not in self._order)
        if unknown:
            raise ValueError(f"patch removes unknown ops {unknown}")
        ranked: list[tuple[float, Op]] = [(float(i), op) for i, op in enumerate(self.ops()) if op.key not in gone]
        weights = dict(self.weights)
        tensors = dict(self.tensors)
        for patch in patches:
            place = max((self._order[key] for key in patch.remove), default=len(self._order))
            here = set(patch.remove)
            for i, op in enumerate(patch.add):
                own = self._order[op.key] if op.key in here else place + (i + 1) / (len(patch.add) + 1)
                ranked.append((float(own), op))
            for weight in patch.weights:
                if weight.name in weights or weight.name in self._producer:
                    raise ValueError(f"patch makes weight {weight.name!r}, and there is one of that name")
                weights[weight.name] = weight
            tensors.update(patch.tensors)
        ranked.sort(key=lambda item: item[0])
        ops = _topological([op for _, op in ranked])
        self._drop_unused(ops, gone, weights, tensors)
        return Graph(
            ops,
            inputs=self.inputs,
            outputs=self.outputs,
            weights=weights,
            tensors=tensors,
            model=self.model,
            open_inputs=self.open_inputs,
        )

    def reordered(self, keys: Sequence[str]) -> Graph:
        """Return the same ops in another topological order.

        Raises:
            ValueError: when ``keys`` are not those of all ops, or an op would run before what it reads is made.
        """
        if len(keys) != len(self) or set(keys) != set(self._order):
            raise ValueError("an order names every op once")
        ops = [self.op(key) for key in keys]
        if _topological(ops) is not ops:
            raise ValueError("an op would run before what it reads is made")
        return Graph(
            ops,
            inputs=self.inputs,
            outputs=self.outputs,
            weights=self.weights,
            tensors=self.tensors,
            model=self.model,
            open_inputs=self.open_inputs,
        )

    def _drop_unused(
        self, ops: list[Op], gone: Collection[str], weights: dict[str, Weight], tensors: dict[str, TensorInfo]
    ) -> None:
        """Drop the constants that only removed ops read, and forget tensors that removed ops made."""
        made: set[str] = set()
        for op in ops:
            for output in filter(None, op.outputs):
                if output in made:
                    raise ValueError(f"tensor {output!r} is made twice after the patch")
                made.add(output)
        read = {tensor for op in ops for tensor in (*op.inputs, *op.captures)} | set(self.outputs)
        for key in gone:
            removed = self.op(key)
            for tensor in removed.inputs:
                weight = weights.get(tensor)
                if weight is not None and tensor not in read:
                    if tensor in made:  # the value of a Constant op that nothing reads any more
                        ops[:] = [op for op in ops if tensor not in op.outputs]
                    weights.pop(tensor)
                    tensors.pop(tensor, None)
            for tensor in removed.outputs:
                if tensor not in made:
                    weights.pop(tensor, None)
                    tensors.pop(tensor, None)

    def part(self, keys: Collection[str]) -> Graph:
        """Return the small graph of the ops ``keys``: what it reads from outside are its inputs, what the rest of
        the model (or its caller) reads from it are its outputs."""
        chosen = sorted((key for key in set(keys)), key=self._order.__getitem__)
        ops = [self.op(key) for key in chosen]
        made = {tensor for op in ops for tensor in op.outputs if tensor}
        read = dict.fromkeys(tensor for op in ops for tensor in (*op.inputs, *op.captures) if tensor)
        inner = set(chosen)
        outputs = [
            tensor
            for op in ops
            for tensor in op.outputs
            if tensor and (self.is_output(tensor) or any(use.op.key not in inner for use in self.uses(tensor)))
        ]
        weights = {tensor: self.weights[tensor] for tensor in (*read, *made) if tensor in self.weights}
        tensors = {tensor: self.tensors[tensor] for tensor in (*read, *made) if tensor in self.tensors}
        inputs = [tensor for tensor in read if tensor not in made and tensor not in weights]
        still_open = self.open_inputs.intersection(inputs)
        return Graph(ops, inputs=inputs, outputs=outputs, weights=weights, tensors=tensors, open_inputs=still_open)


def _topological(ops: list[Op]) -> list[Op]:
    """Return ``ops`` in a topological order that keeps the given one wherever it already is (stable)."""
    maker = {output: i for i, op in enumerate(ops) for output in op.outputs if output}
    needs = [{maker[t] for t in (*op.inputs, *op.captures) if t in maker and maker[t] != i} for i, op in enumerate(ops)]
    if all(max(need, default=-1) < i for i, need in enumerate(needs)):
        return ops
    readers: dict[int, list[int]] = {}
    for i, need in enumerate(needs):
        for j in need:
            readers.setdefault(j, []).append(i)
    left = [len(need) for need in needs]
    ready = [i for i, count in enumerate(left) if count == 0]
    heapq.heapify(ready)
    order: list[Op] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(ops[i])
        for j in readers.get(i, ()):
            left[j] -= 1
            if left[j] == 0:
                heapq.heappush(ready, j)
    if len(order) != len(ops):
        raise ValueError("the patched graph has a cycle")
    return order
