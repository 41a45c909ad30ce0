"""The proof must see what rounding cannot explain, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from graphopt.errors import VerificationError
from graphopt.verification import OutputComparison, Verification, verify
from graphopt.verification.compare import compare
from graphopt.verification.interface import read_interface
from graphopt.verification.probes import concrete_shape, made_up, with_neighbours

NET = """
<ir_version: 8, opset_import: ["": 17]>
net (float[N,3,16,16] x) => (float[N,4] y)
<float[8,3,3,3] w1, float[8] b1, float[8,1,3,3] w2, float[8,4] w3>
{
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    r = Relu(a)
    d = Conv<pads=[1,1,1,1], group=8>(r, w2)
    g = GlobalAveragePool(d)
    f = Flatten(g)
    y = MatMul(f, w3)
}
"""


def build(text: str = NET, seed: int = 0) -> onnx.ModelProto:
    """Parse a model and give its declared weights normal values."""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(seed)
    for info in model.graph.value_info:
        values = rng.standard_normal([d.dim_value for d in info.type.tensor_type.shape.dim]).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, info.name))
    del model.graph.value_info[:]
    return model


def saved(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def scaled(model: onnx.ModelProto, name: str, factor: float) -> onnx.ModelProto:
    """A copy with one weight tensor multiplied."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (tensor,) = [t for t in copy.graph.initializer if t.name == name]
    values = numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    return copy


def densified(model: onnx.ModelProto, limit: int = 400) -> tuple[onnx.ModelProto, int]:
    """A copy with depthwise convolutions written as dense ones (an exact rewrite), and how many."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {t.name: t for t in copy.graph.initializer}
    for node in copy.graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            weights[node.output[0]] = node.attribute[0].t
    count = 0
    for node in copy.graph.node:
        groups = [a for a in node.attribute if a.name == "group" and a.i > 1]
        if node.op_type != "Conv" or not groups or node.input[1] not in weights:
            continue
        tensor = weights[node.input[1]]
        values = numpy_helper.to_array(tensor)
        if values.shape[1] != 1 or len(values) != groups[0].i or len(values) > limit:
            continue
        dense = np.zeros((len(values), len(values), *values.shape[2:]), values.dtype)
        dense[range(len(values)), range(len(values))] = values[:, 0]
        tensor.CopyFrom(numpy_helper.from_array(dense, tensor.name))
        groups[0].i = 1
        count += 1
    return copy, count


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return saved(build(), tmp_path / "net.onnx")


def test_a_model_equals_itself_and_an_exact_rewrite_of_it(net: Path, tmp_path: Path) -> None:
    rewritten, count = densified(onnx.load(net))
    assert count == 1
    for other in (net, saved(rewritten, tmp_path / "dense.onnx")):
        proof = verify(net, other)
        assert (proof.verdict, proof.reason, proof.samples, proof.inputs) == ("equal", "", 6, "seeded")
        (output,) = proof.outputs
        assert output.cosine == pytest.approx(1)
        assert output.top1_agreement == 1.0
        assert output.relative_l2 < 1e-6


@pytest.mark.parametrize("weight", ["w1", "w2", "w3"])
def test_a_weight_off_by_one_in_ten_thousand_is_seen(net: Path, tmp_path: Path, weight: str) -> None:
    proof = verify(net, saved(scaled(onnx.load(net), weight, 1 + 1e-4), tmp_path / "off.onnx"))
    assert proof.verdict == "differs"
    assert "'y'" in proof.reason
    assert proof.outputs[0].relative_l2 == pytest.approx(1e-4, rel=0.9)


def test_same_seed_same_numbers(net: Path, tmp_path: Path) -> None:
    other = saved(scaled(onnx.load(net), "w1", 1.01), tmp_path / "off.onnx")
    assert verify(net, other, seed=3) == verify(net, other, seed=3)
    assert verify(net, other, seed=3) != verify(net, other, seed=4)


def test_one_bad_output_of_two_decides(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[2,8] x) => (float[2,8] y, float[2,8] z) <float[8] w, float[8] v> { y = Mul(x, w)  z = Mul(x, v) }"""
    model = build(text)
    proof = verify(saved(model, tmp_path / "a.onnx"), saved(scaled(model, "v", 1.001), tmp_path / "b.onnx"))
    assert [output.verdict for output in proof.outputs] == ["equal", "differs"]
    assert proof.verdict == "differs"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("k = Constant<value_float=1e30>() s = Mul(x, k) y = Sigmoid(s)", "hardly reacts"),
        ("k = Constant<value_float=1e30>() s = Mul(x, k) y = Softmax(s)", "hardly reacts"),
        ("k = Constant<value_float=0.0>() y = Mul(x, k)", "hardly reacts"),
        ("k = Constant<value_float=0.0>() y = Div(x, k)", "not finite"),
        ("k = Constant<value_float=0.0>() s = Mul(x, k) t = Cast<to=7>(s) y = Cast<to=1>(t)", "hardly reacts"),
    ],
)
def test_a_probe_that_cannot_fail_proves_nothing(tmp_path: Path, body: str, why: str) -> None:
    text = f'<ir_version: 8, opset_import: ["": 17]> m (float[2,8] x) => (float[2,8] y) {{ {body} }}'
    path = saved(onnx.parser.parse_model(text), tmp_path / "a.onnx")
    proof = verify(path, path)
    assert proof.verdict == "inconclusive"
    assert why in proof.reason


