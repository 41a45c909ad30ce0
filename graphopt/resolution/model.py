"""A model at another size as a file of its own: the reference that every further change is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphopt.errors import ModelError
from graphopt.ir.graph import Graph
from graphopt.ir.op import Shape
from graphopt.onnx_io.load import load
from graphopt.onnx_io.save import save
from graphopt.onnx_io.shapes import declared, true_inputs
from graphopt.onnx_io.worker import Answer, Failure, Task, work
from graphopt.resolution.sizes import Shapes, near_sizes, show_shapes
from graphopt.resolution.state import SizeMisfit
from graphopt.resolution.walk import resized
from graphopt.resolution.windows import kept_windows
from graphopt.verification import sample_inputs

MAX_ELEMENTS = 1 << 25
"""Values of one input at most (about 3300 x 3300 pixels in colour): the model is run once to see that it runs."""

_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class ShapeChange:
    """Shape of an input or output at the model's own size and at the new one."""

    name: str
    before: Shape
    after: Shape


@dataclass(frozen=True, slots=True)
class Resolution:
    """What another input size did to a model.

    Attributes:
        inputs: the inputs that changed.
        outputs: all outputs.
        constants: how many ops had constants or attributes that followed.
        open: whether the file leaves these sizes open; it then serves both sizes, and nothing in it had to follow.
        finite: whether all outputs were finite in the one run, on made-up input, that was made to see that it runs.
    """

    inputs: tuple[ShapeChange, ...]
    outputs: tuple[ShapeChange, ...]
    constants: int
    open: bool
    finite: bool


@dataclass(frozen=True, slots=True)
class SizedModel:
    """A model at another size.

    Attributes:
        path: its file; the original's where that leaves the size open.
        graph: the model as it was loaded from there.
        input_shapes: the shapes that it was loaded with.
        resolution: what changed.
        notes: sentences that the reader should see.
    """

    path: Path
    graph: Graph
    input_shapes: Mapping[str, tuple[int, ...]]
    resolution: Resolution
    notes: tuple[str, ...]


def at_size(original: Graph, shapes: Shapes, folder: Path) -> SizedModel:
    """Give a model other input shapes, and see that it runs.

    Args:
        original: the model as it was loaded.
        shapes: the new shapes of inputs.
        folder: where to write; the result's weights may be read from there later.

    Raises:
        SizeMisfit: when the model cannot have that size: the op, the reason and what would work, in one line.
    """
    for name, shape in shapes.items():
        if math.prod(shape) > MAX_ELEMENTS:
            raise SizeMisfit(
                f"{show_shapes(original, shapes)}: input {name!r} may have {MAX_ELEMENTS:,} values at most"
            )
    try:
        patch = resized(original, shapes)
    except SizeMisfit as error:
        raise SizeMisfit(_with_hint(original, shapes, str(error))) from error
    graph = original.edited([patch])
    path, is_open = original.model.path, _leaves_open(original, shapes)
    opened = _opened(path, graph, original, shapes) if is_open else None
    if isinstance(opened, str) and patch.add:
        is_open = False  # the sizes are open, and constants hold the model to one of them all the same
    if not is_open:
        path = folder / path.name
        save(graph, path)
        opened = _opened(path, graph, original, shapes)
    if not isinstance(opened, _Opened):
        raise SizeMisfit(_with_hint(original, shapes, str(opened)))
    outputs = tuple(ShapeChange(name, original.shape(name) or (), graph.shape(name) or ()) for name in graph.outputs)
    inputs = tuple(
        ShapeChange(name, original.shape(name) or (), shape)
        for name, shape in shapes.items()
        if shape != original.shape(name)
    )
    notes = tuple(kept_windows(original, opened.graph))
    if not opened.finite:
        notes = (*notes, "at this size some outputs are not finite")
    constants = 0 if is_open else len(patch.add)
    resolution = Resolution(inputs, outputs, constants, is_open, opened.finite)
    return SizedModel(path, opened.graph, {**original.model.input_shapes, **shapes}, resolution, notes)


def _leaves_open(original: Graph, shapes: Shapes) -> bool:
    """Whether the file says nothing of the dimensions that change."""
    said = {value.name: declared(value).shape for value in true_inputs(original.model.proto)}
    for name, shape in shapes.items():
        for dim, old, new in zip(said[name] or (), original.static_shape(name) or (), shape, strict=True):
            if old != new and isinstance(dim, int):
                return False
    return True


def _with_hint(original: Graph, shapes: Shapes, reason: str) -> str:
    near = near_sizes(original, shapes)
    text = f"{show_shapes(original, shapes)}: {reason}"
    return f"{text}; near it these would work: {', '.join(near)}" if near else text


@dataclass(frozen=True, slots=True)
class _Opened:
    """A model that was loaded and has run at the new size."""

    graph: Graph
    finite: bool


def _opened(path: Path, derived: Graph, original: Graph, shapes: Shapes) -> _Opened | str:
    """Load a model at the new size and run it once; why not, where it does not come to the shapes that were derived."""
    try:
        loaded = load(path, input_shapes={**original.model.input_shapes, **shapes})
    except ModelError as error:
        return str(error)
    feed = sample_inputs(path, count=1, input_shapes=loaded.model.input_shapes)
    (answer,) = work([Task("run", path, optimisation="none", inputs=feed)], timeout_s=_TIMEOUT_S)
    if isinstance(answer, Failure):
        return f"the model does not run at this size: {' '.join(answer.reason.split())}"
    assert isinstance(answer, Answer)
    finite = True
    for name, value in answer.runs[0].items():
        if not isinstance(value, np.ndarray):
            continue
        wanted = derived.static_shape(name)
        if wanted is not None and value.shape != wanted:
            return f"output {name!r} was derived as {list(wanted)} and comes out as {list(value.shape)}"
        finite = finite and bool(value.dtype.kind != "f" or np.isfinite(value).all())
    return _Opened(loaded, finite)
