"""ONNX file -> graph, through onnx-graphsurgeon.

onnx-graphsurgeon reads the wiring and the plain attributes from a light copy of the model. What it cannot hold
(tensors of every type, subgraphs, sequence types, functions, metadata ...) stays in the protobuf messages that the
graph's ops, weights and `ModelFile` refer to, and is written back from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from graphopt.errors import ModelError
from graphopt.ir.graph import Graph
from graphopt.ir.op import Op, Weight
from graphopt.onnx_io.check import (
    check_structure,
    check_tensors,
    check_texts,
    check_versions,
    external_files,
    read_model,
)
from graphopt.onnx_io.model_file import ModelFile
from graphopt.onnx_io.observe import fill_holes
from graphopt.onnx_io.shapes import choose_input_shapes, declared, infer, is_open, true_inputs
from graphopt.onnx_io.shell import Shell, make_shell
from graphopt.onnx_io.tensors import constant_weight, dense_weight, sparse_weight

_PLAIN = {
    onnx.AttributeProto.FLOAT,
    onnx.AttributeProto.INT,
    onnx.AttributeProto.STRING,
    onnx.AttributeProto.FLOATS,
    onnx.AttributeProto.INTS,
    onnx.AttributeProto.STRINGS,
}


def load(path: str | Path, *, input_shapes: Mapping[str, tuple[int, ...]] | None = None) -> Graph:
    """Read an ONNX file.

    Args:
        path: the file. External data is read only from its folder, and only when a weight's values are asked for.
        input_shapes: concrete shapes of inputs with dynamic dimensions, by input name. They are for pricing: the
            saved model keeps its dynamic dimensions. An open leading dimension is taken for the batch, 1.

    Returns:
        The graph; `Graph.tensors` has concrete shapes wherever they can be had.

    Raises:
        ModelError: when the file is not a model that onnxruntime can load, or ``input_shapes`` does not fit it.
    """
    path = Path(path)
    model, digest = read_model(path)
    check_texts(model, path)
    external = check_tensors(model, path)
    check_versions(model, path)
    if external:
        sizes = [f"{file.name}:{file.stat().st_size}" for file in external_files(model, path.parent)]
        digest = f"{digest[:48]}{_short_digest(sizes)}"
    shell = make_shell(model, path.parent)
    check_structure(shell, path)
    shell.give_shapes()
    try:
        return build_graph(model, shell, path, digest, external=external, input_shapes=input_shapes)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def build_graph(
    model: onnx.ModelProto,
    shell: Shell,
    path: Path,
    digest: str,
    *,
    external: bool,
    input_shapes: Mapping[str, tuple[int, ...]] | None,
) -> Graph:
    """Build the graph of a checked model. ``shell`` is used up.

    Raises:
        ModelError: when ``input_shapes`` does not fit the model, or the graph is not one.
    """
    chosen, symbols = choose_input_shapes(model, input_shapes)
    tensors = infer(shell.model, chosen, symbols)
    ops = _read_ops(model, shell.model, path.parent)
    keys = {op.key for op in ops}
    if len(keys) != len(ops):
        raise ModelError("two ops cannot be told apart: they make the same tensor, or none")
    file = ModelFile(path, model, digest, ops, tensors, chosen, external)
    graph = Graph(
        ops,
        inputs=[value.name for value in true_inputs(model)],
        open_inputs=[value.name for value in true_inputs(model) if is_open(declared(value).shape)],
        outputs=[value.name for value in model.graph.output],
        weights=_read_weights(model, path.parent),
        tensors=tensors,
        model=file,
    )
    return fill_holes(graph)


def _read_weights(model: onnx.ModelProto, folder: Path) -> dict[str, Weight]:
    """Constants by name, in file order: initializers that no caller can override, then the values of Constant ops."""
    graph = model.graph
    overridable = {value.name for value in graph.input} if model.ir_version >= 4 else set()
    weights = [dense_weight(tensor, folder) for tensor in graph.initializer]
    weights += [sparse_weight(tensor, folder) for tensor in graph.sparse_initializer]
    found = {weight.name: weight for weight in weights if weight.name not in overridable}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            weight = constant_weight(node, folder)
            if weight is not None:
                found[weight.name] = weight
    return found


def _read_ops(model: onnx.ModelProto, shell: onnx.ModelProto, folder: Path) -> tuple[Op, ...]:
    """Read the wiring through onnx-graphsurgeon and complete it from the nodes of the file."""
    _reduce_to_wiring(shell)
    with G_LOGGER.suppress():
        nodes = gs.import_onnx(shell).nodes
    return tuple(_read_op(node, source, folder) for node, source in zip(nodes, model.graph.node, strict=True))


def _reduce_to_wiring(shell: onnx.ModelProto) -> None:
    """Leave nodes, names and plain attributes: what onnx-graphsurgeon holds without loss."""
    graph = shell.graph
    for name in ("initializer", "sparse_initializer", "value_info", "quantization_annotation"):
        graph.ClearField(name)
    shell.ClearField("functions")
    for value in (*graph.input, *graph.output):
        value.ClearField("type")
    for node in graph.node:
        plain = [attribute for attribute in node.attribute if _is_plain(attribute)]
        if len(plain) != len(node.attribute):
            kept = onnx.NodeProto(attribute=plain)
            node.ClearField("attribute")
            node.attribute.extend(kept.attribute)


def _is_plain(attribute: onnx.AttributeProto) -> bool:
    if attribute.type not in _PLAIN or attribute.ref_attr_name:
        return False
    try:
        for text in (attribute.s, *attribute.strings):
            text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_op(node: gs.Node, source: onnx.NodeProto, folder: Path) -> Op:
    return Op(
        op_type=node.op,
        inputs=tuple(tensor.name for tensor in node.inputs),
        outputs=tuple(tensor.name for tensor in node.outputs),
        attributes=tuple((a.name, _value(node.attrs, a, folder)) for a in source.attribute),
        name=node.name,
        domain="" if source.domain == "ai.onnx" else source.domain,
        captures=tuple(_captures(source)),
        source=source,
    )


def _value(plain: Mapping[str, Any], attribute: onnx.AttributeProto, folder: Path) -> Any:
    """The attribute's value as :class:`Op` describes it; what is neither plain nor a tensor is the message itself."""
    if _is_plain(attribute):
        value = plain[attribute.name]
        return tuple(value) if isinstance(value, list) else value
    if attribute.type == onnx.AttributeProto.TENSOR and not attribute.ref_attr_name:
        return dense_weight(attribute.t, folder)
    if attribute.type == onnx.AttributeProto.STRING and not attribute.ref_attr_name:
        return bytes(attribute.s)
    if attribute.type == onnx.AttributeProto.STRINGS and not attribute.ref_attr_name:
        return tuple(bytes(text) for text in attribute.strings)
    return attribute


def _captures(node: onnx.NodeProto) -> Iterable[str]:
    """Names that the node's subgraphs take from outside, in order, once each."""
    found: dict[str, None] = {}
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            found.update(dict.fromkeys(_free_names(graph)))
    return found


def _free_names(graph: onnx.GraphProto) -> Iterable[str]:
    """Names that a subgraph reads and does not make, its own subgraphs included."""
    made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    made |= {tensor.values.name for tensor in graph.sparse_initializer}
    made |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        for name in (*node.input, *_captures(node)):
            if name and name not in made:
                yield name
    for value in graph.output:
        if value.name not in made:
            yield value.name


def _short_digest(parts: Iterable[str]) -> str:
    """Sixteen hex digits over ``parts``."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