def test_integer_outputs_must_be_identical(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[4,8] x) => (int64[4] y) <float[8] w> { s = Mul(x, w)  y = ArgMax<axis=1, keepdims=0>(s) }"""
    model = build(text)
    path = saved(model, tmp_path / "a.onnx")
    assert verify(path, path).verdict == "equal"
    proof = verify(path, saved(scaled(model, "w", -1), tmp_path / "b.onnx"))
    assert proof.verdict == "differs"
    assert "not identical" in proof.reason


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ("m (float[2,8] x) => (float[2,8] z) { z = Relu(x) }", "the outputs are z, and were y"),
        ("m (float[2,8] q) => (float[2,8] y) { y = Relu(q) }", "the inputs are q, and were x"),
        ("m (float[2,8] x) => (double[2,8] y) { r = Relu(x) y = Cast<to=11>(r) }", "'y' is double, and was float"),
        ("m (float[2,8] x) => (float[8,2] y) { r = Relu(x) y = Transpose(r) }", "(8, 2), and was float32 (2, 8)"),
        ("m (float[2,8] x) => (float[2,8] y) { l = Log(x) y = Relu(l) }", "not finite"),
    ],
)
def test_another_interface_differs_with_a_reason(tmp_path: Path, other: str, why: str) -> None:
    head = '<ir_version: 8, opset_import: ["": 17]> '
    first = onnx.parser.parse_model(head + "m (float[2,8] x) => (float[2,8] y) { y = Relu(x) }")
    second = onnx.parser.parse_model(head + other)
    proof = verify(saved(first, tmp_path / "a.onnx"), saved(second, tmp_path / "b.onnx"))
    assert proof.verdict == "differs"
    assert why in proof.reason


def test_given_inputs_from_a_file(net: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((20, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=images, labels=np.arange(20))
    proof = verify(net, net, inputs=tmp_path / "data.npz")
    assert (proof.verdict, proof.inputs, proof.samples) == ("equal", "given", 6)
    assert verify(net, net, inputs={"x": images[:1]}).verdict == "equal"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"image": np.zeros((2, 3, 16, 16), np.float32)}, "the inputs lack 'x'; they hold image"),
        ({"x": np.zeros((2, 3, 16), np.float32)}, "must have shape (N, 3, 16, 16)"),
        ({"x": np.zeros((2, 3, 16, 8), np.float32)}, "must have shape (N, 3, 16, 16)"),
        ({"x": np.zeros((2, 3, 16, 16), np.complex64)}, "must be float32"),
    ],
)
def test_inputs_that_do_not_fit(net: Path, values: dict[str, np.ndarray], why: str) -> None:
    with pytest.raises(VerificationError, match="input") as caught:
        verify(net, net, inputs=values)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_shape_for_an_input_that_is_not_there(net: Path) -> None:
    with pytest.raises(VerificationError, match=r"there is no input 'X' \(nearest: x\)"):
        verify(net, net, input_shapes={"X": (1, 3, 16, 16)})


def test_files_that_cannot_be_used(net: Path, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "empty.onnx").write_bytes(b"")
    broken = build()
    broken.graph.node[1].op_type = "NoSuchOp"
    saved(broken, tmp_path / "broken.onnx")
    for name in ("text.onnx", "empty.onnx", "broken.onnx", "missing.onnx"):
        with pytest.raises(VerificationError, match=name) as caught:
            verify(net, tmp_path / name)
        assert "\n" not in str(caught.value)
    (tmp_path / "data.npz").write_text("no archive")
    with pytest.raises(VerificationError, match=r"data\.npz"):
        verify(net, net, inputs=tmp_path / "data.npz")


# -- the rule on values alone -----------------------------------------------------------------------------------------


def judged(reference: np.ndarray, optimised: np.ndarray, result: np.ndarray) -> OutputComparison:
    """Judge two samples, the second the neighbour of the first and far enough from it."""
    return compare("y", [reference, reference + 1], [optimised, optimised + 1], [result, result + 1], [(0, 1)])


@given(st.floats(1e-6, 1e-4), st.floats(0.0, 7.0), st.integers(0, 9))
def test_up_to_the_factor_is_equal_and_beyond_it_differs(noise: float, share: float, place: int) -> None:
    reference = np.linspace(-1, 1, 10)
    spread = reference + noise * np.where(np.arange(10) % 2, 1, -1)
    result = reference.copy()
    result[place] += share * noise
    assert judged(reference, spread, result).verdict == "equal"
    result[place] += 20 * noise
    assert judged(reference, spread, result).verdict == "differs"


def test_without_any_noise_some_ulps_are_allowed() -> None:
    reference = np.linspace(-1, 1, 10, dtype=np.float32)
    one = np.float32(np.finfo(np.float32).eps)
    assert judged(reference, reference, reference * (1 + 4 * one)).verdict == "equal"
    assert judged(reference, reference, reference * (1 + 200 * one)).verdict == "differs"


def test_a_small_error_all_over_differs_even_where_one_element_is_noisy() -> None:
    reference = np.ones(10_000)
    noisy = reference.copy()
    noisy[0] += 1e-3
    result = reference + 1e-4
    found = judged(reference, noisy, result)
    assert found.verdict == "differs"
    assert "relative L2" in found.reason


# -- the inputs -------------------------------------------------------------------------------------------------------


def test_open_dimensions_and_neighbours(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[N,3,H,W] image, int64[N,L] ids, bool[2] flag, uint8[1,16,16,3] raw) => (float[N,3,H,W] y)
    { y = Relu(image) }"""
    specs = read_interface(saved(onnx.parser.parse_model(text), tmp_path / "a.onnx"))
    shapes = {name: concrete_shape(spec, None) for name, spec in specs.inputs.items()}
    assert shapes == {"image": (1, 3, 224, 224), "ids": (1, 16), "flag": (2,), "raw": (1, 16, 16, 3)}
    feeds, pairs = with_neighbours(made_up(specs, shapes, 3, np.random.default_rng(0)), 6)
    assert len(feeds) == 6
    assert pairs == [(2, 3), (1, 4), (0, 5)]
    for a, b in pairs:
        near = np.abs(feeds[a]["image"] - feeds[b]["image"]).mean()
        assert 0 < near < 0.2
        assert np.array_equal(feeds[a]["ids"], feeds[b]["ids"])
    assert {feed["raw"].dtype for feed in feeds} == {np.dtype(np.uint8)}
    assert feeds[1]["raw"].std() > 10


