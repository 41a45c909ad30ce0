"""How an op's attributes and constants follow a new input size: one function an op type, and the visible table."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NoReturn

from graphopt.ir.op import Op
from graphopt.resolution.constants import fit_broadcast, fit_concat
from graphopt.resolution.reshape import follow_reshape
from graphopt.resolution.state import Sizes, refuse
from graphopt.resolution.windows import by, check_window, follow_pool

Follow = Callable[[Sizes, Op], Op]


def _conv(sizes: Sizes, op: Op) -> Op:
    kernel, before = sizes.static(op.inputs[1])[2:], sizes.old(op.inputs[0])[2:]
    if kernel == before and math.prod(before) > 1 and set(sizes.old(op.outputs[0])[2:]) == {1}:
        refuse(op, f"its kernel reads the whole {by(before)} map at once, so its weights belong to this size "
               "(a global pool and a 1x1 convolution would go with any)")  # fmt: skip
    check_window(sizes, op, kernel)
    return op


def _conv_transpose(sizes: Sizes, op: Op) -> Op:
    if not op.attribute("output_shape"):
        return op
    return op.with_attributes(output_shape=_made_of(sizes, op)[2:])


def _made_of(sizes: Sizes, op: Op) -> tuple[int, ...]:
    """What an op that is told its output's size makes now: what a map of that size became, else in proportion."""
    before, after, made = sizes.old(op.inputs[0]), sizes.static(op.inputs[0]), sizes.old(op.outputs[0])
    known = sizes.seen.get((made[2], made[3]), set()) if len(made) == 4 else set()
    if len(known) == 1:
        return (*made[:2], *next(iter(known)))
    spatial = zip(made[2:], before[2:], after[2:], strict=True)
    return (*made[:2], *(out if old == new else _in_proportion(op, out, old, new) for out, old, new in spatial))


def _gemm(sizes: Sizes, op: Op) -> Op:
    rows = sizes.new(op.inputs[0])
    weight = sizes.new(op.inputs[1])
    if len(weight) < 2 or not rows:
        return op
    gemm = op.op_type == "Gemm"
    inner = rows[0] if gemm and op.attribute("transA", 0) else rows[-1]
    height = weight[-1] if gemm and op.attribute("transB", 0) else weight[-2]
    if inner != height and sizes.constant(op.inputs[1]) is not None:
        refuse(op, f"it reads the flattened map, {height} values that become {inner}, so its weights belong to this "
               "size (a global pool in front would go with any)")  # fmt: skip
    return op


def _resize(sizes: Sizes, op: Op) -> Op:
    if op.op_type == "Upsample" or not op.input(3):
        return op  # scales
    told = sizes.ints(op.inputs[3])
    if told is None:
        refuse(op, "the size it makes is computed from values of the input")
    before, after = sizes.old(op.inputs[0]), sizes.static(op.inputs[0])
    made = sizes.old(op.outputs[0])
    axes = [axis % len(made) for axis in op.attribute("axes") or range(len(made))]
    moved = [before[axis] != after[axis] for axis in axes]
    stale = any(move and size == made[axis] for move, size, axis in zip(moved, told, axes, strict=True))
    if not stale:
        return op  # the model computes it, and it follows
    wanted = _made_of(sizes, op)
    return sizes.put_ints(op, 3, [wanted[axis] for axis in axes])


def _in_proportion(op: Op, made: int, before: int, after: int) -> int:
    if made * after % before:
        refuse(op, f"it makes {made} of {before}, and of {after} that is no whole number")
    return made * after // before


