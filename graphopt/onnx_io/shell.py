"""A light copy of a model: all of its structure, none of its big values.

The checker, the shape inference and onnx-graphsurgeon work on the shell, so that none of them copies the weights.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from google.protobuf.message import Message
from onnx import numpy_helper

from graphopt.onnx_io.tensors import is_external, values_of

_KEPT_ELEMENTS = 256
"""Tensors up to this size keep their values: shapes, axes and the like, which shape inference reads."""


@dataclass(frozen=True, slots=True)
class Shell:
    """The light copy.

    Attributes:
        model: the copy. Its stripped tensors are empty (shape ``[0]``), which the checker accepts.
        folder: where the model's external data lies.
        stripped: (empty tensor in the copy, full one in the model) pairs.
    """

    model: onnx.ModelProto
    folder: Path
    stripped: list[tuple[onnx.TensorProto, onnx.TensorProto]] = field(default_factory=list)

    def give_shapes(self) -> None:
        """Give the stripped tensors their shapes (still no values): what shape inference needs."""
        for empty, full in self.stripped:
            empty.dims[:] = full.dims
        self.stripped.clear()


def make_shell(model: onnx.ModelProto, folder: Path) -> Shell:
    """Copy ``model`` without the values of its big tensors. Training info is left out.

    Args:
        model: the model; every tensor's values have been seen to be there.
        folder: where its external data lies.
    """
    shell = Shell(onnx.ModelProto(), folder)
    copy_fields(model, shell.model, skip={"graph", "training_info"})
    _copy_graph(model.graph, shell.model.graph, shell)
    return shell


def copy_fields(source: Message, target: Message, skip: Collection[str] = ()) -> None:
    """Copy every field of ``source`` but those named in ``skip`` into the empty ``target``."""
    for descriptor, value in source.ListFields():
        if descriptor.name in skip:
            continue
        if isinstance(value, Message):
            getattr(target, descriptor.name).CopyFrom(value)
        elif isinstance(value, int | float | str | bytes):
            setattr(target, descriptor.name, value)
        else:
            getattr(target, descriptor.name).extend(value)


def _copy_graph(source: onnx.GraphProto, target: onnx.GraphProto, shell: Shell) -> None:
    copy_fields(source, target, skip={"node", "initializer"})
    for tensor in source.initializer:
        _copy_tensor(tensor, target.initializer.add(), shell)
    for node in source.node:
        _copy_node(node, target.node.add(), shell)


def _copy_node(source: onnx.NodeProto, target: onnx.NodeProto, shell: Shell) -> None:
    heavy = (onnx.AttributeProto.TENSOR, onnx.AttributeProto.GRAPH)
    if not any(attribute.type in heavy for attribute in source.attribute):
        target.CopyFrom(source)
        return
    copy_fields(source, target, skip={"attribute"})
    for attribute in source.attribute:
        copy = target.attribute.add()
        copy_fields(attribute, copy, skip={"t", "g"})
        if attribute.type == onnx.AttributeProto.TENSOR:
            copy.t.SetInParent()
            _copy_tensor(attribute.t, copy.t, shell)
        elif attribute.type == onnx.AttributeProto.GRAPH:
            copy.g.SetInParent()
            _copy_graph(attribute.g, copy.g, shell)


def _copy_tensor(source: onnx.TensorProto, target: onnx.TensorProto, shell: Shell) -> None:
    if math.prod(source.dims) > _KEPT_ELEMENTS:
        target.name = source.name
        target.data_type = source.data_type
        target.dims.append(0)
        shell.stripped.append((target, source))
    elif is_external(source):
        target.CopyFrom(numpy_helper.from_array(values_of(source, shell.folder), source.name))
    else:
        target.CopyFrom(source)
