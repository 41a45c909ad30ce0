"""The space, priced once: searching reads tables and never touches a graph.

A *factor* is the price of one kernel (of one option) as a function of the few decisions it depends on. Its table is
addressed through the *axis sizes* of the kernel, not through the decisions themselves: the cost of a concatenation
of twenty groups depends on one sum, and so does its table. A candidate is a vector of option numbers, one for each
decision; its price is one look-up per factor and a sum, done for thousands of candidates at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from graphopt.space.memory import Instant

Candidates = npt.NDArray[np.int64]
"""Option numbers, shape (candidates, variables)."""

Metrics = npt.NDArray[np.float64]

LATENCY, MACS, PARAMETER_BYTES, DRAM_BYTES, INVALID, DRIFT, ENERGY = range(7)
"""Rows of a factor's table. ``INVALID`` counts combinations that must not be; ``DRIFT`` adds up measured drifts."""

METRICS = 7


@dataclass(frozen=True, slots=True)
class Variable:
    """One decision as the search sees it: where it is, and how many options it has."""

    kind: Literal["site", "width", "knob"]
    id: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Factor:
    """A table that depends on a few variables.

    Attributes:
        variables: their indices.
        offsets: for each variable, what each of its options adds to the address.
        table: prices, shape (METRICS, entries).
    """

    variables: tuple[int, ...]
    offsets: tuple[npt.NDArray[np.int64], ...]
    table: Metrics


@dataclass(frozen=True, slots=True)
class Gate:
    """A width that depends on a knob: which of its options each value of the knob allows.

    Attributes:
        knob, width: variable numbers.
        allowed: for each value of the knob the allowed options, at least one, the least change first.
    """

    knob: int
    width: int
    allowed: tuple[tuple[int, ...], ...]


class Memory(Protocol):
    """Prices peak activation memory."""

    def peak_bytes(self, candidates: Candidates) -> npt.NDArray[np.float64]:
        """Return the largest live set of each candidate, bytes, shape (candidates,)."""
        ...

    def instants(self, sizes: Sequence[int]) -> tuple[Instant, ...]:
        """Return what the peak is the largest of, given the numbers of options of all variables."""
        ...


