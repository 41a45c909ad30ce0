"""An activation is recognised by what it computes, however it is spelled."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir.graph import Graph
from graphopt.rewrites.activations import match_activation
from tests.rewrites.models import model, to_graph

SPELLINGS = {
    "relu": [
        "y = Relu(x)",
        "y = Max(x, zero)",
        "y = Clip(x, zero)",
        "s = Relu(x) y = Relu(s)",
    ],
    "relu6": [
        "y = Clip(x, zero, six)",
        "s = Max(zero, x) y = Min(s, six)",
        "s = Relu(x) y = Min(s, six)",
    ],
    "clip": ["y = Clip(x, three, six)", "y = Clip(x, , six)", "y = HardSigmoid<alpha = 1.0, beta = 0.0>(x)"],
    "hard-swish": [
        "y = HardSwish(x)",
        "s = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(x, s)",
        "s = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(s, x)",
        "p = Add(x, three) c = Clip(p, zero, six) m = Mul(x, c) y = Div(m, six)",
        "p = Add(three, x) c = Clip(p, zero, six) m = Mul(c, x) y = Mul(m, sixth)",
        "p = Add(x, three) c = Clip(p, zero, six) d = Div(c, six) y = Mul(x, d)",
        "p = Add(x, three) r = Relu(p) c = Min(r, six) d = Mul(sixth, c) y = Mul(d, x)",
        "d = Div(x, six) p = Add(x, three) c = Clip(p, zero, six) y = Mul(d, c)",
        "p = Sub(x, minus) c = Clip(p, zero, six) m = Mul(x, c) y = Div(m, six)",
    ],
    "silu": [
        "s = Sigmoid(x) y = Mul(x, s)",
        "s = Sigmoid(x) y = Mul(s, x)",
        "n = Neg(x) e = Exp(n) p = Add(e, one) y = Div(x, p)",
    ],
}


VALUES = {"zero": 0.0, "one": 1.0, "three": 3.0, "minus": -3.0, "six": 6.0, "sixth": 1 / 6}


def graph(body: str, opset: int = 17, shape: tuple[int, ...] = ()) -> Graph:
    """``t -> Abs -> x -> body -> y -> Abs -> z``."""
    weights = {name: np.full(shape, value, np.float32) for name, value in VALUES.items() if name in body}
    return to_graph(
        model(f"m (float[1,2,3,3] t) => (float[?,?,?,?] z) {{ x = Abs(t) {body} z = Abs(y) }}", weights, opset)
    )


@pytest.mark.parametrize(("kind", "body"), [(kind, body) for kind, bodies in SPELLINGS.items() for body in bodies])
def test_spellings(kind: str, body: str) -> None:
    found = match_activation(graph(body), "x")
    assert found is not None
    assert (found.kind, found.output) == (kind, "y")
    assert found.ops == tuple(part.split()[0] for part in body.replace(") ", ")\n").split("\n"))


def test_constants_may_have_axes() -> None:
    body = "p = Add(x, three) r = Relu(p) c = Min(r, six) d = Mul(sixth, c) y = Mul(d, x)"
    found = match_activation(graph(body, shape=(1, 1, 1)), "x")
    assert found is not None
    assert found.kind == "hard-swish"


def test_constants_may_be_ops() -> None:
    body = "six = Constant<value_float = 6.0>() r = Relu(x) y = Min(r, six)"
    text = f"m (float[1,2,3,3] t) => (float[?,?,?,?] z) {{ x = Abs(t) {body} z = Abs(y) }}"
    found = match_activation(to_graph(model(text)), "x")
    assert found is not None
    assert (found.kind, found.ops) == ("relu6", ("r", "y"))


def test_a_constant_for_each_channel_is_no_activation() -> None:
    weights = {"b": np.array([[[1.0]], [[2.0]]], np.float32)}
    text = "m (float[1,2,3,3] t) => (float[?,?,?,?] z) { x = Abs(t) y = Max(x, b) z = Abs(y) }"
    assert match_activation(to_graph(model(text, weights)), "x") is None


def test_clip_with_attributes() -> None:
    found = match_activation(graph("y = Clip<min = 0.0, max = 6.0>(x)", opset=7), "x")
    assert found is not None
    assert (found.kind, found.low, found.high) == ("relu6", 0.0, 6.0)


@pytest.mark.parametrize(
    "body",
    [
        "y = Sigmoid(x)",
        "y = Tanh(x)",
        "y = Mul(x, three)",
        "y = Add(x, t)",
        "s = HardSigmoid<alpha = 0.2, beta = 0.5>(x) y = Mul(x, s)",  # a slope that is not the hard-swish's
        "s = Sigmoid(x) p = Mul(x, s) y = Add(p, x) ",
        "r = Relu(x) y = Add(r, t)",
        "p = Add(x, three) c = Clip(p, zero, six) y = Mul(x, c)",
    ],
)
def test_strangers(body: str) -> None:
    found = match_activation(graph(body), "x")
    assert found is None or found.output != "y"


def test_a_use_outside_is_no_activation() -> None:
    text = "m (float[1,2,3,3] t) => (float[?,?,?,?] z) { x = Abs(t) s = Sigmoid(x) y = Mul(x, s) z = Sub(y, s) }"
    assert match_activation(to_graph(model(text)), "x") is None


def test_an_inner_output_is_no_activation() -> None:
    text = "m (float[1,2,3,3] t) => (float[?,?,?,?] y, float[?,?,?,?] s) { x = Abs(t) s = Sigmoid(x) y = Mul(x, s) }"
    assert match_activation(to_graph(model(text)), "x") is None
