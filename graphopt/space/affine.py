"""How the ops of an option scale with the widths: a few structural probes instead of symbolic shapes.

An option's ops exist only once its rewrite has run, and every dimension in them is affine in the widths around it
(a fused kernel has as many rows as the hidden group has channels, a grouped one always 32 columns). So the
site's few ops are cut out, resized, and rewritten at one width per group more than needed to fit the slopes.
Only shapes are computed: no weight value is touched.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from graphopt.cost.kernels import Kernel, decompose
from graphopt.ir.channels import AxisSize, Channels, CutWeight
from graphopt.ir.graph import Graph
from graphopt.ir.resize import Selection, resize
from graphopt.rewrites import is_site_rewrite
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
        conditions: what the widths must satisfy for the option to apply.
        refused: (group, width) pairs under which it turned out not to.
    """

    graph: Graph
    kernels: tuple[Kernel, ...]
    shapes: Mapping[str, AffineShape]
    conditions: tuple[tuple[AxisSize, WidthCondition], ...]
    refused: tuple[tuple[str, int], ...] = ()


def selection(size: int, width: int) -> Selection:
    """Keep the first channels or pad: enough wherever only shapes matter."""
    return Selection(keep=tuple(range(min(size, width))), pad=max(0, width - size))


def base_shape(graph: Graph, channels: Channels, tensor: str) -> AffineShape:
    """Affine shape of a tensor of the original model. Raises ``KeyError`` when its shape is not static."""
    shape = graph.static_shape(tensor)
    if shape is None:
        raise KeyError(tensor)
    return tuple(channels.axis_size(tensor, axis) for axis in range(len(shape)))


def cuts_by_op(channels: Channels) -> dict[str, list[CutWeight]]:
    """The constant inputs along channel groups, by the op that reads them."""
    cuts: dict[str, list[CutWeight]] = {}
    for cut in channels.weights:
        cuts.setdefault(cut.op, []).append(cut)
    return cuts


def kernel_shapes(
    graph: Graph, channels: Channels, kernel: Kernel, cuts: Mapping[str, Sequence[CutWeight]]
) -> dict[str, AffineShape]:
    """Affine shapes of what a kernel of the original model touches. A constant that several ops share is cut for each
    apart: its shape is what ``cuts`` (see `cuts_by_op`) says of this kernel's ops."""
    shapes = {name: base_shape(graph, channels, name) for name in _tensors(kernel)}
    for op in kernel.ops:
        for cut in cuts.get(op, ()):
            axes = zip(graph.weights[cut.weight].shape, cut.layouts, strict=True)
            shapes[cut.weight] = tuple(AxisSize(dim) if at is None else at.size for dim, at in axes)
    return shapes


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
    inside = replace(
        channels,
        layouts={key: layout for key, layout in channels.layouts.items() if key[0] in part.tensors},
        weights=tuple(cut for cut in channels.weights if cut.op in part),
    )
    tensors = [tensor for op in part.ops() for tensor in (*op.inputs, *op.outputs) if tensor]
    groups = sorted({group for tensor in tensors for group in channels.groups_of(tensor)} & set(domains))
    conditions = tuple(
        (channels.axis_size(c.tensor, c.axis), c) for fired in option.fired for c in fired.match.conditions
    )
    sizes = {group: channels.group(group).size for group in groups}

    def holds(widths: Mapping[str, int]) -> bool:
        return not any(condition.refusal(_at(axis, widths, channels)) for axis, condition in conditions)

    bound = sorted({group for axis, _ in conditions for group, _ in axis.terms} & set(groups))
    start = _first_that_holds(bound, domains, sizes, holds)
    if start is None:
        return None
    base = _build(part, inside, target, option, start)
    if base is None:
        return None
    probes = []
    refused = []
    for group in groups:
        for width in domains[group]:
            if width == start[group] or not holds({**start, group: width}):
                continue
            built = _build(part, inside, target, option, {**start, group: width})
            if built is not None:
                probes.append(_Probe(_shapes(*built), group, width - start[group]))
                break
            refused.append((group, width))
        else:  # no width of it alone keeps the conditions: how shapes follow it is not known, so it stays
            known = {*refused, (group, start[group])}
            refused += [(group, width) for width in domains[group] if (group, width) not in known]
    graph_there, kernels = base
    return ScaledPart(graph_there, kernels, _fit(graph_there, kernels, probes, start), conditions, tuple(refused))


