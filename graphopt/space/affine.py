"""How the ops of an option scale with the widths: a few structural probes instead of symbolic shapes.

An option's ops exist only once its rewrite has run, and every dimension in them is affine in the widths around it
(a fused kernel has as many rows as the hidden group has channels, a grouped one always 32 columns). So the
site's few ops are cut out, resized, and rewritten at one width per group more than needed to fit the slopes.
Only shapes are computed: no weight value is touched.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.cost.kernels import Kernel, decompose
from graphopt.ir.channels import AxisSize, Channels
from graphopt.ir.graph import Graph
from graphopt.ir.resize import Selection, resize
from graphopt.rewrites.rewrite import Match, WidthCondition
from graphopt.space.site import Option
from graphopt.targets.target import Target

AffineShape = tuple[AxisSize, ...]
"""A tensor's shape, each axis as a function of the groups' widths."""


@dataclass(frozen=True)
class ScaledPart:
    """The kernels of one option, with shapes as functions of the widths.

    Attributes:
        graph: the site's ops after the option, at one choice of widths.
        kernels: its kernels.
        shapes: affine shapes of every activation and weight that the kernels touch.
        conditions: what the widths must satisfy for the option to apply: (axis size, multiple).
    """

    graph: Graph
    kernels: tuple[Kernel, ...]
    shapes: Mapping[str, AffineShape]
    conditions: tuple[tuple[AxisSize, int], ...]


def selection(size: int, width: int) -> Selection:
    """Keep the first channels or pad: enough wherever only shapes matter."""
    return Selection(keep=tuple(range(min(size, width))), pad=max(0, width - size))


def base_shape(graph: Graph, channels: Channels, tensor: str) -> AffineShape:
    """Affine shape of a tensor of the original model. Raises ``KeyError`` when its shape is not static."""
    shape = graph.static_shape(tensor)
    if shape is None:
        raise KeyError(tensor)
    return tuple(channels.axis_size(tensor, axis) for axis in range(len(shape)))


def scale_option(
    graph: Graph,
    channels: Channels,
    target: Target,
    region: Sequence[str],
    option: Option,
    domains: Mapping[str, Sequence[int]],
) -> ScaledPart | None:
    """Return the option's kernels as functions of the widths, or ``None`` when no width on offer lets it apply.

    Args:
        graph: the model.
        channels: its channel groups.
        target: decides the kernels.
        region: keys of the ops of all kernels that the site touches.
        option: what is done there.
        domains: widths on offer by group id; groups that are missing keep their size.
    """
    part = graph.part(region)
    tensors = [tensor for op in part.ops() for tensor in (*op.inputs, *op.outputs) if tensor]
    groups = sorted({group for tensor in tensors for group in channels.groups_of(tensor)} & set(domains))
    conditions = tuple(
        (channels.axis_size(c.tensor, c.axis), c.multiple) for fired in option.fired for c in fired.match.conditions
    )
    sizes = {group: channels.group(group).size for group in groups}

    def holds(widths: Mapping[str, int]) -> bool:
        return all(_at(axis, widths, channels) % multiple == 0 for axis, multiple in conditions)

    start = _first_that_holds(groups, domains, sizes, conditions, holds)
    if start is None:
        return None
    probes = [start]
    for group in groups:
        other = next((w for w in domains[group] if w != start[group] and holds({**start, group: w})), None)
        if other is not None:
            probes.append({**start, group: other})
    built = [_build(part, channels, target, option, widths) for widths in probes]
    return _fit(built, probes, conditions)


def _at(axis: AxisSize, widths: Mapping[str, int], channels: Channels) -> int:
    return axis.constant + sum(
        repeat * widths.get(group, channels.group(group).size) for group, repeat in axis.terms
    )


def _first_that_holds(
    groups: Sequence[str],
    domains: Mapping[str, Sequence[int]],
    sizes: Mapping[str, int],
    conditions: Sequence[tuple[AxisSize, int]],
    holds: object,
) -> dict[str, int] | None:
    """The widths nearest to the present ones under which the option applies."""
    assert callable(holds)
    if holds(sizes):
        return dict(sizes)
    bound = sorted({group for axis, _ in conditions for group, _ in axis.terms} & set(groups))
    for choice in itertools.product(*(sorted(domains[g], key=lambda w, g=g: abs(w - sizes[g])) for g in bound)):
        widths = {**sizes, **dict(zip(bound, choice, strict=True))}
        if holds(widths):
            return widths
    return None


def _build(
    part: Graph, channels: Channels, target: Target, option: Option, widths: Mapping[str, int]
) -> tuple[Graph, tuple[Kernel, ...]]:
    """Resize the part, apply the option, decompose."""
    selections = {
        group: selection(channels.group(group).size, width)
        for group, width in widths.items()
        if width != channels.group(group).size
    }
    sized = part.edited([resize(part, channels, selections)]) if selections else part
    patches = []
    for fired in option.fired:
        match = fired.rule.rewrite.match(sized, sized.op(fired.match.anchor), fired.rule.params)
        if not isinstance(match, Match):
            raise AssertionError(f"{fired.rule.id} matched at {fired.match.anchor!r} and does not after resizing: {match}")
        patches.append(fired.rule.rewrite.rewrite(sized, match, fired.rule.params))
    done = sized.edited(patches)
    return done, decompose(done, target)


def _fit(
    built: Sequence[tuple[Graph, tuple[Kernel, ...]]],
    probes: Sequence[Mapping[str, int]],
    conditions: tuple[tuple[AxisSize, int], ...],
) -> ScaledPart:
    """Fit every axis of every tensor of the kernels from the probes (the first is the base, the others move one group)."""
    graph, kernels = built[0]
    names = [[*k.reads, *k.writes, *k.weights] for k in kernels]
    shapes: dict[str, AffineShape] = {}
    others = []
    for (other, its), widths in zip(built[1:], probes[1:], strict=True):
        moved = next(group for group in widths if widths[group] != probes[0][group])
        others.append((other, [[*k.reads, *k.writes, *k.weights] for k in its], moved, widths[moved] - probes[0][moved]))
    for i, tensors in enumerate(names):
        for j, tensor in enumerate(tensors):
            base = graph.static_shape(tensor)
            if base is None:
                raise KeyError(tensor)
            axes = []
            for axis, size in enumerate(base):
                constant, terms = size, []
                for other, other_names, group, step in others:
                    moved_shape = other.static_shape(other_names[i][j])
                    assert moved_shape is not None
                    slope, rest = divmod(moved_shape[axis] - size, step)
                    assert rest == 0, f"axis {axis} of {tensor!r} is not affine in {group!r}"
                    if slope:
                        terms.append((group, slope))
                        constant -= slope * probes[0][group]
                axes.append(AxisSize(constant, tuple(terms)))
            shapes[tensor] = tuple(axes)
    return ScaledPart(graph, kernels, shapes, conditions)


__all__ = ["AffineShape", "ScaledPart", "WidthCondition", "base_shape", "scale_option", "selection"]
