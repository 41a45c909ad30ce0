"""A workload as the numbers that a learned estimator reads.

Three steps. *Columns* are the plain dimensions of each workload, one row for each entry of its arrays. *Terms* are what
a roofline adds up: MACs padded to tiles, bytes, tiles. *Features* are what trees split on: sizes in logarithms, and how
much of a tile is padding, since latency is a stair in channels, and what the roofline is made of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from graphopt.cost.workload import Count, Workload
from graphopt.targets.target import Target

Real = npt.NDArray[np.float64]
Single = npt.NDArray[np.float32]
_Value = TypeVar("_Value", bound=np.generic)

COLUMNS: Final = (
    "pixels", "groups", "channels_in", "channels_out", "kernel_height", "kernel_width", "stride_height", "stride_width",
    "pad_height", "pad_width", "output_height", "output_width", "input_bytes", "second_bytes", "output_bytes",
    "weight_bytes", "operations", "operator", "activation", "activation_type", "joined_parts",
)  # fmt: skip
"""Dimensions of a workload. ``channels_*`` are those of one group; ``operations`` are MACs or elementwise ones."""

_AT: Final = {name: position for position, name in enumerate(COLUMNS)}

TERMS: Final = ("padded operations", "input bytes", "second bytes", "output bytes", "weight bytes", "tiles", "one")
"""What a learned roofline adds up, each with a coefficient that is not negative (microseconds for each)."""

TILES: Final = (4, 8, 16, 32, 64)
"""Tile sizes whose padding is a feature."""

LEAST_US: Final = 1e-9
"""A roofline in microseconds is no smaller: it has a logarithm."""

_LOGS: Final = (
    "pixels", "groups", "channels_in", "channels_out", "output_height", "output_width", "input_bytes", "second_bytes",
    "output_bytes", "weight_bytes", "operations",
)  # fmt: skip
_PLAIN: Final = (
    "kernel_height", "kernel_width", "stride_height", "stride_width", "pad_height", "pad_width", "operator",
    "activation", "activation_type", "joined_parts",
)  # fmt: skip
_RATIOS: Final = ("operations for each byte", "operations for each weight byte", "share of on-chip memory")
_PADDED: Final = ("channels_out", "channels_in", "rows", "output_height", "output_width")
_MOVED: Final = ("channels read", "channels read first", "channels added")
_MOVED_TILES: Final = (8, 16, 32)

FEATURES: Final = (
    *(f"log {name}" for name in _LOGS),
    *_PLAIN,
    *(f"log {name}" for name in _RATIOS),
    *(f"{name} padded to {tile}" for name in _PADDED for tile in TILES),
    *(f"log {name}" for name in (*_MOVED, "elements added", "plane")),
    *(f"{name} padded to {tile}" for name in _MOVED for tile in _MOVED_TILES),
)
"""Names of the features, in order; ``rows`` are input channels times kernel positions. Channels read and added are
those for each position of the output: how a concatenation or padding lies in memory."""

INPUTS: Final = (*FEATURES, *(f"share of {name}" for name in TERMS), "log roofline")
"""What trees split on: the features, and what the roofline is made of."""

SIZES: Final = len(_LOGS)
"""How many of the features, from the first, are sizes: a kernel beyond the measured ones extrapolates."""

# Types with a cost alike share a number; trees split between numbers. The numbers are part of a stored estimator.
_OPERATORS: Final = {
    op_type: number
    for number, op_types in enumerate(
        (
            ("Add", "Sub", "Sum", "Min", "Max"), ("Mul",), ("Div", "Pow"), ("Relu", "Clip"), ("LeakyRelu", "PRelu"),
            ("Sigmoid", "Tanh", "Gelu", "Exp", "Erf", "Elu", "Softplus"), ("HardSigmoid",), ("HardSwish",),
            ("AveragePool", "GlobalAveragePool", "ReduceMean"), ("MaxPool", "GlobalMaxPool", "ReduceMax"),
            ("Concat",), ("Split", "Slice"), ("Transpose",), ("Pad",), ("Resize", "Upsample"), ("Softmax",),
        ),
        start=1,
    )
    for op_type in op_types
}  # fmt: skip
_ACTIVATIONS: Final = {"none": 0, "clamp": 1, "curve": 2, "gate": 3, "hard-gate": 4}
_ACTIVATION_TYPES: Final = {
    op_type: number
    for number, op_type in enumerate(
        ("", "Relu", "Clip", "LeakyRelu", "PRelu", "HardSigmoid", "HardSwish", "Sigmoid", "Tanh", "Gelu", "Mish")
    )
}
"""A processor clips to two bounds in more time than to one, and looks nothing up."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Workloads as rows of numbers.

    Attributes:
        columns: shape (rows, len(COLUMNS)).
        shapes: the shape of each workload's arrays, () for one of numbers; their entries are the rows, in order.
    """

    columns: Real
    shapes: tuple[tuple[int, ...], ...]

    def split(self, values: npt.NDArray[_Value]) -> list[npt.NDArray[_Value]]:
        """Return one value for each row as one array for each workload, in the workload's shape."""
        found, start = [], 0
        for shape in self.shapes:
            end = start + math.prod(shape)
            found.append(values[start:end].reshape(shape))
            start = end
        return found


