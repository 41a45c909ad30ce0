"""Value infos of a saved model: as they were, changed only where a rewrite changed a shape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
from onnx import helper

from graphopt.ir.graph import Graph
from graphopt.ir.op import TensorInfo
from graphopt.onnx_io.model_file import ModelFile


def updated_infos(
    infos: Iterable[onnx.ValueInfoProto], graph: Graph, model: ModelFile, *, drop_vanished: bool
) -> list[onnx.ValueInfoProto]:
    """Return ``infos`` in line with ``graph``.

    A dimension that has not changed keeps what the file said of it, dynamic or not.

    Args:
        infos: value infos of the loaded file.
        graph: the graph to write.
        model: the file that it was loaded from.
        drop_vanished: leave out tensors that are no longer in the graph.
    """
    kept: list[onnx.ValueInfoProto] = []
    for info in infos:
        before, after = model.tensors.get(info.name), graph.tensors.get(info.name)
        if before is not None and after is None and drop_vanished:
            continue
        kept.append(info if before is None or after is None else _with_changes(info, before, after))
    return kept


def _with_changes(info: onnx.ValueInfoProto, before: TensorInfo, after: TensorInfo) -> onnx.ValueInfoProto:
    if before == after or info.type.WhichOneof("value") != "tensor_type":
        return info
    changed = onnx.ValueInfoProto()
    changed.CopyFrom(info)
    tensor = changed.type.tensor_type
    if after.dtype is not None and after.dtype != before.dtype:
        tensor.elem_type = helper.np_dtype_to_tensor_dtype(after.dtype)
    if after.shape is None or not tensor.HasField("shape"):
        tensor.ClearField("shape")
        return changed
    if before.shape is None or len(before.shape) != len(after.shape) or len(tensor.shape.dim) != len(after.shape):
        tensor.ClearField("shape")
        return changed
    for dim, old, new in zip(tensor.shape.dim, before.shape, after.shape, strict=True):
        if old == new:
            continue
        dim.Clear()
        if isinstance(new, int):
            dim.dim_value = new
        elif isinstance(new, str):
            dim.dim_param = new
    return changed


def initializer_infos(
    inputs: Iterable[onnx.ValueInfoProto], graph: Graph, model: ModelFile, initializers: Sequence[str]
) -> list[onnx.ValueInfoProto]:
    """The inputs of a model of IR version 3 or less, which lists its initializers there.

    Args:
        inputs: the inputs of the loaded file.
        graph: the graph to write.
        model: the file that it was loaded from.
        initializers: names of the initializers that are written.
    """
    old = {tensor.name for tensor in model.proto.graph.initializer}
    kept = [info for info in inputs if info.name not in old or info.name in initializers]
    listed = {info.name for info in kept}
    for name in initializers:
        if name not in listed and name not in old:
            weight = graph.weights[name]
            kind = helper.np_dtype_to_tensor_dtype(weight.dtype)
            kept.append(helper.make_tensor_value_info(name, kind, weight.shape))
    return kept
