"""Peak activation memory of candidates: the largest live set over the steps of the model (DESIGN 4).

Every step of the original, and every step of every option, becomes a row that lists the tensors alive there; a
candidate's peak is the largest row among those its options switch on. An allocator needs a little more (fragmentation):
the estimate of a finished plan uses the arena, the search this lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.cost.memory import ALIGNMENT_BYTES, activation_lifetimes
from graphopt.cost.workload import tensor_bytes
from graphopt.ir.graph import Graph
from graphopt.ir.liveness import Lifetime, is_view
from graphopt.space.affine import AffineShape, ScaledPart, base_shape
from graphopt.space.site import KEEP
from graphopt.space.space import Space
from graphopt.targets.target import Target

MAX_INSTANT = 50_000
"""Entries of one instant's array at most."""


@dataclass(frozen=True, slots=True)
class Instant:
    """What is alive at some steps of the model, as a function of a few decisions; a candidate's peak is never below it.

    Attributes:
        variables: the decisions.
        live: bytes, shape (options of each variable); 0 where the steps are not part of the model.
        whole: whether it is all that is alive; otherwise the rest counts with the least it can be.
    """

    variables: tuple[int, ...]
    live: npt.NDArray[np.float64]
    whole: bool


class MemoryTable:
    """Prices the peak of many candidates at once."""

    def __init__(
        self,
        widths: Sequence[tuple[int, npt.NDArray[np.int64]]],
        constants: Sequence[npt.NDArray[np.float64]],
        slopes: Sequence[npt.NDArray[np.float64]],
        alive: npt.NDArray[np.float64],
        switches: Sequence[tuple[int, int] | None],
    ) -> None:
        """Args:
        widths: (variable, width of each of its options).
        constants: factors of the tensors' bytes, each shape (tensors,); bytes are the product over the factors.
        slopes: for each factor what one channel of each width adds, shape (widths, tensors).
        alive: which tensor is alive in which row, shape (tensors, rows).
        switches: (variable, option) under which a row counts, ``None`` for always.
        """
        self._widths = list(widths)
        self._factors = list(zip(constants, slopes, strict=True))
        self._alive = alive
        self._switches = list(switches)
        rows = [row for row, switch in enumerate(switches) if switch is not None]
        self._switched = np.array(rows, np.int64)
        self._variable = np.array([switches[row][0] for row in rows], np.int64)  # type: ignore[index]
        self._option = np.array([switches[row][1] for row in rows], np.int64)  # type: ignore[index]

    def peak_bytes(self, candidates: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the largest live set of each candidate, bytes, shape (candidates,)."""
        if not self._alive.size:
            return np.zeros(len(candidates))
        widths = np.stack([sizes[candidates[:, v]] for v, sizes in self._widths], axis=1) if self._widths else None
        sizes = np.ones((len(candidates), self._alive.shape[0]))
        for constant, slope in self._factors:
            sizes *= constant if widths is None else constant + widths.astype(float) @ slope
        aligned = np.ceil(sizes / ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        rows = aligned @ self._alive
        if len(self._switched):
            off = candidates[:, self._variable] != self._option
            rows[:, self._switched] = np.where(off, 0.0, rows[:, self._switched])
        peak: npt.NDArray[np.float64] = rows.max(axis=1)
        return peak

    def instants(self, sizes: Sequence[int]) -> tuple[Instant, ...]:
        """Every step as a function of its decisions; ``sizes`` are the numbers of options of all variables.

        The largest of all instants is the peak, where all of them are whole.
        """
        merged: dict[tuple[int, ...], Instant] = {}
        for row, switch in enumerate(self._switches):
            one = self._instant(np.flatnonzero(self._alive[:, row]), switch, sizes)
            had = merged.get(one.variables)
            if had is not None:
                one = Instant(one.variables, np.maximum(had.live, one.live), had.whole and one.whole)
            merged[one.variables] = one
        return tuple(merged[variables] for variables in sorted(merged))

    def _instant(self, tensors: npt.NDArray[np.int64], switch: tuple[int, int] | None, sizes: Sequence[int]) -> Instant:
        columns = {int(tensor): self._columns(int(tensor)) for tensor in tensors}
        chosen = {} if switch is None else {switch[0]: sizes[switch[0]]}
        whole = True
        for tensor in sorted(columns, key=lambda t: (len(columns[t]), -self._bytes(t, {}).item(), t)):
            grown = chosen | {self._widths[c][0]: len(self._widths[c][1]) for c in columns[tensor]}
            if math.prod(grown.values()) <= MAX_INSTANT:
                chosen = grown
            else:
                whole = False
        variables = tuple(sorted(chosen))
        place = {variable: axis for axis, variable in enumerate(variables)}
        live = np.zeros([chosen[variable] for variable in variables])
        for tensor, its in columns.items():
            axes = {column: place[self._widths[column][0]] for column in its if self._widths[column][0] in place}
            live += self._bytes(tensor, axes, len(variables))
        if switch is not None:
            options = np.arange(chosen[switch[0]]) == switch[1]
            live = live * options.reshape([-1 if v == switch[0] else 1 for v in variables])
        return Instant(variables, live, whole)

    def _columns(self, tensor: int) -> list[int]:
        """The widths that a tensor's bytes depend on."""
        moving = np.any([slope[:, tensor] != 0 for _, slope in self._factors], axis=0)
        return [int(column) for column in np.flatnonzero(moving)]

    def _bytes(self, tensor: int, axes: Mapping[int, int], count: int = 0) -> npt.NDArray[np.float64]:
        """A tensor's bytes with some widths laid along axes and the others as small as they get."""
        total = np.ones((1,) * count)
        for constant, slope in self._factors:
            factor = np.full((1,) * count, constant[tensor])
            for column in np.flatnonzero(slope[:, tensor]).tolist():
                widths = self._widths[column][1]
                if column in axes:
                    line = widths.reshape([-1 if axis == axes[column] else 1 for axis in range(count)])
                else:
                    line = widths.min()
                factor = factor + slope[column, tensor] * line
            total = total * factor
        aligned: npt.NDArray[np.float64] = np.ceil(total / ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        return aligned


def compile_memory(
    space: Space,
    target: Target,
    parts: Mapping[tuple[str, str], ScaledPart],
    site_index: Mapping[str, int],
    width_index: Mapping[str, int],
    domains: Mapping[str, Sequence[int]],
) -> MemoryTable:
    """Make the rows.

    Args:
        space: the decisions.
        target: sets the element size.
        parts: the scaled ops of each (site id, option label) that can apply.
        site_index: variable numbers by site id.
        width_index: variable numbers by group id.
        domains: widths by group id.
    """
    rows = _Rows(space.graph, {group.id: group.size for group in space.channels.groups})
    spans = activation_lifetimes(space.graph, space.kernels)
    step = {kernel.key: number for number, kernel in enumerate(space.kernels)}
    site_at = {step[key]: site for site in space.sites for key in site.kernels}
    base = {span.tensor: base_shape(space.graph, space.channels, span.tensor) for span in spans}
    for number in range(len(space.kernels)):
        site = site_at.get(number)
        alive = [span.tensor for span in spans if span.first <= number <= span.last]
        rows.add(alive, base, space.graph, None if site is None else (site_index[site.id], 0))
    for site in space.sites:
        first, last = min(step[key] for key in site.kernels), max(step[key] for key in site.kernels)
        beside = [
            span.tensor
            for span in spans
            if (span.first < first or span.tensor in space.graph.inputs) and span.last > last
        ]
        for option, its in enumerate(site.options):
            part = parts.get((site.id, its.label)) if its.label != KEEP else None
            if part is not None:
                for alive in _option_rows(rows, spans, beside, part):
                    rows.add(alive, {**base, **part.shapes}, part.graph, (site_index[site.id], option))
    return rows.table(target, width_index, domains)


def _option_rows(rows: _Rows, spans: Sequence[Lifetime], beside: Sequence[str], part: ScaledPart) -> list[list[str]]:
    """What is alive at each step of an option; the tensors ``beside`` are so before it and after it."""
    around = {span.tensor: span for span in spans}
    inner = activation_lifetimes(part.graph, part.kernels)
    own = {rows.storage(span.tensor, around): span for span in inner}
    found = []
    for number in range(len(part.kernels)):
        here = [
            tensor
            for tensor, span in own.items()
            if span.first <= number <= span.last or (tensor in beside and number >= span.first)
        ]
        found.append([*here, *(tensor for tensor in beside if tensor not in own)])
    return found


class _Rows:
    """Collects rows and the tensors in them."""

    def __init__(self, graph: Graph, sizes: Mapping[str, int]) -> None:
        self._graph = graph
        self._sizes = sizes
        self._tensors: dict[tuple[str, AffineShape], tuple[int, Graph]] = {}
        self._alive: list[list[int]] = []
        self._switches: list[tuple[int, int] | None] = []

    def storage(self, tensor: str, known: Mapping[str, Lifetime]) -> str:
        """The tensor whose memory a view looks at."""
        while tensor not in known:
            op = self._graph.producer(tensor)
            if op is None or not is_view(op):
                break
            tensor = op.inputs[0]
        return tensor

    def add(
        self,
        alive: Sequence[str],
        shapes: Mapping[str, AffineShape],
        graph: Graph,
        switch: tuple[int, int] | None,
    ) -> None:
        """Add one row."""
        row = []
        for tensor in alive:
            key = (tensor, shapes[tensor])
            row.append(self._tensors.setdefault(key, (len(self._tensors), graph))[0])
        self._alive.append(row)
        self._switches.append(switch)

    def table(
        self, target: Target, width_index: Mapping[str, int], domains: Mapping[str, Sequence[int]]
    ) -> MemoryTable:
        """Lay everything out as arrays."""
        groups = sorted(width_index, key=width_index.__getitem__)
        column = {group: i for i, group in enumerate(groups)}
        count = len(self._tensors)
        depth = max((sum(bool(axis.terms) for axis in shape) for _, shape in self._tensors), default=0)
        constants = [np.ones(count) for _ in range(depth + 1)]
        slopes = [np.zeros((len(groups), count)) for _ in range(depth + 1)]
        for (tensor, shape), (i, graph) in self._tensors.items():
            constants[0][i] = float(tensor_bytes(graph.dtype(tensor), (1,), target))
            moving = 0
            for axis in shape:
                constant = float(axis.constant)
                terms = []
                for group, repeat in axis.terms:
                    if group in column:
                        terms.append((column[group], repeat))
                    else:
                        constant += repeat * self._sizes[group]
                if not terms:
                    constants[0][i] *= constant
                    continue
                moving += 1
                constants[moving][i] = constant
                for which, repeat in terms:
                    slopes[moving][which, i] = repeat
        alive = np.zeros((count, len(self._alive)))
        for number, row in enumerate(self._alive):
            alive[row, number] = 1.0
        widths = [(width_index[group], np.array(domains[group], np.int64)) for group in groups]
        return MemoryTable(widths, constants, slopes, alive, self._switches)
