"""The picture is a whole, well-formed SVG file, whatever the names in it."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from graphopt.pipeline import optimize
from graphopt.report.picture import svg_picture
from graphopt.resources import sample_models_dir
from graphopt.results import OptimizeResult, Options

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def result() -> OptimizeResult:
    options = Options(target="npu-32-no-depthwise", verify=False)
    return optimize(sample_models_dir() / "fashion_classifier.onnx", None, options)


def test_shows_every_kernel_before_and_after(result: OptimizeResult) -> None:
    before, after = result.estimates
    tree = ElementTree.fromstring(svg_picture(result))
    strips = [r for r in tree.iter(f"{SVG}rect") if "seg" in r.get("class", "")]
    assert len(strips) == len(before.kernels) + len(after.kernels)
    texts = [t.text or "" for t in tree.iter(f"{SVG}text")]
    assert texts[0] == "fashion_classifier.onnx on npu-32-no-depthwise"
    assert "estimated latency" in texts[1]


def test_names_are_escaped_and_an_unpriced_model_has_a_picture_too(result: OptimizeResult) -> None:
    hostile = replace(result.plan, model='<script>alert("x")</script>\x07&.onnx')
    assert "<script>" not in svg_picture(replace(result, plan=hostile))
    ElementTree.fromstring(svg_picture(replace(result, plan=hostile)))
    bare = replace(result, before=None, after=None, outcome="unchanged", reason="the model has no convolution")
    tree = ElementTree.fromstring(svg_picture(bare))
    assert "no convolution" in "".join(t.text or "" for t in tree.iter(f"{SVG}text"))
