"""Price tables for the tests of searches: random ones, small enough to enumerate."""

from __future__ import annotations

import itertools

import numpy as np

from graphopt.space.memory import MemoryTable
from graphopt.space.table import (
    DRAM_BYTES,
    INVALID,
    LATENCY,
    MACS,
    METRICS,
    PARAMETER_BYTES,
    CostTable,
    Factor,
    Gate,
    Variable,
)


def no_memory() -> MemoryTable:
    return MemoryTable([], [], [], np.zeros((0, 0)), [])


def random_table(seed: int, sites: int, widths: int) -> CostTable:
    """A chain: width, site, width, site ...; each site's factor meets the widths beside it."""
    generator = np.random.default_rng(seed)
    variables = [Variable("site", f"s{i}", ("keep", "fuse", "swap")[: generator.integers(2, 4)]) for i in range(sites)]
    variables += [Variable("width", f"w{i}", ("18", "32", "16")[: generator.integers(2, 4)]) for i in range(widths)]
    factors = []
    for i in range(sites):
        near = [i, *(sites + j for j in (i - 1, i) if 0 <= j < widths)]
        counts = [len(variables[v].options) for v in near]
        strides = [int(np.prod(counts[k + 1 :], dtype=int)) for k in range(len(counts))]
        entries = int(np.prod(counts))
        table = np.zeros((METRICS, entries))
        for row in (LATENCY, MACS, PARAMETER_BYTES, DRAM_BYTES):
            table[row] = generator.integers(1, 1000, entries)
        table[INVALID, 1:] = generator.random(entries - 1) < 0.1
        factors.append(
            Factor(tuple(near), tuple(s * np.arange(c) for s, c in zip(strides, counts, strict=True)), table)
        )
    return CostTable(variables, factors, np.zeros(METRICS), no_memory())


def every_candidate(table: CostTable) -> np.ndarray:
    return np.array(list(itertools.product(*(range(n) for n in table.sizes))), np.int64)


def tangled_table(seed: int) -> CostTable:
    """Like real tables: concatenations whose address is one sum, kernels of one option, a knob that gates widths."""
    generator = np.random.default_rng(seed)
    labels = ("18", "32", "16", "48")
    variables = [Variable("knob", "m", ("1.0", "0.5")), Variable("site", "s", ("keep", "fuse", "swap"))]
    variables += [Variable("width", f"w{i}", labels[: generator.integers(2, 5)]) for i in range(4)]
    sizes = [len(variable.options) for variable in variables]
    widths = {v: np.sort(generator.integers(0, 4, sizes[v])) * (1 if v == 2 else 2) for v in range(2, 6)}
    factors = []

    def add(offsets: dict[int, np.ndarray], allowed: int | None = None) -> None:
        entries = 1 + sum(int(line.max()) for line in offsets.values())
        table = np.zeros((METRICS, entries))
        for row in (LATENCY, MACS, PARAMETER_BYTES):
            table[row] = generator.integers(1, 1000, entries)
        if allowed is not None:
            table[INVALID, allowed:] = generator.random(entries - allowed) < 0.4
        factors.append(Factor(tuple(offsets), tuple(offsets.values()), table))

    add(widths)  # one sum of all
    some = {v: widths[v] for v in (2, 3, 4)}
    high = 1 + sum(int(line.max()) for line in some.values())
    add({**some, 5: high * np.arange(sizes[5])})  # a sum, and a width beside it
    add({**some, 2: some[2] + high * np.arange(sizes[2])})  # the same width in the sum and beside it
    step = 1 + int(widths[2].max())
    add({1: np.array([0, step, 0]), 2: widths[2]}, allowed=step)  # counts under one option
    gates = []
    for v in (2, 4):
        allowed = generator.random((2, sizes[v])) < 0.6
        allowed[:, 0] = True
        gates.append(Gate(0, v, tuple(tuple(map(int, np.flatnonzero(row))) for row in allowed)))
        table = np.zeros((METRICS, allowed.size))
        table[INVALID] = ~allowed.ravel()
        factors.append(Factor((0, v), (np.arange(2) * sizes[v], np.arange(sizes[v])), table))
    constant = generator.random(METRICS)
    constant[INVALID] = 0
    return CostTable(variables, factors, constant, no_memory(), gates)


def chain(blocks: int, seed: int = 0) -> CostTable:
    """A long chain: a block has one site and one width of four; its kernel meets the width before, too."""
    generator = np.random.default_rng(seed)
    variables, factors = [], []
    for block in range(blocks):
        variables.append(Variable("site", f"s{block}", ("keep", "fuse", "swap")))
        variables.append(Variable("width", f"w{block}", ("32", "64", "96", "128")))
        near = [(2 * block, 3), (2 * block + 1, 4), *([(2 * block - 1, 4)] if block else [])]
        entries = int(np.prod([options for _, options in near]))
        table = np.zeros((METRICS, entries))
        table[LATENCY] = generator.integers(1, 1000, entries)
        table[PARAMETER_BYTES] = generator.integers(1, 1000, entries)
        strides = np.cumprod([1, *(options for _, options in near[:-1])])
        offsets = tuple(stride * np.arange(options) for stride, (_, options) in zip(strides, near, strict=True))
        factors.append(Factor(tuple(variable for variable, _ in near), offsets, table))
    return CostTable(variables, factors, np.zeros(METRICS), no_memory())


def with_memory(table: CostTable, scale: int = 16) -> CostTable:
    """The table with one tensor for each width, alive two at a time."""
    widths = [(v, scale * np.arange(1, len(x.options) + 1)) for v, x in enumerate(table.variables) if x.kind == "width"]
    count = len(widths)
    alive = (np.abs(np.subtract.outer(np.arange(count), np.arange(count))) <= 1).astype(float)
    memory = MemoryTable(widths, [np.zeros(count)], [np.eye(count)], alive, [None] * count)
    return CostTable(table.variables, table.factors, table.constant, memory, table.gates)


def grid(side: int, seed: int = 0) -> CostTable:
    """Decisions in a square, each priced with its neighbours: as wide as it is long."""
    generator = np.random.default_rng(seed)
    variables = [Variable("width", f"w{i}", ("16", "32", "48")) for i in range(side * side)]
    factors = []
    for row in range(side):
        for column in range(side):
            here = row * side + column
            for there in [here + 1] * (column + 1 < side) + [here + side] * (row + 1 < side):
                table = np.zeros((METRICS, 9))
                table[[LATENCY, PARAMETER_BYTES]] = generator.integers(1, 1000, (2, 9))
                factors.append(Factor((here, there), (3 * np.arange(3), np.arange(3)), table))
    return CostTable(variables, factors, np.zeros(METRICS), no_memory())