def rows(loads: Sequence[Workload], target: Target) -> Rows:
    """Lay workloads out as rows."""
    blocks: list[Real] = []
    shapes: list[tuple[int, ...]] = []
    for load in loads:
        values = _columns(load, target)
        shape = np.broadcast_shapes(*(np.shape(value) for value in values if isinstance(value, np.ndarray)))
        block = np.empty((*shape, len(COLUMNS)))
        if shape:
            for position, value in enumerate(values):
                block[..., position] = value
        else:
            block[:] = values
        blocks.append(block.reshape(-1, len(COLUMNS)))
        shapes.append(shape)
    return Rows(np.concatenate([np.zeros((0, len(COLUMNS))), *blocks]), tuple(shapes))


def _columns(load: Workload, target: Target) -> tuple[Count, ...]:
    width = target.element_bytes
    vector = load.kind == "vector"
    # work on vectors has no channels of its own: those of the output say how it lies in memory
    plane = load.output_height * load.output_width
    plane = np.maximum(plane, 1) if isinstance(plane, np.ndarray) else max(plane, 1)
    return (
        plane if vector else load.pixels, load.groups, load.channels_in,
        load.output_elements // plane if vector else load.channels_out,
        load.kernel_height, load.kernel_width, load.stride_height, load.stride_width,
        load.pad_height, load.pad_width, load.output_height, load.output_width,
        load.input_elements * width, load.second_elements * width, load.output_elements * width,
        load.weight_bytes(target), load.vector_ops if vector else load.macs,
        _OPERATORS.get(load.op_type, 0), _ACTIVATIONS[load.activation],
        _ACTIVATION_TYPES.get(load.activation_type, len(_ACTIVATION_TYPES)), load.joined_parts,
    )  # fmt: skip


def terms(columns: Real, tile_in: int, tile_out: int) -> Real:
    """Return the roofline's terms, shape (rows, len(TERMS)), for tiles of so many channels in and out."""
    pixels, groups, ins, outs, operations = (
        columns[:, _AT[name]] for name in ("pixels", "groups", "channels_in", "channels_out", "operations")
    )
    # one channel in a group (depthwise): the groups lie side by side in the output's tiles
    side_by_side = ins == 1
    wide = np.where(side_by_side, outs * groups, outs)
    passes = np.ceil(wide / tile_out) * np.where(side_by_side, 1.0, groups) * pixels
    padding = np.ceil(wide / tile_out) * tile_out / np.maximum(wide, 1.0)
    padding *= np.where(side_by_side, 1.0, np.ceil(ins / tile_in) * tile_in / np.maximum(ins, 1.0))
    return np.stack(
        [
            operations * np.where(padding > 0, padding, 1.0),
            *(columns[:, _AT[name]] for name in ("input_bytes", "second_bytes", "output_bytes", "weight_bytes")),
            passes,
            np.ones(len(columns)),
        ],
        axis=1,
    )


def features(columns: Real, target: Target) -> Single:
    """Return the features, shape (rows, len(FEATURES))."""
    column = dict(zip(COLUMNS, columns.T, strict=True))
    traffic = column["input_bytes"] + column["second_bytes"] + column["output_bytes"]
    ratios = (
        column["operations"] / np.maximum(traffic, 1.0),
        column["operations"] / np.maximum(column["weight_bytes"], 1.0),
        traffic / target.on_chip_bytes,
    )
    sizes = {
        **column,
        "channels_out": column["channels_out"] * column["groups"],
        "rows": column["channels_in"] * column["kernel_height"] * column["kernel_width"],
    }
    plane = np.maximum(column["output_height"] * column["output_width"], 1.0)
    per_channel = plane * target.element_bytes
    read = (column["input_bytes"] + column["second_bytes"]) / per_channel
    first = np.where(column["input_bytes"] > 0, column["input_bytes"], column["second_bytes"]) / per_channel
    moved = (read, first, np.maximum(column["output_bytes"] / per_channel - read, 0.0))
    out = np.empty((len(columns), len(FEATURES)), np.float32)
    values = [
        *(np.log1p(column[name]) for name in _LOGS),
        *(column[name] for name in _PLAIN),
        *(np.log(np.maximum(ratio, 1e-9)) for ratio in ratios),
        *(np.ceil(sizes[name] / tile) * tile / np.maximum(sizes[name], 1.0) for name in _PADDED for tile in TILES),
        *(np.log1p(value) for value in (*moved, moved[-1] * plane, plane)),
        *(np.ceil(size / tile) * tile / np.maximum(size, 1.0) for size in moved for tile in _MOVED_TILES),
    ]
    for position, value in enumerate(values):
        out[:, position] = value
    return out


def inputs(own: Single, parts: Real) -> Single:
    """Return what trees split on, shape (rows, len(INPUTS)).

    Args:
        own: the features, shape (rows, len(FEATURES)).
        parts: microseconds of each of the roofline's terms, shape (rows, len(TERMS)).
    """
    roofline = np.maximum(added(parts), LEAST_US)
    shares = [part / roofline for part in parts.T]
    composition = np.stack([*shares, np.log(roofline)], axis=1).astype(np.float32)
    return np.concatenate([own, composition], axis=1)


def added(parts: Real) -> Real:
    """Return the sum of the roofline's parts, term by term: no rounding depends on how many rows there are."""
    return np.asarray(sum(parts.T))
