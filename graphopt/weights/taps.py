"""Look at activations: run a model over samples once, from a checkpoint on, and hand out tensors batch by batch.

Repairing a model op by op asks for tensors further and further down the graph. So a :class:`Stream` keeps the tensors
that are alive at one place of the graph (a *cut*) for all samples, if they fit into its share of memory, and the next
question starts there instead of at the inputs. Each question runs a small model of its own: the ops between the cut and
the wanted tensors.

Memory: at most two cuts (the old one and the next), each within ``cache_bytes``, and one batch of the wanted tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime as ort

from graphopt.errors import ModelError
from graphopt.ir.graph import Graph
from graphopt.ir.op import Array, Op, Weight
from graphopt.onnx_io.model_file import ModelFile
from graphopt.onnx_io.nodes import to_node

_MOST_SAMPLES = 32
_BATCH_BYTES = 96 << 20
"""A batch is as large as its wanted tensors allow within these."""
_ODD = 7
"""No model is made for batches of this size."""


class Samples(Protocol):
    """Where inputs come from; :class:`graphopt.weights.calibration.Calibration` is one."""

    @property
    def count(self) -> int:
        """Number of samples."""

    def batches(self, indices: Sequence[int], size: int) -> Iterator[Mapping[str, Array]]:
        """Yield the samples ``indices`` by input name, in batches of ``size`` (or of what the model fixes)."""


class Stream:
    """A model and samples.

    Args:
        graph: the model.
        samples: its inputs.
        cache_bytes: what one cut may take.

    Raises:
        ModelError: when the model does not run on the samples.

    Attributes:
        graph: the model as it is now.
        count: number of samples that are used (whole batches, where the model fixes its batch size).
        place: how many ops lie before the cut.
        cut: the tensors alive there, all samples; read-only.
        batch: the batch size that the model fixes, `None` where it takes any.
    """

    def __init__(self, graph: Graph, samples: Samples, *, cache_bytes: int) -> None:
        self.graph = graph
        self._samples = samples
        self._cache_bytes = cache_bytes
        self.place = 0
        self.cut: dict[str, Array] = {}
        self._fixed = self.batch = _fixed_batch(graph, samples)
        self.count = samples.count // (self._fixed or 1) * (self._fixed or 1)
        self._bytes = cut_bytes(graph)

    def swap(self, graph: Graph) -> None:
        """Go on with an edited model: same ops in the same order, none changed before the last `run`'s ``until``."""
        self.graph = graph

    def per_sample(self, tensor: str) -> int | None:
        """Elements of ``tensor`` for one sample, ``None`` where it has no static shape with the batch in front."""
        return _per_sample(self.graph, tensor)

    def run(self, tensors: Sequence[str], until: str) -> Iterator[tuple[int, dict[str, Array]]]:
        """Yield (number of the first sample, values by tensor) for every batch of samples.

        Args:
            tensors: what to look at.
            until: op key; later questions are about this op or later ones, so the cut may move up to it.

        Raises:
            ModelError: when the model does not run.
        """
        wanted = list(dict.fromkeys(tensors))
        cut: list[str] = []
        ops = ancestors(self.graph, wanted, self.cut)
        from_cut = ops is not None
        if ops is None:  # something from before the cut: once more from the inputs
            ops = ancestors(self.graph, wanted, {})
            assert ops is not None
            target = self.place
        else:
            target, cut = self._next_cut(self.graph.position(until))
            ops = {*ops, *(ancestors(self.graph, cut, self.cut) or ())}
        per_sample = sum(4 * (self.per_sample(tensor) or 1) for tensor in {*wanted, *cut})
        size = self._fixed or max(1, min(_MOST_SAMPLES, _BATCH_BYTES // max(per_sample, 1)))
        known = self.cut if from_cut else {}
        made = [tensor for tensor in dict.fromkeys((*wanted, *cut)) if tensor not in known]
        run = _session(self.graph, ops, made, known, self._fixed)
        kept: dict[str, Array] | None = {} if cut else None
        start = 0
        for feed in self._feeds(size, known):
            values = {**feed, **dict(zip(made, run(feed), strict=True))} if made else dict(feed)
            length = next(iter(feed.values())).shape[0]
            if kept is not None and not _store(kept, {name: values[name] for name in cut}, start, length, self.count):
                kept = None
                self._bytes[target] = math.inf
            yield start, {tensor: values[tensor] for tensor in wanted}
            start += length
        if kept is not None:
            self.place, self.cut = target, kept

    def _feeds(self, size: int, known: Mapping[str, Array]) -> Iterator[Mapping[str, Array]]:
        if not known:
            yield from self._samples.batches(range(self.count), size)
            return
        for start in range(0, self.count, size):
            yield {name: values[start : start + size] for name, values in known.items()}

    def _next_cut(self, until: int) -> tuple[int, list[str]]:
        """The last place up to ``until`` where the cut fits, and its tensors; the present place and none if there
        is none after it."""
        for place in range(until, self.place, -1):
            if self._bytes[place] * self.count <= self._cache_bytes:
                return place, alive(self.graph, place)
        return self.place, []


def _store(kept: dict[str, Array], values: Mapping[str, Array], start: int, length: int, count: int) -> bool:
    """Keep a batch of the cut; ``False`` when a tensor turns out not to have the batch in front."""
    for name, value in values.items():
        if value.ndim == 0 or value.shape[0] != length:
            return False
        if name not in kept:
            kept[name] = np.empty((count, *value.shape[1:]), value.dtype)
        if kept[name].shape[1:] != value.shape[1:]:
            return False
        kept[name][start : start + length] = value
    return True


def alive(graph: Graph, place: int) -> list[str]:
    """Tensors made before the op at ``place`` that it or a later one reads, sorted."""
    return sorted(tensor for tensor, (made, last) in _lifetimes(graph).items() if made < place <= last)


def _lifetimes(graph: Graph) -> dict[str, tuple[int, int]]:
    """Where each activation is made (-1 for an input) and last read."""
    lives: dict[str, tuple[int, int]] = {}
    for op in graph.ops():
        here = graph.position(op.key)
        for tensor in (*op.inputs, *op.captures):
            if tensor and tensor not in graph.weights and not _is_default(graph, tensor):
                maker = graph.producer(tensor)
                lives[tensor] = (-1 if maker is None else graph.position(maker.key), here)
    return lives


def _is_default(graph: Graph, tensor: str) -> bool:
    """Whether ``tensor`` is an initializer that a caller may override (and calibration does not)."""
    return graph.producer(tensor) is None and default_value(graph, tensor) is not None


def default_value(graph: Graph, tensor: str) -> onnx.TensorProto | None:
    """The initializer behind an input that a caller may leave out, ``None`` for any other tensor."""
    model = graph.model
    assert isinstance(model, ModelFile)
    return next((proto for proto in model.proto.graph.initializer if proto.name == tensor), None)


def cut_bytes(graph: Graph) -> list[float]:
    """Bytes for one sample of the tensors alive before each op (infinite where a shape is not known)."""
    change = [0.0] * (len(graph) + 2)
    for tensor, (made, last) in _lifetimes(graph).items():
        size = _per_sample(graph, tensor)
        dtype = graph.dtype(tensor)
        cost = float(size * dtype.itemsize) if size is not None and dtype is not None else 1e30
        change[made + 1] += cost
        change[last + 1] -= cost
    total, found = 0.0, []
    for step in change[: len(graph) + 1]:
        total += step
        found.append(total)
    return found


def _per_sample(graph: Graph, tensor: str) -> int | None:
    shape = graph.static_shape(tensor)
    batch = next((s[0] for s in map(graph.static_shape, graph.inputs) if s), 1)
    if not shape or shape[0] != batch:
        return None
    elements: int = math.prod(shape[1:])
    return elements


def ancestors(graph: Graph, tensors: Sequence[str], known: Collection[str]) -> set[str] | None:
    """Keys of the ops that make ``tensors`` out of ``known`` (the model's inputs, when empty); ``None`` when they
    cannot be made out of them."""
    found: set[str] = set()
    stack = [tensor for tensor in tensors if tensor not in known]
    while stack:
        tensor = stack.pop()
        op = graph.producer(tensor)
        if op is None:
            if known and tensor not in graph.weights and not _is_default(graph, tensor):
                return None
        elif op.key not in found:
            found.add(op.key)
            stack += [name for name in (*op.inputs, *op.captures) if name and name not in known]
    return found


Run = Callable[[Mapping[str, Array]], Sequence[Array]]


def _session(
    graph: Graph, keys: set[str], outputs: Sequence[str], known: Mapping[str, Array], fixed: int | None
) -> Run:
    """A function that computes ``outputs`` from a feed of ``known`` (of the model's inputs, when empty)."""
    if not outputs:
        return lambda feed: ()
    proto = _sub_model(graph, sorted(keys, key=graph.position), outputs, known, fixed)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a type of its own for each status
        raise ModelError(f"part of the model does not load: {' '.join(str(error).split())}") from error
    names = [value.name for value in session.get_inputs()]

    def run(feed: Mapping[str, Array]) -> Sequence[Array]:
        try:
            values: Sequence[Array] = session.run(list(outputs), {name: feed[name] for name in names if name in feed})
        except Exception as error:
            raise ModelError(f"the model does not run on the samples: {' '.join(str(error).split())}") from error
        return values

    return run


def _sub_model(
    graph: Graph, keys: Sequence[str], outputs: Sequence[str], known: Mapping[str, Array], fixed: int | None
) -> onnx.ModelProto:
    model = graph.model
    assert isinstance(model, ModelFile)
    ops = [graph.op(key) for key in keys]
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.proto.opset_import}
    loaded = {id(op.source): op for op in model.ops}
    made = {output for op in ops for output in op.outputs}
    read = sorted({name for op in ops for name in (*op.inputs, *op.captures) if name and name not in made})
    read += [name for name in outputs if name not in made and name not in read]
    inputs, initializers = [], []
    for name in read:
        weight = graph.weights.get(name)
        default = None if weight is not None or name in known else default_value(graph, name)
        if weight is not None:
            initializers.append(_tensor(weight))
        elif default is not None:
            initializers.append(default)
        else:
            inputs.append(_info(graph, name, known, fixed))
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            [_unnamed(to_node(op, loaded.get(id(op.source)), opsets), op) for op in ops],
            "taps",
            inputs,
            [onnx.helper.make_empty_tensor_value_info(name) for name in outputs],
            initializers,
        ),
        opset_imports=model.proto.opset_import,
        functions=model.proto.functions,
    )
    proto.ir_version = model.proto.ir_version if model.proto.ir_version >= 4 else 4
    return proto


