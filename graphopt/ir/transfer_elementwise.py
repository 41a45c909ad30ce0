"""Labels through elementwise ops, numpy broadcasting, quantisation and normalisations."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.labels import Axes, Labels
from graphopt.ir.op import Op
from graphopt.ir.walk import Walk, positive


def unary(walk: Walk, op: Op) -> None:
    """The first input's axes are the outputs' (Relu, Clip, Cast, Dropout ...)."""
    for output in op.outputs:
        walk.label(output, walk.of(op.inputs[0]), op)


def partial_unary(walk: Walk, op: Op) -> None:
    """An elementwise function that is not finite everywhere (Log, Sqrt ...): a new channel's value might be NaN."""
    walk.no_padding(op, f"{op} of a new channel may not be finite", *walk.of(op.inputs[0]))
    unary(walk, op)


def elementwise(walk: Walk, op: Op) -> None:
    """Two or more operands, numpy broadcasting (Add, Mul, Max, Where, PRelu ...)."""
    _elementwise(walk, op)


def divide(walk: Walk, op: Op) -> None:
    """Div: a constant denominator grows with ones; by any other, a new channel may be 0 / 0."""
    if walk.is_constant(op.input(1)):
        _elementwise(walk, op, pads={1: 1.0})
    else:
        _elementwise(walk, op)
        walk.no_padding(op, f"{op} may divide a new channel by zero", *walk.of(op.outputs[0]))


def power(walk: Walk, op: Op) -> None:
    """Pow: finite for every base only when the exponent is a constant natural number."""
    _elementwise(walk, op)
    exponent = walk.graph.weight(op.input(1))
    values = exponent.array() if exponent is not None else None
    if values is None or not ((values >= 0) & (values == values.round())).all():
        walk.no_padding(op, f"{op} of a new channel may not be finite", *walk.of(op.outputs[0]))


def modulo(walk: Walk, op: Op) -> None:
    """Mod: no padding, the divisor might be zero."""
    _elementwise(walk, op)
    walk.no_padding(op, f"{op} of a new channel may not be finite", *walk.of(op.outputs[0]))


def _elementwise(walk: Walk, op: Op, pads: dict[int, float] | None = None) -> None:
    if op.attribute("broadcast") is not None:
        for tensor in op.inputs:
            walk.freeze_tensor(op, f"{op} broadcasts in the way of opset 6", tensor)
        return
    walk.label(op.outputs[0], broadcast(walk, op, range(len(op.inputs)), 0, pads or {}), op)


def broadcast(walk: Walk, op: Op, slots: Sequence[int], drop: int, pads: dict[int, float]) -> list[Labels | None]:
    """Unite the axes of the inputs ``slots`` by numpy's broadcasting rules.

    Args:
        walk: the walk.
        op: the op.
        slots: its operands.
        drop: how many trailing axes do not take part (2 for the batch axes of MatMul).
        pads: what a new channel holds in the constant at a slot, where it is not 0.

    Returns:
        The labels of the result, without the dropped axes.
    """
    slots = [slot for slot in slots if op.input(slot)]
    ranks = {slot: walk.rank(op.inputs[slot]) for slot in slots}
    known = {slot: rank - drop for slot, rank in ranks.items() if rank is not None}
    if len(known) < len(slots):
        for slot in slots:
            walk.freeze_tensor(op, f"{op} has an operand of unknown rank", op.inputs[slot])
        return []
    rank = max(known.values())
    constants = {slot: [None] * (rank + drop) for slot in slots if walk.is_constant(op.inputs[slot])}
    if len(constants) == len(slots):
        constants = {}
    runs: dict[int, list[Labels | None]] = {slot: [None] * max(known[slot], 0) for slot in constants}
    result: list[Labels | None] = []
    for axis in range(rank):
        here = {slot: axis - rank + known[slot] for slot in slots if axis - rank + known[slot] >= 0}
        labels = _broadcast_axis(walk, op, {s: a for s, a in here.items() if s not in constants}, here)
        result.append(labels)
        for slot, own in here.items():
            if slot in constants and labels is not None and len(labels) > 1:
                runs[slot][own] = labels if walk.dim(op.inputs[slot], own) == len(labels) else None
    for slot, axes in runs.items():
        if drop == 0:
            walk.attach(op, slot, axes, "carry", pads.get(slot, 0.0))
    return result


