"""Concrete shapes for pricing. The saved model keeps its dynamic dimensions; only the graph's `tensors` are filled."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from graphopt.errors import ModelError, did_you_mean
from graphopt.ir.op import Dim, Shape, TensorInfo

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph

_DOMAINS_THAT_INFER = ("", "ai.onnx", "ai.onnx.ml")
_EXAMPLE_DIMS = {4: (1, 3, 640, 640), 3: (1, 128, 128), 2: (1, 128)}
"""What an unknown dimension is proposed to be, by rank."""

LIKELY = ""
"""Among the shapes asked for, a name that is no input's: what is left open then takes the proposed size."""


def true_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller must feed: those without an initializer."""
    initialized = {tensor.name for tensor in model.graph.initializer}
    initialized |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return [value for value in model.graph.input if value.name not in initialized]


def declared(value: onnx.ValueInfoProto) -> TensorInfo:
    """What a value info says. Negative dimensions and names like ``?`` count as unknown."""
    if value.type.WhichOneof("value") != "tensor_type":
        return TensorInfo()
    tensor = value.type.tensor_type
    dtype: np.dtype[np.generic] | None = None
    if tensor.elem_type:
        try:
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        except KeyError:
            dtype = None
    shape = tuple(_dim(dim) for dim in tensor.shape.dim) if tensor.HasField("shape") else None
    return TensorInfo(dtype, shape)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return str(dim.dim_param) if dim.dim_param.isidentifier() and dim.dim_param != "None" else None


def choose_input_shapes(
    model: onnx.ModelProto, asked: Mapping[str, tuple[int, ...]] | None
) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Decide the shapes to price with.

    What is asked for is bound first (its symbols hold for the other inputs, too); then a leading dimension that is
    still open is taken for the batch and becomes 1; and where `LIKELY` is among the names, the others that are open
    take the size that a message would propose.

    Returns:
        The shapes of the inputs that are static now, and the value of each symbol.

    Raises:
        ModelError: when ``asked`` names no input, or contradicts what the model says.
    """
    infos = {value.name: declared(value) for value in true_inputs(model)}
    symbols: dict[str, int] = {}
    wanted = {name: tuple(shape) for name, shape in (asked or {}).items() if name != LIKELY}
    for name, shape in wanted.items():
        if name not in infos:
            raise ModelError(f"there is no input {name!r}{did_you_mean(name, infos)}")
        _bind(name, infos[name].shape, shape, symbols)
    others = {name: info.shape for name, info in infos.items() if name not in wanted and info.shape is not None}
    for own in others.values():
        if own and isinstance(own[0], str):
            symbols.setdefault(own[0], 1)
    chosen = wanted
    for name, own in others.items():
        known = concrete(own, symbols)
        known = (1, *known[1:]) if known and known[0] is None else known
        if LIKELY in (asked or {}):
            likely = _example(known)
            symbols |= {dim: size for dim, size in zip(known, likely, strict=True) if isinstance(dim, str)}
            known = tuple(likely)
        static = tuple(dim for dim in known if isinstance(dim, int))
        if len(static) == len(known):
            chosen[name] = static
    return chosen, symbols


def is_open(shape: Shape | None) -> bool:
    """Whether a dimension besides a leading batch is left open."""
    return shape is None or not all(isinstance(dim, int) for dim in shape[1:])


def concrete(shape: Shape, symbols: Mapping[str, int]) -> Shape:
    """Put numbers where the symbols are known."""
    return tuple(symbols.get(dim, dim) if isinstance(dim, str) else dim for dim in shape)


def _bind(name: str, shape: Shape | None, asked: tuple[int, ...], symbols: dict[str, int]) -> None:
    """Check one asked shape against the declared one and note what its symbols become."""
    shown = show(shape)
    if any(not isinstance(dim, int) or dim < 1 for dim in asked):
        raise ModelError(f"input {name!r}: shape {list(asked)} must be positive whole numbers")
    if shape is None:
        return
    if len(asked) != len(shape):
        raise ModelError(f"input {name!r} has shape {shown}: {list(asked)} has {len(asked)} dimensions")
    for want, have in zip(asked, shape, strict=True):
        if isinstance(have, int) and have != want:
            raise ModelError(f"input {name!r} has shape {shown}: {list(asked)} contradicts the fixed {have}")
        if isinstance(have, str) and symbols.setdefault(have, want) != want:
            raise ModelError(f"input {name!r}: {have!r} cannot be both {symbols[have]} and {want}")


