"""What a chip cannot run is not offered to it."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from graphopt.pipeline import scan
from graphopt.resources import targets_dir
from graphopt.results import Options

STEM = "fold-space-to-depth-stem"


def stem(path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])],
        "stem",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16, 16, 16])],
        [helper.make_tensor("w", TensorProto.FLOAT, [16, 3, 3, 3], [0.5] * 432)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_rewrite_that_makes_what_the_target_leaves_to_the_cpu_is_refused(tmp_path: Path) -> None:
    model, target = stem(tmp_path / "stem.onnx"), tmp_path / "chip.toml"
    text = (targets_dir() / "npu-32.toml").read_text("utf-8")
    target.write_text(text, "utf-8")
    offered = scan(model, Options(target=str(target)))
    assert any(STEM in option.rules for decision in offered.decisions for option in decision.options)
    target.write_text(
        text.replace("kernel_overhead_us", 'left_to_cpu = ["SpaceToDepth"]\nkernel_overhead_us', 1), "utf-8"
    )
    refused = scan(model, Options(target=str(target)))
    assert not any(STEM in option.rules for decision in refused.decisions for option in decision.options)
    (why,) = [one for one in refused.refusals if one.rule == STEM]
    assert "would make SpaceToDepth, which the target leaves to the CPU" in why.refusal.reason
