"""Fold the mean of removed channels into their consumers' biases.

A consumer ``y = sum_i W_i x_i + b`` that loses channel r keeps its average output if ``b`` grows by ``W_r E[x_r]``: the
cheapest repair there is. (Around zero-padded borders the mean is a little less; a least-squares repair knows that.)
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from graphopt.errors import ModelError
from graphopt.ir.channels import Channels, Member
from graphopt.ir.graph import Graph, Patch
from graphopt.ir.op import Array, Op, Weight
from graphopt.ir.resize import Selection
from graphopt.onnx_io.save import save
from graphopt.onnx_io.worker import Failure, Task, work

_MEAN = "graphopt.mean/"


@dataclass(frozen=True, slots=True)
class _Loss:
    """Input columns that a consumer loses: the op, its weight's column axis, and the removed positions there."""

    op: Op
    axis: int
    removed: npt.NDArray[np.intp]


def fold_means(
    original: Graph,
    resized: Graph,
    channels: Channels,
    selections: Mapping[str, Selection],
    inputs: Sequence[Mapping[str, Array]],
) -> Patch:
    """Return the bias changes on the resized graph.

    Args:
        original: the model before channels were removed.
        resized: the model after.
        channels: channel groups of the original.
        selections: what was kept of each group.
        inputs: samples to take the means over.

    Raises:
        ModelError: when the original does not run on the inputs.
    """
    losses = _losses(original, channels, selections)
    if not losses:
        return Patch()
    means = channel_means(original, sorted({loss.op.inputs[0] for loss in losses}), inputs)
    remove, add, weights = [], [], []
    for key in sorted({loss.op.key for loss in losses}, key=original.position):
        mine = [loss for loss in losses if loss.op.key == key]
        op = resized.op(key)
        bias = _new_bias(original, resized, channels, selections, mine, means[mine[0].op.inputs[0]])
        if bias is None:
            continue
        remove.append(key)
        inputs_now = (op.inputs[0], op.inputs[1], bias.name)
        add.append(replace(op, inputs=inputs_now, source=None))
        weights.append(bias)
    return Patch(tuple(remove), tuple(add), tuple(weights))


def channel_means(
    graph: Graph, tensors: Sequence[str], inputs: Sequence[Mapping[str, Array]]
) -> dict[str, npt.NDArray[np.float64]]:
    """Run the model and return the mean of each channel (axis 1) of ``tensors`` over samples and positions.

    Raises:
        ModelError: when the model does not run on the inputs.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = Path(folder) / "means.onnx"
        save(graph, path)
        model = onnx.load(path, load_external_data=False)
        taps = {}
        for number, tensor in enumerate(tensors):
            shape = graph.shape(tensor)
            name = f"{_MEAN}{number}"
            op_type = "GlobalAveragePool" if shape is not None and len(shape) > 2 else "Identity"
            model.graph.node.append(onnx.helper.make_node(op_type, [tensor], [name]))
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
            taps[name] = tensor
        onnx.save(model, path)
        del model
        (answer,) = work([Task("run", path, optimisation="all", inputs=tuple(inputs), outputs=tuple(taps))])
    if isinstance(answer, Failure):
        raise ModelError(f"cannot run the model to take channel means: {answer.reason}")
    means = {}
    for name, tensor in taps.items():
        rows = np.concatenate([run[name].reshape(-1, run[name].shape[1]) for run in answer.runs])
        means[tensor] = rows.mean(axis=0, dtype=np.float64)
    return means


def _losses(graph: Graph, channels: Channels, selections: Mapping[str, Selection]) -> list[_Loss]:
    """Dense Conv and Gemm inputs that lose channels; other consumers have no bias to fold into."""
    losses = []
    for name, selection in sorted(selections.items()):
        group = channels.group(name)
        gone = np.setdiff1d(np.arange(group.size), np.array(selection.keep, np.intp))
        if not len(gone):
            continue
        for member in group.members:
            op = graph.op(member.op)
            if member.role == "consume" and _can_fold(graph, op, member):
                losses.append(_Loss(op, member.axis, member.positions[gone].ravel()))
    return losses


def _can_fold(graph: Graph, op: Op, member: Member) -> bool:
    if op.domain or len(op.inputs) < 2 or op.inputs[1] != member.weight:
        return False
    if op.op_type == "Conv":
        return op.attribute("group", 1) == 1 and member.axis == 1
    plain = op.attribute("alpha", 1.0) == 1.0 and op.attribute("beta", 1.0) == 1.0
    shape = graph.shape(op.inputs[0])
    return op.op_type == "Gemm" and plain and not op.attribute("transA", 0) and shape is not None and len(shape) == 2


def _new_bias(
    original: Graph,
    resized: Graph,
    channels: Channels,
    selections: Mapping[str, Selection],
    losses: Sequence[_Loss],
    means: npt.NDArray[np.float64],
) -> Weight | None:
    """The bias of one consumer with the removed channels' means in it; ``None`` where it is not a constant vector."""
    op = losses[0].op
    weight = original.weights[op.inputs[1]]
    now = resized.op(op.key)
    rows = resized.weights[now.inputs[1]].shape[1 - losses[0].axis]
    old = resized.weight(now.input(2)) if now.input(2) else None
    if now.input(2) and (old is None or old.shape != (rows,)):
        return None
    kept = _kept_rows(channels, selections, op, 1 - losses[0].axis, weight.shape[1 - losses[0].axis])

    def make() -> Array:
        bias = np.zeros(rows) if old is None else old.array().astype(np.float64)
        values = np.moveaxis(weight.array().astype(np.float64), losses[0].axis, 0)
        for loss in losses:
            lost = values[loss.removed].reshape(len(loss.removed), values.shape[1], -1).sum(axis=2)
            bias[: len(kept)] += (means[loss.removed] @ lost)[kept]
        return np.asarray(bias, weight.dtype)

    return Weight(f"{op.key}/graphopt.folded_bias", (rows,), weight.dtype, make)


def _kept_rows(
    channels: Channels, selections: Mapping[str, Selection], op: Op, axis: int, rows: int
) -> npt.NDArray[np.intp]:
    """Output rows of ``op`` that are still there, in order (padded rows come after and need no fold)."""
    keep = np.ones(rows, bool)
    for name in channels.groups_of(op.inputs[1]):
        selection = selections.get(name)
        if selection is None:
            continue
        group = channels.group(name)
        gone = np.setdiff1d(np.arange(group.size), np.array(selection.keep, np.intp))
        for member in group.members:
            if member.op == op.key and member.weight == op.inputs[1] and member.axis == axis and len(gone):
                keep[member.positions[gone].ravel()] = False
    return np.flatnonzero(keep)
