"""Which channels to keep, by what they do on real samples: the strongest, or the ones that explain the others best.

For a consumer that reads channels x with column norms w, ``C = cov(x) * w w'`` is the energy that the channels deliver,
alone (its diagonal; a mean is a matter of the bias) and together. ``energy`` keeps what delivers most alone.

``column-subset`` picks columns greedily, each time the one that takes most of what is left of C with it (column subset
selection by pivoted Cholesky; Civril and Magdon-Ismail, 2012): a channel that others can stand in for is not needed,
since the consumer's weights are re-solved afterwards. Dead channels explain nothing and go first.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphopt.ir.channels import Channels
from graphopt.ir.graph import Graph
from graphopt.ir.group import Member
from graphopt.ir.op import Importance
from graphopt.ir.resize import Selection
from graphopt.rewrites.convs import is_standard
from graphopt.weights.importance import select
from graphopt.weights.linear import Doubles
from graphopt.weights.taps import Samples, Stream

_ROWS = 16384
_MOST_COLUMNS = 4096
"""Wider inputs (a Flatten in front of a Gemm) say nothing here: their covariance would not fit."""


def select_channels(
    graph: Graph,
    channels: Channels,
    widths: Mapping[str, int],
    samples: Samples,
    *,
    importance: Importance = "column-subset",
    seed: int = 0,
    memory_limit_bytes: int = 2 << 30,
) -> dict[str, Selection]:
    """Return which channels stay, for each group that gets another width.

    A group without a consumer whose input can be looked at is chosen by its weights (`importance.select`), as every
    group is with ``l2``.

    Args:
        graph: the model.
        channels: its channel groups.
        widths: new width by group id. A larger one keeps everything and pads.
        samples: what to run the model on.
        importance: ``l2``, ``energy`` or ``column-subset``.
        seed: of the picked positions.
        memory_limit_bytes: an eighth is for the activations that are kept between two looks.

    Raises:
        ModelError: when the model does not run on the samples.
    """
    chosen = select(graph, channels, widths)
    if importance == "l2":
        return chosen
    stream: Stream | None = None
    energies: dict[str, Doubles] = {}
    shrinking = {name for name, width in widths.items() if width < channels.group(name).size}
    uses = [
        (member, channels.group(name))
        for name in sorted(shrinking)
        for member in channels.group(name).members
        if _is_read(graph, member)
    ]
    for member, group in sorted(uses, key=lambda use: graph.position(use[0].op)):
        stream = stream or Stream(graph, samples, cache_bytes=memory_limit_bytes // 16)
        energy = _energy(stream, graph, member, seed)
        if energy is not None:
            energies[group.id] = energies.get(group.id, 0.0) + energy
    pick = strongest if importance == "energy" else column_subset
    for name, energy in energies.items():
        chosen[name] = Selection(keep=pick(energy, widths[name]))
    return chosen


def strongest(energy: Doubles, count: int) -> tuple[int, ...]:
    """Return the ``count`` columns with the largest diagonal, ascending; arguments as of `column_subset`."""
    return tuple(sorted(int(i) for i in np.argsort(-np.diag(energy), kind="stable")[:count]))


def column_subset(energy: Doubles, count: int) -> tuple[int, ...]:
    """Return ``count`` columns that explain the symmetric ``energy`` best, ascending.

    Args:
        energy: shape (channels, channels), positive semi-definite.
        count: how many to keep.
    """
    left = energy.astype(np.float64)
    first = np.diag(left).copy()
    floor = 1e-9 * max(float(first.max()), 1e-300)
    free = np.ones(len(left), bool)
    picked: list[int] = []
    while len(picked) < count:
        alone = np.diag(left)
        gain = np.where(free & (alone > floor), np.square(left).sum(axis=0) / np.maximum(alone, floor), -1.0)
        best = int(gain.argmax())
        if gain[best] < 0:  # nothing is left to explain: the strongest of the rest, for good measure
            rest = np.flatnonzero(free)
            picked += [int(i) for i in rest[np.argsort(-first[rest], kind="stable")][: count - len(picked)]]
            break
        picked.append(best)
        free[best] = False
        left = left - np.outer(left[:, best], left[best]) / left[best, best]
    return tuple(sorted(picked))


def _is_read(graph: Graph, member: Member) -> bool:
    """Whether the member is the weight of a dense op that sums over the channels."""
    op = graph.op(member.op)
    known = is_standard(op, "Conv") or is_standard(op, "Gemm") or is_standard(op, "MatMul")
    dense = known and op.attribute("group", 1) == 1 and len(op.inputs) > 1 and op.inputs[1] == member.weight
    return bool(dense) and member.role == "consume" and graph.static_shape(op.inputs[0]) is not None


def _energy(stream: Stream, graph: Graph, member: Member, seed: int) -> Doubles | None:
    """What the group's channels deliver to one consumer, relative to all that it gets from them."""
    op = graph.op(member.op)
    weight = graph.weights[member.weight].array().astype(np.float64)
    norms = np.sqrt(np.square(weight).sum(axis=tuple(axis for axis in range(weight.ndim) if axis != member.axis)))
    covariance = _covariance(stream, op.inputs[0], op.key, op.op_type == "Conv", len(norms), seed)
    if covariance is None:
        return None
    covariance *= np.outer(norms, norms)
    size, repeat = member.positions.shape
    energy = np.zeros((size, size))
    for number in range(repeat):
        here = member.positions[:, number]
        energy += covariance[np.ix_(here, here)]
    total = float(np.trace(energy))
    return energy / total if total > 0.0 else energy


def _covariance(stream: Stream, tensor: str, until: str, is_conv: bool, width: int, seed: int) -> Doubles | None:
    """Covariance of the channels of ``tensor`` over samples and picked positions; ``None`` where it cannot be had."""
    if width > _MOST_COLUMNS:
        return None
    rng = np.random.default_rng(seed)
    per_sample = max(1, _ROWS // stream.count)
    gram, total, rows = np.zeros((width, width)), np.zeros(width), 0
    for _, values in stream.run([tensor], until):
        x = values[tensor]
        flat = x.reshape(len(x), width, -1).transpose(0, 2, 1) if is_conv else x.reshape(len(x), -1, width)
        picked = rng.choice(flat.shape[1], min(per_sample, flat.shape[1]), replace=False)
        part = flat[:, np.sort(picked)].reshape(-1, width).astype(np.float64)
        gram += part.T @ part
        total += part.sum(axis=0)
        rows += len(part)
    mean = total / max(rows, 1)
    return np.asarray(gram / max(rows, 1) - np.outer(mean, mean))
