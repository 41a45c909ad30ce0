"""Coverage and surgery on real models and on well-known architectures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.ir.channels import Channels, channel_groups
from graphopt.ir.graph import Graph
from graphopt.ir.op import Op, Weight
from graphopt.ir.resize import resize
from graphopt.onnx_io.load import load
from graphopt.onnx_io.normalise import normalise
from tests.ir.oracle import Feeds, check_cut, check_padded, load_model, random_cut, random_pad
from tests.ir.zoo_builders import pp_lcnet, shufflenet_v2, yolov8n

SHAPES = {
    "ch_PP-OCRv3_det_infer": {"x": (1, 3, 64, 64)},
    "ch_ppocr_mobile_v2.0_cls_infer": {"x": (1, 3, 48, 192)},
    "efficientnet_lite0": {"input": (1, 3, 224, 224)},
    "face_detection_front_128x128_barracuda": {"input:0": (1, 128, 128, 3)},
}


def convs(graph: Graph) -> list[Op]:
    return [op for op in graph.ops() if op.op_type in ("Conv", "ConvTranspose")]


def shrinkable(graph: Graph, channels: Channels) -> list[str]:
    """Convolutions some of whose output channels can go."""
    return [
        op.key
        for op in convs(graph)
        if any(not (g := channels.group(name)).frozen and g.size > 1 for name in channels.groups_of(op.outputs[0]))
    ]


def feeds_of(graph: Graph, seed: int = 0) -> Feeds:
    rng = np.random.default_rng(seed)
    shapes = {name: graph.static_shape(name) or () for name in graph.inputs}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def operate(graph: Graph, channels: Channels, seed: int, times: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(times):
        check_cut(graph, channels, random_cut(channels, rng), feeds_of(graph, seed))
        check_padded(graph, channels, random_pad(channels, rng), feeds_of(graph, seed))


def before_sigmoid(graph: Graph) -> Graph:
    """The text detector without its last sigmoid, which turns noise into zeros."""
    producer = graph.producer(graph.outputs[0])
    assert producer is not None
    assert producer.op_type == "Sigmoid"
    ops = [op for op in graph.ops() if op.key != producer.key]
    return Graph(
        [*ops, Op("Identity", producer.inputs, producer.outputs, name=producer.name)],
        inputs=graph.inputs,
        outputs=graph.outputs,
        weights=graph.weights,
        tensors=graph.tensors,
        model=graph.model,
    )


@pytest.mark.parametrize(
    ("name", "frozen_convs"),
    [
        ("ch_PP-OCRv3_det_infer", 0),  # the last ConvTranspose has one channel, and makes the output
        ("ch_ppocr_mobile_v2.0_cls_infer", 0),
        ("efficientnet_lite0", 0),
        ("face_detection_front_128x128_barracuda", 4),  # the four heads
    ],
)
def test_real_models(real_models: tuple[Path, ...], name: str, frozen_convs: int) -> None:
    paths = {path.stem: path for path in real_models}
    if name not in paths:
        pytest.skip(f"{name} is not among the real models")
    raw = load(paths[name], input_shapes=SHAPES[name])
    for graph in (raw, normalise(raw).graph):
        if name == "ch_PP-OCRv3_det_infer":
            graph = before_sigmoid(graph)
        channels = channel_groups(graph)
        one_channel = [op.key for op in convs(graph) if (graph.shape(op.outputs[0]) or ())[1] == 1]
        stiff = {op.key for op in convs(graph)} - set(shrinkable(graph, channels)) - set(one_channel)
        # Unfolded, the classifier reads the shape of its last feature map.
        assert len(stiff) <= frozen_convs + (name == "ch_ppocr_mobile_v2.0_cls_infer" and graph is raw)
        assert any(group.is_stem for group in channels.groups)
        operate(graph, channels, seed=1, times=2)


@pytest.mark.parametrize(
    ("make", "total", "least"),
    [(pp_lcnet, 32, 32), (yolov8n, 64, 57), (shufflenet_v2, 56, 51)],
    ids=["pp-lcnet", "yolov8n", "shufflenet-v2"],
)
def test_known_architectures(make: Callable[[], onnx.ModelProto], total: int, least: int) -> None:
    graph = load_model(make())
    channels = channel_groups(graph)
    assert len(convs(graph)) == total
    assert len(shrinkable(graph, channels)) == least
    operate(graph, channels, seed=2, times=1)


def test_yolov8n_keeps_only_what_the_head_fixes() -> None:
    graph = load_model(yolov8n())
    channels = channel_groups(graph)
    stiff = {op.key for op in convs(graph)} - set(shrinkable(graph, channels))
    heads = {op.key for op in convs(graph) if (graph.shape(op.outputs[0]) or ())[1] in (64, 80)}
    consumer = {key for key in stiff if graph.op(key).inputs[0].startswith("softmax")}
    assert (len(stiff), len(consumer)) == (7, 1)
    assert stiff - consumer <= heads


def test_weights_are_not_read_when_a_resize_is_priced() -> None:
    graph = load_model(pp_lcnet())

    def locked(weight: Weight) -> Weight:
        def refuse() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
            raise AssertionError(f"{weight.name} was read")

        small = weight.size <= 4 or weight.dtype.kind == "i"
        return weight if small else Weight(weight.name, weight.shape, weight.dtype, refuse)

    sealed = Graph(
        graph.ops(),
        inputs=graph.inputs,
        outputs=graph.outputs,
        weights={name: locked(weight) for name, weight in graph.weights.items()},
        tensors=graph.tensors,
    )
    channels = channel_groups(sealed)
    cut = sealed.edited([resize(sealed, channels, random_cut(channels, np.random.default_rng(0)))])
    changed = [name for name in cut.weights if name not in sealed.weights]
    assert changed
    with pytest.raises(AssertionError, match="was read"):
        cut.weights[changed[0]].array()
