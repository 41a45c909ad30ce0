"""Every exact rewrite of places, alone and all together, on the real models: equal within their own noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from graphopt.catalog.rules import Rule, load_catalog
from graphopt.ir.graph import Graph
from graphopt.onnx_io.load import load
from graphopt.onnx_io.normalise import normalise
from graphopt.onnx_io.save import save
from graphopt.rewrites import is_site_rewrite
from graphopt.rewrites.rewrite import Match, Refusal
from graphopt.verification import verify

SHAPES = {
    "ch_PP-OCRv3_det_infer.onnx": {"x": (1, 3, 96, 96)},
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": {"x": (1, 3, 48, 192)},
    "efficientnet_lite0.onnx": {"input": (1, 3, 224, 224)},
    "face_detection_front_128x128_barracuda.onnx": {},
}
RULES = tuple(rule for rule in load_catalog().rules_in_force({"parallelism": 8}) if is_site_rewrite(rule.rewrite))


def matches(graph: Graph, rules: Sequence[Rule]) -> list[tuple[Any, Match, Any]]:
    """Exact places whose conditions hold, first come first served."""
    found: list[tuple[Any, Match, Any]] = []
    taken: set[str] = set()
    for op in graph.ops():
        for rule in rules:
            rewrite: Any = rule.rewrite
            answer = rewrite.match(graph, op, rule.params) if op.op_type in rewrite.anchors else None
            if not isinstance(answer, Match) or (answer.safety or rule.safety) != "exact" or taken & {*answer.removes}:
                continue
            sizes = [(condition, graph.shape(condition.tensor)) for condition in answer.conditions]
            if all(shape and isinstance(size := shape[c.axis], int) and not c.refusal(size) for c, shape in sizes):
                taken |= {*answer.removes}
                found.append((rewrite, answer, rule.params))
    return found


@pytest.mark.corpus
@pytest.mark.parametrize(
    "rules", [*((rule,) for rule in RULES), RULES], ids=lambda rules: "+".join(r.id for r in rules)
)
def test_exact_rules(rules: tuple[Rule, ...], real_models: tuple[Path, ...], tmp_path: Path) -> None:
    fired = 0
    for path in real_models:
        shapes = SHAPES.get(path.name, {})
        graph = normalise(load(path, input_shapes=shapes)).graph
        found = matches(graph, rules)
        if not found:
            continue
        fired += 1
        after = graph.edited([rewrite.rewrite(graph, match, params) for rewrite, match, params in found])
        out = tmp_path / path.name
        save(after, out)
        proof = verify(path, out, input_shapes=shapes)
        assert proof.verdict == "equal", (path.name, len(found), proof)
    assert fired or rules[0].safety != "exact"


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
    (rule,) = (rule for rule in RULES if rule.id == "fuse-inverted-bottleneck")
    rewrite: Any = rule.rewrite
    answers = [rewrite.match(graph, op, rule.params) for op in graph.ops() if op.op_type == "Conv"]
    found = [answer for answer in answers if isinstance(answer, Match)]
    assert len(found) == FUSED[name], [answer for answer in answers if isinstance(answer, Refusal)]
    assert len({key for match in found for key in match.removes}) == sum(len(match.removes) for match in found)
    after = graph.edited([rewrite.rewrite(graph, match, rule.params) for match in found])
    assert len(after) <= len(graph) - 2 * len(found)
