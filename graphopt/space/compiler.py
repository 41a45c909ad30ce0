"""A space becomes its price table: every kernel of every option, over the widths it may have, priced in one call."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from graphopt.cost.kernels import Kernel
from graphopt.cost.price import price_all
from graphopt.cost.workload import Workload, workload
from graphopt.errors import ModelError
from graphopt.ir.channels import AxisSize
from graphopt.ir.graph import Graph
from graphopt.rewrites.rewrite import WidthCondition
from graphopt.space.affine import AffineShape, ScaledPart, cuts_by_op, kernel_shapes, scale_option
from graphopt.space.copies import copies_of
from graphopt.space.memory import compile_memory
from graphopt.space.site import KEEP
from graphopt.space.space import Space
from graphopt.space.table import INVALID, METRICS, PARAMETER_BYTES, CostTable, Factor, Gate, Metrics, Variable
from graphopt.targets.target import Target

MAX_ENTRIES = 1_000_000
"""Entries of one factor's table at most."""


def compile_table(space: Space, target: Target) -> CostTable:
    """Price every decision of ``space`` on ``target``."""
    return _Compiler(space, target).table()


class _Compiler:
    """Holds what every factor needs while the table is made."""

    def __init__(self, space: Space, target: Target) -> None:
        self.space = space
        self.target = target
        self.variables = [
            *(Variable("knob", knob.name, tuple(map(repr, knob.values))) for knob in space.knobs),
            *(Variable("site", site.id, tuple(option.label for option in site.options)) for site in space.sites),
            *(Variable("width", w.group.id, tuple(option.label for option in w.options)) for w in space.widths),
        ]
        index = {(variable.kind, variable.id): i for i, variable in enumerate(self.variables)}
        self.site_index = {site.id: index["site", site.id] for site in space.sites}
        self.width_index = {width.group.id: index["width", width.group.id] for width in space.widths}
        self.domains = {w.group.id: tuple(option.width for option in w.options) for w in space.widths}
        self.sizes = {group.id: group.size for group in space.channels.groups}
        self.cuts = cuts_by_op(space.channels)
        self.constant = np.zeros(METRICS)
        self.factors: list[Factor] = []
        self.unpriced: list[tuple[_Grid, Workload, tuple[int, int] | None]] = []

    def table(self) -> CostTable:
        """Compile everything."""
        space = self.space
        region_of = {kernel: site for site in space.sites for kernel in site.kernels}
        for kernel in space.kernels:
            if kernel.key not in region_of:
                self._add_kernel(kernel, space.graph, self._base_shapes(kernel), None)
        kernels = {kernel.key: kernel for kernel in space.kernels}
        parts: dict[tuple[str, str], ScaledPart] = {}
        for site in space.sites:
            region = [op for key in site.kernels for op in kernels[key].ops]
            variable = self.site_index[site.id]
            for number, option in enumerate(site.options):
                if option.label == KEEP:
                    for key in site.kernels:
                        kernel = kernels[key]
                        self._add_kernel(kernel, space.graph, self._base_shapes(kernel), (variable, number))
                    continue
                part = scale_option(space.graph, space.channels, self.target, region, option, self.domains)
                if part is None:
                    self._forbid(variable, number, len(site.options))
                    continue
                parts[site.id, option.label] = part
                for kernel in part.kernels:
                    self._add_kernel(kernel, part.graph, part.shapes, (variable, number))
                for axis, condition in part.conditions:
                    self._add_condition(axis, condition, (variable, number))
                for group, width in part.refused:
                    self._add_refusal(group, width, (variable, number))
        self._price_kernels()
        self._add_copies(region_of)
        gates = self._gates()
        memory = compile_memory(space, self.target, parts, self.site_index, self.width_index, self.domains)
        return CostTable(self.variables, self.factors, self.constant, memory, gates)

    def _base_shapes(self, kernel: Kernel) -> dict[str, AffineShape]:
        """Shapes of what a kernel of the original touches."""
        return kernel_shapes(self.space.graph, self.space.channels, kernel, self.cuts)

    def _add_kernel(
        self, kernel: Kernel, graph: Graph, shapes: Mapping[str, AffineShape], when: tuple[int, int] | None
    ) -> None:
        """Note one kernel to be priced; ``when`` = (variable, option) makes it count under that option only."""
        axes = sorted({axis for shape in shapes.values() for axis in shape}, key=repr)
        grid = _Grid([self._narrowed(axis) for axis in axes], self)

        def shape_of(tensor: str) -> tuple[int | npt.NDArray[np.int64], ...]:
            return tuple(grid.values(self._narrowed(axis)) for axis in shapes[tensor])

        self.unpriced.append((grid, workload(kernel, graph, shape_of, self.space.graph), when))

    def _price_kernels(self) -> None:
        """Add the factors of all kernels, priced in one call."""
        costs = price_all([load for _, load, _ in self.unpriced], self.target)
        for (grid, load, when), cost in zip(self.unpriced, costs, strict=True):
            energy = self.target.energy_uj(np.asarray(cost.macs, float), np.asarray(cost.dram_bytes, float))
            rows = (cost.latency_us, cost.macs, load.parameter_bytes(self.target), cost.dram_bytes, 0, 0, energy)
            table = np.stack([np.broadcast_to(np.asarray(row, float), grid.shape).ravel() for row in rows])
            self._add_factor(grid, table, when)

    def _add_copies(self, replaced: Collection[str]) -> None:
        """Count constants that widths cut apart."""
        for copies in copies_of(self.space, self.target, self.domains, replaced):
            strides = np.cumprod((1, *copies.bytes.shape[:0:-1]))[::-1]
            pairs = list(zip(copies.groups, strides, copies.bytes.shape, strict=True))
            offsets = tuple(stride * np.arange(count) for group, stride, count in pairs if group in self.domains)
            table = np.zeros((METRICS, copies.bytes.size))
            table[PARAMETER_BYTES] = copies.bytes.ravel()
            variables = tuple(self.width_index[group] for group in copies.groups if group in self.domains)
            self.factors.append(Factor(variables, offsets, table))

    def _narrowed(self, axis: AxisSize) -> AxisSize:
        """The axis size with the groups that have one width only taken as the number they are."""
        constant = axis.constant
        terms = []
        for group, repeat in axis.terms:
            if len(self.domains.get(group, ())) > 1:
                terms.append((group, repeat))
            else:
                constant += repeat * (self.domains[group][0] if group in self.domains else self.sizes[group])
        return AxisSize(constant, tuple(terms))

    def _add_factor(self, grid: _Grid, table: Metrics, when: tuple[int, int] | None) -> None:
        variables = list(grid.offsets)
        offsets = [grid.offsets[variable] for variable in variables]
        if when is not None:  # a first dimension: address 0 where another option is chosen
            variable, option = when
            entries = table.shape[1]
            table = np.concatenate([np.zeros((METRICS, entries)), table], axis=1)
            switch = np.zeros(len(self.variables[variable].options), np.int64)
            switch[option] = entries
            variables.insert(0, variable)
            offsets.insert(0, switch)
        if variables:
            self.factors.append(Factor(tuple(variables), tuple(offsets), table))
        else:
            self.constant += table[:, 0]

    def _add_condition(self, axis: AxisSize, condition: WidthCondition, when: tuple[int, int]) -> None:
        """Forbid an option wherever an axis is no multiple, too small or too large."""
        narrowed = self._narrowed(axis)
        grid = _Grid([narrowed], self)
        values = np.broadcast_to(np.asarray(grid.values(narrowed)), grid.shape).ravel()
        table = np.zeros((METRICS, len(values)))
        table[INVALID] = [bool(condition.refusal(int(value))) for value in values]
        self._add_factor(grid, table, when)

    def _add_refusal(self, group: str, width: int, when: tuple[int, int]) -> None:
        """Forbid an option at one width of a group."""
        grid = _Grid([AxisSize(0, ((group, 1),))], self)
        table = np.zeros((METRICS, len(self.domains[group])))
        table[INVALID, self.domains[group].index(width)] = 1
        self._add_factor(grid, table, when)

    def _forbid(self, variable: int, option: int, options: int) -> None:
        table = np.zeros((METRICS, options))
        table[INVALID, option] = 1
        self.factors.append(Factor((variable,), (np.arange(options),), table))

    def _gates(self) -> list[Gate]:
        """A width is on offer under some values of a knob only: a gate for the moves, a factor for the price."""
        gates = []
        for position, knob in enumerate(self.space.knobs):
            for width in self.space.widths:
                allowed = np.array([[m in option.multipliers for option in width.options] for m in knob.values])
                variable = self.width_index[width.group.id]
                gates.append(Gate(position, variable, tuple(tuple(map(int, np.flatnonzero(row))) for row in allowed)))
                table = np.zeros((METRICS, allowed.size))
                table[INVALID] = ~allowed.ravel()
                offsets = (np.arange(len(knob.values)) * allowed.shape[1], np.arange(allowed.shape[1]))
                self.factors.append(Factor((position, variable), offsets, table))
        return gates