class CostTable:
    """Prices candidates.

    Attributes:
        variables: the decisions, in the order of a candidate's entries.
        factors: what the price is made of.
        constant: metrics of everything that no decision changes.
        memory: prices peak activation memory (slower; asked for only where it matters).
        gates: which widths a knob allows.
    """

    def __init__(
        self,
        variables: Sequence[Variable],
        factors: Sequence[Factor],
        constant: Metrics,
        memory: Memory,
        gates: Sequence[Gate] = (),
        default: Candidates | None = None,
    ) -> None:
        """``default`` is the candidate that changes nothing, where it is not what the knobs allow first."""
        self.variables = tuple(variables)
        self.factors = tuple(factors)
        self.constant = constant
        self.memory = memory
        self.gates = tuple(gates)
        self._default = default

    @cached_property
    def prices(self) -> Metrics:
        """The tables of all factors end to end, shape (METRICS, entries)."""
        tables = [factor.table for factor in self.factors]
        return np.concatenate(tables, axis=1) if tables else np.zeros((METRICS, 0))

    @cached_property
    def _starts(self) -> npt.NDArray[np.int64]:
        """Where each factor's table begins in :attr:`prices`."""
        starts = np.cumsum([0, *(factor.table.shape[1] for factor in self.factors)])
        return starts[:-1].astype(np.int64)

    @cached_property
    def _slots(self) -> list[tuple[npt.NDArray[np.int64], ...]]:
        """The addresses of all factors, one array per variable slot."""
        arity = max((len(factor.variables) for factor in self.factors), default=0)
        count = len(self.factors)
        widest = max((len(variable.options) for variable in self.variables), default=1)
        slots: list[tuple[npt.NDArray[np.int64], ...]] = []
        for slot in range(arity):
            which = np.array([f.variables[slot] if slot < len(f.variables) else 0 for f in self.factors])
            add = np.zeros((count, widest), np.int64)
            for i, factor in enumerate(self.factors):
                if slot < len(factor.variables):
                    add[i, : len(factor.offsets[slot])] = factor.offsets[slot]
            used = np.flatnonzero(add.any(axis=1))
            if len(used):
                slots.append((used, which[used], add[used].ravel(), widest * np.arange(len(used), dtype=np.int64)))
        return slots

    @cached_property
    def meetings(self) -> tuple[tuple[int, ...], ...]:
        """For each variable the factors that depend on it."""
        found: list[list[int]] = [[] for _ in self.variables]
        for number, factor in enumerate(self.factors):
            for variable in factor.variables:
                found[variable].append(number)
        return tuple(map(tuple, found))

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Number of options of each variable."""
        return np.array([len(variable.options) for variable in self.variables], np.int64)

    def index(self, kind: Literal["site", "width", "knob"], id: str) -> int:
        """The number of a variable. Raises ``ValueError`` when there is none of this kind and id."""
        return [(variable.kind, variable.id) for variable in self.variables].index((kind, id))

    def evaluate(self, candidates: Candidates, metrics: Sequence[int] = tuple(range(METRICS))) -> Metrics:
        """Return the metrics of candidates, shape (len(metrics), candidates)."""
        address = self.addresses(candidates)
        out = np.empty((len(metrics), len(candidates)))
        for row, metric in enumerate(metrics):
            out[row] = self.prices[metric][address].sum(axis=1) + self.constant[metric]
        return out

    def addresses(self, candidates: Candidates) -> npt.NDArray[np.int64]:
        """Where :attr:`prices` holds what each factor costs, shape (candidates, factors)."""
        address = np.broadcast_to(self._starts, (len(candidates), len(self._starts))).copy()
        for used, which, add, base in self._slots:
            address[:, used] += add[candidates[:, which] + base]
        return address

    def peak_bytes(self, candidates: Candidates) -> npt.NDArray[np.float64]:
        """Peak activation memory of candidates (largest live set, bytes), shape (candidates,)."""
        return self.memory.peak_bytes(candidates)

    @cached_property
    def instants(self) -> tuple[Instant, ...]:
        """What peak activation memory is the largest of."""
        return self.memory.instants(self.sizes.tolist())

    def with_drift(self, drift: Mapping[int, npt.NDArray[np.float64]]) -> CostTable:
        """Return the table with what each option of some variables was measured to add to the drift."""
        factors = list(self.factors)
        for variable in sorted(drift):
            table = np.zeros((METRICS, len(drift[variable])))
            table[DRIFT] = drift[variable]
            factors.append(Factor((variable,), (np.arange(len(drift[variable])),), table))
        return CostTable(self.variables, factors, self.constant, self.memory, self.gates, self._default)

    def fixed(self, variable: int, option: int) -> CostTable:
        """Return the table with every other option of a variable forbidden."""
        options = len(self.variables[variable].options)
        table = np.zeros((METRICS, options))
        table[INVALID] = np.arange(options) != option
        only = Factor((variable,), (np.arange(options),), table)
        return CostTable(self.variables, (*self.factors, only), self.constant, self.memory, self.gates, self._default)

    def within(self, variables: Sequence[int], at: Candidates) -> CostTable:
        """Return the table of a few variables, all others staying as they are in the candidate ``at``."""
        place = {variable: i for i, variable in enumerate(variables)}
        touched = sorted({number for variable in variables for number in self.meetings[variable]})
        rest = np.ones(len(self.factors), bool)
        rest[touched] = False
        constant = self.constant + self.prices[:, self.addresses(at[None])[0, rest]].sum(axis=1)
        factors = []
        for number in touched:
            factor = self.factors[number]
            pairs = list(zip(factor.variables, factor.offsets, strict=True))
            free = [(place[v], add) for v, add in pairs if v in place]
            base = sum(int(add[at[v]]) for v, add in pairs if v not in place)
            end = base + 1 + sum(int(add.max()) for _, add in free)
            factors.append(Factor(tuple(v for v, _ in free), tuple(add for _, add in free), factor.table[:, base:end]))
        which = np.array(variables, np.int64)
        chosen = [self.variables[variable] for variable in variables]
        return CostTable(chosen, factors, constant, _Part(self, which, at), default=self.default()[which])

    def default(self) -> Candidates:
        """The candidate that changes as little as the knobs allow, shape (variables,)."""
        if self._default is not None:
            return self._default
        start = np.zeros(len(self.variables), np.int64)
        for gate in self.gates:
            start[gate.width] = gate.allowed[start[gate.knob]][0]
        return start


@dataclass(frozen=True, slots=True)
class _Part:
    """Peak memory as a function of a few variables, the others as they are in ``at``."""

    table: CostTable
    variables: npt.NDArray[np.int64]
    at: Candidates

    def peak_bytes(self, candidates: Candidates) -> npt.NDArray[np.float64]:
        rows = np.repeat(self.at[None], len(candidates), axis=0)
        rows[:, self.variables] = candidates
        return self.table.peak_bytes(rows)

    def instants(self, sizes: Sequence[int]) -> tuple[Instant, ...]:
        place = {variable: i for i, variable in enumerate(self.variables.tolist())}
        found = []
        for instant in self.table.instants:
            live = instant.live[tuple(slice(None) if v in place else self.at[v] for v in instant.variables)]
            axes = [place[v] for v in instant.variables if v in place]
            order = np.argsort(axes)
            found.append(Instant(tuple(sorted(axes)), np.transpose(live, order), instant.whole))
        return tuple(found)
