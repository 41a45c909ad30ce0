"""Repair the weights of a rewritten model from unlabelled samples: closed-form, one op after the other.

Each touched linear op reads what the already repaired ops before it make, and is fitted to what the original computed
at the same place (sequential least squares; He et al., "Channel pruning", ICCV 2017, eq. 6, went this way). Fusing,
removing channels and dropping ops need no code of their own: whatever the change was, the ops behind it are re-solved.

Memory, besides the model: ``memory_limit_bytes`` bounds everything that grows with the samples. An eighth each for the
checkpoints of the two models (two of each while they move on: half in all), a quarter for the rows of one op, a quarter
for its Gram matrix and what is solved with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.errors import ConfigError
from graphopt.ir.graph import Graph, Patch
from graphopt.ir.op import Array, Op, Weight
from graphopt.rewrites.convs import fresh_name
from graphopt.weights.fit import UNCHANGED, Effort, Problem, fit
from graphopt.weights.linear import LINEAR, Doubles, Ints, with_weights
from graphopt.weights.taps import Samples, Stream
from graphopt.weights.units import Unit, find_unit, is_changed

Progress = Callable[[int, int, str], None]

DEFAULT_MEMORY_BYTES = 3 << 30
SOLVE_SAMPLES = 256
"""Samples below which only the bias of an op with one row per sample (the head, a gate) is fitted."""

_HELD_OUT = 0.2
_EXACT = 1e-4
"""Relative error up to which an op counts as untouched: rounding in single precision."""
_LEAST_ROWS = 8192
_MOST_ROWS = 49152
_ROWS_PER_COLUMN = 16
_FEWEST_SAMPLES = 8
_GRAM_COPIES = 3
"""The Gram matrix, its factors, its inverse."""
_OUTPUT_COPIES = 12
"""Arrays of the size of the wanted values that exist at once while an op is fitted."""


@dataclass(frozen=True, slots=True)
class RepairedUnit:
    """What became of one op.

    Attributes:
        op: its key.
        method: ``unchanged``, ``shifted``, ``rescaled``, ``least-squares`` or ``majorise-minimise``.
        error_before: relative error of its output (behind the activation, where one follows) against the original's on
            held-out samples, with the weights that it had.
        error_after: the same with the weights that it has now; never larger.
        kept: whether it has new weights.
        note: why it was not repaired, or not fully; ``""`` when it was.
    """

    op: str
    method: str
    error_before: float
    error_after: float
    kept: bool
    note: str = ""


@dataclass(frozen=True)
class Repaired:
    """A repaired model: the graph, and what became of each touched op, in order."""

    graph: Graph
    units: tuple[RepairedUnit, ...]


def repair(
    original: Graph,
    rewritten: Graph,
    kept: Mapping[str, npt.NDArray[np.intp]],
    calibration: Samples,
    *,
    seed: int = 0,
    memory_limit_bytes: int = DEFAULT_MEMORY_BYTES,
    only: Collection[str] | None = None,
    progress: Progress | None = None,
) -> Repaired:
    """Return ``rewritten`` with its weights fitted to ``original``.

    Args:
        original: the model before the plan (normalised as the plan saw it).
        rewritten: the model after it, with first-method weights.
        kept: for each activation whose channel axis was cut or padded: for each position now, the one before, -1 for
            a new one (see `kept_positions`).
        calibration: samples to solve and to choose on. A fifth of them is held out for choosing.
        seed: of the held-out samples and the picked positions. Same seed, same weights, in any process.
        memory_limit_bytes: see the module's docstring.
        only: keys of the ops to repair, where not all that are touched should be; nothing is looked at after the last.
        progress: called with (ops done, ops to do, the op).

    Raises:
        ConfigError: when there are too few samples.
        ModelError: when a model does not run on them.
    """
    if calibration.count < _FEWEST_SAMPLES:
        raise ConfigError(
            f"{calibration.count} calibration samples are too few to repair weights; {_FEWEST_SAMPLES} would do"
        )
    job = _Job(original, rewritten, kept, calibration, seed, memory_limit_bytes)
    keys = [op.key for op in rewritten.ops()]
    if only is not None:
        keys = keys[: 1 + max((keys.index(key) for key in only), default=-1)]
    linear = [key for key in keys if rewritten.op(key).op_type in LINEAR]
    done = 0
    for key in keys:
        if key in linear:
            if progress is not None:
                progress(done, len(linear), key)
            done += 1
        job.visit(key, repairable=only is None or key in only)
    if progress is not None:
        progress(len(linear), len(linear), "")
    return Repaired(job.graph, tuple(job.units))


class _Job:
    """The repair of one model, op by op."""

    def __init__(
        self,
        original: Graph,
        rewritten: Graph,
        kept: Mapping[str, npt.NDArray[np.intp]],
        samples: Samples,
        seed: int,
        memory: int,
    ) -> None:
        self.graph = rewritten
        self.units: list[RepairedUnit] = []
        self._original = original
        self._kept = kept
        self._seed = seed
        self._memory = memory
        self._touched: set[str] = set()
        self._exact: set[str] = set()
        self._before = Stream(original, samples, cache_bytes=memory // 8)
        self._after = Stream(rewritten, samples, cache_bytes=memory // 8)
        self._count = min(self._before.count, self._after.count)
        order = np.random.default_rng(seed).permutation(self._count)
        self._rank = np.argsort(order)
        self._train = self._count - max(2, round(_HELD_OUT * self._count))

    def visit(self, key: str, *, repairable: bool) -> None:
        """Repair the op where it was touched (and is ``repairable``), and say whether its outputs still are."""
        op = self.graph.op(key)
        same = not is_changed(self._original, self.graph, op)
        if self._exact.intersection(op.outputs) or (same and self._touched.isdisjoint((*op.inputs, *op.captures))):
            return
        unit = find_unit(self._original, self.graph, op, self._kept) if repairable else None
        if isinstance(unit, Unit) and self._repair(unit):
            self._exact.add(unit.target)
            return
        if isinstance(unit, str):
            self._leave(op, unit)
        self._touched.update(filter(None, op.outputs))

    def _leave(self, op: Op, why: str, error: float = float("nan")) -> None:
        self.units.append(RepairedUnit(op.key, UNCHANGED, error, error, False, why))

    def _repair(self, unit: Unit) -> bool:
        """Fit one op; return whether its target was the original's all along."""
        linear = unit.linear
        m = self._places(unit)
        if m == 0:
            self._leave(unit.op, f"rows of {linear.groups * linear.columns} numbers do not fit into the memory limit")
            return False
        rng = np.random.default_rng([self._seed, len(self.units)])
        picked = np.stack([rng.choice(linear.places, m, replace=False) for _ in range(self._count)])
        picked.sort(axis=1)
        problem = self._take(unit, picked)
        if isinstance(problem, str):
            self._leave(unit.op, problem)
            return False
        effort, why = self._effort(unit)
        found = fit(problem, tolerance=_EXACT, effort=effort)
        if found.before <= _EXACT:
            return True
        changed = found.method != UNCHANGED
        if np.isnan(found.before):
            why = "its values on the samples are not all finite"
        note = why or ("" if changed else "no candidate was better on held-out samples")
        self.units.append(RepairedUnit(unit.op.key, found.method, found.before, found.after, changed, note))
        if changed:
            self._put(unit, found.weights, found.bias)
        return False

    def _effort(self, unit: Unit) -> tuple[Effort, str]:
        """What may change of the op's weights, and why not all of it."""
        linear = unit.linear
        if linear.places == 1 and self._count < SOLVE_SAMPLES:
            return "shift", f"one row per sample: needs {SOLVE_SAMPLES} samples to solve, there are {self._count}"
        if _GRAM_COPIES * 8 * linear.groups * linear.columns**2 > self._memory // 4:
            return "scale", f"{linear.columns} columns are too many to solve for within the memory limit"
        return "solve", ""

    def _places(self, unit: Unit) -> int:
        """Output positions to take of each sample, 0 when not even one fits into memory."""
        linear = unit.linear
        per_row = 4 * (linear.groups * linear.columns + _OUTPUT_COPIES * linear.channels)
        most = self._memory // 4 // per_row
        wanted = min(max(_ROWS_PER_COLUMN * linear.columns, _LEAST_ROWS), _MOST_ROWS, most)
        if most < self._count:
            return 0
        return int(min(linear.places, max(1, -(-wanted // self._count)), most // self._count))

    def _take(self, unit: Unit, picked: Ints) -> Problem | str:
        """What the op reads now and what the original gave, at the ``picked`` positions; held-out samples come last."""
        linear, m = unit.linear, picked.shape[1]
        n, shape = self._count * m, (linear.groups, linear.outputs)
        rows = np.empty((linear.groups, n, linear.columns), np.float32)
        offset = np.empty((n, linear.channels), np.float32) if unit.skip else None
        wanted = np.empty((n, linear.channels), np.float32)
        tensors = [unit.source, *([unit.skip] if unit.skip else [])]
        for start, values in self._after.run(tensors, unit.op.key):
            samples = self._samples(start, values[unit.source])
            if samples is None:
                return "the batch is not in front of what it reads"
            place = self._rows_of(samples, m)
            rows[:, place] = linear.rows(values[unit.source], picked[samples])
            if offset is not None:
                offset[place] = linear.answers(values[unit.skip], picked[samples])
        kept = unit.kept
        there = np.arange(linear.channels) if kept is None else np.flatnonzero(kept >= 0)
        source = there if kept is None else kept[there]
        for start, values in self._before.run([unit.target], unit.op.key):
            samples = self._samples(start, values[unit.target])
            if samples is None:
                return "the batch is not in front of what it makes"
            found = linear.answers(values[unit.target], picked[samples])
            wanted[np.ix_(self._rows_of(samples, m), there)] = found[:, source]
        grouped = [None if v is None else v.reshape(n, *shape).transpose(1, 0, 2) for v in (offset, wanted)]
        assert grouped[1] is not None
        problem = Problem(
            rows,
            self._train * m,
            grouped[1],
            grouped[0],
            linear.matrix(),
            linear.offsets(),
            unit.activation,
            intercept=linear.biased,
        )
        if len(there) < linear.channels:
            _hold_padding(problem, there)
        return problem

    def _samples(self, start: int, values: Array) -> Ints | None:
        """Numbers of the samples of a batch; ``None`` when the tensor's first axis is not the batch."""
        fixed = self._after.batch or self._before.batch
        length = values.shape[0] if values.ndim else 0
        if not length or (fixed and length != fixed) or start + length > self._count:
            return None
        return np.arange(start, start + length)

    def _rows_of(self, samples: Ints, m: int) -> Ints:
        return (self._rank[samples][:, None] * m + np.arange(m)).ravel()

    def _put(self, unit: Unit, weights: Doubles, bias: Doubles) -> None:
        """Give the op its new weights, under new names: others may share the old ones."""
        linear, key = unit.linear, unit.op.key
        values = linear.stored(weights)
        made = [_constant(self.graph, f"{key}/graphopt.repaired_weight", values)]
        if linear.biased:
            flat = bias.reshape(-1).astype(linear.weight.dtype)
            made.append(_constant(self.graph, f"{key}/graphopt.repaired_bias", flat))
        op = with_weights(linear, made[0].name, made[1].name if linear.biased else "")
        self.graph = self.graph.edited([Patch((key,), (op,), tuple(made))])
        self._after.swap(self.graph)


def _hold_padding(problem: Problem, there: Ints) -> None:
    """New channels have no original: what is wanted of them is what they give."""
    groups, _, outputs = problem.wanted.shape
    new = np.ones(groups * outputs, bool)
    new[there] = False
    now = np.matmul(problem.rows, problem.weights.astype(np.float32)) + problem.bias.astype(np.float32)
    now = now if problem.offset is None else now + problem.offset
    np.copyto(problem.wanted, now, where=new.reshape(groups, 1, outputs))


def _constant(graph: Graph, name: str, values: Array) -> Weight:
    return Weight(fresh_name(graph, name), values.shape, values.dtype, lambda: values)
