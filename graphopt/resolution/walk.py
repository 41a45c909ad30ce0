"""Give a model another input size: one walk that re-derives every shape and lets constants follow.

Weights stay exactly as they are. What changes are the constants that hold spatial extents (targets of Reshape, sizes
of Resize, kernels of pools over a whole map, grids), and the shapes that the file declares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from graphopt.ir.graph import Graph, Patch
from graphopt.ir.op import Op, TensorInfo
from graphopt.onnx_io.model_file import ModelFile
from graphopt.resolution.follow import FOLLOW
from graphopt.resolution.infer import computed_from_constants, evaluate, infer
from graphopt.resolution.state import SizeMisfit, Sizes, refuse


def resized(graph: Graph, input_shapes: Mapping[str, tuple[int, ...]]) -> Patch:
    """Describe ``graph`` with inputs of other sizes.

    Args:
        graph: a model as it was loaded, with static shapes.
        input_shapes: the new shape of each input that changes.

    Raises:
        SizeMisfit: when the model cannot have that size; the message names the op and the reason.
    """
    model = graph.model
    assert isinstance(model, ModelFile)
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.proto.opset_import}
    sizes = Sizes(graph, opsets, computed_from_constants(graph))
    for name, shape in input_shapes.items():
        if shape != graph.static_shape(name):
            sizes.shapes[name] = shape
            sizes.note_map(name)
    for op in graph.ops():
        if op.op_type != "Constant" and any(t in sizes.shapes or t in sizes.values for t in (*op.inputs, *op.captures)):
            _step(sizes, op)
    _check_outputs(sizes)
    return Patch(
        remove=tuple(sizes.ops),
        add=tuple(sizes.ops.values()),
        weights=tuple(sizes.weights.values()),
        tensors={name: TensorInfo(graph.dtype(name), shape) for name, shape in sizes.shapes.items()},
    )


def _step(sizes: Sizes, op: Op) -> None:
    if any(tensor in sizes.shapes for tensor in op.captures):
        refuse(op, "a subgraph reads tensors that change with the size, and cannot be re-derived")
    moves = any(tensor in sizes.shapes for tensor in op.inputs)
    follow = FOLLOW.get(op.op_type) if moves and not op.domain else None
    if follow is not None:
        changed = follow(sizes, op)
        if changed != op:
            sizes.ops[op.key] = changed
            op = changed
    for output, shape in infer(sizes, op).items():
        old = sizes.graph.shape(output)
        if any(isinstance(dim, int) and dim < 1 for dim in shape) and not (old and 0 in old):
            was = "" if old is None else f", and made {'x'.join(map(str, old))}"
            refuse(op, f"it would make an empty map{was}")
        if old is not None and len(old) != len(shape):
            refuse(op, f"its output would have {len(shape)} dimensions, and had {len(old)}")
        if shape != old:
            sizes.shapes[output] = shape
        sizes.note_map(output)
    if op.op_type == "Reshape":
        _check_count(sizes, op)
    evaluate(sizes, op)


def _check_count(sizes: Sizes, op: Op) -> None:
    """ONNX's inference takes a Reshape at its word."""
    before, after = sizes.new(op.inputs[0]), sizes.new(op.outputs[0])
    known = [dim for dim in (*before, *after) if isinstance(dim, int)]
    if len(known) == len(before) + len(after) and math.prod(known[: len(before)]) != math.prod(known[len(before) :]):
        refuse(op, f"{'x'.join(map(str, before))} does not fill {'x'.join(map(str, after))}")


def _check_outputs(sizes: Sizes) -> None:
    """Class scores must stay as many as they are."""
    for name in sizes.graph.outputs:
        old, new = sizes.graph.shape(name), sizes.shapes.get(name)
        maker = sizes.graph.producer(name)
        if new is None or old is None or len(old) != 2 or old[1] == new[1] or maker is None:
            continue
        raise SizeMisfit(f"output {name!r}: {old[1]} scores would become {new[1]}, which changes what the model says")
