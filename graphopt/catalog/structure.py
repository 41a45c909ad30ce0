"""Compare two graphs as a reader would: the same ops in the same order, wired alike, whatever the names inside."""

from __future__ import annotations

from graphopt.ir.graph import Graph
from graphopt.ir.op import Op


def difference(found: Graph, wanted: Graph) -> str:
    """Return the first difference in one sentence, ``""`` when there is none.

    Ops, attributes, wiring, and shapes and types of weights count, as do the names of inputs and outputs. Other names
    and the values of weights do not.
    """
    if found.inputs != wanted.inputs or found.outputs != wanted.outputs:
        return "other inputs or outputs"
    types, wanted_types = ([op.op_type for op in graph.ops()] for graph in (found, wanted))
    if types != wanted_types:
        return f"the ops are {', '.join(types)}; wanted {', '.join(wanted_types)}"
    names = {name: name for name in found.inputs}
    for op, other in zip(found.ops(), wanted.ops(), strict=True):
        if len(op.inputs) != len(other.inputs) or len(op.outputs) != len(other.outputs):
            return f"{op} has {len(op.inputs)} inputs; wanted {len(other.inputs)}"
        if dict(op.attributes) != dict(other.attributes):
            return f"{op} has {_spell(op)}; wanted {_spell(other)}"
        for name, expected in zip(op.inputs, other.inputs, strict=True):
            weight, expected_weight = found.weight(name), wanted.weight(expected)
            if weight is None or expected_weight is None:
                if names.get(name, name) != expected:
                    return f"{op} reads {name!r}; wanted {expected!r}"
            elif (weight.shape, weight.dtype) != (expected_weight.shape, expected_weight.dtype):
                shapes = (
                    f"{weight.dtype}{list(weight.shape)}; wanted {expected_weight.dtype}{list(expected_weight.shape)}"
                )
                return f"{op} reads a weight {shapes}"
        names.update(zip(op.outputs, other.outputs, strict=True))
    return "" if all(names.get(name) == name for name in found.outputs) else "the outputs are made by other ops"


def _spell(op: Op) -> str:
    return ", ".join(f"{name} = {value}" for name, value in sorted(op.attributes)) or "no attributes"
