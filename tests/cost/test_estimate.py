"""Estimates of whole models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graphopt.cost.estimate import estimate
from graphopt.errors import ModelError
from graphopt.ir.op import TensorInfo
from graphopt.onnx_io.load import load
from graphopt.targets.target import bundled_targets, load_target
from tests.cost.builder import Builder, inverted_bottleneck

NPU = load_target("npu-32")


def test_a_model_is_the_sum_of_its_kernels() -> None:
    found = estimate(inverted_bottleneck(14, 96, 96, 1, fused=False), NPU)
    assert found.target == "npu-32"
    assert [kernel.category for kernel in found.kernels] == ["conv-1x1", "depthwise", "conv-1x1"]
    assert found.kernels[2].op_types == ("Conv", "Add")
    assert found.kernels[2].inputs == ((1, 576, 14, 14), (1, 96, 14, 14))
    assert found.kernels[2].outputs == ((1, 96, 14, 14),)
    assert found.macs == 196 * (96 * 576 + 9 * 576 + 576 * 96)
    assert found.parameters == 96 * 576 + 576 + 9 * 576 + 576 + 576 * 96 + 96
    assert found.parameter_bytes == found.dram_bytes == found.parameters + 3 * (576 + 576 + 96)
    # 3 and 18 tiles, 18 block-diagonal convolutions of 9 tiles, 18 and 3 tiles; overhead three times
    cycles = [3 * 18 * 290 - 1, 18 * (9 * 290 - 1), 18 * 3 * 290 - 1]
    assert [kernel.latency_us for kernel in found.kernels] == pytest.approx([c / 1000 + 2 for c in cycles])
    assert found.latency_us == pytest.approx(sum(cycles) / 1000 + 6)
    assert {kernel.bound for kernel in found.kernels} == {"compute"}


def test_shared_weights_count_once() -> None:
    m = Builder()
    x, weight = m.input(1, 16, 8, 8), m.weight(16, 16, 3, 3)
    y = m.op("Conv", [m.op("Conv", [x, weight], (1, 16, 8, 8)), weight], (1, 16, 8, 8))
    found = estimate(m.graph(y), NPU)
    assert (found.parameters, found.parameter_bytes, found.dram_bytes) == (2304, 2304, 4608)


@pytest.mark.parametrize("shape", [None, ("N", 16, 8, 8), (1, None, 8, 8)])
def test_a_shape_that_is_not_static_is_named(shape: tuple[int | str | None, ...] | None) -> None:
    m = Builder()
    x = m.input(1, 16, 8, 8)
    y = m.conv(x, 16)
    m.tensors[x] = TensorInfo(np.dtype(np.float32), shape)
    with pytest.raises(ModelError, match=r"tensor 'in0' has no static shape.*--input-shape") as caught:
        estimate(m.graph(y), NPU)
    assert "\n" not in str(caught.value)


def test_a_model_without_work_costs_nothing() -> None:
    m = Builder()
    found = estimate(m.graph(m.op("Flatten", [m.input(1, 16, 8, 8)], (1, 1024))), NPU)
    assert (found.latency_us, found.macs, found.kernels) == (0, 0, ())
    assert found.peak_activation_bytes == 1024


def test_a_faster_chip_is_never_slower() -> None:
    graph = inverted_bottleneck(56, 24, 24, 1, fused=False)
    base = estimate(graph, NPU).latency_us
    for better in (
        replace(NPU, clock_mhz=2000.0),
        replace(NPU, dram_bandwidth_gb_per_s=22.0),
        replace(NPU, on_chip_memory_kib=4096),
        replace(NPU, kernel_overhead_us=0.0),
    ):
        assert estimate(graph, better).latency_us <= base


def test_efficientnet_has_its_published_size(real_models: tuple[Path, ...]) -> None:
    path = next((path for path in real_models if path.name == "efficientnet_lite0.onnx"), None)
    if path is None:
        pytest.skip("no efficientnet_lite0.onnx among the real models")
    graph = load(path, input_shapes={"input": (1, 3, 224, 224)})
    for name in bundled_targets():
        found = estimate(graph, load_target(name))
        assert found.parameters == pytest.approx(4.65e6, rel=0.01)
        assert found.macs == pytest.approx(385e6, rel=0.01)
        assert found == estimate(graph, load_target(name))
    small, large = (estimate(graph, load_target(name)) for name in ("npu-32", "npu-32-no-depthwise"))
    assert small.latency_us < 0.7 * large.latency_us
