"""Labels through pooling, reductions and resampling: along the channels, never across them."""

from __future__ import annotations

from graphopt.ir.labels import Labels
from graphopt.ir.op import Op
from graphopt.ir.transfer_dims import follow
from graphopt.ir.transfer_elementwise import mix
from graphopt.ir.walk import Walk, positive


def pool(walk: Walk, op: Op) -> None:
    """Pooling of any kind works on the axes from 2 on."""
    axes = walk.of(op.inputs[0])
    mix(walk, op, axes, range(2, len(axes)))


def reduce(walk: Walk, op: Op) -> None:
    """Reductions: axes as an attribute (before opset 13/18) or as a constant input."""
    axes = walk.of(op.inputs[0])
    reduced = op.attribute("axes")
    if op.input(1):
        reduced = walk.ints(op.input(1))
        if reduced is None:
            walk.freeze(op, f"{op} reduces over axes that are not constant", *axes)
            return
    if not reduced:
        reduced = () if op.attribute("noop_with_empty_axes", 0) else range(len(axes))
    _reduced(walk, op, {positive(axis, len(axes)) for axis in reduced})


def partial_reduce(walk: Walk, op: Op) -> None:
    """A reduction that is not finite for zeros (ReduceLogSum)."""
    walk.no_padding(op, f"{op} of a new channel may not be finite", *walk.of(op.inputs[0]))
    reduce(walk, op)


def arg_reduce(walk: Walk, op: Op) -> None:
    """ArgMax and ArgMin along one axis."""
    _reduced(walk, op, {positive(op.attribute("axis", 0), len(walk.of(op.inputs[0])))})


def _reduced(walk: Walk, op: Op, reduced: set[int]) -> None:
    axes = walk.of(op.inputs[0])
    walk.freeze(op, f"{op} reduces over it", *(axes[axis] for axis in sorted(reduced)))
    keep = op.attribute("keepdims", 1)
    out = [None if i in reduced else labels for i, labels in enumerate(axes) if keep or i not in reduced]
    walk.label(op.outputs[0], out, op)


def resize(walk: Walk, op: Op) -> None:
    """Resize and Upsample pass the axes that keep their length."""
    axes = walk.of(op.inputs[0])
    crops = op.attribute("coordinate_transformation_mode", "") in ("tf_crop_and_resize", b"tf_crop_and_resize")
    stretches = op.attribute("keep_aspect_ratio_policy", "stretch") in ("stretch", b"stretch")
    chosen = [positive(axis, len(axes)) for axis in op.attribute("axes") or range(len(axes))]
    given: list[Labels | None] = [axes[axis] for axis in chosen]
    lengths = walk.graph.static_shape(op.outputs[0])
    if op.op_type == "Resize" and op.input(3):
        kept = [lengths is not None and lengths[axis] == walk.dim(op.inputs[0], axis) for axis in chosen]
    else:
        kept = _factors_of_one(walk, op, len(chosen))
    for i, labels in enumerate(given):
        if crops or not stretches or not kept[i]:
            walk.freeze(op, f"{op} resamples it, or by a factor that is not constant", labels)
            given[i] = None
    if op.op_type == "Resize" and op.input(3):
        follow(walk, op, 3, (), given)
    out = list(axes)
    for axis, labels in zip(chosen, given, strict=True):
        out[axis] = labels
    walk.label(op.outputs[0], out, op)


def _factors_of_one(walk: Walk, op: Op, count: int) -> list[bool]:
    """Which axes have the constant factor 1 (an attribute in opset 7, the last input in 9 and 10, the third later)."""
    scales = op.input(1) if len(op.inputs) == 2 else op.input(2)
    given = op.attribute("scales")
    weight = walk.graph.weight(scales)
    if given is None and weight is not None:
        given = tuple(weight.array().reshape(-1))
    return [given is not None and len(given) == count and given[i] == 1 for i in range(count)]


def grid_sample(walk: Walk, op: Op) -> None:
    """GridSample works on the axes from 2 on; the grid has no channels."""
    axes = walk.of(op.inputs[0])
    walk.freeze(op, f"{op} samples each picture with its own grid", *axes[:1])
    mix(walk, op, (None, *axes[1:]), range(2, len(axes)))
