"""A constant that several kernels share is in the model once, until widths cut it apart: then every copy counts.

Which kernel owns a constant is settled in the unchanged model, so the copies of the others are added here. Two groups
that were padded to one width still share; two that lost channels do not, since each keeps channels of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.cost.kernels import Kernel
from graphopt.cost.workload import workload
from graphopt.ir.channels import CutWeight
from graphopt.space.affine import cuts_by_op, kernel_shapes
from graphopt.space.space import Space
from graphopt.targets.target import Target

MAX_COMBINATIONS = 1024
"""Combinations of widths that are looked at for one constant; beyond, its copies are not counted."""


@dataclass(frozen=True)
class Copies:
    """What one shared constant adds.

    Attributes:
        groups: the channel groups that decide, by id.
        bytes: of all copies but the first, one axis for the widths on offer of each group.
    """

    groups: tuple[str, ...]
    bytes: npt.NDArray[np.float64]


def copies_of(
    space: Space, target: Target, domains: Mapping[str, Sequence[int]], replaced: Collection[str]
) -> Iterator[Copies]:
    """Yield what is to be added for each shared constant.

    Args:
        space: the decisions.
        target: what the bytes are of.
        domains: the widths on offer by group.
        replaced: kernels that an option may replace; constants that one of these reads are left out.
    """
    cuts = cuts_by_op(space.channels)
    sizes = {group.id: group.size for group in space.channels.groups}
    for weight, kernels in _shared(space).items():
        uses = [_Use(kernel, _cut_of(weight, kernel, cuts)) for kernel in kernels]
        groups = tuple(sorted({group for use in uses for group in use.groups}))
        shape = tuple(len(domains.get(group, (sizes[group],))) for group in groups)
        if any(kernel.key in replaced for kernel in kernels) or not 1 < np.prod(shape, dtype=float) <= MAX_COMBINATIONS:
            continue
        counted = np.zeros(shape)
        for place in np.ndindex(shape):
            moved = {g: domains.get(g, (sizes[g],))[i] for g, i in zip(groups, place, strict=True)}
            seen = {uses[0].identity(moved, sizes)}
            for use in uses[1:]:
                if (copy := use.identity(moved, sizes)) not in seen:
                    seen.add(copy)
                    counted[place] += _bytes(space, target, use.kernel, cuts, {**sizes, **moved})
        if counted.any():
            yield Copies(groups, counted)


def _shared(space: Space) -> dict[str, list[Kernel]]:
    """The kernels of each constant that is the largest of several, the one that owns it first."""
    found: dict[str, list[Kernel]] = {}
    for kernel in space.kernels:
        constants = [name for name in kernel.weights if name in space.graph.weights]
        if constants:
            found.setdefault(max(constants, key=lambda name: space.graph.weights[name].size), []).append(kernel)
    return {weight: kernels for weight, kernels in found.items() if len(kernels) > 1}


def _cut_of(weight: str, kernel: Kernel, cuts: Mapping[str, Sequence[CutWeight]]) -> CutWeight | None:
    return next((cut for op in kernel.ops for cut in cuts.get(op, ()) if cut.weight == weight), None)


@dataclass(frozen=True, slots=True)
class _Use:
    """A kernel, and how the constant that it shares runs along channel groups there (``None``: not at all)."""

    kernel: Kernel
    cut: CutWeight | None

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that the constant runs along."""
        layouts = () if self.cut is None else self.cut.layouts
        return tuple(group for at in layouts if at is not None for group, _ in at.size.terms)

    def identity(self, widths: Mapping[str, int], sizes: Mapping[str, int]) -> object:
        """What tells one copy from another: nothing while it is whole, widths where channels are only added."""
        if all(widths[group] == sizes[group] for group in self.groups):
            return None
        assert self.cut is not None
        axes = [
            None
            if at is None
            else (
                at.size.constant,
                *((repeat, widths[g], g if widths[g] < sizes[g] else sizes[g]) for g, repeat in at.size.terms),
            )
            for at in self.cut.layouts
        ]
        return tuple(axes), self.cut.pad


def _bytes(
    space: Space,
    target: Target,
    kernel: Kernel,
    cuts: Mapping[str, Sequence[CutWeight]],
    widths: Mapping[str, int],
) -> float:
    """Bytes of what a kernel reads of constants."""
    shapes = kernel_shapes(space.graph, space.channels, kernel, cuts)
    load = workload(kernel, space.graph, lambda tensor: [axis.at(widths) for axis in shapes[tensor]])
    return float(np.asarray(load.weight_bytes(target)))