# -- real models ------------------------------------------------------------------------------------------------------


def test_real_models_prove_exact_rewrites_and_catch_small_faults(real_models: tuple[Path, ...], tmp_path: Path) -> None:
    for path in real_models:
        model = onnx.load(path)
        dense, count = densified(model)
        assert count > 5, path.name
        proof = verify(path, saved(dense, tmp_path / "dense.onnx"))
        assert proof.verdict == "equal", (path.name, proof)
        for factor, expected in ((1 + 1e-4, "differs"), (1.0, "equal")):
            proof = verify(path, saved(first_conv_scaled(model, factor), tmp_path / "off.onnx"))
            assert proof.verdict == expected, (path.name, factor, proof)


def first_conv_scaled(model: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """A copy with the weight of the first big 1x1 convolution multiplied."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {t.name: t for t in copy.graph.initializer}
    weights |= {n.output[0]: n.attribute[0].t for n in copy.graph.node if n.op_type == "Constant"}
    used = [n.input[1] for n in copy.graph.node if n.op_type == "Conv" and n.input[1] in weights]
    tensor = next(weights[name] for name in used if np.prod(weights[name].dims) >= 300 and weights[name].dims[1] > 1)
    values = numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return copy


def test_a_model_that_amplifies_rounding_is_no_false_alarm(real_models: tuple[Path, ...], tmp_path: Path) -> None:
    """BlazeFace on bright scenes: none and all agree by luck, one more rounding moves the output 30 times as far."""
    from graphopt import Options, optimize

    (path,) = [path for path in real_models if path.name.startswith("face_detection")]
    out = tmp_path / "out.onnx"
    assert optimize(path, out, Options(target="npu-64", verify=False)).plan.changes > 5
    for seed in (0, 1):
        assert verify(path, out, seed=seed).verdict == "equal"


def test_twins_widen_the_noise_and_nothing_else() -> None:
    reference = np.linspace(-1, 1, 10)
    result = reference + 1e-5
    pair = ([reference, reference + 1], [reference, reference + 1], [result, result + 1], [(0, 1)])
    assert compare("y", *pair).verdict == "differs"
    judged_with_twin = compare("y", *pair, [(0, reference + 4e-6)])
    assert judged_with_twin.verdict == "equal"
    assert judged_with_twin.noise_max_abs == pytest.approx(4e-6)


def test_results_are_frozen(net: Path) -> None:
    proof = verify(net, net)
    assert isinstance(proof, Verification)
    with pytest.raises(AttributeError):
        proof.verdict = "differs"  # type: ignore[misc]
