"""One op together with the values that it reads: what the op functions of the runner are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from torch import Tensor

from graphopt.errors import ModelError
from graphopt.ir.op import Op


@dataclass(frozen=True, slots=True)
class Call:
    """One op and its operands.

    Attributes:
        op: the op.
        values: its operands by slot, ``None`` for an omitted one.
        opset: version of the default domain.
        training: whether batch normalisation takes the statistics of the batch, and learns them.
    """

    op: Op
    values: tuple[Tensor | None, ...]
    opset: int
    training: bool

    def get(self, slot: int) -> Tensor | None:
        """The operand in ``slot``, ``None`` when it is omitted."""
        return self.values[slot] if slot < len(self.values) else None

    def __getitem__(self, slot: int) -> Tensor:
        value = self.get(slot)
        if value is None:
            self.refuse(f"without input {slot}")
        return value

    def attribute(self, name: str, default: Any = None) -> Any:
        """The attribute ``name``, or ``default``."""
        return self.op.attribute(name, default)

    def ints(self, slot: int, name: str) -> list[int] | None:
        """Whole numbers that newer opsets pass as an input and older ones as an attribute."""
        value = self.get(slot)
        given = self.attribute(name) if value is None else value.flatten().tolist()
        return None if given is None else [int(number) for number in given]

    def number(self, slot: int, name: str) -> float | None:
        """A number that newer opsets pass as an input and older ones as an attribute."""
        value = self.get(slot)
        given = self.attribute(name) if value is None else value.item()
        return None if given is None else float(given)

    def refuse(self, how: str) -> NoReturn:
        """Raise the error for a form of the op that the runner lacks."""
        raise ModelError(f"gradients: {self.op} {how} is not supported")
