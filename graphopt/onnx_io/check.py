"""Reading a model file and refusing what is no usable model, with one line that names the file and the cause."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto, helper

from graphopt.errors import ModelError
from graphopt.onnx_io.shell import Shell
from graphopt.onnx_io.tensors import check_values, external_file, is_external, model_tensors
from graphopt.onnx_io.worker import Failure, Task, work

RUNTIME_IR_VERSION = 13
"""Newest IR version that onnxruntime 1.31 loads. Above it, the installed onnxruntime is asked."""

RUNTIME_OPSETS = {"": 26, "ai.onnx.ml": 5}
"""Newest opsets that onnxruntime 1.31 loads, by domain. Above them, the installed onnxruntime is asked."""

_STRING_FIELD = 9
"""`FieldDescriptor.TYPE_STRING` of protobuf."""

_PROTOBUF_LIMIT = 2**31 - 1


def one_line(error: object) -> str:
    """The message of an error as one line."""
    return " ".join(str(error).split()) or type(error).__name__


def read_model(path: Path) -> tuple[onnx.ModelProto, str]:
    """Read a file and return the model and the file's sha256 (hex).

    Raises:
        ModelError: when the file cannot be read or is no ONNX model.
    """
    try:
        if not path.exists():
            raise ModelError(f"{path}: there is no such file")
        if not path.is_file():
            raise ModelError(f"{path}: not a file")
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not data:
        raise ModelError(f"{path}: not an ONNX file: it is empty")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        if len(data) > _PROTOBUF_LIMIT:
            raise ModelError(f"{path}: over 2 GB in one file, which ONNX cannot hold; use external data") from error
        cause = "the ONNX file is truncated or damaged" if data[0] == 8 else "not an ONNX file"
        raise ModelError(f"{path}: {cause}") from error
    if not model.ir_version or not model.HasField("graph"):
        raise ModelError(f"{path}: not an ONNX file: it holds no graph")
    return model, hashlib.sha256(data).hexdigest()


def check_tensors(model: onnx.ModelProto, path: Path) -> bool:
    """See that the values of every tensor are there; return whether any are external.

    Raises:
        ModelError: when some are not, or lie outside the model's folder.
    """
    external = False
    for tensor in model_tensors(model):
        try:
            check_values(tensor, path.parent)
        except (ModelError, KeyError, OSError) as error:
            raise ModelError(f"{path}: {one_line(error)}") from error
        external = external or is_external(tensor)
    return external


def external_files(model: onnx.ModelProto, folder: Path) -> tuple[Path, ...]:
    """The external data files of a checked model, sorted."""
    found = {external_file(tensor, folder)[0] for tensor in model_tensors(model) if is_external(tensor)}
    return tuple(sorted(found))


def check_versions(model: onnx.ModelProto, path: Path) -> None:
    """See that onnxruntime can load the model's IR version and opsets.

    Raises:
        ModelError: when it cannot.
    """
    opsets = [opset for opset in model.opset_import if _known_domain(opset.domain) in RUNTIME_OPSETS]
    new = [opset for opset in opsets if opset.version > RUNTIME_OPSETS[_known_domain(opset.domain)]]
    if model.ir_version <= RUNTIME_IR_VERSION and not new:
        return
    refusal = _open_probe(model.ir_version, opsets)
    if refusal is None:
        return
    if model.ir_version > RUNTIME_IR_VERSION:
        cause = f"IR version {model.ir_version} is newer than onnxruntime can load (up to {RUNTIME_IR_VERSION})"
    else:
        listed = ", ".join(f"{opset.version} of domain {_known_domain(opset.domain) or 'ai.onnx'}" for opset in new)
        cause = f"opset {listed} is newer than onnxruntime can load"
    raise ModelError(f"{path}: {cause}: {refusal}")


def _known_domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _open_probe(ir_version: int, opsets: Iterable[onnx.OperatorSetIdProto]) -> str | None:
    """Let onnxruntime open a one-op model of these versions; return why it would not."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", [value], [result])
    imports = list(opsets) or [helper.make_opsetid("", 13)]
    probe = helper.make_model(graph, ir_version=ir_version, opset_imports=imports)
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        file = Path(folder) / "probe.onnx"
        file.write_bytes(probe.SerializeToString())
        answer = work([Task("open", file)])[0]
    return answer.reason if isinstance(answer, Failure) else None


def check_texts(message: Message, path: Path) -> None:
    """See that every text is UTF-8 (protobuf lets others pass, as bytes).

    Raises:
        ModelError: when one is not.
    """
    for descriptor, value in message.ListFields():
        if descriptor.type == _STRING_FIELD:
            if any(isinstance(text, bytes) for text in ((value,) if isinstance(value, bytes | str) else value)):
                raise ModelError(f"{path}: the ONNX file is damaged: {descriptor.full_name} holds no UTF-8 text")
        elif descriptor.message_type is not None:
            for part in (value,) if isinstance(value, Message) else value:
                check_texts(part, path)


def check_structure(shell: Shell, path: Path) -> None:
    """Run the ONNX checker on a shell. Where it objects, onnxruntime has the last word.

    Raises:
        ModelError: when both refuse the model.
    """
    graph = shell.model.graph
    shapeless = [
        value.type.tensor_type
        for value in (*graph.output, *graph.value_info)
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")
    ]
    for tensor in shapeless:  # onnxruntime does not ask for shapes there, the checker does
        tensor.shape.SetInParent()
    try:
        onnx.checker.check_model(shell.model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        answer = work([Task("open", path, optimisation="none")])[0]
        if isinstance(answer, Failure):
            cause = one_line(error).removesuffix("==> Context:").strip()
            raise ModelError(f"{path}: not a valid model: {cause}") from error
    for tensor in shapeless:
        tensor.ClearField("shape")
