"""Widths first, then sites: rewrites hold on a graph whose channels were padded or removed before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir.channels import channel_groups
from graphopt.ir.graph import Graph
from graphopt.ir.op import Array
from graphopt.ir.resize import Selection, resize
from graphopt.rewrites import REWRITES, is_site_rewrite
from graphopt.rewrites.fuse_inverted_bottleneck import FuseInvertedBottleneck
from graphopt.rewrites.rewrite import Match, SiteRewrite, WidthOffer
from graphopt.rewrites.round_channels import RoundChannels, RoundParams
from graphopt.rewrites.swap_depthwise_for_grouped import SwapForGroupedParams
from tests.rewrites.models import error, model, run, to_graph, to_proto

P = 4


def network(stem: int, hidden: int, out: int, activation: str, seed: int) -> tuple[str, dict[str, Array]]:
    """Stem, separable convolution, inverted bottleneck with a residual, head."""
    rng = np.random.default_rng(seed)
    shapes = {
        "ws": (stem, 3, 3, 3),
        "wd": (stem, 1, 3, 3),
        "bd": (stem,),
        "wp": (out, stem, 1, 1),
        "we": (hidden, out, 1, 1),
        "wk": (hidden, 1, 3, 3),
        "bk": (hidden,),
        "wj": (out, hidden, 1, 1),
        "wh": (5, out, 1, 1),
    }
    text = f"""m (float[1,3,12,12] x) => (float[?,?,?,?] y) {{
        s = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, ws)
        r = Relu(s)
        d = Conv<group = {stem}, pads = [1, 1, 1, 1]>(r, wd, bd)
        p = Conv(d, wp)
        e = Conv(p, we)
        {"a = Relu(e)" if activation else ""}
        k = Conv<group = {hidden}, pads = [1, 1, 1, 1]>({"a" if activation else "e"}, wk, bk)
        t = Relu(k)
        j = Conv(t, wj)
        q = Add(p, j)
        y = Conv(q, wh)
    }}"""
    return text, {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def params_of(rewrite: SiteRewrite) -> Any:
    return SwapForGroupedParams(P) if rewrite.Params is SwapForGroupedParams else rewrite.Params()


def padded(graph: Graph) -> Graph:
    channels = channel_groups(graph)
    offers = [(group, RoundChannels().offer(group, RoundParams(P))) for group in channels.groups]
    chosen = {
        group.id: Selection(tuple(range(group.size)), offer.widths[0] - group.size)
        for group, offer in offers
        if isinstance(offer, WidthOffer)
    }
    return graph.edited([resize(graph, channels, chosen)]) if chosen else graph


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(2, 9), st.integers(2, 13), st.integers(2, 9), st.sampled_from(("", "Relu")), st.permutations(REWRITES)
)
def test_padding_then_exact_sites(stem: int, hidden: int, out: int, activation: str, rewrites: list[Any]) -> None:
    text, weights = network(stem, hidden, out, activation, seed=stem + 16 * hidden)
    proto = model(text, weights)
    graph = to_graph(proto)
    wide = padded(graph)
    taken: set[str] = set()
    patches = []
    for rewrite in rewrites:
        if not is_site_rewrite(rewrite):
            continue
        for op in graph.ops():
            # Found on the model as it was, made on the padded one: that is how prices are made.
            answer = rewrite.match(graph, op, params_of(rewrite)) if op.op_type in rewrite.anchors else None
            if not isinstance(answer, Match) or taken & {*answer.removes}:
                continue
            sizes = [(condition, wide.static_shape(condition.tensor)) for condition in answer.conditions]
            if any(shape is None or c.refusal(shape[c.axis]) for c, shape in sizes):
                continue
            if isinstance(rewrite, FuseInvertedBottleneck) and answer.safety != "exact":
                continue
            assert isinstance(rewrite.match(wide, wide.op(op.key), params_of(rewrite)), Match)
            taken |= {*answer.removes}
            patches.append(rewrite.rewrite(wide, answer, params_of(rewrite)))
    assert patches
    after = wide.edited(patches)
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 3, 12, 12)).astype(np.float32)}
    assert error(run(to_proto(after), feeds), run(proto, feeds)) < 1e-5


@pytest.mark.parametrize("width", [4, 7])
def test_fusing_after_removal_composes_what_is_left(width: int) -> None:
    text, weights = network(4, 8, 4, "Relu", seed=0)
    graph = to_graph(model(text, weights))
    channels = channel_groups(graph)
    (group,) = (group for group in channels.groups if "e" in group.makers)
    keep = tuple(range(8 - width, 8))
    slim = graph.edited([resize(graph, channels, {group.id: Selection(keep)})])
    rewrite = FuseInvertedBottleneck()
    found = rewrite.match(graph, graph.op("k"), rewrite.Params())
    assert isinstance(found, Match)
    after = slim.edited([rewrite.rewrite(slim, found, rewrite.Params())])
    kernel = after.weights[after.op("k").inputs[1]].array()
    wanted = weights["wk"] * weights["we"].reshape(8, 4, 1, 1)
    np.testing.assert_allclose(kernel, wanted[list(keep)], rtol=1e-6)
