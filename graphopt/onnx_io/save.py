"""Graph -> ONNX file: what no rewrite touched is written back as it was read.

The file appears by atomic rename. Weights are written one at a time, so no second copy of them is made.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import onnx

from graphopt.errors import ConfigError
from graphopt.ir.graph import Graph
from graphopt.ir.op import Op
from graphopt.onnx_io import wire
from graphopt.onnx_io.check import external_files
from graphopt.onnx_io.external import DataFile
from graphopt.onnx_io.infos import initializer_infos, updated_infos
from graphopt.onnx_io.model_file import ModelFile
from graphopt.onnx_io.nodes import to_node
from graphopt.onnx_io.tensors import graph_tensors, model_tensors

PROVENANCE_KEY = "graphopt.ops"
"""Metadata key of a JSON object: output tensor of each op that a rule made -> id of the rule."""

_INLINE_LIMIT = 2**31 - 2**20
"""Bytes of a model that still fit into one protobuf message."""

_NODE, _INITIALIZER, _GRAPH, _LAST_FIELD = 1, 5, 7, 1 << 29
"""Field numbers of onnx.proto."""


def save(
    graph: Graph,
    path: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    extra_outputs: Sequence[str] = (),
) -> None:
    """Write ``graph`` as an ONNX file, all of it or nothing.

    Args:
        graph: a graph that came from `load` (edited or not).
        path: where to write; never the file that was loaded. External data, if there is any, goes to
            ``<path>.data``: when the loaded model had some, or when the model would not fit into one file (2 GB).
        metadata: model metadata to set; the model's other entries stay.
        extra_outputs: tensors to append to the graph outputs (to look at activations).

    Raises:
        ConfigError: when ``path`` cannot be written, or is the loaded file.
        ModelError: when a weight's values cannot be read.
    """
    path = Path(path)
    check_output(graph, path)
    model = graph.model
    assert isinstance(model, ModelFile)
    data = DataFile(path) if model.external else None
    pieces = _model_pieces(graph, model, metadata or {}, extra_outputs, data)
    if data is None and sum(piece.size for piece in pieces) > _INLINE_LIMIT:
        data = DataFile(path)
        pieces = _model_pieces(graph, model, metadata or {}, extra_outputs, data)
    try:
        _write(path, pieces, data)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror or error}", file=str(path)) from error


def check_output(graph: Graph, path: str | Path) -> None:
    """See that ``graph`` can be written to ``path``, before the work that leads there is done.

    Raises:
        ConfigError: when ``path`` cannot be written, or is the loaded file.
    """
    path, model = Path(path), graph.model
    if not isinstance(model, ModelFile):
        raise ValueError("the graph does not come from a model file")
    real = path.resolve()
    if real == model.path.resolve():
        raise ConfigError("this is the model that is read; choose another output file", file=str(path))
    if model.external:
        taken = {file.resolve() for file in external_files(model.proto, model.path.parent)}
        if real in taken or DataFile(path).path.resolve() in taken:
            raise ConfigError("this is the data of the model that is read; choose another output file", file=str(path))
    if path.is_dir():
        raise ConfigError("this is a folder; name a file", file=str(path))
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent}", file=str(path))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"the folder {path.parent} cannot be written", file=str(path))


def _write(path: Path, pieces: Sequence[wire.Piece], data: DataFile | None) -> None:
    """Write data and model beside their places, then rename: the data first, since the model points to it."""
    with contextlib.ExitStack() as stack:
        if data is not None and data.size:
            data_temporary, data_file = stack.enter_context(_temporary(data.path))
            data.write(data_file)
        model_temporary, model_file = stack.enter_context(_temporary(path))
        wire.write(pieces, model_file)
        model_file.close()
        if data is not None and data.size:
            data_file.close()
            os.replace(data_temporary, data.path)
        os.replace(model_temporary, path)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """A new file in the folder of ``path``, gone at the end unless it was renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as file:
            yield temporary, file
    finally:
        temporary.unlink(missing_ok=True)


def _model_pieces(
    graph: Graph,
    model: ModelFile,
    metadata: Mapping[str, str],
    extra_outputs: Sequence[str],
    data: DataFile | None,
) -> list[wire.Piece]:
    """The model's fields in the order of their numbers, which is how protobuf itself writes them."""
    proto = model.proto
    head = wire.fields(proto, 0, _GRAPH - 1)
    tail = wire.fields(proto, _GRAPH + 1, _LAST_FIELD)
    assert isinstance(tail, onnx.ModelProto)
    _merge_metadata(tail, graph, metadata)
    graph_parts = tuple(_graph_pieces(graph, model, extra_outputs, data))
    if data is not None:
        data.redirect(model_tensors(tail), model.path.parent)
    return [
        wire.of_message(head),
        wire.embedded(_GRAPH, *graph_parts),
        wire.of_message(tail),
    ]