def _slice(sizes: Sizes, op: Op) -> Op:
    """Bounds at the end, or counted from there, follow; others must not lie on an axis that changes."""
    before, after = sizes.old(op.inputs[0]), sizes.new(op.inputs[0])
    by_input = op.attribute("starts") is None
    if by_input and (op.input(1) in sizes.values or op.input(2) in sizes.values):
        return op  # the model computes them, and they follow
    starts = sizes.ints(op.input(1)) if by_input else list(op.attribute("starts"))
    ends = sizes.ints(op.input(2)) if by_input else list(op.attribute("ends"))
    if starts is None or ends is None:
        refuse(op, "its bounds are computed from values of the input")
    axes = (sizes.ints(op.input(3)) if by_input else op.attribute("axes")) or range(len(starts))
    steps = (sizes.ints(op.input(4)) if by_input else None) or [1] * len(starts)
    for i, axis in enumerate(axes):
        axis %= len(before)
        if before[axis] == after[axis]:
            continue
        interleaved = steps[i] > 1 and 0 <= starts[i] < steps[i]
        if not (starts[i] == 0 or interleaved) or 0 < ends[i] < before[axis]:
            refuse(op, f"it cuts {starts[i]}:{ends[i]} out of {before[axis]} positions, and it cannot be told how that "
                   f"follows to {after[axis]}")  # fmt: skip
        if ends[i] == before[axis]:
            ends[i] = int(after[axis] or 0)
    if by_input:
        return sizes.put_ints(op, 2, ends)
    return op.with_attributes(ends=tuple(ends))


def _split(sizes: Sizes, op: Op) -> Op:
    before, after = sizes.old(op.inputs[0]), sizes.static(op.inputs[0])
    axis = op.attribute("axis", 0) % len(before)
    if before[axis] == after[axis]:
        return op
    parts = [sizes.old(output)[axis] for output in op.outputs]
    if len(set(parts)) > 1 or after[axis] % len(parts):
        refuse(op, f"it splits {before[axis]} positions into {', '.join(map(str, parts))}, which does not follow to "
               f"{after[axis]}")  # fmt: skip
    equal = (after[axis] // len(parts),) * len(parts)
    if op.input(1):
        return sizes.put_ints(op, 1, equal)
    return op.with_attributes(split=equal) if op.attribute("split") else op


def _expand(sizes: Sizes, op: Op) -> Op:
    told = sizes.ints(op.inputs[1])
    before, after = sizes.old(op.inputs[0]), sizes.static(op.inputs[0])
    if op.inputs[1] in sizes.values:
        return op  # the model computes it, and it follows
    if told is None:
        refuse(op, "the shape it makes is computed from values of the input")
    wanted = list(told)
    for back in range(1, min(len(told), len(before)) + 1):
        if before[-back] != after[-back] and wanted[-back] == before[-back]:
            wanted[-back] = after[-back]
    return sizes.put_ints(op, 1, wanted)


def _space_to_depth(sizes: Sizes, op: Op) -> Op:
    block, sides = op.attribute("blocksize", 1), sizes.static(op.inputs[0])[2:]
    if any(side % block for side in sides):
        refuse(op, f"a map of {by(sides)} has no whole blocks of {block}x{block}")
    return op


def _positions(sizes: Sizes, op: Op) -> Op:
    """Ops whose constant indices mean positions of their own size."""
    axis = op.attribute("axis", 0)
    if op.op_type in ("Gather", "GatherElements"):
        before, after = sizes.old(op.inputs[0]), sizes.new(op.inputs[0])
        if before[axis % len(before)] == after[axis % len(before)]:
            return op
    refuse(op, "it addresses positions of the map one by one, and they belong to this size")


def _never(sizes: Sizes, op: Op) -> NoReturn:
    refuse(op, "what it does inside cannot be re-derived for another size")


_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mean", "Sum", "PRelu", "Where", "And", "Or", "Mod")

FOLLOW: dict[str, Follow] = {
    **dict.fromkeys(_ELEMENTWISE, fit_broadcast),
    **dict.fromkeys(("If", "Loop", "Scan", "SequenceMap"), _never),
    **dict.fromkeys(("Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "Scatter"), _positions),
    "AveragePool": follow_pool,
    "Concat": fit_concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Expand": _expand,
    "Gemm": _gemm,
    "MatMul": _gemm,
    "MaxPool": follow_pool,
    "Reshape": follow_reshape,
    "Resize": _resize,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Upsample": _resize,
}
