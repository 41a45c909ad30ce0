"""Peak activation memory of candidates: the largest live set over the steps of the model (DESIGN 4).

Every step of the original, and every step of every option, becomes a row that lists the tensors alive there; a
candidate's peak is the largest row among those its options switch on. An allocator needs a little more (fragmentation):
the estimate of a finished plan uses the arena, the search this lower bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
        for option, its in enumerate(site.options):
            part = parts.get((site.id, its.label)) if its.label != KEEP else None
            if part is not None:
                for alive in _option_rows(rows, spans, first, last, part):
                    rows.add(alive, {**base, **part.shapes}, part.graph, (site_index[site.id], option))
    return rows.table(target, width_index, domains)


def _option_rows(rows: _Rows, spans: Sequence[Lifetime], first: int, last: int, part: ScaledPart) -> list[list[str]]:
    """What is alive at each step of an option that replaces the steps ``first`` to ``last``."""
    around = {span.tensor: span for span in spans}
    inner = activation_lifetimes(part.graph, part.kernels)
    own = {rows.storage(span.tensor, around): span for span in inner}
    beside = [span.tensor for span in spans if span.first < first and span.last > last]
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