class _Grid:
    """All combinations of a few axis sizes, as broadcastable arrays, and how decisions address them.

    An axis of one group takes one grid step per width on offer. An axis of several groups (concatenations) takes one
    per value that the sum can reach, so that its table stays small however many groups there are.
    """

    def __init__(self, axes: Sequence[AxisSize], compiler: _Compiler) -> None:
        self._compiler = compiler
        groups = {axis.terms[0][0] for axis in axes if len(axis.terms) == 1}
        sums = [axis for axis in dict.fromkeys(axes) if len(axis.terms) > 1]
        self._dims: list[str | AxisSize] = [*sorted(groups), *sums]
        lengths = []
        for dim in self._dims:
            if isinstance(dim, str):
                lengths.append(len(compiler.domains[dim]))
            else:
                low, high, step = self._reach(dim)
                lengths.append((high - low) // step + 1)
        self.shape: tuple[int, ...] = tuple(lengths) or (1,)
        if int(np.prod(self.shape, dtype=float)) > MAX_ENTRIES:
            raise ModelError(
                f"one kernel depends on too many widths at once ({' x '.join(map(str, self.shape))} prices); "
                "keep some as they are with --protect GLOB"
            )
        self.offsets: dict[int, npt.NDArray[np.int64]] = {}
        for position, dim in enumerate(self._dims):
            stride = int(np.prod(self.shape[position + 1 :], dtype=np.int64))
            if isinstance(dim, str):
                self._add(dim, stride * np.arange(len(compiler.domains[dim])))
            else:
                step = self._reach(dim)[2]
                for group, repeat in dim.terms:
                    widths = np.array(compiler.domains[group], np.int64)
                    self._add(group, stride * (repeat * (widths - widths.min()) // step))

    def _add(self, group: str, offsets: npt.NDArray[np.int64]) -> None:
        variable = self._compiler.width_index[group]
        self.offsets[variable] = self.offsets.get(variable, 0) + offsets

    def _reach(self, axis: AxisSize) -> tuple[int, int, int]:
        """Smallest and largest value of an axis, and the step between values."""
        low = high = axis.constant
        steps = [0]
        for group, repeat in axis.terms:
            widths = self._compiler.domains[group]
            low += repeat * min(widths)
            high += repeat * max(widths)
            steps += [repeat * (width - min(widths)) for width in widths]
        return low, high, int(np.gcd.reduce(steps)) or 1

    def values(self, axis: AxisSize) -> int | npt.NDArray[np.int64]:
        """Values of an axis over the grid (broadcastable), or the number it always is."""
        if not axis.terms:
            return axis.constant
        if len(axis.terms) == 1:
            group, repeat = axis.terms[0]
            position = self._dims.index(group)
            line = axis.constant + repeat * np.array(self._compiler.domains[group], np.int64)
        else:
            position = self._dims.index(axis)
            low, high, step = self._reach(axis)
            line = np.arange(low, high + 1, step, dtype=np.int64)
        shape = [1] * len(self._dims)
        shape[position] = len(line)
        return line.reshape(shape)
