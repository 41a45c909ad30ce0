"""Variable elimination: the best candidate of a table and the proof that nothing is better.

The variables go one after the other. All arrays that know a variable are added up and minimised over it, and what comes
out is a new array over their other axes (a *message*). On a chain of kernels this is Viterbi's algorithm. The variable
whose array is smallest goes first. Which arrays meet, and how they are addressed, is settled once; prices are put in as
often as a Lagrange multiplier changes.

Where an array would be too large, its parts are minimised apart from each other (mini-buckets): the result is then a
lower bound, not the minimum. R. Dechter and I. Rish, Mini-buckets: a general scheme for bounded inference, JACM 2003.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.search.forms import Forms, along
from graphopt.space.memory import Instant
from graphopt.space.table import INVALID, METRICS, Candidates, CostTable

Prices = npt.NDArray[np.float64]

CHANGES = METRICS
"""The row of an array that counts changed decisions, after the table's own rows."""

MAX_ENTRIES = 4_000_000
"""Entries of one array at most."""

MAX_TOTAL = 100_000_000
"""Entries of all arrays together, about: once they are spent, arrays are a thousandth of the largest."""

BUSY = 32
"""Arrays that know one variable; above, its place in the order is looked up only when its turn comes."""


@dataclass(frozen=True, slots=True)
class _Step:
    """Arrays added up and minimised over one variable.

    ``sources`` are (array, its index over the variable and the axes); without an index its smallest entry counts.
    """

    variable: int
    sources: tuple[tuple[int, tuple[Any, ...] | None], ...]
    axes: tuple[int, ...]
    shape: tuple[int, ...]