def _unnamed(node: onnx.NodeProto, op: Op) -> onnx.NodeProto:
    """The node without its name: names may repeat among changed ops, and onnxruntime refuses that."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = ""
    return copy


def _tensor(weight: Weight) -> onnx.TensorProto:
    source = weight.source
    inline = isinstance(source, onnx.TensorProto) and source.data_location != onnx.TensorProto.EXTERNAL
    if inline and isinstance(source, onnx.TensorProto) and source.name == weight.name:
        return source
    return onnx.numpy_helper.from_array(np.ascontiguousarray(weight.array()), weight.name)


def _info(graph: Graph, name: str, known: Mapping[str, Array], fixed: int | None) -> onnx.ValueInfoProto:
    """An input of a part of the model; only the batch may be open."""
    value = known.get(name)
    if value is not None:
        dtype: np.dtype[Any] = value.dtype
        shape: list[int | str | None] = ["N" if fixed is None else fixed, *value.shape[1:]]
    else:
        given = graph.dtype(name)
        dtype = np.dtype(np.float32) if given is None else given
        static = graph.static_shape(name)
        shape = [None] if static is None else ["N" if fixed is None else static[0], *static[1:]]
    kind = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    return onnx.helper.make_tensor_value_info(name, kind, shape if shape != [None] else None)


def _fixed_batch(graph: Graph, samples: Samples) -> int | None:
    """The batch size that the model wants, ``None`` where it takes any (found by trying an odd number of samples)."""
    size = min(_ODD, samples.count)
    feed = next(iter(samples.batches(range(samples.count), size)))
    length = int(next(iter(feed.values())).shape[0])
    if length != size:
        return length
    keys = ancestors(graph, graph.outputs, {}) or set()
    try:
        answer = _session(graph, keys, graph.outputs, {}, None)(feed)
    except ModelError:
        return 1
    return None if all(value.ndim and value.shape[0] == length for value in answer) else 1
