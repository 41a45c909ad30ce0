"""What a model file declares: its inputs, its outputs and their types."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
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
    """Read the inputs that must be fed, and the outputs. Raises `VerificationError`."""
    try:
        graph = onnx.load(path, format="protobuf", load_external_data=False).graph
    except (OSError, DecodeError, ValueError) as error:
        raise VerificationError(f"{path}: cannot read the model: {one_line(error)}") from error
    if not graph.output:
        raise VerificationError(f"{path}: not an ONNX model (it has no outputs)")
    initial = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return Interface(
        {info.name: _spec(info) for info in graph.input if info.name not in initial},
        {info.name: _spec(info) for info in graph.output},
    )


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
