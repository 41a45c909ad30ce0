"""How the target of a Reshape follows: which of its numbers hold spatial extents is read off the factors.

The dimensions before and after a Reshape fall into the smallest groups of equal product: ``1,1280,7,7 -> 1,62720``
gives ``1 -> 1`` and ``1280,7,7 -> 62720``; ``1,24,56,56 -> 1,24,28,2,28,2`` gives ``56 -> 28,2`` twice. In each group
one number takes up the change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from graphopt.ir.op import Op
from graphopt.resolution.state import Sizes, refuse


def follow_reshape(sizes: Sizes, op: Op) -> Op:
    """Return the op with its target at the new size. Raises ``SizeMisfit`` where that cannot be told."""
    before, after = sizes.old(op.inputs[0]), sizes.static(op.inputs[0])
    shape = sizes.old(op.outputs[0])
    by_input = bool(op.input(1))
    target = sizes.ints(op.input(1)) if by_input else list(op.attribute("shape") or ())
    if target is None:
        refuse(op, "its target is computed from values of the input")
    if by_input and op.input(1) in sizes.values and _fills(target, after):
        return op  # the model computes it, and it follows
    made = list(_new_dims(sizes, op, before, after, shape))
    wanted = [_entry(op, i, entry, made, after) for i, entry in enumerate(target)]
    if not by_input:
        return op.with_attributes(shape=tuple(wanted))
    return sizes.put_ints(op, 1, wanted)


def _fills(target: list[int], after: tuple[int, ...]) -> bool:
    """Whether a target holds as many elements as there are."""
    dims = [after[i] if entry == 0 and i < len(after) else entry for i, entry in enumerate(target)]
    fixed, total = math.prod(dim for dim in dims if dim != -1), math.prod(after)
    return fixed > 0 and total % fixed == 0 if -1 in dims else fixed == total


def _entry(op: Op, place: int, entry: int, made: list[int], after: tuple[int, ...]) -> int:
    """One number of the target: -1 works itself out, 0 copies where there is still something to copy."""
    copied = entry == 0 and not op.attribute("allowzero", 0)
    if entry == -1 or (copied and place < len(after) and after[place] == made[place]):
        return entry
    return made[place]


def _new_dims(
    sizes: Sizes, op: Op, before: tuple[int, ...], after: tuple[int, ...], shape: tuple[int, ...]
) -> Iterator[int]:
    for (low, high), (first, last) in _groups(before, shape):
        old, new, outs = before[low:high], after[low:high], shape[first:last]
        if old == new:
            yield from outs
        elif outs == old:
            yield from new
        else:
            yield from _taken_up(sizes, op, old, new, outs)


def _taken_up(
    sizes: Sizes, op: Op, old: tuple[int, ...], new: tuple[int, ...], outs: tuple[int, ...]
) -> tuple[int, ...]:
    """The numbers of one group at the new size.

    One takes up the change if it is the only one that can move; two neighbours do if they are a map's height and width
    met before; else the largest does if it can, the others being blocks of a fixed size (windows, pixel shuffles).
    """
    total, free = math.prod(new), list(_free(old, new, outs))
    for i, j in pairwise(free):
        known = sizes.seen.get((outs[i], outs[j]), set()) if j == i + 1 else set()
        if len(known) == 1:
            made = (*outs[:i], *next(iter(known)), *outs[j + 1 :])
            if math.prod(made) == total:
                return made
    for i in free:
        rest = math.prod(outs[:i] + outs[i + 1 :])
        if all(outs[i] > outs[j] for j in free if j != i) and rest and total % rest == 0:
            return (*outs[:i], total // rest, *outs[i + 1 :])
    refuse(op, f"{_product(old)} became {_product(new)}, and it cannot be told how {_product(outs) or 'nothing'} takes "
           "that up")  # fmt: skip


def _free(old: tuple[int, ...], new: tuple[int, ...], outs: tuple[int, ...]) -> Iterator[int]:
    """The numbers that do not lie inside of dimensions that stay.

    Counted in elements, a dimension reaches from its stride to its stride times its length. A number that lies within
    the reach of dimensions that stay (and divides there) is part of these.
    """
    reaches: list[tuple[int, int]] = []
    end = math.prod(old)
    for length, following in zip(old, new, strict=True):
        start = end // length
        if length == following:
            if reaches and reaches[-1][0] == end:
                reaches[-1] = (start, reaches[-1][1])
            else:
                reaches.append((start, end))
        end = start
    end = math.prod(outs)
    for i, length in enumerate(outs):
        start = end // length
        inside = any(start % low == 0 and high % end == 0 for low, high in reaches if low <= start and end <= high)
        if (length != 1 and not inside) or len(outs) == 1:
            yield i
        end = start


def _product(dims: tuple[int, ...]) -> str:
    return "x".join(map(str, dims))


def _groups(before: tuple[int, ...], after: tuple[int, ...]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Cut both shapes into the smallest groups of equal product; ones at the end belong to the last group."""
    i = j = 0
    while i < len(before) or j < len(after):
        first, start = i, j
        left = before[i] if i < len(before) else 1
        right = after[j] if j < len(after) else 1
        i, j = min(i + 1, len(before)), min(j + 1, len(after))
        while left != right:
            if left < right and i < len(before):
                left, i = left * before[i], i + 1
            elif j < len(after):
                right, j = right * after[j], j + 1
            else:
                i, j = len(before), len(after)
                break
        yield (first, i), (start, j)
