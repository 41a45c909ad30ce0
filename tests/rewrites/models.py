"""Small models for the tests of rewrites: ONNX text in, graphs and outputs out.

Graph and file are converted here in a few lines (no control flow, no external data), so that a property test can make
hundreds of models in a second; the cards' examples go through the real `load` and `save`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.numpy_helper
import onnx.parser
import onnx.shape_inference
import onnxruntime as ort

from graphopt.ir.graph import Graph, Patch
from graphopt.ir.op import Array, Op, TensorInfo, Weight
from graphopt.rewrites.rewrite import Match, Refusal, SiteRewrite

ort.set_default_logger_severity(4)

Looked = Match | Refusal | None


def model(text: str, weights: Mapping[str, Array] | None = None, opset: int = 17) -> onnx.ModelProto:
    """Parse the text of a graph and give it ``weights`` as initializers."""
    graph = onnx.parser.parse_graph(text)
    for name, values in sorted((weights or {}).items()):
        graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


def to_graph(proto: onnx.ModelProto) -> Graph:
    """Read ``proto``."""
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    constants: dict[str, Any] = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    ops = []
    for node in proto.graph.node:
        values = [(a.name, onnx.helper.get_attribute_value(a)) for a in node.attribute]
        if node.op_type == "Constant":
            value = values[0][1]
            is_tensor = isinstance(value, onnx.TensorProto)
            constants[node.output[0]] = onnx.numpy_helper.to_array(value) if is_tensor else np.float32(value)
        attributes = tuple((name, _plain(value)) for name, value in values if not isinstance(value, onnx.TensorProto))
        ops.append(Op(node.op_type, tuple(node.input), tuple(node.output), attributes, node.name, node.domain))
    tensors = {}
    for info in (*inferred.input, *inferred.value_info, *inferred.output):
        dims = [
            d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in info.type.tensor_type.shape.dim
        ]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        tensors[info.name] = TensorInfo(dtype, tuple(dims))
    return Graph(
        ops,
        inputs=[info.name for info in inferred.input if info.name not in constants],
        outputs=[info.name for info in inferred.output],
        weights={n: Weight(n, v.shape, v.dtype, partial(np.asarray, v)) for n, v in constants.items()},
        tensors=tensors,
        model=proto,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return tuple(value) if isinstance(value, list) else value


def to_proto(graph: Graph) -> onnx.ModelProto:
    """Write ``graph``."""
    made = onnx.ModelProto()
    made.CopyFrom(graph.model)
    del made.graph.node[:], made.graph.initializer[:], made.graph.value_info[:]
    for op in graph.ops():
        if op.op_type == "Constant":
            continue
        made.graph.node.append(onnx.helper.make_node(op.op_type, op.inputs, op.outputs, op.name, **dict(op.attributes)))
    for name, weight in graph.weights.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(weight.array(), name))
    onnx.checker.check_model(made, full_check=True)
    return made


def run(proto: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of ``proto`` in onnxruntime, nothing optimised."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def look(graph: Graph, rewrite: SiteRewrite, params: Any = None) -> list[Match | Refusal]:
    """What ``rewrite`` says at every op of the graph that concerns it."""
    params = rewrite.Params() if params is None else params
    found = (rewrite.match(graph, op, params) for op in graph.ops() if op.op_type in rewrite.anchors)
    return [answer for answer in found if answer is not None]


def apply(graph: Graph, rewrite: SiteRewrite, params: Any = None) -> Graph:
    """Apply every match of ``rewrite`` at once; there must be one, and none may collide."""
    params = rewrite.Params() if params is None else params
    matches = [answer for answer in look(graph, rewrite, params) if isinstance(answer, Match)]
    assert matches, look(graph, rewrite, params)
    return graph.edited(patches(graph, rewrite, params, matches))


def patches(graph: Graph, rewrite: SiteRewrite, params: Any, matches: Iterable[Match]) -> list[Patch]:
    """The patches of ``matches``."""
    return [rewrite.rewrite(graph, match, params) for match in matches]


def error(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
    """Largest difference between two models' outputs, relative to the largest value wanted."""
    assert found.keys() == wanted.keys()
    worst = 0.0
    for name, values in wanted.items():
        assert found[name].shape == values.shape, (name, found[name].shape, values.shape)
        assert np.isfinite(values).all()
        scale = float(np.abs(values).max(initial=0.0)) or 1.0
        worst = max(worst, float(np.abs(found[name] - values).max(initial=0.0)) / scale)
    return worst
