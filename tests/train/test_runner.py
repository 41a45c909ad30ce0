"""The runner computes what onnxruntime computes, hands gradients to the weights, and writes them back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

from graphopt.errors import ModelError
from graphopt.ir.graph import Graph, Patch
from graphopt.onnx_io.load import load
from graphopt.onnx_io.normalise import normalise
from graphopt.onnx_io.save import save
from graphopt.resources import sample_models_dir
from tests.weights.nets import net

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'graphopt[train]'")

from graphopt.train.runner import Runner  # noqa: E402  (imports torch)

Feed = dict[str, npt.NDArray[np.float32]]

KNOWN = {
    "efficientnet_lite0": (2, 3, 224, 224),
    "ch_ppocr_mobile_v2.0_cls_infer": (2, 3, 48, 192),
    "ch_PP-OCRv3_det_infer": (1, 3, 96, 128),
    "face_detection_front_128x128_barracuda": (1, 128, 128, 3),
}

HEAD = '<ir_version: 8, opset_import: ["": {opset}]>'
OPS = {
    "clip with attributes": (9, "y = Clip <min = -0.5, max = 0.7> (x)"),
    "clip without a maximum": (13, "low = Constant <value_float = -0.2> ()\n y = Clip (x, low)"),
    "softmax of opset 11 over all axes behind": (11, "y = Softmax <axis = 1> (x)"),
    "softmax of opset 13": (13, "y = Softmax <axis = 1> (x)"),
    "mean over axes as an attribute": (13, "y = ReduceMean <axes = [2, 3], keepdims = 0> (x)"),
    "mean over axes as an input": (18, "axes = Constant <value_ints = [1, 3]> ()\n y = ReduceMean (x, axes)"),
    "squeeze and unsqueeze by attribute": (11, "u = Unsqueeze <axes = [0, 2]> (x)\n y = Squeeze <axes = [2]> (u)"),
    "slice by attributes": (9, "y = Slice <axes = [2, 3], starts = [1, -4], ends = [5, 100]> (x)"),
    "split in unequal parts": (11, "a, b = Split <axis = 1, split = [1, 3]> (x)\n y = Concat <axis = 1> (b, a)"),
    "reflecting pad": (9, 'y = Pad <mode = "reflect", pads = [0, 0, 1, 2, 0, 0, 3, 0]> (x)'),
    "constant pad": (9, "y = Pad <pads = [0, 1, 1, 2, 0, 0, 3, 0], value = 0.5> (x)"),
    "flatten": (13, "y = Flatten <axis = 2> (x)"),
    "hard-swish": (14, "y = HardSwish (x)"),
    "prelu and leaky relu": (13, "a = LeakyRelu <alpha = 0.2> (x)\n y = PRelu (x, a)"),
    "max pool, uneven pads": (
        12,
        "y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [0, 1, 1, 0]> (x)",
    ),
    "max pool, pads of its own": (
        12,
        'y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER"> (x)',
    ),
    "average pool": (
        12,
        "y = AveragePool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (x)",
    ),
    "depth to space and back": (
        13,
        'a = DepthToSpace <blocksize = 2, mode = "CRD"> (x)\n b = SpaceToDepth <blocksize = 4> (a)\n'
        " y = DepthToSpace <blocksize = 4> (b)",
    ),
    "resize by half pixels": (
        13,
        "s = Constant <value_floats = [1.0, 1.0, 1.5, 2.0]> ()\n"
        ' y = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (x, , s)',
    ),
    "resize to sizes, nearest": (
        13,
        's = Constant <value_ints = [2, 4, 5, 11]> ()\n y = Resize <mode = "nearest"> (x, , , s)',
    ),
    "resize to sizes, aligned corners": (
        13,
        "s = Constant <value_ints = [2, 4, 5, 11]> ()\n"
        ' y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, , , s)',
    ),
    "upsample of opset 9": (
        9,
        "s = Constant <value = float[4] {1.0, 1.0, 2.0, 3.0}> ()\n y = Upsample (x, s)",
    ),
    "shape, gather and reshape": (
        13,
        "s = Shape (x)\n i = Constant <value_ints = [1, 0, -1, 2]> ()\n t = Gather (s, i)\n y = Reshape (x, t)",
    ),
    "gelu by hand": (
        13,
        "two = Constant <value_float = 2.0> ()\n r = Sqrt (two)\n d = Div (x, r)\n e = Erf (d)\n m = Mul (x, e)\n"
        " s = Add (m, x)\n y = Div (s, two)",
    ),
}


def reference(path: Path, feed: Feed) -> list[npt.NDArray[np.float32]]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    found: list[npt.NDArray[np.float32]] = ort.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    ).run(None, feed)
    return found


def assert_same(graph: Graph, path: Path, shape: tuple[int, ...]) -> None:
    (name,) = graph.inputs
    feed = {name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    with torch.no_grad():
        found = Runner(graph)({name: torch.from_numpy(feed[name])})
    for output, wanted in zip(graph.outputs, reference(path, feed), strict=True):
        noise = 2e-5 * max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(found[output].numpy(), wanted, atol=noise, rtol=1e-4)


def test_the_sample_model_gives_the_same() -> None:
    path = sample_models_dir() / "fashion_classifier.onnx"
    assert_same(normalise(load(path)).graph, path, (3, 1, 28, 28))


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_model_gives_the_same(name: str, real_models: list[Path]) -> None:
    path = next((path for path in real_models if path.stem == name), None)
    if path is None:
        pytest.skip(f"{name} is not here")
    assert_same(normalise(load(path)).graph, path, KNOWN[name])


@pytest.mark.parametrize(("opset", "body"), [pytest.param(*case, id=name) for name, case in OPS.items()])
def test_an_op_gives_the_same(opset: int, body: str, tmp_path: Path) -> None:
    path = tmp_path / "op.onnx"
    text = f"{HEAD.format(opset=opset)} m (float[2,4,6,8] x) => (float[] y) {{ {body} }}"
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    assert_same(load(path), path, (2, 4, 6, 8))


TEXT = (
    '<ir_version: 8, opset_import: ["": 17]> m (float[N,3,8,8] image) => (float[N,2] y) '
    "<float[4,3,3,3] w0, float[4] b0, float[4] scale, float[4] shift, float[4] mean, float[4] var, "
    "float[4,4,1,1] w1, float[2,4] w2, float[2] b2> {"
    "a = Conv <pads = [1,1,1,1]> (image, w0, b0) b = BatchNormalization (a, scale, shift, mean, var) c = Relu (b)"
    "d = Conv (c, w1) e = Relu (d) f = Conv (e, w1) g = GlobalAveragePool (f) h = Flatten (g)"
    "y = Gemm <transB = 1> (h, w2, b2) }"
)


@pytest.fixture
def small(tmp_path: Path) -> Graph:
    graph = net(TEXT, tmp_path / "small.onnx")
    positive = replace(graph.weights["var"], name="var2", make=lambda: np.full(4, 0.5, np.float32), source=None)
    op = graph.op("b")
    patch = Patch(("b",), (replace(op, inputs=(*op.inputs[:4], "var2"), source=None),), (positive,))
    return graph.edited([patch])


def test_weights_follow_the_gradient_and_are_written_back(small: Graph, tmp_path: Path) -> None:
    runner = Runner(small)
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    runner.train()
    optimiser = torch.optim.Adam(runner.parameters(), 0.01)
    losses = []
    for _ in range(20):
        loss = (runner({"image": x})["y"] - 1.0).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert all(parameter.grad is not None for parameter in runner.parameters())
    assert losses[-1] < 0.5 * losses[0]
    runner.eval()
    trained = runner.trained()
    save(trained, tmp_path / "out.onnx")
    (wanted,) = reference(tmp_path / "out.onnx", {"image": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(runner({"image": x})["y"].numpy(), wanted, atol=1e-5)
    assert trained.op("b").inputs[3:] != small.op("b").inputs[3:]  # the statistics were learned, too


def test_a_slice_trains_only_its_own_use_of_a_shared_weight(small: Graph) -> None:
    runner = Runner(small, inputs=["c"], outputs=["e"])
    assert len(runner.parameters()) == 1
    with torch.no_grad():
        runner.parameters()[0].add_(1.0)
    trained = runner.trained()
    assert small.op("d").inputs[1] == trained.op("f").inputs[1] == "w1"
    name = trained.op("d").inputs[1]
    np.testing.assert_allclose(trained.weights[name].array(), small.weights["w1"].array() + 1.0)


def test_a_state_can_be_gone_back_to(small: Graph) -> None:
    runner = Runner(small, trainable=["y"])
    state = runner.state()
    assert sorted(state) == ["b2", "w2"]
    with torch.no_grad():
        for parameter in runner.parameters():
            parameter.zero_()
    runner.restore(state)
    assert runner.trained().op("y").inputs == small.op("y").inputs


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "op.onnx"
    onnx.save(
        onnx.parser.parse_model(f"{HEAD.format(opset=13)} m (float[2,4] x) => (float[2,4] y) {{ y = Sin (x) }}"), path
    )
    with pytest.raises(ModelError, match=r"Sin 'y' has an op type that the \[train\] extra does not run"):
        Runner(load(path))


def test_a_slice_needs_all_that_it_reads(small: Graph) -> None:
    with pytest.raises(ModelError, match="y cannot be computed from a alone"):
        Runner(
            small.edited([Patch(("y",), (replace(small.op("y"), inputs=("h", "w2", "image"), source=None),))]),
            inputs=["a"],
        )


def test_the_gradient_of_a_clip_ends_at_its_bounds(tmp_path: Path) -> None:
    path = tmp_path / "op.onnx"
    body = "low = Constant <value_float = -0.5> () high = Constant <value_float = 6.0> () y = Clip (x, low, high)"
    onnx.save(onnx.parser.parse_model(f"{HEAD.format(opset=13)} m (float[4] x) => (float[4] y) {{ {body} }}"), path)
    x = torch.tensor([-1.0, -0.4, 5.9, 6.1], requires_grad=True)
    Runner(load(path))({"x": x})["y"].sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]
