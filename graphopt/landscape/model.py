"""Channel groups of a model as something to sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from graphopt.cost.estimate import estimate
from graphopt.cost.kernels import Kernel, decompose
from graphopt.errors import ConfigError, did_you_mean
from graphopt.ir.channels import ChannelGroup, Channels, channel_groups
from graphopt.ir.graph import Graph
from graphopt.landscape.sweep import Landscape, Span, Subject, landscape, span_around
from graphopt.prepare import open_subject
from graphopt.space.affine import AffineShape, cuts_by_op, kernel_shapes
from graphopt.targets.target import Target

NAMED = 6
"""Channel groups that an error names at most."""


def model_landscapes(
    model: str | Path,
    targets: Sequence[Target],
    *,
    width: str | None = None,
    multiplier: bool = False,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[Landscape, ...]:
    """Return the landscape of a model file on each target.

    Args:
        model: ONNX file; it is normalised first, as for every estimate.
        targets: at least one.
        width: channel group to sweep; ``None``: the one with the largest share of latency on the first target.
        multiplier: sweep all groups together instead.
        input_shapes: concrete shapes for dynamic inputs.

    Raises:
        ModelError: the model cannot be loaded, or its shapes are not static.
        ConfigError: there is no such group, or none that can change.
    """
    opened = open_subject(model, targets[0], input_shapes=input_shapes)
    name = opened.path.name
    subject = all_widths(name, opened.graph) if multiplier else one_width(name, opened.graph, targets[0], width)
    return tuple(landscape(subject, target) for target in targets)


def one_width(name: str, graph: Graph, target: Target, group_id: str | None = None) -> Subject:
    """One channel group of a model: the cost of the kernels that it runs through.

    Args:
        name: the model's, for titles.
        graph: the model, normalised where that was possible.
        target: decides which group is taken where none is named: the one with the largest share of latency.
        group_id: the group.

    Raises:
        ConfigError: when there is no such group, or it cannot change.
    """
    channels = channel_groups(graph)
    free = _free(name, channels)
    if group_id is None:
        latency = _latency_by_group(graph, channels, target)
        group_id = max(free, key=lambda one: latency.get(one, 0.0))
    elif group_id not in free:
        frozen = {group.id: group for group in channels.groups}.get(group_id)
        if frozen is not None:
            raise ConfigError(f"--width {group_id!r} cannot change: {_fixed_below(frozen) or frozen.unpaddable}")
        names = f" (there are {', '.join([*free][:NAMED])}{' ...' * (len(free) > NAMED)})"
        raise ConfigError(f"--width: no channel group {group_id!r}{did_you_mean(group_id, free) or names}")
    return _subject(f"{name}, {group_id}", graph, channels, [free[group_id]], whole=False)


def all_widths(name: str, graph: Graph) -> Subject:
    """All channel groups of a model that can change, scaled together: the cost of the whole model.

    Raises:
        ConfigError: when no group can change.
    """
    channels = channel_groups(graph)
    return _subject(name, graph, channels, tuple(_free(name, channels).values()), whole=True)


def _free(name: str, channels: Channels) -> dict[str, ChannelGroup]:
    """The groups that can change."""
    free = {group.id: group for group in channels.groups if _span(group) is not None}
    if not free:
        raise ConfigError(f"{name}: no channel group can change (`graphopt explain` says why)")
    return free


def _subject(name: str, graph: Graph, channels: Channels, groups: Sequence[ChannelGroup], *, whole: bool) -> Subject:
    cuts = cuts_by_op(channels)

    def shapes_of(kernel: Kernel) -> Mapping[str, AffineShape]:
        return kernel_shapes(graph, channels, kernel, cuts)

    spans = tuple(span for group in groups if (span := _span(group)) is not None)
    fixed = {group.id: group.size for group in channels.groups}
    return Subject(name, graph, shapes_of, spans, fixed, whole)


def _fixed_below(group: ChannelGroup) -> str:
    return "the first convolution is never cut" if group.is_stem else group.frozen


def _span(group: ChannelGroup) -> Span | None:
    """The widths that a group can take, ``None`` where it cannot change."""
    cut, grow = not _fixed_below(group), not (group.unpaddable or group.frozen)
    span = span_around(group.id, group.size, cut=cut, grow=grow)
    return span if span.low < span.high else None


def _latency_by_group(graph: Graph, channels: Channels, target: Target) -> dict[str, float]:
    """Latency of the kernels that each group runs through, microseconds."""
    latency: dict[str, float] = {}
    priced = {kernel.key: kernel.latency_us for kernel in estimate(graph, target).kernels}
    for kernel in decompose(graph, target):
        tensors = (*kernel.reads, *kernel.writes, *kernel.weights)
        for group in {group for tensor in tensors for group in channels.groups_of(tensor)}:
            latency[group] = latency.get(group, 0.0) + priced[kernel.key]
    return latency
