"""Protobuf messages written piece by piece, so that a model is never in memory a second time.

A message is the concatenation of its fields; an embedded message is a tag, its length, and its own fields
(https://protobuf.dev/programming-guides/encoding/). All lengths are known before any weight is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import helper, numpy_helper

from graphopt.ir.op import Weight
from graphopt.onnx_io.shell import copy_fields

_LENGTH_DELIMITED = 2
_RAW_DATA_FIELD = 9
_CHUNK = 1 << 24

Bytes = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes to write: how many, and how to make them."""

    size: int
    make: Callable[[], Iterable[Bytes]]


def of_message(message: Message) -> Piece:
    """The fields of a message, serialised when they are written."""
    return Piece(message.ByteSize(), lambda: (message.SerializeToString(),))


def embedded(field: int, *parts: Piece) -> Piece:
    """A length-delimited field made of ``parts``."""
    content = sum(part.size for part in parts)
    header = _varint(field << 3 | _LENGTH_DELIMITED) + _varint(content)

    def make() -> Iterator[Bytes]:
        yield header
        for part in parts:
            yield from part.make()

    return Piece(len(header) + content, make)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def is_raw(weight: Weight) -> bool:
    """Whether the weight's bytes in a file are its numpy bytes (not so for strings and packed types)."""
    return weight.dtype.isbuiltin == 1 and weight.dtype.kind in "biufc"


def raw_values(weight: Weight) -> Piece:
    """The values of a weight as little-endian bytes."""

    def make() -> Iterator[Bytes]:
        values = np.ascontiguousarray(weight.array(), dtype=weight.dtype.newbyteorder("<"))
        flat = values.reshape(-1).view(np.uint8).data
        for start in range(0, len(flat), _CHUNK):
            yield flat[start : start + _CHUNK]

    return Piece(weight.size * weight.dtype.itemsize, make)


def tensor_header(weight: Weight) -> onnx.TensorProto:
    """A `TensorProto` with everything but the values."""
    kind = helper.np_dtype_to_tensor_dtype(weight.dtype)
    return onnx.TensorProto(name=weight.name, data_type=kind, dims=weight.shape)


def of_weight(field: int, weight: Weight) -> Piece:
    """A computed weight as an embedded `TensorProto`."""
    if not is_raw(weight):
        return embedded(field, of_message(numpy_helper.from_array(weight.array(), weight.name)))
    return embedded(field, of_message(tensor_header(weight)), embedded(_RAW_DATA_FIELD, raw_values(weight)))


def fields(message: Message, low: int, high: int, skip: Sequence[str] = ()) -> Message:
    """A message of the same type with the fields numbered ``low`` to ``high`` only."""
    part: Message = type(message)()
    outside = {descriptor.name for descriptor in message.DESCRIPTOR.fields if not low <= descriptor.number <= high}
    copy_fields(message, part, skip=outside | set(skip))
    return part


def write(pieces: Iterable[Piece], file: IO[bytes]) -> None:
    """Write all pieces."""
    for piece in pieces:
        for data in piece.make():
            file.write(data)
