"""What the site rewrites find, refuse and leave alone; equality is in test_exact, more refusals are on the cards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.ir.op import Array
from graphopt.onnx_io.load import load
from graphopt.rewrites import REWRITES, is_site_rewrite, is_width_rewrite
from graphopt.rewrites.fold_space_to_depth_stem import FoldSpaceToDepthStem
from graphopt.rewrites.fuse_inverted_bottleneck import FuseInvertedBottleneck, FuseParams
from graphopt.rewrites.merge_linear_convs import MergeLinearConvs, MergeParams
from graphopt.rewrites.rewrite import Match, Refusal, SiteRewrite
from graphopt.rewrites.swap_depthwise_for_dense import SwapDepthwiseForDense
from tests.rewrites.models import apply, error, look, model, run, to_graph, to_proto


def weights(**shapes: tuple[int, ...]) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def only(text: str, made: dict[str, Array], rewrite: SiteRewrite, params: object = None) -> Match | Refusal | None:
    answers = look(to_graph(model(text, made)), rewrite, params)
    assert len(answers) <= 1, answers
    return answers[0] if answers else None


BLOCK = (
    "m (float[1,4,9,9] x) => (float[?,?,?,?] y) {{ e = Conv(x, we{}) {} d = Conv<group = 8{}>({}, wd) y = Relu(d) }}"
)
BLOCK_WEIGHTS = weights(we=(8, 4, 1, 1), be=(8,), wd=(8, 1, 3, 3))


def test_names_are_unique_and_the_tuple_is_sorted() -> None:
    names = [rewrite.name for rewrite in REWRITES]
    assert names == sorted(set(names))
    assert all(is_site_rewrite(rewrite) != is_width_rewrite(rewrite) for rewrite in REWRITES)


def test_fusing_through_an_activation_keeps_the_rules_safety() -> None:
    text = BLOCK.format(", be", "a = Relu(e)", "", "a")
    found = only(text, BLOCK_WEIGHTS, FuseInvertedBottleneck())
    assert isinstance(found, Match)
    assert found.safety is None
    assert found.removes == ("e", "a", "d")
    assert (found.role("expand"), found.role("activation"), found.role("depthwise")) == ("e", "a", "d")


def test_fused_weights_are_the_composition() -> None:
    text = BLOCK.format(", be", "a = Relu(e)", ", pads = [1, 1, 1, 1]", "a")
    graph = apply(to_graph(model(text, BLOCK_WEIGHTS)), FuseInvertedBottleneck())
    fused = graph.op("d")
    assert fused.rule == ""
    kernel, bias = graph.weights[fused.inputs[1]], graph.weights[fused.inputs[2]]
    wanted = BLOCK_WEIGHTS["wd"] * BLOCK_WEIGHTS["we"].reshape(8, 4, 1, 1)
    np.testing.assert_allclose(kernel.array(), wanted, rtol=1e-6)
    np.testing.assert_allclose(bias.array(), BLOCK_WEIGHTS["be"] * BLOCK_WEIGHTS["wd"].sum((1, 2, 3)), rtol=1e-5)
    assert kernel.dtype == bias.dtype == np.float32
    assert set(graph.weights) == {kernel.name, bias.name}


def test_weights_are_made_only_when_asked() -> None:
    made = to_graph(model(BLOCK.format(", be", "a = Relu(e)", "", "a"), BLOCK_WEIGHTS))

    def burst() -> Array:
        raise AssertionError("a rewrite looked at weight values")

    for weight in made.weights.values():
        object.__setattr__(weight, "make", burst)
    rewrite = FuseInvertedBottleneck()
    (found,) = look(made, rewrite)
    assert isinstance(found, Match)
    assert made.edited([rewrite.rewrite(made, found, FuseParams())]).weights


def test_two_blocks_at_once() -> None:
    text = """m (float[1,4,9,9] x) => (float[?,?,?,?] y) {
        e = Conv(x, we) d = Conv<group = 8>(e, wd) p = Conv(d, wp)
        f = Conv(p, we) y = Conv<group = 8>(f, wd)
    }"""
    made = weights(we=(8, 4, 1, 1), wd=(8, 1, 3, 3), wp=(4, 8, 1, 1))
    proto = model(text, made)
    after = apply(to_graph(proto), FuseInvertedBottleneck())
    assert [op.op_type for op in after.ops()] == ["Conv", "Conv", "Conv"]
    feeds = weights(x=(1, 4, 9, 9))
    assert error(run(to_proto(after), feeds), run(proto, feeds)) < 1e-5


def test_the_limit_of_expanded_channels() -> None:
    text = BLOCK.format("", "a = Relu(e)", "", "a")
    made = weights(we=(8, 4, 1, 1), wd=(8, 1, 3, 3))
    assert isinstance(only(text, made, FuseInvertedBottleneck(), FuseParams(8)), Match)
    found = only(text, made, FuseInvertedBottleneck(), FuseParams(7))
    assert found == Refusal("d", "8 expanded channels are more than the limit of 7")


NOT_1X1 = "the expansion is not a dense 1x1 convolution of stride 1"
SEVERAL = "the depthwise convolution's input is made from several tensors"
UNKNOWN = "what stands between expansion and depthwise is no known activation"
GATE_USED = (
    "e = Conv(x, we) s = Sigmoid(e) a = Mul(e, s) d = Conv<group = 8>(a, wd) g = GlobalAveragePool(s) y = Mul(d, g)"
)
LIVE_NORM = "e = Conv(x, we) v = Abs(be) n = BatchNormalization(e, be, be, be, v) y = Conv<group = 8>(n, wd)"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "y = Conv<group = 4>(x, dw)",
            "what the depthwise convolution reads is an input of the model, not made by a convolution",
        ),
        ("e = Conv<group = 2>(x, we2) y = Conv<group = 8>(e, wd)", NOT_1X1),
        ("e = Conv<strides = [2, 2]>(x, we) y = Conv<group = 8>(e, wd)", NOT_1X1),
        ("e = Conv<pads = [1, 1, 1, 1]>(x, we) y = Conv<group = 8>(e, wd)", NOT_1X1),
        ("k = Abs(we) e = Conv(x, k) y = Conv<group = 8>(e, wd)", "the expansion's weights are not constant"),
        ("k = Abs(wd) e = Conv(x, we) y = Conv<group = 8>(e, k)", "the weights are not constant"),
        ("e = Conv(x, we) y = Conv<group = 8>(e, wm)", "the depth multiplier is not 1"),
        ("e = Conv(x, we) s = Mul(e, e) y = Conv<group = 8>(s, wd)", UNKNOWN),
        ("e = Conv(x, we) f = Conv(x, we) s = Add(e, f) y = Conv<group = 8>(s, wd)", SEVERAL),
        (GATE_USED, "the expanded tensor has another use"),
        (LIVE_NORM, "the expansion's BatchNormalization is not constant"),
    ],
)
def test_fusing_refuses(body: str, reason: str) -> None:
    made = weights(dw=(4, 1, 3, 3), we=(8, 4, 1, 1), we2=(8, 2, 1, 1), wd=(8, 1, 3, 3), wm=(16, 1, 3, 3), be=(8,))
    text = f"m (float[1,4,9,9] x) => (float[?,?,?,?] y) {{ {body} }}"
    found = only(text, {name: values for name, values in made.items() if name in body}, FuseInvertedBottleneck())
    assert isinstance(found, Refusal)
    assert found.reason == reason


def test_grouped_and_dense_convolutions_are_none_of_their_business() -> None:
    text = "m (float[1,4,9,9] x) => (float[?,?,?,?] y) { e = Conv<group = 2>(x, a) y = Conv(e, b) }"
    made = weights(a=(8, 2, 3, 3), b=(4, 8, 3, 3))
    assert only(text, made, SwapDepthwiseForDense()) is None
    assert only(text, made, FuseInvertedBottleneck()) is None


@pytest.mark.parametrize(
    ("attributes", "shape", "reason"),
    [
        ("strides = [2, 1]", (4, 3, 3, 3), "the stride is not 2 along both axes"),
        ("strides = [2, 2], dilations = [2, 2]", (4, 3, 3, 3), "the convolution is dilated"),
        ("strides = [2, 2]", (4, 3, 1, 1), "a 1x1 kernel would only gain zeros"),
        ("strides = [1, 1]", (4, 3, 3, 3), None),
    ],
)
def test_the_stem_refuses(attributes: str, shape: tuple[int, ...], reason: str | None) -> None:
    text = f"m (float[1,3,16,16] x) => (float[?,?,?,?] y) {{ y = Conv<{attributes}>(x, w) }}"
    found = only(text, weights(w=shape), FoldSpaceToDepthStem())
    assert (found.reason if isinstance(found, Refusal) else found) == reason


def test_the_stem_keeps_open_sizes_open(tmp_path: Path) -> None:
    """Shapes that a caller gives are for pricing; the saved model must still take odd sizes."""
    text = "m (float[N,3,H,16] x) => (float[?,?,?,?] y) { r = Relu(x) y = Conv<strides = [2, 2]>(r, w) }"
    file = tmp_path / "open.onnx"
    onnx.save(model(text, weights(w=(4, 3, 3, 3))), file)
    graph = load(file, input_shapes={"x": (1, 3, 16, 16)})
    assert graph.static_shape("r") == (1, 3, 16, 16)
    (found,) = look(graph, FoldSpaceToDepthStem())
    assert found == Refusal("y", "the model leaves its input's size open")


def test_the_stem_may_have_an_open_batch() -> None:
    text = "m (float[N,3,16,16] x) => (float[?,?,?,?] y) { y = Conv<strides = [2, 2]>(x, w) }"
    after = apply(to_graph(model(text, weights(w=(4, 3, 3, 3)))), FoldSpaceToDepthStem())
    (blocks,) = after.op("y").inputs[:1]
    assert after.shape(blocks) == ("N", 12, 8, 8)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("a = Conv(x, k) y = Conv(a, k)", "neither of the two is a 1x1 convolution of stride 1"),
        ("a = Conv(x, p) y = Conv<group = 4>(a, g)", "the convolution that follows has groups"),
        ("a = Conv(x, p) q = Abs(p) y = Conv(a, q)", "what follows is no convolution with constant weights"),
        ("a = Conv(x, p) r = Relu(a) y = Conv(r, p)", None),
    ],
)
def test_merging_refuses(body: str, reason: str | None) -> None:
    made = weights(k=(4, 4, 3, 3), p=(4, 4, 1, 1), g=(4, 1, 3, 3))
    text = f"m (float[1,4,9,9] x) => (float[?,?,?,?] y) {{ {body} }}"
    found = only(
        text,
        {name: values for name, values in made.items() if f" {name})" in body or f"({name})" in body},
        MergeLinearConvs(),
    )
    assert (found.reason if isinstance(found, Refusal) else found) == reason


def test_merging_refuses_an_output_between() -> None:
    text = "m (float[1,4,9,9] x) => (float[?,?,?,?] a, float[?,?,?,?] y) { a = Conv(x, p) y = Conv(a, p) }"
    found = only(text, weights(p=(4, 4, 1, 1)), MergeLinearConvs())
    assert found == Refusal("a", "the tensor between is an output of the model")


def test_merging_pair_by_pair() -> None:
    text = "m (float[1,4,9,9] x) => (float[?,?,?,?] y) { a = Conv(x, p) b = Conv(a, p) y = Conv(b, p) }"
    proto = model(text, weights(p=(4, 4, 1, 1)))
    graph, rewrite = to_graph(proto), MergeLinearConvs()
    pair = MergeParams(longest=2)
    for _ in range(2):
        found = next(answer for answer in look(graph, rewrite, pair) if isinstance(answer, Match))
        assert len(found.removes) == 2
        graph = graph.edited([rewrite.rewrite(graph, found, pair)])
    feeds = weights(x=(1, 4, 9, 9))
    assert len(graph) == 1
    assert error(run(to_proto(graph), feeds), run(proto, feeds)) < 1e-5


def test_names_that_the_model_has_are_left_alone() -> None:
    proto = model("m (float[1,4,9,9] x) => (float[?,?,?,?] y) { y = Conv<group = 4>(x, w) }", weights(w=(4, 1, 3, 3)))
    taken = "y/swap-depthwise-for-dense/weight"
    proto.graph.initializer[0].name = proto.graph.node[0].input[1] = taken
    after = apply(to_graph(proto), SwapDepthwiseForDense())
    assert after.op("y").inputs[1] == f"{taken}_2"


def test_half_precision_stays_half() -> None:
    made = {name: values.astype(np.float16) for name, values in weights(we=(8, 4, 1, 1), wd=(8, 1, 3, 3)).items()}
    text = "m (float16[1,4,9,9] x) => (float16[?,?,?,?] y) { e = Conv(x, we) y = Conv<group = 8>(e, wd) }"
    after = apply(to_graph(model(text, made)), FuseInvertedBottleneck())
    assert {weight.array().dtype for weight in after.weights.values()} == {np.dtype(np.float16)}


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank: int) -> None:
    """The algebra does not care how many spatial axes there are."""
    size, kernel, ones = (7, 5, 6)[:rank], (3, 2, 3)[:rank], (1, 1, 1)[:rank]
    sizes = ",".join(map(str, size))
    text = f"""m (float[1,4,{sizes}] x) => (float[{",".join("?" * (rank + 2))}] y) {{
        e = Conv(x, we) d = Conv<group = 8>(e, wd) p = Conv(d, wp) r = Relu(p)
        a = Conv<group = 4>(r, wa) b = Relu(a) y = Conv(b, wp4)
    }}"""
    made = weights(we=(8, 4, *ones), wd=(8, 1, *kernel), wp=(4, 8, *ones), wa=(4, 1, *kernel), wp4=(2, 4, *ones))
    proto = model(text, made)
    feeds = weights(x=(1, 4, *size))
    wanted = run(proto, feeds)
    graph = to_graph(proto)
    for rewrite in (MergeLinearConvs(), SwapDepthwiseForDense()):
        assert error(run(to_proto(apply(graph, rewrite)), feeds), wanted) < 1e-5
    found = FuseInvertedBottleneck().match(graph, graph.op("d"), FuseParams())
    assert isinstance(found, Match)
    after = graph.edited([FuseInvertedBottleneck().rewrite(graph, found, FuseParams())])
    assert error(run(to_proto(after), feeds), wanted) < 1e-5
