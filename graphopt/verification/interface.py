"""What a model file declares: its inputs, its outputs and their types."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
from google.protobuf.message import DecodeError

from graphopt.errors import VerificationError


@dataclass(frozen=True, slots=True)
class Spec:
    """An input or output as the file declares it; ``elem_type`` is ONNX's number, 0 for what is no tensor."""

    name: str
    elem_type: int
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True)
class Interface:
    """What must be fed and what comes out, by name, in the order of the file."""

    inputs: dict[str, Spec]
    outputs: dict[str, Spec]


def read_interface(path: Path) -> Interface:
    """Read the inputs that must be fed, and the outputs.

    Only these parts of the file are looked at: parsing a big model whole would cost more than the rest of the look.

    Raises:
        VerificationError: when the file cannot be read or is no ONNX model.
    """
    inputs: list[Spec] = []
    outputs: list[Spec] = []
    initial: set[str] = set()
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for start, end in _chunks(data, 0, len(data), _GRAPH):
                for begin, stop in _chunks(data, start, end, _INPUT):
                    inputs.append(_spec(onnx.ValueInfoProto.FromString(data[begin:stop])))
                for begin, stop in _chunks(data, start, end, _OUTPUT):
                    outputs.append(_spec(onnx.ValueInfoProto.FromString(data[begin:stop])))
                for begin, stop in _chunks(data, start, end, _INITIALIZER):
                    initial |= {data[i:j].decode() for i, j in _chunks(data, begin, stop, _TENSOR_NAME)}
    except OSError as error:
        raise VerificationError(f"{path}: cannot read the model: {one_line(error.strerror or error)}") from error
    except (DecodeError, ValueError, IndexError) as error:
        raise VerificationError(f"{path}: not an ONNX model, or a damaged one") from error
    if not outputs:
        raise VerificationError(f"{path}: not an ONNX model (it has no outputs)")
    return Interface({s.name: s for s in inputs if s.name not in initial}, {s.name: s for s in outputs})


_GRAPH, _INPUT, _OUTPUT, _INITIALIZER, _TENSOR_NAME = 7, 11, 12, 5, 8
"""Field numbers in onnx.proto: ModelProto.graph; GraphProto.input, .output, .initializer; TensorProto.name."""


def _chunks(data: mmap.mmap, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Yield where the length-delimited fields of one number lie (protobuf wire format), skipping over all others.

    Raises:
        ValueError: when a field has an unknown wire type or reaches beyond ``end``.
        IndexError: when the file ends inside a number.
    """
    while start < end:
        key, start = _varint(data, start)
        kind = key & 7
        size = 0
        if kind == 0:
            _, start = _varint(data, start)
        elif kind == 2:
            size, start = _varint(data, start)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if start + size > end:
            raise ValueError("a field reaches beyond the end")
        if kind == 2 and key >> 3 == wanted:
            yield start, start + size
        start += size


def _varint(data: mmap.mmap, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place


def _spec(info: Any) -> Spec:
    if info.type.WhichOneof("value") != "tensor_type":
        return Spec(info.name, 0, None)
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        return Spec(info.name, tensor.elem_type, None)
    dims = [
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param or None for d in tensor.shape.dim
    ]
    return Spec(info.name, tensor.elem_type, tuple(dims))


def interface_difference(first: Interface, second: Interface) -> str:
    """Say how the interfaces differ in names, order or types; ``""`` when they do not."""
    for kind, mine, theirs in (("input", first.inputs, second.inputs), ("output", first.outputs, second.outputs)):
        if list(mine) != list(theirs):
            return f"the {kind}s are {', '.join(theirs) or 'none'}, and were {', '.join(mine) or 'none'}"
        for name, spec in mine.items():
            if theirs[name].elem_type != spec.elem_type:
                return f"{kind} '{name}' is {type_name(theirs[name])}, and was {type_name(spec)}"
    return ""


def type_name(spec: Spec) -> str:
    """The element type as ONNX spells it, in lower case."""
    return str(onnx.TensorProto.DataType.Name(spec.elem_type)).lower() if spec.elem_type else "no tensor"


def one_line(error: object) -> str:
    """An error's text without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def input_types(interface: Interface) -> dict[str, tuple[tuple[int | str | None, ...] | None, np.dtype[Any] | None]]:
    """Declared shape and numpy type of each input; no type for what is no tensor."""
    return {
        name: (spec.shape, onnx.helper.tensor_dtype_to_np_dtype(spec.elem_type) if spec.elem_type else None)
        for name, spec in interface.inputs.items()
    }
