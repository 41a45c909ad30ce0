"""Moves: a few decisions at once, each to another option, priced where they touch the table and nowhere else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from graphopt.search.goal import PEAK
from graphopt.search.objective import Scorer, Values
from graphopt.space.table import Candidates, CostTable

Integers = npt.NDArray[np.int64]

Block = tuple[Integers, Integers]
"""Variables that move together, shape (variables,), and the combinations they may take, shape (moves, variables)."""

BLOCK_MOVES = 64
"""Combinations of one block at most."""

MAX_MOVES = 100_000
"""Moves together, above which only single decisions move."""

BATCH = 4096
"""Whole candidates priced at once."""


class Moves:
    """Blocks with the addresses of everything that their moves change.

    Attributes:
        blocks: what moves.
        first: the number of each block's first move, shape (blocks,).
        count: of all moves.
    """

    def __init__(self, table: CostTable, blocks: Sequence[Block]) -> None:
        self.blocks = list(blocks)
        lengths = [len(options) for _, options in blocks]
        self.first = np.cumsum([0, *lengths])[:-1]
        self.count = sum(lengths)
        self._table = table
        self._default = table.default()

    @cached_property
    def factors(self) -> list[list[int]]:
        """The factors that each block touches."""
        meetings = self._table.meetings
        return [sorted({f for v in variables for f in meetings[v]}) for variables, _ in self.blocks]

    @cached_property
    def _touched(self) -> tuple[Integers, ...]:
        """Every (block, factor) that meet, and for every move of the block where it takes the factor's address.

        Returns:
            factor of each meeting; (meeting, variable, place in `_lines`) of each term; meeting, address added and
            number of each move there.
        """
        table = self._table
        starts: list[dict[int, int]] = []
        place = 0
        for factor in table.factors:
            starts.append({})
            for variable, offsets in zip(factor.variables, factor.offsets, strict=True):
                starts[-1][variable] = place
                place += len(offsets)
        which: list[int] = []
        terms: list[tuple[int, int, int]] = []
        adds: list[Integers] = []
        lengths: list[int] = []
        numbers: list[Integers] = []
        for (variables, options), touched, first in zip(self.blocks, self.factors, self.first, strict=True):
            number = np.arange(first, first + len(options))
            for f in touched:
                add = np.zeros(len(options), np.int64)
                for column, mover in enumerate(variables.tolist()):
                    if mover in starts[f]:
                        terms.append((len(which), mover, starts[f][mover]))
                        add += self._lines[starts[f][mover] + options[:, column]]
                which.append(f)
                adds.append(add)
                lengths.append(len(add))
                numbers.append(number)
        meeting, moving, line = np.array(terms, np.int64).reshape(-1, 3).T
        moved = np.repeat(np.arange(len(which)), lengths)
        return np.array(which, np.int64), meeting, moving, line, moved, _joined(adds), _joined(numbers)

    @cached_property
    def _lines(self) -> Integers:
        """The offsets of all factors end to end."""
        return _joined([offsets for factor in self._table.factors for offsets in factor.offsets])

    def values(self, scorer: Scorer, at: Candidates) -> Values:
        """The metrics that a score needs of the candidate ``at`` after each move, shape (moves,)."""
        here = {metric: float(line[0]) for metric, line in scorer.values(at[None]).items()}
        if not all(map(np.isfinite, here.values())):
            parts = [scorer.values(rows) for rows in self._candidates(at)]
            return {metric: np.concatenate([part[metric] for part in parts]) for metric in here}
        values = self._changed(scorer.rows, at, here)
        if scorer.peak:
            values[PEAK] = np.concatenate([self._table.peak_bytes(rows) for rows in self._candidates(at)])
        return values

    def _changed(
        self, metrics: Sequence[int], at: Candidates, here: Mapping[int, float]
    ) -> dict[int, npt.NDArray[np.float64]]:
        which, meeting, variable, line, moved, add, number = self._touched
        address = self._table.addresses(at[None])[0, which]
        rest = address - np.bincount(meeting, self._lines[line + at[variable]], len(which)).astype(np.int64)
        target = rest[moved] + add
        values: dict[int, npt.NDArray[np.float64]] = {}
        for metric in metrics:
            prices = self._table.prices[metric]
            change = prices[target] - prices[address][moved]
            values[metric] = np.float64(here[metric]) + np.bincount(number, change, self.count).astype(np.float64)
        return values

    def _candidates(self, at: Candidates) -> Iterator[Candidates]:
        """``at`` after each move, in batches of whole candidates."""
        numbers = np.arange(self.count)
        for low in range(0, self.count, BATCH):
            yield self.after(at, numbers[low : low + BATCH])

    def after(self, at: Candidates, moves: Integers) -> Candidates:
        """``at`` after each of some moves, shape (moves, variables)."""
        rows = np.repeat(at[None], len(moves), axis=0)
        blocks = np.searchsorted(self.first, moves, "right") - 1
        for row, block, move in zip(rows, blocks, moves, strict=True):
            variables, options = self.blocks[block]
            row[variables] = options[move - self.first[block]]
        return rows

    def changes(self, at: Candidates) -> Integers:
        """How many decisions are not the default's after each move."""
        off = at != self._default
        total = int(off.sum())
        parts = [
            total - int(off[variables].sum()) + (options != self._default[variables]).sum(axis=1)
            for variables, options in self.blocks
        ]
        return _joined(parts)


