"""Price a workload on a target: ``latency = max(compute, DRAM traffic / bandwidth) + overhead``.

Dense work on a weight-stationary R x C array takes SCALE-Sim's closed form (https://github.com/scalesim-project):
the ``K = taps * channels_in`` rows and ``N = channels_out`` columns of the weight are cut into R x C tiles, and each
tile is loaded (R cycles), then fed with all pixels and drained (R + C + pixels - 2 cycles):

    cycles = ceil(K / R) * ceil(N / C) * (2 R + C + pixels - 2) - 1

A target without an array pads channels to its block (``dense = "vector"``). Depthwise and grouped convolutions follow
``depthwise``: as many groups as fit side by side in one block-diagonal dense convolution, one convolution for each
group, or a vector unit with a throughput of its own.

Weights are streamed from DRAM once for each run. Activations go there and back when what a kernel reads and writes
does not fit on the chip. Both are decided for each kernel alone: the price of a network is a sum, which is what makes
searching fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from graphopt.cost.workload import Count, Workload
from graphopt.targets.target import Target

Bound = Literal["compute", "memory", "overhead", "on-chip"]

BOUNDS: Final[tuple[Bound, ...]] = ("compute", "memory", "overhead", "on-chip")
"""What `Price.bound` counts: which part of the latency is the largest (the first of equal ones); ``memory`` is off the
chip. Traffic on the chip costs nothing here: measurements alone tell of it."""

Real = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Price:
    """Estimated cost of one workload; arrays when the workload's numbers are.

    Attributes:
        latency_us: microseconds.
        macs: multiply-accumulates, without padding.
        dram_bytes: bytes to and from DRAM.
        bound: index into `BOUNDS`.
        uncertainty: of the latency, relative, one sigma; ``None`` where nothing was learned from measurements.
        extrapolates: whether that is beyond what was measured; ``None`` with it.
    """

    latency_us: Real
    macs: Count
    dram_bytes: npt.NDArray[np.int64]
    bound: npt.NDArray[np.int8]
    uncertainty: Real | None = None
    extrapolates: npt.NDArray[np.bool_] | None = None


def price(workload: Workload, target: Target) -> Price:
    """Price one workload (or arrays of them, elementwise)."""
    weights = workload.weight_bytes(target)
    activations = workload.activation_bytes(target)
    dram_bytes = weights + activations * np.greater(activations, target.on_chip_bytes)
    compute_us = cycles(workload, target) / target.clock_mhz
    memory_us = dram_bytes / (target.dram_bandwidth_gb_per_s * 1e3)
    busy_us = np.maximum(compute_us, memory_us)
    bound = np.where(target.kernel_overhead_us > busy_us, 2, np.where(memory_us > compute_us, 1, 0))
    return Price(
        latency_us=np.asarray(busy_us + target.kernel_overhead_us, np.float64),
        macs=workload.macs,
        dram_bytes=np.asarray(dram_bytes, np.int64),
        bound=bound.astype(np.int8),
    )


def cycles(workload: Workload, target: Target) -> Real:
    """Return the compute cycles of a workload on a target."""
    w = workload
    if w.kind == "vector":
        return np.asarray(w.vector_ops / target.vector_elements_per_cycle)
    if w.kind == "product" or target.depthwise == "per-channel":
        return np.asarray(w.groups * _dense_cycles(target, w.pixels, w.taps, w.channels_in, w.channels_out))
    if target.depthwise == "block-diagonal":
        width = np.maximum(w.channels_in, w.channels_out)
        side_by_side = np.minimum(np.maximum(target.parallelism // width, 1), w.groups)
        blocks = ceil_div(w.groups, side_by_side)
        channels_in, channels_out = side_by_side * w.channels_in, side_by_side * w.channels_out
        return np.asarray(blocks * _dense_cycles(target, w.pixels, w.taps, channels_in, channels_out))
    if w.kind == "depthwise":
        channels = _padded(w.groups * w.channels_out, target.parallelism)
        return np.asarray(w.pixels * w.taps * channels / target.depthwise_macs_per_cycle)
    return np.asarray(w.groups * _dense_cycles(target, w.pixels, w.taps, w.channels_in, w.channels_out))


def _dense_cycles(target: Target, pixels: Count, taps: Count, channels_in: Count, channels_out: Count) -> Real:
    """Cycles of one dense convolution or matrix product."""
    if target.dense == "weight-stationary":
        rows, columns = target.array_rows, target.array_columns
        tiles = ceil_div(taps * channels_in, rows) * ceil_div(channels_out, columns)
        return np.asarray(tiles * (2 * rows + columns + pixels - 2) - 1, np.float64)
    block = target.parallelism
    # an input narrower than one block (the image) is read unblocked and not padded, as onnxruntime's NCHWc kernels do
    padded_in = np.where(np.less(channels_in, block), channels_in, _padded(channels_in, block))
    macs = pixels * taps * padded_in * _padded(channels_out, block)
    return np.asarray(macs / target.dense_macs_per_cycle)


def ceil_div(a: Any, b: Any) -> Any:
    """Return ``a / b`` rounded up, on numbers and arrays."""
    return -(-a // b)


def _padded(channels: Count, block: int) -> Any:
    """Channels rounded up to whole blocks."""
    return ceil_div(channels, block) * block
