"""What the rewrites find on the real models; that exact ones keep the outputs is tests/test_exact_rules.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.onnx_io.load import load
from graphopt.onnx_io.normalise import normalise
from graphopt.rewrites.fuse_inverted_bottleneck import FuseInvertedBottleneck
from graphopt.rewrites.rewrite import Match
from tests.rewrites.models import look

FUSED = {
    "ch_PP-OCRv3_det_infer.onnx": 15,
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": 11,
    "efficientnet_lite0.onnx": 15,
    "face_detection_front_128x128_barracuda.onnx": 0,
}


@pytest.mark.parametrize("name", sorted(FUSED))
@pytest.mark.parametrize("is_normalised", [False, True])
def test_every_bottleneck_is_found(name: str, is_normalised: bool, real_models: tuple[Path, ...]) -> None:
    path = next((path for path in real_models if path.name == name), None)
    if path is None:
        pytest.skip(f"{name} is not there")
    graph = load(path)
    if is_normalised:
        graph = normalise(graph).graph
    rewrite = FuseInvertedBottleneck()
    answers = look(graph, rewrite)
    found = [answer for answer in answers if isinstance(answer, Match)]
    assert len(found) == FUSED[name], answers
    assert len({key for match in found for key in match.removes}) == sum(len(match.removes) for match in found)
    after = graph.edited([rewrite.rewrite(graph, match, rewrite.Params()) for match in found])
    assert len(after) <= len(graph) - 2 * len(found)
