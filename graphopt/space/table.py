"""The space, priced once: searching reads tables and never touches a graph.

A *factor* is the price of one kernel (of one option) as a function of the few decisions it depends on. Its table is
addressed through the *axis sizes* of the kernel, not through the decisions themselves: the cost of a concatenation
of twenty groups depends on one sum, and so does its table. A candidate is a vector of option numbers, one for each
decision; its price is one look-up per factor and a sum, done for thousands of candidates at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from graphopt.space.memory import MemoryTable

Candidates = npt.NDArray[np.int64]
"""Option numbers, shape (candidates, variables)."""

Metrics = npt.NDArray[np.float64]

LATENCY, MACS, PARAMETER_BYTES, DRAM_BYTES, INVALID, DRIFT = range(6)
"""Rows of a factor's table. ``INVALID`` counts combinations that must not be; ``DRIFT`` adds up measured drifts."""

METRICS = 6


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
        memory: MemoryTable,
        gates: Sequence[Gate] = (),
    ) -> None:
        self.variables = tuple(variables)
        self.factors = tuple(factors)
        self.constant = constant
        self.memory = memory
        self.gates = tuple(gates)
        self._compile()

    def _compile(self) -> None:
        """Lay all tables end to end, and the addresses of all factors out as one array per variable slot."""
        arity = max((len(factor.variables) for factor in self.factors), default=0)
        count = len(self.factors)
        widest = max((len(variable.options) for variable in self.variables), default=1)
        starts = np.cumsum([0, *(factor.table.shape[1] for factor in self.factors)])
        self._start = starts[:-1].astype(np.int64)
        self._flat = np.concatenate([f.table for f in self.factors], axis=1) if count else np.zeros((METRICS, 0))
        self._slots = []
        for slot in range(arity):
            which = np.array([f.variables[slot] if slot < len(f.variables) else 0 for f in self.factors])
            add = np.zeros((count, widest), np.int64)
            for i, factor in enumerate(self.factors):
                if slot < len(factor.variables):
                    add[i, : len(factor.offsets[slot])] = factor.offsets[slot]
            used = np.flatnonzero(add.any(axis=1))
            if len(used):
                self._slots.append((used, which[used], add[used].ravel(), np.arange(len(used)) * widest))

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Number of options of each variable."""
        return np.array([len(variable.options) for variable in self.variables], np.int64)

    def index(self, kind: Literal["site", "width", "knob"], id: str) -> int:
        """The number of a variable. Raises ``ValueError`` when there is none of this kind and id."""
        return [(variable.kind, variable.id) for variable in self.variables].index((kind, id))

    def evaluate(self, candidates: Candidates, metrics: Sequence[int] = tuple(range(METRICS))) -> Metrics:
        """Return the metrics of candidates, shape (len(metrics), candidates)."""
        count = len(candidates)
        address = np.broadcast_to(self._start, (count, len(self._start))).copy()
        for used, which, add, base in self._slots:
            address[:, used] += add[candidates[:, which] + base]
        out = np.empty((len(metrics), count))
        for row, metric in enumerate(metrics):
            out[row] = self._flat[metric][address].sum(axis=1) + self.constant[metric]
        return out

    def peak_bytes(self, candidates: Candidates) -> npt.NDArray[np.float64]:
        """Peak activation memory of candidates (largest live set, bytes), shape (candidates,)."""
        return self.memory.peak_bytes(candidates)

    def with_drift(self, drift: Mapping[int, npt.NDArray[np.float64]]) -> CostTable:
        """Return the table with what each option of some variables was measured to add to the drift."""
        factors = list(self.factors)
        for variable in sorted(drift):
            table = np.zeros((METRICS, len(drift[variable])))
            table[DRIFT] = drift[variable]
            factors.append(Factor((variable,), (np.arange(len(drift[variable])),), table))
        return CostTable(self.variables, factors, self.constant, self.memory, self.gates)

    def fixed(self, variable: int, option: int) -> CostTable:
        """Return the table with every other option of a variable forbidden."""
        options = len(self.variables[variable].options)
        table = np.zeros((METRICS, options))
        table[INVALID] = np.arange(options) != option
        only = Factor((variable,), (np.arange(options),), table)
        return CostTable(self.variables, (*self.factors, only), self.constant, self.memory, self.gates)

    def default(self) -> Candidates:
        """The candidate that changes as little as the knobs allow, shape (variables,)."""
        start = np.zeros(len(self.variables), np.int64)
        for gate in self.gates:
            start[gate.width] = gate.allowed[start[gate.knob]][0]
        return start
