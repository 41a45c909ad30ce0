"""What onnxruntime's profile says of each node, less what profiling itself costs.

The profile takes its own notes within the time that it tells of a node: 2 to 3 us on an AMD EPYC, where a small node
takes one. Scaled as they are, small kernels would look the more expensive the more of the net is large. So the cost of
the notes is measured, on a chain of nodes that do next to nothing, and taken from each node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from graphopt.ir.op import Array

CHAIN_SHAPE: Final = (1, 16)
CHAIN_NODES: Final = 64

IN_A_NET: Final = 1.4
"""How much more the notes cost in a real net, whose own data fills the cache. On an AMD EPYC the nodes of a net are
told to take 1.1 to 1.4 times the chain's notes beyond the net's own time, the more the larger the net is. Of 0.8 to 1.4
the last leaves the smallest error of whole nets (cross-validated over 510 random nets)."""

_LEAST_LEFT: Final = 0.1
"""Part of what is told of a kernel that is left to it at least."""

_DISTURBED: Final = 0.05
"""A run of a node that takes so much (and a microsecond) longer than the middle one was disturbed."""

_SUFFIX: Final = "_kernel_time"


def node_times(events: Sequence[Mapping[str, Any]], warm_runs: int) -> dict[str, float]:
    """Microseconds of each node by name: the mean of its runs, but for those that were disturbed.

    A mean and not the fastest times: the profile counts whole microseconds and cuts off the rest, half a microsecond
    on average, which only a mean over many evens out.

    Args:
        events: the profile's.
        warm_runs: runs at the beginning that do not count, unless there are no others.
    """
    told: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            told.setdefault(event["name"].removesuffix(_SUFFIX), []).append(event["dur"] + 0.5)
    return {name: _undisturbed(np.array(times[warm_runs:] or times)) for name, times in told.items()}


def _undisturbed(times: Array) -> float:
    """Mean of what is at most a little above the faster half; the processor may have been taken away in the rest."""
    middle = float(np.median(times))
    return float(times[times <= middle + max(1.0, _DISTURBED * middle)].mean())


def without_notes(told_us: Array, nodes: Array, total_us: float, notes_us: float) -> Array:
    """Latencies of a net's kernels, which add up to its total.

    Args:
        told_us: what the profile tells of each kernel, shape (kernels,), at whatever speed the machine had.
        nodes: how many nodes each of them is.
        total_us: the net's latency without a profile.
        notes_us: what profiling adds to a node of the chain.
    """
    notes = IN_A_NET * notes_us * nodes
    told = told_us / told_us.sum() * (total_us + notes.sum())
    left = np.maximum(told - notes, _LEAST_LEFT * told)
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
