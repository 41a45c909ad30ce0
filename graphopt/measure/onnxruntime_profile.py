"""What onnxruntime's profile says of each node, less what profiling itself costs.

The profile takes its own notes within the time that it tells of a node: 2.2 us on an AMD EPYC, where a small node takes
one. Scaled as they are, small kernels would look the more expensive the more of the net is large. So the notes' cost
is measured, on a chain of nodes that do next to nothing, and what a whole net's nodes are told to take beyond the net's
own time, measured without a profile, is taken from each node in equal parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from graphopt.ir.op import Array

CHAIN_SHAPE: Final = (1, 16)
CHAIN_NODES: Final = 64

_MOST: Final = 1.5
"""In a real net the notes cost up to so many times what they cost in the chain: the nodes' own data is in the cache."""

_LEAST_LEFT: Final = 0.1
"""Part of what is told of a kernel that is left to it at least."""

_SUFFIX: Final = "_kernel_time"


def node_times(events: Sequence[Mapping[str, Any]], warm_runs: int) -> dict[str, float]:
    """Mean microseconds of each node by name, over the faster half of the runs.

    Whole runs are chosen and not each node's fastest times: the profile counts whole microseconds and cuts off the
    rest, half a microsecond on average, which only a mean over many evens out.

    Args:
        events: the profile's.
        warm_runs: runs at the beginning that do not count, unless there are no others.
    """
    told: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            told.setdefault(event["name"].removesuffix(_SUFFIX), []).append(event["dur"] + 0.5)
    runs = min(map(len, told.values()), default=0)
    table = np.array([times[-runs:] for times in told.values()]).reshape(len(told), runs)
    table = table[:, warm_runs:] if runs > warm_runs else table
    faster = np.argsort(table.sum(axis=0), kind="stable")[: (table.shape[1] + 1) // 2]
    return dict(zip(told, table[:, faster].mean(axis=1).tolist(), strict=True)) if told else {}


def without_notes(told_us: Array, nodes: Array, total_us: float, notes_us: float) -> Array:
    """Latencies of a net's kernels, which add up to its total.

    Args:
        told_us: what the profile tells of each kernel, shape (kernels,).
        nodes: how many nodes each of them is.
        total_us: the net's latency without a profile.
        notes_us: what profiling adds to a node of the chain.
    """
    beyond = (told_us.sum() - total_us) / nodes.sum()
    notes = np.clip(beyond, notes_us, _MOST * notes_us)
    left = np.maximum(told_us - notes * nodes, _LEAST_LEFT * told_us)
    return np.asarray(left / left.sum() * total_us)


def chain_model() -> bytes:
    """A chain of nodes that do next to nothing, as an ONNX file's content; it reads ``x``."""
    import onnx
    from onnx import helper

    names = ["x", *(f"t{position}" for position in range(CHAIN_NODES))]
    nodes = [
        helper.make_node("Neg", [names[position]], [names[position + 1]], name=f"{position}")
        for position in range(CHAIN_NODES)
    ]
    info = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, CHAIN_SHAPE) for name in (names[0], names[-1])]
    graph = helper.make_graph(nodes, "chain", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())
