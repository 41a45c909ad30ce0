"""The payloads of the graph: ops, tensors and weights, all frozen.

Weights are *referenced*: a :class:`Weight` knows its shape and how to make its values, and makes them only when
somebody asks. A rewrite can thus describe new weights by shape alone (all that pricing needs) and leave the
arithmetic to the one step that writes a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Safety = Literal["exact", "repaired", "retrain"]
"""What a change promises: ``exact`` (same outputs), ``repaired`` (close, from unlabelled data), ``retrain``."""

SAFETY_LEVELS: tuple[Safety, ...] = ("exact", "repaired", "retrain")
"""Safest first; ``--allow X`` admits everything up to and including X."""

Importance = Literal["auto", "l2", "energy", "column-subset"]
"""What chooses the channels that stay where a group shrinks; see `results.Options`."""

IMPORTANCES: tuple[Importance, ...] = ("auto", "l2", "energy", "column-subset")

Dim = int | str | None
"""One dimension of a tensor: a number, a symbol, or unknown."""

Shape = tuple[Dim, ...]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What is known of a tensor without running the model.

    Attributes:
        dtype: element type, ``None`` when unknown or when the value is no tensor (sequence, map, optional).
        shape: dimensions, ``None`` when even the rank is unknown.
    """

    dtype: np.dtype[Any] | None = None
    shape: Shape | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A constant tensor: an initializer, the value of a Constant op, or one that a rewrite computes.

    Attributes:
        name: tensor name.
        shape: static shape.
        dtype: element type.
        make: returns the values, shape ``shape``; called each time they are needed, never before.
        source: the ``TensorProto`` it came from, ``None`` for a computed weight (it is then written anew).
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    make: Callable[[], Array]
    source: object | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        size = 1
        for dim in self.shape:
            size *= dim
        return size

    def array(self) -> Array:
        """Return the values; treat them as read-only (they may be a view into the model file)."""
        values = self.make()
        if values.shape != self.shape:
            raise ValueError(f"weight {self.name!r} promised shape {self.shape} and made {values.shape}")
        return values


@dataclass(frozen=True, slots=True)
class Op:
    """One ONNX node.

    Attributes:
        op_type: ONNX op type.
        inputs: tensor names by slot; ``""`` is an omitted optional input.
        outputs: tensor names by slot; ``""`` is an unused optional output.
        attributes: name/value pairs. Plain values are ``int``, ``float``, ``str``, ``bytes`` and tuples of them;
            a tensor is a :class:`Weight`; anything else (a subgraph, a type) is opaque and only carried along.
        name: ONNX node name (optional in ONNX, and not unique).
        domain: ``""`` is the default ONNX domain.
        captures: outer tensors that this op's subgraphs read. A capture is a use.
        rule: id of the rule that made this op, ``""`` for an op of the original model.
        source: the ``NodeProto`` it was loaded from, written back as it was while the op is unchanged.
    """

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...] = ()
    name: str = ""
    domain: str = ""
    captures: tuple[str, ...] = ()
    rule: str = ""
    source: object | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> str:
        """The op's identity in a graph: its first non-empty output."""
        for output in self.outputs:
            if output:
                return output
        return f"<{self.op_type} without output: {self.name}>"

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return the value of attribute ``name``, or ``default`` when the node does not carry it."""
        for key, value in self.attributes:
            if key == name:
                return value
        return default

    def input(self, slot: int) -> str:
        """Return the tensor at input ``slot``, or ``""`` when it is omitted."""
        return self.inputs[slot] if slot < len(self.inputs) else ""

    def with_attributes(self, **changes: Any) -> Op:
        """Return a copy with attributes set (or removed, where the value is ``None``); order is kept."""
        kept = [(key, changes.pop(key, value)) for key, value in self.attributes]
        kept += list(changes.items())
        return replace(self, attributes=tuple((k, v) for k, v in kept if v is not None))

    def __str__(self) -> str:
        return f"{self.op_type} '{self.name or self.key}'"
