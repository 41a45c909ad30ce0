"""Constant tensors of a model file as weights: read when asked, external data from the model's folder only."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphopt.errors import ModelError
from graphopt.ir.op import Array, Weight

_PACKED_BITS: dict[int, int] = {
    value: 2 if name.endswith("INT2") else 4
    for name, value in onnx.TensorProto.DataType.items()
    if name in ("UINT4", "INT4", "FLOAT4E2M1", "UINT2", "INT2")
}


def nbytes(tensor: onnx.TensorProto) -> int:
    """Bytes of the tensor's values in raw form (0 for strings, which have none)."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return 0
    size: int = math.prod(tensor.dims)
    bits = _PACKED_BITS.get(tensor.data_type)
    if bits:
        return -(-size * bits // 8)
    return size * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the values lie in another file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def model_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor anywhere in the model: initializers, attributes, subgraphs, functions, training info."""
    yield from graph_tensors(model.graph)
    for function in model.functions:
        yield from node_tensors(function.node)
    for training in model.training_info:
        yield from graph_tensors(training.initialization)
        yield from graph_tensors(training.algorithm)


def graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph and its subgraphs."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    yield from node_tensors(graph.node)


def node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """Every tensor in the attributes of nodes, subgraphs included."""
    for node in nodes:
        for attribute in node.attribute:
            kind = attribute.type
            if kind == onnx.AttributeProto.TENSOR:
                yield attribute.t
            elif kind == onnx.AttributeProto.SPARSE_TENSOR:
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            elif kind == onnx.AttributeProto.GRAPH:
                yield from graph_tensors(attribute.g)
            elif kind in (onnx.AttributeProto.TENSORS, onnx.AttributeProto.GRAPHS):
                yield from attribute.tensors
                for graph in attribute.graphs:
                    yield from graph_tensors(graph)


def external_file(tensor: onnx.TensorProto, folder: Path) -> tuple[Path, int]:
    """Return the file that holds an external tensor's values, and the offset in bytes.

    Raises:
        ModelError: when the file is missing, too short, or outside ``folder`` (also through a link).
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    name = f"tensor {tensor.name!r}: external data {location!r}"
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or nbytes(tensor))
    except ValueError:
        raise ModelError(f"{name} has an offset or length that is no number") from None
    windows = PureWindowsPath(location)
    if not location or "\0" in location or ".." in windows.parts or windows.anchor or PurePosixPath(location).anchor:
        raise ModelError(f"{name} is not a file inside the model's folder")
    try:
        file = (folder / location).resolve(strict=True)
    except (OSError, RuntimeError):
        raise ModelError(f"{name} is missing in {folder}") from None
    if not file.is_relative_to(folder.resolve()) or not file.is_file():
        raise ModelError(f"{name} is not a file inside the model's folder")
    needed = nbytes(tensor)
    if offset < 0 or length < needed or offset + needed > file.stat().st_size:
        raise ModelError(f"{name} is too short: {needed} bytes at offset {offset} are not there")
    return file, offset


def check_values(tensor: onnx.TensorProto, folder: Path) -> None:
    """See that the tensor's values are there, without decoding them.

    Raises:
        ModelError: when they are fewer than its shape needs, or are not where the file says.
    """
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"tensor {tensor.name!r} has the impossible shape {list(tensor.dims)}")
    if is_external(tensor):
        external_file(tensor, folder)
    elif tensor.HasField("raw_data"):
        held, needed = len(tensor.raw_data), nbytes(tensor)
        if held != needed:
            raise ModelError(f"tensor {tensor.name!r} holds {held} bytes where its shape needs {needed}")


def dense_weight(tensor: onnx.TensorProto, folder: Path, name: str = "") -> Weight:
    """A weight over a `TensorProto`; ``name`` overrides the tensor's own."""
    return Weight(
        name=name or tensor.name,
        shape=tuple(tensor.dims),
        dtype=helper.tensor_dtype_to_np_dtype(tensor.data_type),
        make=functools.partial(values_of, tensor, folder),
        source=tensor,
    )


def values_of(tensor: onnx.TensorProto, folder: Path) -> Array:
    """Return the values, shape ``tensor.dims``, read-only where possible; external data is mapped, not read."""
    if not is_external(tensor):
        array: Array = numpy_helper.to_array(tensor)
        return array
    file, offset = external_file(tensor, folder)
    size = nbytes(tensor)
    if not size:
        return np.zeros(tuple(tensor.dims), helper.tensor_dtype_to_np_dtype(tensor.data_type))
    raw = np.memmap(file, dtype=np.uint8, mode="r", offset=offset, shape=(size,))
    if tensor.data_type in _PACKED_BITS:
        inline = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=raw.tobytes())
        unpacked: Array = numpy_helper.to_array(inline)
        return unpacked
    values: Array = np.asarray(raw).view(helper.tensor_dtype_to_np_dtype(tensor.data_type)).reshape(tuple(tensor.dims))
    return values


def sparse_weight(tensor: onnx.SparseTensorProto, folder: Path, name: str = "") -> Weight:
    """A weight over a `SparseTensorProto`; its values come out dense."""
    return Weight(
        name=name or tensor.values.name,
        shape=tuple(tensor.dims),
        dtype=helper.tensor_dtype_to_np_dtype(tensor.values.data_type),
        make=functools.partial(_dense_values, tensor, folder),
        source=tensor,
    )


def _dense_values(tensor: onnx.SparseTensorProto, folder: Path) -> Array:
    """Scatter the values; indices are linear ``[n]`` or coordinates ``[n, rank]``."""
    values, indices = values_of(tensor.values, folder), values_of(tensor.indices, folder)
    dense = np.zeros(tuple(tensor.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def constant_weight(node: onnx.NodeProto, folder: Path) -> Weight | None:
    """The value of a Constant node, whichever attribute holds it; ``None`` when there is none."""
    name = node.output[0]
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            return None
        if attribute.name == "value":
            return dense_weight(attribute.t, folder, name)
        if attribute.name == "sparse_value":
            return sparse_weight(attribute.sparse_tensor, folder, name)
        plain = _PLAIN_CONSTANTS.get(attribute.name)
        if plain is not None:
            values = plain(attribute)
            return Weight(name, values.shape, values.dtype, functools.partial(_same, values))
    return None


def _same(values: Array) -> Array:
    return values


_PLAIN_CONSTANTS: dict[str, Callable[[onnx.AttributeProto], Array]] = {
    "value_float": lambda a: np.array(a.f, np.float32),
    "value_floats": lambda a: np.array(a.floats, np.float32),
    "value_int": lambda a: np.array(a.i, np.int64),
    "value_ints": lambda a: np.array(a.ints, np.int64),
    "value_string": lambda a: np.array(a.s, object),
    "value_strings": lambda a: np.array(list(a.strings), object),
}