def _broadcast_axis(walk: Walk, op: Op, here: dict[int, int], everyone: dict[int, int]) -> Labels | None:
    """Unite one axis over the non-constant operands (slot -> own axis); constants only tell the length."""
    lengths = [walk.dim(op.inputs[slot], axis) for slot, axis in everyone.items()]
    length = max((dim for dim in lengths if isinstance(dim, int)), default=1)
    parts: list[Labels | None] = []
    for slot, axis in here.items():
        axes = walk.of(op.inputs[slot])
        labels = axes[axis] if axes else None
        if labels is not None and len(labels) != length:
            walk.freeze(op, f"{op} spreads one channel over {length}", labels)
        elif labels is not None or (walk.dim(op.inputs[slot], axis) != 1):
            parts.append(labels)
    if all(labels is None for labels in parts):
        return None
    return walk.unify(op, parts)


def quantise(walk: Walk, op: Op) -> None:
    """QuantizeLinear and DequantizeLinear: per tensor, or per channel along ``axis``."""
    x = op.inputs[0]
    axes = walk.of(x)
    scale = walk.graph.static_shape(op.input(1))
    axis = positive(op.attribute("axis", 1), len(axes))
    one_axis = scale is not None and len(scale) == 1 and axis < len(axes)
    if scale is None or op.attribute("block_size", 0) or not (scale in ((), (1,)) or one_axis):
        for tensor in op.inputs:
            walk.freeze_tensor(op, f"{op} is quantised in blocks or by a scale of unknown size", tensor)
        return
    if scale not in ((), (1,)):
        walk.attach(op, 1, (axes[axis],), "carry", pad=1.0)
        walk.attach(op, 2, (axes[axis],), "carry")
    if walk.is_constant(x):
        zero = walk.graph.weight(op.input(2))
        if op.input(2) and (zero is None or zero.array().any()):
            walk.no_padding(op, f"zeros cannot be added before {op}: its zero point is not 0", *axes)
    walk.label(op.outputs[0], axes, op)


def softmax(walk: Walk, op: Op) -> None:
    """Softmax and its kin mix along ``axis`` (before opset 13: along all axes from there on; both are frozen)."""
    axes = walk.of(op.inputs[0])
    first = positive(op.attribute("axis", 1), len(axes))
    mix(walk, op, axes, range(first, len(axes)))


def layer_norm(walk: Walk, op: Op) -> None:
    """LayerNormalization and RMSNormalization mix all axes from ``axis`` on."""
    axes = walk.of(op.inputs[0])
    mix(walk, op, axes, range(positive(op.attribute("axis", -1), len(axes)), len(axes)))


def group_norm(walk: Walk, op: Op) -> None:
    """GroupNormalization mixes the channels of a group with each other and with space."""
    axes = walk.of(op.inputs[0])
    mix(walk, op, axes, range(1, len(axes)))


def lp_norm(walk: Walk, op: Op) -> None:
    """LpNormalization: along one axis; a new channel elsewhere is 0 / 0."""
    axes = walk.of(op.inputs[0])
    walk.no_padding(op, f"{op} of a new channel is 0 / 0", *axes)
    mix(walk, op, axes, [positive(op.attribute("axis", -1), len(axes))])


def mean_variance_norm(walk: Walk, op: Op) -> None:
    """MeanVarianceNormalization over ``axes``; a new channel may divide by a variance of zero."""
    axes = walk.of(op.inputs[0])
    walk.no_padding(op, f"{op} of a new channel may not be finite", *axes)
    mix(walk, op, axes, [positive(axis, len(axes)) for axis in op.attribute("axes", (0, 2, 3))])


def local_response(walk: Walk, op: Op) -> None:
    """LRN reads the neighbouring channels."""
    mix(walk, op, walk.of(op.inputs[0]), [1])


def cumulative(walk: Walk, op: Op) -> None:
    """CumSum along a constant axis."""
    axes = walk.of(op.inputs[0])
    axis = walk.ints(op.input(1))
    mix(walk, op, axes, range(len(axes)) if axis is None else [positive(axis[0], len(axes))])


def mix(walk: Walk, op: Op, axes: Axes, mixed: Sequence[int]) -> None:
    """Freeze the axes that the op works across, pass the others."""
    walk.freeze(op, f"{op} works across the channels", *(axes[axis] for axis in mixed if axis < len(axes)))
    walk.label(op.outputs[0], [None if i in mixed else labels for i, labels in enumerate(axes)], op)