def show(shape: Shape | None) -> str:
    """A shape as people read it: ``[?, 3, height, width]``."""
    if shape is None:
        return "[unknown rank]"
    return "[" + ", ".join("?" if dim is None else " ".join(str(dim).split()) for dim in shape) + "]"


def infer(
    shell: onnx.ModelProto, chosen: Mapping[str, tuple[int, ...]], symbols: Mapping[str, int]
) -> dict[str, TensorInfo]:
    """Infer the shape and type of every tensor, given the input shapes ``chosen``.

    Args:
        shell: light copy of the model; it is changed on the way.
        chosen: concrete shapes by input name.
        symbols: the values of symbolic dimensions.

    Returns:
        What is known by tensor name: inputs, intermediate tensors and outputs of the main graph.
    """
    graph = shell.graph
    said = {value.name: declared(value) for value in (*graph.value_info, *graph.output, *graph.input)}
    _prepare(shell, chosen)
    found: dict[str, TensorInfo] = {}
    try:
        inferred = onnx.shape_inference.infer_shapes(shell, data_prop=True).graph
        found = {v.name: declared(v) for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        found = {value.name: declared(value) for value in graph.input}  # holes are filled by running the model
    for name, info in said.items():
        found[name] = _merge(found.get(name, TensorInfo()), info, symbols)
    return {name: info for name, info in sorted(found.items()) if info != TensorInfo()}


def _prepare(shell: onnx.ModelProto, chosen: Mapping[str, tuple[int, ...]]) -> None:
    """Set the input shapes and take out what could contradict them."""
    graph = shell.graph
    if shell.ir_version < 4:  # initializers among the inputs are constants
        inputs = true_inputs(shell)
        del graph.input[:]
        graph.input.extend(inputs)
        shell.ir_version = 4
    set_input_shapes(graph, chosen)
    opaque = {name for node in graph.node if node.domain not in _DOMAINS_THAT_INFER for name in node.output if name}
    kept = [value for value in graph.value_info if value.name in opaque]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    for value in graph.output:
        if value.type.WhichOneof("value") == "tensor_type":
            value.type.tensor_type.ClearField("shape")


def set_input_shapes(graph: onnx.GraphProto, shapes: Mapping[str, Sequence[int]]) -> None:
    """Declare the inputs that ``shapes`` names to have these sizes."""
    for value in graph.input:
        if value.name in shapes:
            tensor = value.type.tensor_type
            tensor.shape.Clear()
            tensor.shape.SetInParent()
            for size in shapes[value.name]:
                tensor.shape.dim.add(dim_value=size)


def _merge(inferred: TensorInfo, said: TensorInfo, symbols: Mapping[str, int]) -> TensorInfo:
    """Inferred facts first, declared ones where those leave a hole."""
    dtype = inferred.dtype if inferred.dtype is not None else said.dtype
    if said.shape is None:
        return TensorInfo(dtype, inferred.shape)
    spoken = concrete(said.shape, symbols)
    if inferred.shape is None or len(inferred.shape) != len(spoken):
        return TensorInfo(dtype, spoken if inferred.shape is None else inferred.shape)
    pairs = zip(inferred.shape, spoken, strict=True)
    return TensorInfo(dtype, tuple(a if isinstance(a, int) or b is None else b for a, b in pairs))


def require_static_shapes(graph: Graph) -> None:
    """See that every input has a concrete shape.

    Raises:
        ModelError: when one has not; the message gives the option to type.
    """
    missing: list[str] = []
    options: list[str] = []
    for name in graph.inputs:
        shape = graph.shape(name)
        if graph.static_shape(name) is not None or graph.dtype(name) is None:
            continue
        missing.append(f"input {name!r} has shape {show(shape)}")
        options.append(f"--input-shape {shlex.quote(f'{name}:' + ','.join(map(str, _example(shape))))}")
    if missing:
        raise ModelError(f"{'; '.join(missing)}: add {' '.join(options)}, or --input-shape auto for just that")


def _example(shape: Shape | None) -> Sequence[int]:
    """A likely shape that agrees with what is known."""
    if shape is None:
        return _EXAMPLE_DIMS[4]
    likely = _EXAMPLE_DIMS.get(len(shape), (1, *(64 for _ in shape[1:])))
    return [dim if isinstance(dim, int) else likely[i] for i, dim in enumerate(shape)]
