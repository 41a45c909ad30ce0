"""Refine repaired weights by gradient steps, block by block and without labels.

A block reads what the refined blocks before it make, and is trained towards what the original computed under the names
of its outputs: the mean over elements of ``(y - z)^2 / (v + 0.01 mean(v))``, v being the variance of z's channel.
(Block-wise reconstruction as in Li et al., "BRECQ", ICLR 2021.) Held-out samples choose among the states on the way,
the closed-form one included.

Memory, besides the model: ``memory_limit_bytes`` bounds everything that grows with the samples. An eighth each for the
checkpoints of the two models (two of each while they move on: half in all), a quarter for what one block reads and is
to make (of fewer samples, where not all fit), an eighth for the activations of one step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphopt.errors import ModelError
from graphopt.ir.graph import Graph
from graphopt.ir.op import Array
from graphopt.train.blocks import Block, find_blocks
from graphopt.train.runner import Runner
from graphopt.weights.linear import Ints
from graphopt.weights.repair import DEFAULT_MEMORY_BYTES, Progress, Repaired, RepairedUnit
from graphopt.weights.taps import Samples, Stream
from graphopt.weights.units import Kept

METHOD = "gradient"
"""`RepairedUnit.method` of a block that has new weights."""

_HELD_OUT = 0.2
_FEWEST_SAMPLES = 8
_RATE = 0.01
"""Adam's step, as a share of the root mean square of what it steps."""
_BATCH = 32
_LOOKS = 4
"""How often held-out samples are asked on the way."""
_FLOOR = 1e-2
"""Share of the mean variance that is added to each channel's."""
_STEP_COPIES = 3
"""Of each activation of a step: its value, its gradient, and what the op keeps for that."""


