"""The oracle of channel surgery: a cut model equals the original with the removed channels' consumers zeroed, and a
padded model equals the original."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from graphopt.ir.channels import ChannelGroup, Channels
from graphopt.ir.graph import Graph, Patch
from graphopt.ir.op import Op, Weight
from graphopt.ir.resize import Selection, resize
from graphopt.onnx_io.load import load
from graphopt.onnx_io.save import save

ort.set_default_logger_severity(4)

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]


def load_model(model: onnx.ModelProto) -> Graph:
    """The graph of a model in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        return load(path)


def run(graph: Graph, feeds: Feeds) -> list[Array]:
    """Save the graph, check the file, run it without optimisations."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save(graph, path)
        onnx.checker.check_model(str(path), full_check=True)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return [np.asarray(output) for output in session.run(None, dict(feeds))]


def removed(group: ChannelGroup, selection: Selection) -> list[int]:
    kept = set(selection.keep)
    return [channel for channel in range(group.size) if channel not in kept]


def mask_consumers(graph: Graph, channels: Channels, selections: Mapping[str, Selection]) -> Graph:
    """Zero what consumers read of the channels that the selections remove."""
    values: dict[str, Array] = {}
    for group_id, selection in selections.items():
        group = channels.group(group_id)
        gone = removed(group, selection)
        for member in group.members:
            if member.role == "consume":
                array = values.setdefault(member.weight, graph.weights[member.weight].array().copy())
                array[(slice(None),) * member.axis + (member.positions[gone].reshape(-1),)] = 0
    ops: dict[str, Op] = {}
    for name in values:
        for use in graph.uses(name):
            op = ops.get(use.op.key, use.op)
            inputs = tuple(f"{name}.masked" if slot == use.slot else t for slot, t in enumerate(op.inputs))
            ops[op.key] = replace(op, inputs=inputs)
    weights = [Weight(f"{n}.masked", a.shape, a.dtype, lambda a=a: a) for n, a in values.items()]
    return graph.edited([Patch(remove=tuple(ops), add=tuple(ops.values()), weights=tuple(weights))])


def assert_close(got: list[Array], want: list[Array], tolerance: float = 2e-5) -> None:
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        assert np.isfinite(other).all(), "the reference is not finite: the test proves nothing"
        scale = max(float(np.abs(other).max(initial=0.0)), 1e-6)
        assert float(np.abs(one - other).max(initial=0.0)) <= tolerance * scale


def assert_sizes(graph: Graph, channels: Channels, selections: Mapping[str, Selection], new: Graph) -> None:
    """`axis_size` must foretell every shape of the new graph, those of its weights included."""
    widths: dict[str, Any] = {group.id: group.size for group in channels.groups}
    widths |= {group_id: len(selection.keep) + selection.pad for group_id, selection in selections.items()}
    for tensor in new.tensors:
        shape = new.static_shape(tensor)
        if tensor in graph.tensors and tensor not in graph.weights and shape is not None:
            assert shape == tuple(channels.axis_size(tensor, axis).at(widths) for axis in range(len(shape))), tensor
    for op in (op for op in graph.ops() if op.key in new):
        for old, name in zip(op.inputs, new.op(op.key).inputs, strict=True):
            if old != name and len(graph.uses(old)) == 1 and graph.weights[old].dtype.kind == "f":
                foretold = tuple(
                    channels.axis_size(old, axis).at(widths) for axis in range(len(graph.weights[old].shape))
                )
                assert new.weights[name].shape == foretold, old


def check_cut(graph: Graph, channels: Channels, selections: Mapping[str, Selection], feeds: Feeds) -> None:
    cut = graph.edited([resize(graph, channels, selections)])
    assert [op.key for op in cut.ops() if op.op_type != "Constant"] == [
        op.key for op in graph.ops() if op.op_type != "Constant"
    ]
    assert_sizes(graph, channels, selections, cut)
    assert_close(run(cut, feeds), run(mask_consumers(graph, channels, selections), feeds))


def check_padded(graph: Graph, channels: Channels, selections: Mapping[str, Selection], feeds: Feeds) -> None:
    padded = graph.edited([resize(graph, channels, selections)])
    assert_sizes(graph, channels, selections, padded)
    assert_close(run(padded, feeds), run(graph, feeds))


def random_cut(channels: Channels, rng: np.random.Generator, share: float = 0.6) -> dict[str, Selection]:
    """Random subsets of random groups; new channels in place of some of those that go."""
    chosen: dict[str, Selection] = {}
    for group in channels.groups:
        if not group.frozen and group.size > 1 and rng.random() < share:
            keep = np.sort(rng.permutation(group.size)[: rng.integers(1, group.size)])
            pad = int(rng.integers(1, 4)) if not group.unpaddable and rng.random() < 0.3 else 0
            chosen[group.id] = Selection(tuple(int(i) for i in keep), pad)
    return chosen


def random_pad(channels: Channels, rng: np.random.Generator, share: float = 0.6) -> dict[str, Selection]:
    """A few more channels in random groups."""
    return {
        group.id: Selection(tuple(range(group.size)), int(rng.integers(1, 6)))
        for group in channels.groups
        if not group.unpaddable and rng.random() < share
    }