def _graph_pieces(
    graph: Graph, model: ModelFile, extra_outputs: Sequence[str], data: DataFile | None
) -> Iterator[wire.Piece]:
    proto = model.proto.graph
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.proto.opset_import}
    loaded = {id(op.source): op for op in model.ops}
    folder = model.path.parent
    for node in _named_apart([(op, to_node(op, loaded.get(id(op.source)), opsets)) for op in graph.ops()]):
        yield wire.embedded(_NODE, wire.of_message(node if data is None else data.take_node(node, folder)))
    yield wire.of_message(wire.fields(proto, _NODE + 1, _INITIALIZER - 1))
    names: list[str] = []
    for tensor in proto.initializer:
        weight = graph.weights.get(tensor.name)
        if weight is None and _was_constant(tensor.name, model):
            continue  # a rewrite dropped it
        names.append(tensor.name)
        if weight is None or weight.source is tensor:
            yield wire.embedded(_INITIALIZER, *_tensor_pieces(tensor, folder, data))
        else:
            yield _weight_piece(graph, tensor.name, data)
    sparse = {tensor.values.name for tensor in proto.sparse_initializer}
    for name in graph.weights:
        if name not in names and name not in sparse and graph.producer(name) is None:
            names.append(name)
            yield _weight_piece(graph, name, data)
    rest = wire.fields(proto, _INITIALIZER + 1, _LAST_FIELD)
    assert isinstance(rest, onnx.GraphProto)
    _update_rest(rest, graph, model, names, extra_outputs)
    if data is not None:
        data.redirect(graph_tensors(rest), folder)
    yield wire.of_message(rest)


def _named_apart(made: Sequence[tuple[Op, onnx.NodeProto]]) -> Iterator[onnx.NodeProto]:
    """The nodes, new ones renamed where their name is taken: onnxruntime refuses a name that repeats."""
    taken = {node.name for op, node in made if node is op.source}
    for op, node in made:
        if node is not op.source and node.name:
            name, count = node.name, 1
            while node.name in taken:
                count += 1
                node.name = f"{name}_{count}"
            taken.add(node.name)
        yield node


def _was_constant(name: str, model: ModelFile) -> bool:
    """Whether the initializer was among the weights when the model was loaded (no caller could override it)."""
    return model.proto.ir_version < 4 or all(value.name != name for value in model.proto.graph.input)


def _tensor_pieces(tensor: onnx.TensorProto, folder: Path, data: DataFile | None) -> list[wire.Piece]:
    """An initializer of the file, as it was; its values move to the data file if they were or must be external."""
    if data is None:
        return [wire.of_message(tensor)]
    return [wire.of_message(data.take(tensor, folder))]


def _weight_piece(graph: Graph, name: str, data: DataFile | None) -> wire.Piece:
    """A weight that a rewrite made."""
    weight = graph.weights[name]
    if data is not None and data.wants(weight):
        return wire.embedded(_INITIALIZER, wire.of_message(data.take_weight(weight)))
    return wire.of_weight(_INITIALIZER, weight)


def _update_rest(
    rest: onnx.GraphProto, graph: Graph, model: ModelFile, initializers: Sequence[str], extra_outputs: Sequence[str]
) -> None:
    """Bring inputs, outputs, value info and sparse initializers in line with the graph."""
    kept_sparse = [t for t in rest.sparse_initializer if t.values.name in graph.weights]
    if len(kept_sparse) != len(rest.sparse_initializer):
        kept = onnx.GraphProto(sparse_initializer=kept_sparse)
        rest.ClearField("sparse_initializer")
        rest.sparse_initializer.extend(kept.sparse_initializer)
    for field in ("input", "output", "value_info"):
        infos = updated_infos(getattr(model.proto.graph, field), graph, model, drop_vanished=field == "value_info")
        rest.ClearField(field)
        getattr(rest, field).extend(infos)
    if model.proto.ir_version < 4:
        inputs = initializer_infos(rest.input, graph, model, initializers)
        rest.ClearField("input")
        rest.input.extend(inputs)
    declared = {value.name for value in rest.output}
    for name in dict.fromkeys(extra_outputs):
        if name not in declared:
            rest.output.add(name=name)


def _merge_metadata(tail: onnx.ModelProto, graph: Graph, metadata: Mapping[str, str]) -> None:
    """Set ``metadata`` and the provenance of the ops; other entries stay where they are."""
    entries = {entry.key: entry for entry in tail.metadata_props}
    made = {}
    if PROVENANCE_KEY in entries:
        with contextlib.suppress(ValueError):
            before = json.loads(entries[PROVENANCE_KEY].value)
            made = {key: rule for key, rule in before.items() if key in graph} if isinstance(before, dict) else {}
    made |= {op.key: op.rule for op in graph.ops() if op.rule}
    wanted = dict(metadata)
    if made or PROVENANCE_KEY in entries:
        wanted[PROVENANCE_KEY] = json.dumps(made, sort_keys=True, ensure_ascii=False)
    for key, value in sorted(wanted.items()):
        if key in entries:
            entries[key].value = value
        else:
            tail.metadata_props.add(key=key, value=value)
