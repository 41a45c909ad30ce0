"""From labels to channel groups.

A channel is a root of the disjoint-set. Channels that lie on the same axes equally often can share one width: they
form a group. Whether a group can grow is settled here too, since it depends on where its channels ended up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.ir.group import AxisLayout, AxisSize, ChannelGroup, Channels, CutWeight, Freeze, Member
from graphopt.ir.labels import Labels
from graphopt.ir.layout import runs
from graphopt.ir.walk import Note, Role, Walk, WeightUse

Ints = npt.NDArray[np.intp]


def group_channels(walk: Walk) -> Channels:
    """Bundle the channels of a finished walk into groups."""
    return _Grouping(walk).channels()


@dataclass(frozen=True, slots=True)
class _Roots:
    """What is known of each label's root, arrays of shape ``(labels,)`` read at the root's index.

    Attributes:
        root: smallest label of the channel.
        group: index of its group, -1 for labels of no activation.
        channel: its number in the group.
        frozen, unpaddable: index of the first note about it, or the number of notes.
    """

    root: Ints
    group: Ints
    channel: Ints
    frozen: Ints
    unpaddable: Ints


class _Grouping:
    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.arrays: dict[int, Labels] = {}
        for axes in (*walk.axes.values(), *(use.axes for use in walk.uses)):
            self.arrays.update((id(labels), labels) for labels in axes if labels is not None)
        self.roots = self._roots()
        groups = self.roots.group
        self.count = int(groups.max(initial=-1)) + 1
        members = np.flatnonzero((groups >= 0) & (self.roots.root == np.arange(len(groups))))
        self.sizes = np.bincount(groups[members], minlength=self.count)
        self.first_frozen = self._first_note(members, self.roots.frozen)
        self.first_unpaddable = self._first_note(members, self.roots.unpaddable)
        self.ids = self._ids()
        self.layouts = {key: self._layout(labels) for key, labels in self.arrays.items()}

    def _roots(self) -> _Roots:
        """Bundle channels by where they lie; groups are numbered in the order of their first label."""
        walk = self.walk
        root = walk.space.roots()
        frozen = _note_index(walk.frozen, root)
        signature = np.zeros(len(root), dtype=np.uint64)
        live = np.zeros(len(root), dtype=bool)
        active = {
            id(labels)
            for tensor, axes in walk.axes.items()
            if tensor not in walk.derived
            for labels in axes
            if labels is not None
        }
        for index, (key, labels) in enumerate(self.arrays.items()):
            found, counts = np.unique(root[labels], return_counts=True)
            signature[found] += _scramble(np.uint64(index) << np.uint64(32) | counts.astype(np.uint64))
            if key in active:
                live[found] = True
        signature ^= (frozen < len(walk.frozen)).astype(np.uint64)
        channels = np.flatnonzero(live)
        _, first, inverse = np.unique(signature[channels], return_index=True, return_inverse=True)
        rank = np.empty(len(first), dtype=np.intp)
        rank[np.argsort(first)] = np.arange(len(first))
        group = np.full(len(root), -1, dtype=np.intp)
        group[channels] = rank[inverse]
        order = np.argsort(group[channels], kind="stable")
        sizes = np.bincount(group[channels], minlength=len(first))
        channel = np.zeros(len(root), dtype=np.intp)
        starts = np.cumsum(sizes) - sizes
        channel[channels[order]] = np.arange(len(channels)) - np.repeat(starts, sizes)
        return _Roots(root, group[root], channel[root], frozen, _note_index(walk.unpaddable, root))

    def _first_note(self, members: Ints, notes: Ints) -> Ints:
        first = np.full(self.count, np.iinfo(np.intp).max, dtype=np.intp)
        np.minimum.at(first, self.roots.group[members], notes[members])
        return first

    def _ids(self) -> list[str]:
        """Name each group after the first activation axis that it lies on."""
        names: dict[int, str] = {}
        taken: set[str] = set()
        for tensor, axes in self.walk.axes.items():
            if tensor in self.walk.derived:
                continue
            for labels in axes:
                if labels is None or len(names) == self.count:
                    continue
                group = self.roots.group[labels]
                for index in np.unique(group):
                    if int(index) not in names:
                        name = _unique(_name(tensor, np.flatnonzero(group == index), len(labels)), taken)
                        names[int(index)] = name
                        taken.add(name)
        return [names[index] for index in range(self.count)]

    def _layout(self, labels: Labels) -> AxisLayout:
        group, channel = self.roots.group[labels], self.roots.channel[labels]
        positions: dict[int, Ints] = {}
        constant, terms = 0, []
        for index in map(int, np.unique(group)):
            where = np.flatnonzero(group == index)
            if index < 0:
                constant += len(where)
                continue
            positions[index] = where[np.argsort(channel[where], kind="stable")].reshape(self.sizes[index], -1)
            if self._is_frozen(index):
                constant += len(where)
            else:
                terms.append((self.ids[index], positions[index].shape[1]))
        return AxisLayout(group, channel, AxisSize(constant, tuple(terms)), positions)

    def _is_frozen(self, group: int) -> bool:
        return bool(self.first_frozen[group] < len(self.walk.frozen))

    # -- assembling -----------------------------------------------------------------------------------------------

    def channels(self) -> Channels:
        walk = self.walk
        activations = {
            (tensor, axis): self.layouts[id(labels)]
            for tensor, axes in walk.axes.items()
            for axis, labels in enumerate(axes)
            if labels is not None
        }
        weights = tuple(
            CutWeight(
                use.op,
                use.slot,
                use.weight,
                tuple(None if labels is None else self.layouts[id(labels)] for labels in use.axes),
                use.hints[0].pad if use.hints else use.pad,
            )
            for use in walk.uses
        )
        groups = self._groups()
        sizes = {key: layout.size for key, layout in activations.items()} | _weight_sizes(weights)
        tensors = {tensor: info.shape or () for tensor, info in walk.graph.tensors.items()}
        tensors |= {tensor: weight.shape for tensor, weight in walk.graph.weights.items()}
        of_tensor: dict[str, set[int]] = {}
        for (tensor, _), layout in activations.items():
            of_tensor.setdefault(tensor, set()).update(layout.positions)
        for weight in weights:
            for cut in weight.layouts:
                of_tensor.setdefault(weight.weight, set()).update(() if cut is None else cut.positions)
        return Channels(
            groups=groups,
            freezes=self._freezes(),
            layouts=activations,
            weights=weights,
            _index={group_id: i for i, group_id in enumerate(self.ids)},
            _sizes=sizes,
            _shapes=tensors,
            _of_tensor={t: tuple(self.ids[i] for i in sorted(found)) for t, found in of_tensor.items() if found},
        )

    def _groups(self) -> tuple[ChannelGroup, ...]:
        axes: list[list[tuple[str, int, int]]] = [[] for _ in range(self.count)]
        members: list[list[Member]] = [[] for _ in range(self.count)]
        for tensor, labelled in self.walk.axes.items():
            if tensor in self.walk.derived:
                continue
            for axis, labels in enumerate(labelled):
                if labels is not None:
                    for group, where in self.layouts[id(labels)].positions.items():
                        axes[group].append((tensor, axis, where.shape[1]))
        for use in self.walk.uses:
            for axis, labels in enumerate(use.axes):
                if labels is not None:
                    for group, where in self.layouts[id(labels)].positions.items():
                        role = self._role(use, axis, labels)
                        members[group].append(Member(use.weight, axis, where, role, use.op))
        makers = self._groups_in(self.walk.makers)
        stems = {group for labels in self.walk.stems for group in map(int, np.unique(self.roots.group[labels]))}
        unpaddable = self._unpaddable()
        return tuple(
            ChannelGroup(
                id=self.ids[i],
                size=int(self.sizes[i]),
                axes=tuple(axes[i]),
                members=tuple(members[i]),
                makers=tuple(makers.get(i, ())),
                frozen=self.walk.frozen[self.first_frozen[i]].reason if self._is_frozen(i) else "",
                unpaddable=unpaddable[i],
                is_stem=i in stems,
            )
            for i in range(self.count)
        )

    def _groups_in(self, makers: list[tuple[str, Labels]]) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for op, labels in makers:
            for group in map(int, np.unique(self.roots.group[labels])):
                found.setdefault(group, []).append(op)
        return found

    def _role(self, use: WeightUse, axis: int, labels: Labels) -> Role:
        """What an axis turned out to be: as its own labels tell, or else (where it took another's) its group."""
        root = self.roots.root
        for hint in use.hints:
            if np.isin(labels, hint.labels).any():
                return hint.role
        for hint in use.hints:
            if np.isin(root[labels], root[hint.labels]).any():
                return hint.role
        return use.roles[axis]

    def _freezes(self) -> tuple[Freeze, ...]:
        found: dict[tuple[str, str], set[str]] = {}
        for note in self.walk.frozen:
            groups = {self.ids[i] for i in map(int, np.unique(self.roots.group[note.labels])) if i >= 0}
            if groups:
                found.setdefault((note.op, note.reason), set()).update(groups)
        return tuple(Freeze(op, reason, tuple(sorted(groups))) for (op, reason), groups in found.items())

    # -- growing --------------------------------------------------------------------------------------------------

    def _unpaddable(self) -> list[str]:
        """Why each group cannot grow, ``""`` where it can.

        Whole runs are enough, also through reshapes: both views of the elements show the same sequence, so a run of
        one is a run of the other, and a new channel appended to each run is the same elements in both.
        """
        reasons = [""] * self.count
        for i in range(self.count):
            if self._is_frozen(i):
                reasons[i] = self.walk.frozen[self.first_frozen[i]].reason
            elif self.first_unpaddable[i] < len(self.walk.unpaddable):
                reasons[i] = self.walk.unpaddable[self.first_unpaddable[i]].reason
        for use in self.walk.uses:
            if len({hint.pad for hint in use.hints}) > 1:
                for labels in use.axes:
                    self._refuse(reasons, labels, f"{use.weight!r} would have to grow by different values")
        for labels, where in self._places():
            self._check_runs(reasons, self.layouts[id(labels)], where)
        for labels, position in self.walk.cuts:
            self._check_cut(reasons, self.layouts[id(labels)], position)
        return reasons

    def _refuse(self, reasons: list[str], labels: Labels | None, reason: str) -> None:
        if labels is not None:
            for group in map(int, np.unique(self.roots.group[labels])):
                if group >= 0:
                    reasons[group] = reasons[group] or reason

    def _places(self) -> Iterator[tuple[Labels, str]]:
        """Each label array once, with one axis where it lies."""
        seen: set[int] = set()
        carried = [*self.walk.axes.items(), *((use.weight, use.axes) for use in self.walk.uses)]
        for tensor, axes in carried:
            for axis, labels in enumerate(axes):
                if labels is not None and id(labels) not in seen:
                    seen.add(id(labels))
                    yield labels, f"axis {axis} of {tensor!r}"

    def _check_cut(self, reasons: list[str], layout: AxisLayout, position: int) -> None:
        """Where a Slice takes some repeats of each channel, a run goes on beyond it, and new channels would, too."""
        for group in layout.positions:
            found = runs(layout, group)
            if found is None:
                continue
            ends, inner = found
            starts = ends - len(layout.positions[group]) * inner + 1
            if ((starts < position) & (position <= ends)).any():
                reasons[group] = reasons[group] or "a Slice falls between repeats of one channel"

    def _check_runs(self, reasons: list[str], layout: AxisLayout, where: str) -> None:
        for group in layout.positions:
            if not reasons[group] and runs(layout, group) is None:
                reasons[group] = f"its channels do not lie in whole runs, in order, on {where}"


def _note_index(notes: list[Note], root: Ints) -> Ints:
    """Index of the first note about each root, ``len(notes)`` where there is none."""
    first = np.full(len(root), len(notes), dtype=np.intp)
    for index in range(len(notes) - 1, -1, -1):
        first[root[notes[index].labels]] = index
    return first


def _scramble(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Splitmix64's finaliser: sums of its values tell multisets apart."""
    mixed: npt.NDArray[np.uint64] = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _name(tensor: str, where: Ints, length: int) -> str:
    return tensor if len(where) == length else f"{tensor}[{int(where[0])}:{int(where[-1]) + 1}]"


def _unique(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name}#{number}" in taken:
        number += 1
    return f"{name}#{number}"


def _weight_sizes(weights: tuple[CutWeight, ...]) -> dict[tuple[str, int], AxisSize]:
    """Length of each cut weight axis. A bias that several ops cut differently has no single one: it counts whole."""
    sizes: dict[tuple[str, int], AxisSize] = {}
    for use in weights:
        for axis, layout in enumerate(use.layouts):
            if layout is not None:
                key = (use.weight, axis)
                size = sizes.setdefault(key, layout.size)
                if size != layout.size:
                    sizes[key] = AxisSize(len(layout.group))
    return sizes
