"""Labels through pooling, reductions and resampling: along the channels, never across them."""

from __future__ import annotations

from graphopt.ir.labels import Labels
from graphopt.ir.op import Op
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
    """Resize and Upsample pass the axes whose factor is a constant 1."""
    axes = walk.of(op.inputs[0])
    factors = _factors(walk, op, len(axes))
    crops = op.attribute("coordinate_transformation_mode", "") in ("tf_crop_and_resize", b"tf_crop_and_resize")
    out: list[Labels | None] = []
    for labels, factor in zip(axes, factors, strict=True):
        same = labels is not None and factor is not None and factor in (1.0, -float(len(labels))) and not crops
        if not same:
            walk.freeze(op, f"{op} resamples it, or by a factor that is not constant", labels)
        out.append(labels if same else None)
    walk.label(op.outputs[0], out, op)


def _factors(walk: Walk, op: Op, rank: int) -> list[float | None]:
    """What each axis is scaled by (positive), or its new length (negative); ``None`` when not constant."""
    given: tuple[float, ...] | None = op.attribute("scales")
    scales = op.input(1) if op.op_type == "Upsample" or len(op.inputs) == 2 else op.input(2)
    if given is None and op.input(3):
        sizes = walk.ints(op.input(3))
        given = None if sizes is None else tuple(-float(size) for size in sizes)
    elif given is None and walk.graph.weight(scales) is not None:
        given = tuple(float(value) for value in walk.graph.weights[scales].array().reshape(-1))
    axes = op.attribute("axes") or range(rank)
    factors: list[float | None] = [1.0] * rank if op.attribute("axes") else [None] * rank
    for i, axis in enumerate(axes):
        factors[positive(axis, rank)] = given[i] if given is not None and i < len(given) else None
    return factors


def grid_sample(walk: Walk, op: Op) -> None:
    """GridSample works on the axes from 2 on; the grid has no channels."""
    walk.freeze_tensor(op, f"{op} takes it as coordinates", op.inputs[1])
    axes = walk.of(op.inputs[0])
    walk.freeze(op, f"{op} samples each picture with its own grid", *axes[:1])
    mix(walk, op, (None, *axes[1:]), range(2, len(axes)))