def refine(
    original: Graph,
    repaired: Graph,
    kept: Kept,
    calibration: Samples,
    *,
    steps: int,
    seed: int = 0,
    memory_limit_bytes: int = DEFAULT_MEMORY_BYTES,
    progress: Progress | None = None,
) -> Repaired:
    """Return ``repaired`` with the weights of its touched blocks refined; one unit for each block, in order.

    Args:
        original: the model before the plan.
        repaired: the model after it, with repaired weights.
        kept: as for :func:`graphopt.weights.repair.repair`.
        calibration: samples to train and to choose on. A fifth of them is held out for choosing.
        steps: gradient steps for each block.
        seed: of the held-out samples and the batches. Same seed, same weights, in any process.
        memory_limit_bytes: see the module's docstring.
        progress: called with (blocks done, blocks to do, the block).

    Raises:
        ModelError: when a model does not run on the samples.
    """
    blocks = find_blocks(original, repaired, kept)
    job = _Job(original, repaired, kept, calibration, seed, memory_limit_bytes)
    units = []
    with _reproducible(seed):
        for number, block in enumerate(blocks):
            if progress is not None:
                progress(number, len(blocks), f"refining {block.last}")
            units.append(job.refine(block, steps))
    if progress is not None:
        progress(len(blocks), len(blocks), "")
    return Repaired(job.graph, tuple(units))


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """One thread, deterministic algorithms and a seed of our own; torch's global state is put back."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict)
            torch.set_num_threads(threads)


@dataclass(frozen=True, slots=True, eq=False)
class _Data:
    """What a block reads and is to make. The first ``train`` samples are trained on, the others choose.

    Attributes:
        read: by tensor name.
        wanted: the original's values by tensor name.
        scales: weight of a channel's squared error by tensor name; 0 for channels that the original lacks.
        train: number of samples.
    """

    read: dict[str, Tensor]
    wanted: dict[str, Tensor]
    scales: dict[str, Tensor]
    train: int

    @property
    def count(self) -> int:
        """Number of all samples."""
        return len(next(iter(self.wanted.values())))

    def loss(self, runner: Runner, rows: Tensor) -> Tensor:
        """Mean over elements of the scaled squared error on the samples ``rows``."""
        made = runner({name: values[rows] for name, values in self.read.items()})
        parts = [
            ((made[name] - self.wanted[name][rows]).square() * scale).mean() for name, scale in self.scales.items()
        ]
        return torch.stack(parts).mean()


class _Job:
    """The refinement of one model, block by block."""

    def __init__(self, original: Graph, repaired: Graph, kept: Kept, samples: Samples, seed: int, memory: int) -> None:
        self.graph = repaired
        self._kept = kept
        self._seed = seed
        self._memory = memory
        self._before = Stream(original, samples, cache_bytes=memory // 8)
        self._after = Stream(repaired, samples, cache_bytes=memory // 8)
        self._fixed = self._after.batch or self._before.batch
        self._group = self._fixed or 1
        self._count = min(self._before.count, self._after.count)
        self._order = np.random.default_rng(seed).permutation(self._count)
        """Held-out samples come last: those that the closed form did not solve on, either."""

    def refine(self, block: Block, steps: int) -> RepairedUnit:
        """Train one block and keep its best state on held-out samples."""
        data = self._data(block)
        if isinstance(data, str):
            return RepairedUnit(block.last, "unchanged", math.nan, math.nan, False, data)
        try:
            runner = Runner(self.graph, inputs=block.inputs, outputs=block.outputs)
        except ModelError as error:
            return RepairedUnit(block.last, "unchanged", math.nan, math.nan, False, str(error))
        before, after = _train(runner, data, steps, self._micro(runner), self._group)
        if not after < before:
            note = (
                "held-out error did not fall" if math.isfinite(before) else "its values on the samples are not finite"
            )
            return RepairedUnit(block.last, "unchanged", before, before, False, note)
        self.graph = runner.trained()
        self._after.swap(self.graph)
        return RepairedUnit(block.last, METHOD, before, after, True)

    def _micro(self, runner: Runner) -> int:
        """Samples of a step that are computed at once: what their activations take stays within an eighth."""
        elements = sum(self._after.per_sample(tensor) or 0 for op in runner.ops for tensor in op.outputs)
        most = self._memory // 8 // max(1, 4 * _STEP_COPIES * elements)
        return self._group if self._group > 1 else max(1, min(_BATCH, most))

    def _data(self, block: Block) -> _Data | str:
        """The block's samples, or why there are none."""
        sizes = [self._after.per_sample(name) for name in (*block.inputs, *block.outputs)]
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes):
            return "the batch is not in front of what it reads or makes, or a shape is open"
        count = min(self._count, self._memory // 4 // (4 * sum(known))) // self._group * self._group
        held = max(2, round(_HELD_OUT * count))
        held = -(-held // self._group) * self._group
        if count < max(_FEWEST_SAMPLES, held + self._group):
            return f"{_FEWEST_SAMPLES} samples of what it reads and makes do not fit into the memory limit"
        chosen = np.concatenate([self._order[: count - held], self._order[-held:]])
        original = self._before.graph
        makers = [original.producer(name) for name in block.outputs]
        start = min((op.key for op in makers if op is not None), key=original.position)
        read = self._take(self._after, block.inputs, block.first, chosen)
        wanted = self._take(self._before, block.outputs, start, chosen)
        if read is None or wanted is None:
            return "the batch is not in front of what it reads or makes"
        scales = {}
        for name, values in wanted.items():
            positions = self._kept.get(name)
            if positions is not None:
                wanted[name] = values = values[:, torch.from_numpy(np.maximum(positions, 0))]
            scales[name] = _scale(values[: count - held], positions)
        return _Data(read, wanted, scales, count - held)

    def _take(self, stream: Stream, names: Sequence[str], until: str, chosen: Ints) -> dict[str, Tensor] | None:
        """Values of the samples ``chosen``, in that order; ``None`` when the first axis is not the batch."""
        row = np.full(self._count, -1)
        row[chosen] = np.arange(len(chosen))
        found: dict[str, Array] = {}
        for start, values in stream.run(names, until):
            for name, value in values.items():
                if not value.ndim or (self._fixed and len(value) != self._fixed):
                    return None
                rows = row[start : start + len(value)]
                if name not in found:
                    found[name] = np.zeros((len(chosen), *value.shape[1:]), value.dtype)
                found[name][rows[rows >= 0]] = value[: len(rows)][rows >= 0]
        return {name: torch.from_numpy(values) for name, values in found.items()}


def _scale(wanted: Tensor, positions: Ints | None) -> Tensor:
    """One over each channel's variance, floored; 0 where a channel has no original."""
    others = tuple(axis for axis in range(wanted.dim()) if axis != 1)
    variance = wanted.var(others, correction=0, keepdim=True)
    scale = 1.0 / (variance + _FLOOR * variance.mean() + torch.finfo(variance.dtype).tiny)
    if positions is not None:
        there = torch.from_numpy(positions >= 0).reshape(1, -1, *(1,) * (wanted.dim() - 2))
        scale = scale * there
    return scale


def _train(runner: Runner, data: _Data, steps: int, micro: int, group: int) -> tuple[float, float]:
    """Take ``steps`` gradient steps (Adam, cosine schedule) and leave ``runner`` in its best state.

    Returns:
        The held-out error before, and of the best state.
    """
    groups = [{"params": [one], "lr": _RATE * _size(one)} for one in runner.parameters()]
    optimiser = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    size = min(max(group, _BATCH // group * group), data.train)
    before = best = _held_out(runner, data, micro)
    state, order = runner.state(), torch.empty(0, dtype=torch.int64)
    for step in range(1, steps + 1):
        if len(order) < size:
            order = torch.randperm(data.train)
        rows, order = order[:size], order[size:]
        optimiser.zero_grad()
        for part in rows.split(micro):
            (data.loss(runner, part) * (len(part) / size)).backward()
        optimiser.step()
        schedule.step()
        if step % max(1, steps // _LOOKS) == 0 or step == steps:
            now = _held_out(runner, data, micro)
            if now < best:
                best, state = now, runner.state()
    runner.restore(state)
    return before, best


def _size(values: Tensor) -> float:
    """Root mean square, a little more than 0."""
    return math.sqrt(float(values.detach().square().mean())) + 1e-6


def _held_out(runner: Runner, data: _Data, micro: int) -> float:
    """Root of the loss on the held-out samples: relative to how much the original's values vary."""
    with torch.no_grad():
        parts = torch.arange(data.train, data.count).split(micro)
        total = sum(float(data.loss(runner, part)) * len(part) for part in parts)
    return math.sqrt(total / (data.count - data.train))
