"""The data file beside a saved model that does not keep all its values inside."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import onnx

from graphopt.ir.op import Weight
from graphopt.onnx_io import wire
from graphopt.onnx_io.shell import copy_fields
from graphopt.onnx_io.tensors import external_file, is_external, nbytes, node_tensors

_ALIGNMENT = 4096
_WORTH_MOVING = 1024
"""Smaller values stay in the model: a runtime needs them to infer shapes."""

_CHUNK = 1 << 24


class DataFile:
    """Collects values that go outside, and writes them.

    Attributes:
        path: the file.
        size: bytes taken so far.
    """

    def __init__(self, model_path: Path) -> None:
        self.path = model_path.with_name(model_path.name + ".data")
        self.size = 0
        self._pieces: list[tuple[int, wire.Piece]] = []

    def wants(self, weight: Weight) -> bool:
        """Whether a computed weight is worth moving outside."""
        return wire.is_raw(weight) and weight.size * weight.dtype.itemsize >= _WORTH_MOVING

    def take_weight(self, weight: Weight) -> onnx.TensorProto:
        """Take a computed weight; return the message that refers to it."""
        tensor = wire.tensor_header(weight)
        self._place(tensor, wire.raw_values(weight))
        return tensor

    def take(self, tensor: onnx.TensorProto, folder: Path) -> onnx.TensorProto:
        """Take a tensor of the loaded file (in ``folder``) if its values are outside or big.

        Returns:
            The message that refers to the values, or ``tensor`` itself where they stay inside.
        """
        size = nbytes(tensor)
        if is_external(tensor):
            piece = wire.Piece(size, functools.partial(_copied, *external_file(tensor, folder), size))
        elif tensor.HasField("raw_data") and size >= _WORTH_MOVING:
            piece = wire.Piece(size, lambda: (tensor.raw_data,))
        else:
            return tensor
        reference = onnx.TensorProto()
        reference.CopyFrom(_without_values(tensor))
        self._place(reference, piece)
        return reference

    def take_node(self, node: onnx.NodeProto, folder: Path) -> onnx.NodeProto:
        """Return ``node``, or a copy that refers to this file where the node's tensors lie outside."""
        if not any(is_external(tensor) for tensor in node_tensors([node])):
            return node
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        self.redirect(node_tensors([copy]), folder)
        return copy

    def redirect(self, tensors: Iterable[onnx.TensorProto], folder: Path) -> None:
        """Take the external ones of ``tensors`` and make them refer to this file, in place."""
        for tensor in tensors:
            if is_external(tensor):
                reference = self.take(tensor, folder)
                tensor.CopyFrom(reference)

    def _place(self, tensor: onnx.TensorProto, piece: wire.Piece) -> None:
        offset = -(-self.size // _ALIGNMENT) * _ALIGNMENT
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", self.path.name), ("offset", str(offset)), ("length", str(piece.size))):
            tensor.external_data.add(key=key, value=value)
        self._pieces.append((offset, piece))
        self.size = offset + piece.size

    def write(self, file: IO[bytes]) -> None:
        """Write everything that was taken."""
        for offset, piece in self._pieces:
            file.seek(offset)
            wire.write((piece,), file)
        file.truncate(self.size)


def _without_values(tensor: onnx.TensorProto) -> onnx.TensorProto:
    part = onnx.TensorProto()
    copy_fields(tensor, part, skip={"raw_data", "external_data", "data_location"})
    return part


def _copied(file: Path, offset: int, size: int) -> Iterator[memoryview]:
    """The bytes of a loaded external tensor, a piece at a time."""
    for start in range(0, size, _CHUNK):
        count = min(_CHUNK, size - start)
        yield np.memmap(file, dtype=np.uint8, mode="r", offset=offset + start, shape=(count,)).data