def _at(axis: AxisSize, widths: Mapping[str, int], channels: Channels) -> int:
    return axis.constant + sum(repeat * widths.get(group, channels.group(group).size) for group, repeat in axis.terms)


def _first_that_holds(
    bound: Sequence[str],
    domains: Mapping[str, Sequence[int]],
    sizes: Mapping[str, int],
    holds: Callable[[Mapping[str, int]], bool],
) -> dict[str, int] | None:
    """The widths nearest to the present ones under which the option applies; only the groups ``bound`` move."""
    if holds(sizes):
        return dict(sizes)
    nearest = [sorted(domains[group], key=partial(_distance, sizes[group])) for group in bound]
    for choice in itertools.product(*nearest):
        widths = {**sizes, **dict(zip(bound, choice, strict=True))}
        if holds(widths):
            return widths
    return None


def _distance(size: int, width: int) -> int:
    return abs(width - size)


def _build(
    part: Graph, channels: Channels, target: Target, option: Option, widths: Mapping[str, int]
) -> tuple[Graph, tuple[Kernel, ...]] | None:
    """Resize the part, apply the option, decompose; ``None`` when it does not apply at these widths."""
    selections = {
        group: selection(channels.group(group).size, width)
        for group, width in widths.items()
        if width != channels.group(group).size
    }
    sized = part.edited([resize(part, channels, selections)]) if selections else part
    patches = []
    for fired in option.fired:
        rewrite = fired.rule.rewrite
        assert is_site_rewrite(rewrite)
        match = rewrite.match(sized, sized.op(fired.match.anchor), fired.rule.params)
        if not isinstance(match, Match):
            return None
        patches.append(rewrite.rewrite(sized, match, fired.rule.params))
    done = sized.edited(patches)
    return done, decompose(done, target)


@dataclass(frozen=True)
class _Probe:
    """Shapes of the option's kernels at one choice of widths, by kernel and place in it."""

    shapes: tuple[tuple[tuple[int, ...], ...], ...]
    group: str
    step: int


def _tensors(kernel: Kernel) -> tuple[str, ...]:
    return (*kernel.reads, *kernel.writes, *kernel.weights)


def _shapes(graph: Graph, kernels: Sequence[Kernel]) -> tuple[tuple[tuple[int, ...], ...], ...]:
    found = []
    for kernel in kernels:
        shapes = [graph.static_shape(tensor) for tensor in _tensors(kernel)]
        found.append(tuple(shape for shape in shapes if shape is not None))
        if None in shapes:
            raise KeyError(_tensors(kernel)[shapes.index(None)])
    return tuple(found)


def _fit(
    graph: Graph, kernels: Sequence[Kernel], probes: Sequence[_Probe], base: Mapping[str, int]
) -> dict[str, AffineShape]:
    """Fit every axis of every tensor from its size at the base widths and where each probe moved one group."""
    sizes = _shapes(graph, kernels)
    return {
        tensor: tuple(
            _fit_axis(size, [(probe.group, probe.step, probe.shapes[i][j][axis]) for probe in probes], base)
            for axis, size in enumerate(sizes[i][j])
        )
        for i, kernel in enumerate(kernels)
        for j, tensor in enumerate(_tensors(kernel))
    }


def _fit_axis(size: int, moved: Sequence[tuple[str, int, int]], base: Mapping[str, int]) -> AxisSize:
    """An axis of ``size`` at the base widths that had another size when a (group, step) was taken."""
    constant, terms = size, []
    for group, step, other in moved:
        slope, rest = divmod(other - size, step)
        if rest:
            raise AssertionError(f"an axis of {size} is not affine in {group!r}")
        if slope:
            terms.append((group, slope))
            constant -= slope * base[group]
    return AxisSize(constant, tuple(terms))
