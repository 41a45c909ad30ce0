"""Linear forms: what a table of prices is addressed by.

A factor's address is a sum with one summand for each of its variables. Read as one axis, a sum of twenty widths has as
many entries as it has values, not as many as there are combinations: that is what keeps elimination narrow where
channels are concatenated. A single variable is the form that is its option number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.space.table import Factor

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Form:
    """A sum over variables.

    Attributes:
        offsets: for each variable, by number, what each of its options adds; the smallest is 0.
        values: what the sum can be, sorted, shape (length,).
    """

    offsets: Mapping[int, Integers]
    values: Integers

    @property
    def length(self) -> int:
        """Entries of an axis that is this form."""
        return len(self.values)


class Forms:
    """Every form that an elimination has met, by number; equal forms have one number, variables their own."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(map(int, sizes))
        self._forms = [Form({v: np.arange(n)}, np.arange(n)) for v, n in enumerate(self.sizes)]
        self._numbers: dict[tuple[tuple[int, bytes], ...], int] = {}
        self._without: dict[tuple[int, int], tuple[int, int]] = {}

    def __getitem__(self, number: int) -> Form:
        return self._forms[number]

    def is_variable(self, number: int) -> bool:
        """Whether a form is a variable's own."""
        return number < len(self.sizes)

    def number(self, offsets: Mapping[int, Integers]) -> int:
        """The number of the form with these offsets, at least two variables that count."""
        key = tuple((variable, offsets[variable].tobytes()) for variable in sorted(offsets))
        if key not in self._numbers:
            self._numbers[key] = len(self._forms)
            self._forms.append(Form({variable: offsets[variable] for variable in sorted(offsets)}, reach(offsets)))
        return self._numbers[key]

    def without(self, number: int, variable: int) -> tuple[int, int]:
        """A form of several variables less one of them: (number, how many of the old steps one of the new is)."""
        if (number, variable) not in self._without:
            rest = {v: add for v, add in self[number].offsets.items() if v != variable}
            if len(rest) == 1:
                self._without[number, variable] = next(iter(rest)), 0
            else:
                step = math.gcd(*(int(np.gcd.reduce(add)) for add in rest.values()))
                self._without[number, variable] = self.number({v: add // step for v, add in rest.items()}), step
        return self._without[number, variable]

    def axes(self, factor: Factor) -> tuple[tuple[int, ...], Integers]:
        """A factor as an array over forms.

        Returns:
            The forms, and the address of each entry in the factor's table, shape (length of each form).
        """
        base = sum(int(add.min()) for add in factor.offsets)
        pairs = zip(factor.variables, factor.offsets, strict=True)
        rest = {v: add - add.min() for v, add in pairs if add.max() > add.min()}
        dense = math.prod(self.sizes[v] for v in rest)
        digits = sorted(rest) if dense <= max(2 * factor.table.shape[1], 64) and len(rest) <= 4 else _digits(rest)
        parts = [(v, rest.pop(v)) for v in digits]
        if len(rest) == 1:
            parts.append(next(iter(rest.items())))
        elif rest:
            form = self.number(rest)
            parts.append((form, self[form].values))
        address: Integers = np.full((1,) * len(parts), base)
        for axis, (_, values) in enumerate(parts):
            address = address + along(values, axis, len(parts))
        return tuple(form for form, _ in parts), address


def reach(offsets: Mapping[int, Integers]) -> Integers:
    """What a sum can be, sorted; the smallest summands are 0."""
    values = np.zeros(1, np.int64)
    for add in offsets.values():
        grown = values
        for step in np.unique(add)[1:]:  # one by one: all at once is too much for a long axis
            grown = np.union1d(grown, values + step)
        values = grown
    return values


def along(values: Integers, axis: int, axes: int) -> Integers:
    """A line laid along one of several axes, to be broadcast."""
    shape = [1] * axes
    shape[axis] = len(values)
    return values.reshape(shape)


def _digits(offsets: Mapping[int, Integers]) -> list[int]:
    """The variables that have a part of the address for themselves: taking them out makes no array larger."""
    rest = dict(offsets)
    count = len(reach(rest))
    found = []
    for variable in sorted(offsets):
        others = {v: add for v, add in rest.items() if v != variable}
        fewer = len(reach(others))
        if len(np.unique(rest[variable])) * fewer == count:
            found.append(variable)
            rest, count = others, fewer
    return found