class Elimination:
    """The order, and the addresses of everything.

    Attributes:
        complete: whether :meth:`minimise` finds the minimum; else it finds a lower bound.
        entries: of all arrays together: what one minimisation costs.
    """

    def __init__(self, table: CostTable, max_entries: int = MAX_ENTRIES, *, peak: bool = False) -> None:
        """``peak``: whether :meth:`minimise` may be asked to keep peak memory under a ceiling."""
        instants = table.instants if peak else ()
        self.complete = all(instant.whole for instant in instants)
        self.entries = 0
        self._table = table
        self._limit = max_entries
        self._forms = Forms(table.sizes.tolist())
        self._axes: list[tuple[int, ...]] = []
        self._prices: list[Prices] = []
        self._steps: list[_Step] = []
        self._live: dict[int, Prices] = {}
        self._load(instants)
        self._alone = {axes[0]: array for array, axes in enumerate(self._axes) if len(axes) == 1}
        self._knows: list[set[int]] = [set() for _ in table.variables]
        for array in range(len(self._axes)):
            for variable in self._variables(self._axes[array]):
                self._knows[variable].add(array)
        self._order()

    def _load(self, instants: Sequence[Instant]) -> None:
        """The factors as arrays over forms; those over the same forms are one. Instants lie over variables."""
        merged: dict[tuple[int, ...], Prices] = {}
        for factor in self._table.factors:
            axes, address = self._forms.axes(factor)
            prices = np.zeros((METRICS + 1, *address.shape))
            prices[:METRICS] = factor.table[:, address]
            merged[axes] = merged[axes] + prices if axes in merged else prices
        for variable, default in enumerate(self._table.default()):
            prices = np.zeros((METRICS + 1, self._forms.sizes[variable]))
            prices[CHANGES] = np.arange(prices.shape[1]) != default
            merged[variable,] = merged[variable,] + prices if (variable,) in merged else prices
        live: dict[tuple[int, ...], Prices] = {}
        for instant in instants:
            axes = instant.variables
            live[axes] = np.maximum(live[axes], instant.live) if axes in live else instant.live
            merged.setdefault(axes, np.zeros((METRICS + 1, *instant.live.shape)))
        self._axes = list(merged)
        self._prices = list(merged.values())
        self._live = {array: live[axes] for array, axes in enumerate(self._axes) if axes in live}

    def _variables(self, axes: Iterable[int]) -> set[int]:
        return {variable for form in axes for variable in self._forms[form].offsets}

    def _order(self) -> None:
        """Plan the elimination of every variable, the cheapest first."""
        queue = [(self._size(variable), variable) for variable in range(len(self._knows))]
        heapq.heapify(queue)
        current = {variable: size for size, variable in queue}
        while queue:
            size, variable = heapq.heappop(queue)
            if current.get(variable) != size:
                continue
            now = self._size(variable)
            if now > size:  # it became dearer since: back into the queue
                current[variable] = now
                heapq.heappush(queue, (now, variable))
                continue
            del current[variable]
            near = self._eliminate(variable)
            for other in sorted(near):
                if len(self._knows[other]) <= BUSY:
                    current[other] = self._size(other)
                    heapq.heappush(queue, (current[other], other))

    def _size(self, variable: int) -> int:
        """Entries of the array that eliminates a variable."""
        return self._joined(variable, sorted(self._knows[variable]))[1]

    def _joined(self, variable: int, arrays: Sequence[int]) -> tuple[tuple[int, ...], int]:
        """The axes of a message (the variable not among them), and how many entries it is made of."""
        forms = self._forms
        axes: dict[int, None] = {}
        for array in arrays:
            for form in self._axes[array]:
                if form != variable:
                    axes[forms.without(form, variable)[0] if variable in forms[form].offsets else form] = None
        for form in [form for form in axes if not forms.is_variable(form)]:
            missing = [v for v in forms[form].offsets if v not in axes]
            if math.prod(forms.sizes[v] for v in missing) <= forms[form].length:
                del axes[form]
                axes |= dict.fromkeys(missing)
        plain = self._variables(axes)
        lengths = {kind: math.prod(forms[form].length for form in kind) for kind in (tuple(axes), tuple(sorted(plain)))}
        best = min(lengths, key=lambda kind: lengths[kind])
        return best, forms.sizes[variable] * lengths[best]

    def _eliminate(self, variable: int) -> set[int]:
        """Plan one elimination, and return the variables that it touches."""
        touched: set[int] = set()
        room = min(self._limit, max(MAX_TOTAL - self.entries, self._limit // 1000))
        for bucket in self._buckets(variable, room):
            axes, size = self._joined(variable, bucket)
            sources: tuple[tuple[int, tuple[Any, ...] | None], ...]
            if size > room:  # one array, too large by itself
                axes, sources = (), tuple((array, None) for array in bucket)
            else:
                sources = tuple((array, self._index(self._axes[array], variable, axes)) for array in bucket)
            shape = tuple(self._forms[form].length for form in axes)
            self._steps.append(_Step(variable, sources, axes, shape))
            self.entries += self._forms.sizes[variable] * math.prod(shape)
            for array in bucket:
                for known in self._variables(self._axes[array]):
                    self._knows[known].discard(array)
            self._axes.append(axes)
            for known in self._variables(axes):
                self._knows[known].add(len(self._axes) - 1)
                touched.add(known)
        return touched

    def _buckets(self, variable: int, room: int) -> list[list[int]]:
        """The arrays that know a variable, in as few parts as there is room for, the largest arrays first."""
        arrays = sorted(self._knows[variable])
        if self._joined(variable, arrays)[1] <= room:
            return [arrays]
        self.complete = False
        buckets: list[list[int]] = []
        for array in sorted(arrays, key=lambda a: (-math.prod(self._forms[f].length for f in self._axes[a]), a)):
            for bucket in buckets:
                if self._joined(variable, [*bucket, array])[1] <= room:
                    bucket.append(array)
                    break
            else:
                buckets.append([array])
        return buckets

    def _index(self, source: tuple[int, ...], variable: int, axes: tuple[int, ...]) -> tuple[Any, ...]:
        """How an array is read along (variable, axes): one index for each of its own axes, to be broadcast."""
        forms, place, count = self._forms, {form: 1 + i for i, form in enumerate(axes)}, 1 + len(axes)
        place[variable] = 0
        index = []
        for form in source:
            if form in place:
                index.append(along(np.arange(forms[form].length), place[form], count))
                continue
            offsets = dict(forms[form].offsets)
            total = np.zeros((1,) * count, np.int64)
            if variable in offsets:
                total = total + along(offsets[variable], 0, count)
                rest, step = forms.without(form, variable)
                if step and rest in place:
                    total = total + along(step * forms[rest].values, place[rest], count)
                    offsets = {}
                offsets.pop(variable, None)
            for known, add in offsets.items():
                total = total + along(add, place[known], count)
            index.append(np.searchsorted(forms[form].values, total))
        return tuple(index)

    def minimise(
        self,
        weights: Mapping[int, float],
        never: Sequence[int] = (),
        *,
        ceiling: float = math.inf,
        allowed: Mapping[int, npt.NDArray[np.bool_]] | None = None,
    ) -> tuple[float, Candidates]:
        """Minimise a weighted sum of metrics over the candidates that are valid.

        Args:
            weights: of each metric (:data:`CHANGES`: for each decision that is not the default's).
            never: metrics that must be finite.
            ceiling: peak memory that no candidate may exceed, bytes.
            allowed: which options some variables may take.

        Returns:
            The minimum, or a bound below it where the elimination is not :attr:`complete` (infinite where no candidate
            is valid), and the candidate it belongs to.
        """
        arrays: dict[int, Prices] = {i: self._weighed(prices, weights, never) for i, prices in enumerate(self._prices)}
        if math.isfinite(ceiling):
            for array, live in self._live.items():
                arrays[array] = np.where(live > ceiling, np.inf, arrays[array])
        for variable, options in (allowed or {}).items():
            array = self._alone[variable]
            arrays[array] = np.where(options, arrays[array], np.inf)
        bound = sum(weight * float(self._table.constant[m]) for m, weight in weights.items() if m != CHANGES)
        choices: list[npt.NDArray[np.integer[Any]]] = []
        for number, step in enumerate(self._steps):
            total = np.zeros((self._forms.sizes[step.variable], *step.shape))
            for source, index in step.sources:
                prices = arrays.pop(source)
                total += prices.min() if index is None else prices[index]
            choices.append(total.argmin(axis=0).astype(np.min_scalar_type(len(total))))
            arrays[len(self._prices) + number] = total.min(axis=0)
        bound += sum(float(prices) for prices in arrays.values())
        return bound, self._chosen(choices)

    def _weighed(self, prices: Prices, weights: Mapping[int, float], never: Sequence[int]) -> Prices:
        total: Prices = np.zeros(prices.shape[1:])
        for metric, weight in weights.items():
            if weight:
                total += weight * prices[metric]
        invalid = prices[INVALID] > 0
        for metric in never:
            invalid |= ~np.isfinite(prices[metric])
        total[invalid] = np.inf
        return total

    def _chosen(self, choices: Sequence[npt.NDArray[np.integer[Any]]]) -> Candidates:
        """Read the choices backwards; of a variable with several parts, the last (smallest) gives way to the first."""
        row = np.zeros(len(self._knows), np.int64)
        for step, choice in zip(reversed(self._steps), reversed(choices), strict=True):
            at = []
            for axis in step.axes:
                form = self._forms[axis]
                value = sum(int(add[row[variable]]) for variable, add in form.offsets.items())
                at.append(int(np.searchsorted(form.values, value)))
            row[step.variable] = choice[tuple(at)]
        return row
