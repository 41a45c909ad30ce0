"""Labels through the ops that make channels (Conv, ConvTranspose, Gemm, MatMul) and the per-channel normalisations."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.labels import Labels
from graphopt.ir.op import Op
from graphopt.ir.transfer_elementwise import broadcast
from graphopt.ir.walk import Role, Walk, repeated, tiled


def conv(walk: Walk, op: Op) -> None:
    """Conv: weight ``[out, in / group, *kernel]``. Dense makes channels, depthwise passes them through."""
    x, weight = op.inputs[0], op.inputs[1]
    shape = walk.graph.static_shape(weight)
    if shape is None:
        _unknown_weight(walk, op)
        return
    axes = walk.of(x) or (None,) * len(shape)
    made, depth, group = shape[0], shape[1], op.attribute("group", 1)
    channels = _data_channels(walk, op, axes, depth * group)
    if group > 1 and depth == 1 and channels is not None:
        rows = repeated(channels, made // group)
        walk.attach(op, 1, (rows, *[None] * (len(shape) - 1)), "carry")
    else:
        columns = _first_of_each(walk, channels, group)
        rows = tiled(walk.space.fresh(made // group), group)
        walk.attach(op, 1, (rows, columns, *[None] * (len(shape) - 2)), _roles(len(shape), "produce", "consume"))
        _made(walk, op, rows)
    walk.attach(op, 2, (rows,), "carry")
    walk.label(op.outputs[0], (axes[0], rows, *[None] * (len(shape) - 2)), op)


def conv_transpose(walk: Walk, op: Op) -> None:
    """ConvTranspose: weight ``[in, out / group, *kernel]``."""
    x, weight = op.inputs[0], op.inputs[1]
    shape = walk.graph.static_shape(weight)
    if shape is None:
        _unknown_weight(walk, op)
        return
    axes = walk.of(x) or (None,) * len(shape)
    taken, each, group = shape[0], shape[1], op.attribute("group", 1)
    channels = _data_channels(walk, op, axes, taken)
    rest = [None] * (len(shape) - 2)
    if group > 1 and group == taken and channels is not None:
        rows = repeated(channels, each)
        walk.attach(op, 1, (channels, None, *rest), "carry")
    else:
        _first_of_each(walk, channels, group)
        fresh = walk.space.fresh(each)
        rows = tiled(fresh, group)
        walk.attach(op, 1, (channels, fresh, *rest), _roles(len(shape), "consume", "produce"))
        _made(walk, op, rows)
    walk.attach(op, 2, (rows,), "carry")
    walk.label(op.outputs[0], (axes[0], rows, *rest), op)


def gemm(walk: Walk, op: Op) -> None:
    """Gemm: ``A' [m, k] x B' [k, n] + C``, with a constant B."""
    a, b = op.inputs[0], op.inputs[1]
    shape = walk.graph.static_shape(b)
    if shape is None or not walk.is_constant(b):
        _unknown_weight(walk, op)
        return
    axes = walk.of(a) or (None, None)
    batch, columns = (axes[1], axes[0]) if op.attribute("transA", 0) else (axes[0], axes[1])
    if op.attribute("transB", 0):
        rows = walk.space.fresh(shape[0])
        walk.attach(op, 1, (rows, columns), ("produce", "consume"))
    else:
        rows = walk.space.fresh(shape[1])
        walk.attach(op, 1, (columns, rows), ("consume", "produce"))
    _made(walk, op, rows)
    _gemm_bias(walk, op, batch, rows)
    walk.label(op.outputs[0], (batch, rows), op)


def _gemm_bias(walk: Walk, op: Op, batch: Labels | None, rows: Labels) -> None:
    shape = walk.graph.static_shape(op.input(2))
    if not op.input(2):
        return
    if shape is None:
        walk.freeze(op, f"{op} has a bias of unknown shape", batch, rows)
        return
    aligned = (batch, rows)[2 - len(shape) :] if shape else ()
    bias = [None if dim == 1 else labels for dim, labels in zip(shape, aligned, strict=True)]
    walk.attach(op, 2, bias, "carry")


def matmul(walk: Walk, op: Op) -> None:
    """MatMul: by a constant on the right ``[k, n]`` or on the left ``[m, k]``, or of two computed tensors."""
    a, b = op.inputs[0], op.inputs[1]
    right, left = walk.graph.static_shape(b), walk.graph.static_shape(a)
    if walk.is_constant(b) and right is not None and not walk.is_constant(a):
        _matmul_right(walk, op, right)
    elif walk.is_constant(a) and left is not None and not walk.is_constant(b):
        _matmul_left(walk, op, left)
    else:
        _matmul_computed(walk, op)


def _matmul_right(walk: Walk, op: Op, shape: tuple[int, ...]) -> None:
    rank = walk.rank(op.inputs[0])
    axes = walk.of(op.inputs[0]) or (None,) * (rank or 0)
    outer = axes[:-1]
    if rank is None or rank == 0:
        _unknown_weight(walk, op)
    elif len(shape) == 1:
        walk.attach(op, 1, (axes[-1],), "consume")
        walk.label(op.outputs[0], outer, op)
    elif len(shape) > 2 and (rank < 2 or any(labels is not None for labels in axes[:-2])):
        _unknown_weight(walk, op)
    else:
        rows = walk.space.fresh(shape[-1])
        stack = [None] * (len(shape) - 2)
        walk.attach(op, 1, (*stack, axes[-1], rows), (*_carry(len(stack)), "consume", "produce"))
        _made(walk, op, rows)
        missing = max(len(shape) - rank, 0) if rank > 1 else 0
        walk.label(op.outputs[0], (*[None] * missing, *outer, rows), op)


def _matmul_left(walk: Walk, op: Op, shape: tuple[int, ...]) -> None:
    axes = walk.of(op.inputs[1]) or (None,) * (walk.rank(op.inputs[1]) or 0)
    if len(shape) != 2 or len(axes) < 2:
        _unknown_weight(walk, op)
        return
    rows = walk.space.fresh(shape[0])
    walk.attach(op, 0, (rows, axes[-2]), ("produce", "consume"))
    _made(walk, op, rows)
    walk.label(op.outputs[0], (*axes[:-2], rows, axes[-1]), op)


def _matmul_computed(walk: Walk, op: Op) -> None:
    ranks = walk.rank(op.inputs[0]), walk.rank(op.inputs[1])
    if any(rank is None or rank < 2 for rank in ranks):
        _unknown_weight(walk, op)
        return
    a = walk.of(op.inputs[0]) or (None,) * (ranks[0] or 0)
    b = walk.of(op.inputs[1]) or (None,) * (ranks[1] or 0)
    walk.freeze(op, f"{op} sums over it, and has no weight to cut with it", a[-1], b[-2])
    stack = broadcast(walk, op, (0, 1), 2, {})
    walk.label(op.outputs[0], (*stack, a[-2], b[-1]), op)


def batch_norm(walk: Walk, op: Op) -> None:
    """BatchNormalization: four constants, one value a channel each; a new channel has variance 1."""
    axes = walk.of(op.inputs[0])
    channels = axes[1] if len(axes) > 1 else None
    for slot, pad in ((1, 0.0), (2, 0.0), (3, 0.0), (4, 1.0)):
        walk.attach(op, slot, (channels,), "carry", pad)
    walk.label(op.outputs[0], axes, op)


def instance_norm(walk: Walk, op: Op) -> None:
    """InstanceNormalization: normalises space, one scale and bias a channel."""
    axes = walk.of(op.inputs[0])
    channels = axes[1] if len(axes) > 1 else None
    walk.freeze(op, f"{op} normalises over it", *axes[2:])
    walk.attach(op, 1, (channels,), "carry")
    walk.attach(op, 2, (channels,), "carry")
    walk.label(op.outputs[0], (axes[0], channels, *[None] * (len(axes) - 2)), op)


def _data_channels(walk: Walk, op: Op, axes: Sequence[Labels | None], expected: int) -> Labels | None:
    """Labels of the data input's axis 1, once the kernel's axes are frozen."""
    walk.freeze(op, f"{op} slides its kernel over it", *axes[2:])
    channels = axes[1]
    if channels is not None and len(channels) != expected:
        walk.freeze(op, f"{op} has a weight that does not fit its input", channels)
        return None
    return channels


def _first_of_each(walk: Walk, channels: Labels | None, group: int) -> Labels | None:
    """Unite the i-th channels of all groups (the number of groups is kept); return those of the first group."""
    if channels is None or group == 1:
        return channels
    size = len(channels) // group
    first = channels[:size]
    walk.space.unite(tiled(first, group - 1), channels[size:])
    return first


def _made(walk: Walk, op: Op, rows: Labels) -> None:
    walk.makers.append((op.key, rows))
    if any(tensor in walk.raw for tensor in op.inputs[:2]):
        walk.stems.append(rows)


def _roles(rank: int, first: Role, second: Role) -> tuple[Role, ...]:
    return (first, second, *_carry(rank - 2))


def _carry(count: int) -> tuple[Role, ...]:
    carry: tuple[Role, ...] = ("carry",)
    return carry * count


def _unknown_weight(walk: Walk, op: Op) -> None:
    for tensor in op.inputs:
        walk.freeze_tensor(op, f"{op} has no constant weight of a known shape", tensor)