def _joined(parts: Sequence[Integers]) -> Integers:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def blocks_of(table: CostTable) -> list[Block]:
    """Each decision alone, and each with the decisions that share a factor with it, as many as fit (sites first: what
    is done at a place and how wide it is belong together)."""
    sizes = table.sizes.tolist()
    blocks = [(np.array([v]), np.arange(n)[:, None]) for v, n in enumerate(sizes) if n > 1]
    knobs = {gate.knob for gate in table.gates}
    seen: set[tuple[int, ...]] = {(v,) for v in range(len(sizes))}
    total = sum(sizes)
    for centre in sorted(set(range(len(sizes))) - knobs):
        variables, count = [centre], sizes[centre]
        near = {v for number in table.meetings[centre] for v in table.factors[number].variables}
        for other in sorted(near - knobs - {centre}):
            if 1 < sizes[other] <= BLOCK_MOVES / count:
                variables.append(other)
                count *= sizes[other]
        if tuple(sorted(variables)) not in seen and total + count <= MAX_MOVES:
            seen.add(tuple(sorted(variables)))
            total += count
            blocks.append(
                (np.array(variables), np.array(list(itertools.product(*(range(sizes[v]) for v in variables)))))
            )
    return blocks


def macros_of(table: CostTable) -> list[Block]:
    """Many decisions at once: every site to one rule; every width to its n-th option; the knob with all its widths."""
    by_label: dict[str, list[tuple[int, int]]] = {}
    for v, variable in enumerate(table.variables):
        if variable.kind == "site":
            for option, label in enumerate(variable.options):
                by_label.setdefault(label.split("@")[0], []).append((v, option))
    moves: list[Sequence[tuple[int, int]]] = [by_label[label] for label in sorted(by_label)]
    widths = [(v, len(variable.options)) for v, variable in enumerate(table.variables) if variable.kind == "width"]
    deepest = max((count for _, count in widths), default=0)
    moves += [[(v, min(step, count - 1)) for v, count in widths] for step in range(deepest)]
    for knob in sorted({gate.knob for gate in table.gates}):
        gates = [gate for gate in table.gates if gate.knob == knob]
        for value in range(len(table.variables[knob].options)):
            deepest = max(len(gate.allowed[value]) for gate in gates)
            for step in range(deepest):
                chosen = [(g.width, g.allowed[value][min(step, len(g.allowed[value]) - 1)]) for g in gates]
                moves.append([(knob, value), *chosen])
    unique = [dict(move) for move in moves if move]
    return [(np.array(list(move)), np.array([list(move.values())])) for move in unique]
