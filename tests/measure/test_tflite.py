"""The written int8 file computes what the float model computes: run in LiteRT against onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from graphopt.ir.graph import Graph
from graphopt.measure.tflite import Converted, convert
from graphopt.onnx_io.load import load
from graphopt.onnx_io.normalise import normalise
from graphopt.rewrites.rewrite import Refusal
from tests.measure.nets import net

pytest.importorskip("ethosu.vela", reason="ethos-u-vela (graphopt[measure]) is not installed")


def float_values(graph: Graph, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every activation of the model, from onnxruntime without any optimisation."""
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.model.proto)
    named = {value.name for value in proto.graph.output}
    made = [name for op in graph.ops() for name in op.outputs if name and name not in graph.weights]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in named)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return {**dict(zip(names, session.run(names, feed), strict=True)), **feed}


def stored_values(written: Converted, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The model outputs of the int8 file, real numbers in ONNX order of axes, from LiteRT."""
    litert: Any = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")
    # the reference kernels: what the file means, not what a fast kernel makes of it
    kernels = litert.OpResolverType.BUILTIN_REF
    interpreter = litert.Interpreter(model_content=written.content, experimental_op_resolver_type=kernels)
    interpreter.allocate_tensors()
    for detail, values, layout in zip(interpreter.get_input_details(), inputs, written.input_layouts, strict=True):
        scale, zero = detail["quantization"]
        stored = np.clip(np.round(values.transpose(layout) / scale) + zero, -128, 127)
        interpreter.set_tensor(detail["index"], stored.astype(np.int8))
    interpreter.invoke()
    found = []
    details = {detail["index"]: detail for detail in interpreter.get_output_details()}
    for number, layout in zip(written.model.outputs, written.output_layouts, strict=True):
        scale, zero = details[number]["quantization"]
        values = (interpreter.get_tensor(number).astype(np.float32) - zero) * scale
        found.append(values.transpose(np.argsort(layout)))
    return found


def agreement(graph: Graph) -> list[float]:
    """Correlation of each model output, int8 against float, on random inputs."""
    rng = np.random.default_rng(0)
    feed = {name: rng.standard_normal(graph.static_shape(name)).astype(np.float32) for name in graph.inputs}
    values = float_values(graph, feed)
    ranges = {name: (float(array.min()), float(array.max())) for name, array in values.items()}
    written = convert(graph, ranges=ranges)
    assert isinstance(written, Converted), written
    outputs = stored_values(written, [feed[name] for name in graph.inputs])
    assert [out.shape for out in outputs] == [values[name].shape for name in graph.outputs]
    pairs = zip(graph.outputs, outputs, strict=True)
    return [float(np.corrcoef(values[name].ravel(), out.ravel())[0, 1]) for name, out in pairs]


SIZE = "float[1,8,12,10] x"
OPS = {
    "stride 2 with the padding of PyTorch": "y = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w16_8_3_3, w16)",
    "stride 2 with the padding of TensorFlow": 'y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w16_8_3_3)',
    "strides and padding that differ by axis": "y = Conv<pads=[0,2,1,1], strides=[2,1]>(x, w16_8_3_5)",
    "dilation": "y = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, w16_8_3_3)",
    "groups": "y = Conv<pads=[1,1,1,1], group=2>(x, w16_4_3_3, w16)",
    "depthwise": "y = Conv<pads=[1,1,1,1], group=8>(x, w8_1_3_3, w8)",
    "depthwise with multiplier 2 and a clip": "a = Conv<pads=[1,1,1,1], group=8>(x, w16_1_3_3) y = Clip(a, c0, c6)",
    "arithmetic that folds": "a = Conv(x, w8_8_1_1, w8) b = Mul(a, w8_1_1) d = Sub(w8_1_1, b) y = Relu(d)",
    "dead channels with a bias": "a = Conv(x, w8_8_1_1) b = Mul(a, z8_1_1) y = Add(b, w8_1_1)",
    "transposed, VALID": "y = ConvTranspose<strides=[2,2]>(x, w8_6_2_2, w6)",
    "transposed, SAME": "y = ConvTranspose<strides=[2,2], pads=[0,0,1,1]>(x, w8_6_3_3)",
    "batch normalisation alone": "a = Relu(x) y = BatchNormalization(a, w8, b8, m8, v8)",
    "residual add": "a = Conv(x, w8_8_1_1) b = Add(a, x) y = Relu(b)",
    "squeeze and excite": (
        "a = GlobalAveragePool(x) b = Conv(a, w4_8_1_1) d = Relu(b) e = Conv(d, w8_4_1_1)"
        " f = HardSigmoid<alpha=0.2>(e) y = Mul(x, f)"
    ),
    "hard-swish spelled out": "a = Add(x, c3) b = Clip(a, c0, c6) d = Mul(x, b) y = Div(d, c6)",
    "nearly a hard-swish": "a = Add(x, c3) b = Clip(a, c0, c6) d = Mul(x, b) y = Div(d, c3)",
    "hard-swish with its gate": (
        "a = HardSigmoid<alpha=0.16666667>(x) b = Mul(a, x) d = Conv(b, w8_8_1_1)"
        " e = HardSigmoid<alpha=0.16666667>(d) f = Mul(d, e) g = HardSigmoid(f) y = Mul(f, g)"
    ),
    "other bounds": "a = Conv(x, w8_8_1_1) y = Clip(a, cm2, c3)",
    "curves": "a = Sigmoid(x) b = HardSwish(x) d = LeakyRelu<alpha=0.2>(x) e = Tanh(x) y = Concat<axis=1>(a, b, d, e)",
    "prelu": "y = PRelu(x, w8_1_1)",
    "average pooling": "a = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x) y = Neg(a)",
    "average pooling that counts padding": (
        "y = AveragePool<kernel_shape=[3,3], pads=[1,1,0,0], strides=[2,2], count_include_pad=1>(x)"
    ),
    "max pooling with padding": (
        "a = Neg(x) b = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(a) y = Abs(b)"
    ),
    "global max": "y = GlobalMaxPool(x)",
    "mean of one axis": "y = ReduceMean<keepdims=0, axes=[2]>(x)",
    "concatenation with a constant": "y = Concat<axis=1>(x, w1_4_12_10)",
    "nearest": (
        'y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , scales)'
    ),
    "bilinear": 'y = Resize<mode="linear", coordinate_transformation_mode="half_pixel">(x, , scales)',
    "bilinear, corners": 'y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , scales)',
    "padding": "y = Pad(x, pads, c3)",
    "reflection": 'y = Pad<mode="reflect">(x, pads)',
    "slice": "y = Slice(x, starts, ends, axes)",
    "split": "a, b = Split<axis=1>(x, parts) d = Conv(a, w4_4_1_1) y = Concat<axis=1>(b, d)",
    "space to depth": "a = SpaceToDepth<blocksize=2>(x) b = Conv(a, w16_32_1_1) y = DepthToSpace<blocksize=2>(b)",
    "softmax over channels": "y = Softmax<axis=1>(x)",
    "shuffle": "a = Reshape(x, grouped) b = Transpose<perm=[0,2,1,3]>(a) y = Reshape(b, image)",
    "to channels last and flat": "a = Transpose<perm=[0,2,3,1]>(x) b = Reshape(a, rows) y = MatMul(b, w8_5)",
    "flat": "a = Flatten(x) y = Gemm<transB=1>(a, w5_960, w5)",
    "head": "a = GlobalAveragePool(x) b = Flatten(a) d = MatMul(b, w8_5) e = Add(d, w5) y = Softmax(e)",
}


@pytest.mark.parametrize("body", OPS.values(), ids=OPS.keys())
def test_an_op_means_in_int8_what_it_means_in_float(body: str, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    assert min(agreement(net(SIZE, body, tmp_path))) > 0.995


def test_real_models_mean_in_int8_what_they_mean_in_float(sample_classifier: Graph) -> None:
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    assert min(agreement(sample_classifier)) > 0.99


@pytest.fixture
def sample_classifier() -> Graph:
    path = Path(__file__).resolve().parents[2] / "sample_models" / "fashion_classifier.onnx"
    return normalise(load(path)).graph


REFUSED = {
    "y = Erf(x)": "Erf",
    "y = Conv<pads=[1,1,1,1]>(x, x2)": "constant",
    "y = MaxPool<kernel_shape=[3,3], dilations=[2,2]>(x)": "dilation",
    "y = AveragePool<kernel_shape=[3,3], pads=[1,1,0,0], strides=[2,2]>(x)": "average over this padding",
    'y = Resize<mode="cubic">(x, , scales)': "cubic",
    'y = DepthToSpace<blocksize=2, mode="CRD">(x)': "CRD",
    "y = Slice(x, starts, ends, axes, steps)": "step 1",
    "y = Div(c3, x)": "constant",
}


@pytest.mark.parametrize(("body", "word"), REFUSED.items())
def test_what_cannot_be_written_is_a_sentence_and_never_left_out(body: str, word: str, tmp_path: Path) -> None:
    answer = convert(net(f"{SIZE}, float[8,8,3,3] x2", f"a = Neg(x) {body.replace('(x,', '(a,')}", tmp_path))
    assert isinstance(answer, Refusal)
    assert word in answer.reason


def test_the_same_model_gives_the_same_bytes(sample_classifier: Graph) -> None:
    files = {convert(sample_classifier, weights="synthetic").content for _ in range(2)}
    assert len(files) == 1
    assert files != {convert(sample_classifier).content}
