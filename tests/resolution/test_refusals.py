"""What cannot have another size says which op forbids it, why, and what would work."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.errors import ConfigError
from graphopt.onnx_io.load import load
from graphopt.resolution.model import at_size
from graphopt.resolution.sizes import image_inputs, input_shapes_at
from graphopt.resolution.state import SizeMisfit
from tests.resolution.cases import Net, resize_to_sizes


def refusal(model: onnx.ModelProto, side: tuple[int, int], folder: Path) -> str:
    path = folder / "model.onnx"
    onnx.save(model, path)
    with pytest.raises(SizeMisfit) as caught:
        at_size(load(path), {"x": (1, 3, *side)}, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def flattened() -> onnx.ModelProto:
    net = Net(16, 16)
    flat = net.op("Flatten", net.conv("x", 3, 4, stride=2), axis=1)
    return net.model(net.op("Gemm", flat, net.constant(np.ones((256, 5), np.float32))))


def whole_map_conv() -> onnx.ModelProto:
    net = Net(16, 16)
    return net.model(net.conv(net.conv("x", 3, 4, stride=2), 4, 5, kernel=8, pad=0))


def skip_by_two() -> onnx.ModelProto:
    net = Net(16, 16)
    skip = net.conv("x", 3, 4)
    deep = net.conv(skip, 4, 4, stride=2)
    up = net.op("Resize", deep, "", net.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    return net.model(net.op("Concat", up, skip, axis=1))


def alike_by_chance() -> onnx.ModelProto:
    """Two maps of 3x3, of which one becomes a single position: ONNX would repeat it without a word."""
    net = Net(5, 5)
    return net.model(net.op("Add", net.conv("x", 3, 4, stride=2), net.conv("x", 3, 4, pad=0)))


def learned_positions() -> onnx.ModelProto:
    net = Net(16, 16)
    positions = np.random.default_rng(1).standard_normal((1, 4, 8, 8)).astype(np.float32)
    return net.model(net.op("Add", net.conv("x", 3, 4, stride=2), net.constant(positions)))


def bent_positions() -> onnx.ModelProto:
    """Steps of one at the start, and then not: no grid."""
    net = Net(16, 16)
    places = np.array([0, 1, 2, 3, 4, 5, 6, 9], np.float32).reshape(1, 1, 1, 8)
    return net.model(net.op("Add", net.conv("x", 3, 4, stride=2), net.constant(places)))


def odd_steps() -> onnx.ModelProto:
    """Steps of three are neither cells nor pixels: whatever they mean belongs to this size."""
    net = Net(16, 16)
    return net.model(net.op("Add", net.conv("x", 3, 4, stride=2), net.constant(3 * np.arange(8, dtype=np.float32))))


def cut_in_half() -> onnx.ModelProto:
    net = Net(16, 16)
    left = net.op("Slice", net.conv("x", 3, 4), net.constant([0]), net.constant([8]), net.constant([3]))
    return net.model(left)


def small_window() -> onnx.ModelProto:
    net = Net(16, 16)
    return net.model(net.conv(net.conv("x", 3, 4, stride=2), 4, 4, kernel=5, pad=0))


def scores_of_pixels() -> onnx.ModelProto:
    net = Net(16, 16)
    return net.model(net.op("Flatten", net.conv("x", 3, 1), axis=1))


def two_ways() -> onnx.ModelProto:
    net = Net(16, 16)
    return net.model(net.op("Reshape", net.conv("x", 3, 4), net.constant([1, 4, 4, 4, 16])))


CASES = [
    (flattened, (24, 24), r"24: Gemm .* 256 values that become 576.*global pool"),
    (whole_map_conv, (24, 24), r"Conv .* reads the whole 8x8 map .*global pool"),
    (skip_by_two, (15, 15), r"Concat .* 1x4x16x16 and 1x4x15x15; near it these would work: 8, 24, "),
    (alike_by_chance, (3, 3), r"Add .* no longer fits together: 1x4x2x2 and 1x4x1x1"),
    (learned_positions, (24, 16), r"24x16: Add .* constant 1x4x8x8 holds values for each of 8 positions .*12 at"),
    (bent_positions, (16, 24), r"Add .* constant 1x1x1x8 holds values for each of 8 positions"),
    (odd_steps, (16, 24), r"Add .* constant 8 holds values for each of 8 positions"),
    (cut_in_half, (16, 24), r"Slice .* cuts 0:8 out of 16"),
    (small_window, (8, 8), r"5x5 window does not fit into a map of 4x4"),
    (scores_of_pixels, (24, 24), r"output .* 256 scores would become 576"),
    (two_ways, (24, 16), r"16 became 24, and it cannot be told how 4x4 takes that up"),
]


@pytest.mark.parametrize(("build", "side", "wanted"), CASES, ids=[case[0].__name__ for case in CASES])
def test_says_why(build, side: tuple[int, int], wanted: str, tmp_path: Path) -> None:
    assert re.search(wanted, refusal(build(), side, tmp_path))


def test_a_size_that_is_too_large_to_be_run_is_refused(tmp_path: Path) -> None:
    assert "33,554,432 values at most" in refusal(resize_to_sizes(16, 16), (1 << 14, 1 << 14), tmp_path)


def two_images(first: int, second: int) -> onnx.ModelProto:
    net = Net(first, first)
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, second, second])
    model = net.model(*(net.op("GlobalAveragePool", net.conv(name, 3, 4)) for name in ("x", "y")))
    model.graph.input.append(other)
    return model


def test_which_input_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(two_images(16, 16), path)
    graph = load(path)
    small, large = (8, 8), (16, 24)
    assert input_shapes_at(graph, {"": (small, large, small)}) == (
        {"x": (1, 3, 16, 24), "y": (1, 3, 16, 24)},
        {"x": (1, 3, 8, 8), "y": (1, 3, 8, 8)},
    )
    assert input_shapes_at(graph, {"y": (small,)}) == ({"y": (1, 3, 8, 8)},)
    with pytest.raises(ConfigError, match="no image input 'z'"):
        input_shapes_at(graph, {"z": (small,)})
    with pytest.raises(ConfigError, match="as many sizes"):
        input_shapes_at(graph, {"x": (small,), "y": (small, large)})
    onnx.save(two_images(16, 32), path)
    with pytest.raises(ConfigError, match=r"x, y are of different sizes: write NAME:SIZES .* x:8,16x24"):
        input_shapes_at(load(path), {"": (small, large)})


def test_channels_last(tmp_path: Path) -> None:
    net = Net(16, 12)
    net.input = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 16, 12, 3])
    onnx.save(net.model(net.conv(net.op("Transpose", "x", perm=[0, 3, 1, 2]), 3, 4)), tmp_path / "model.onnx")
    (image,) = image_inputs(load(tmp_path / "model.onnx"))
    assert (image.size, image.shape_at((8, 9))) == ((16, 12), (1, 8, 9, 3))
