from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import onnx
import pytest

from graphopt.errors import ConfigError
from graphopt.ir.graph import Graph
from graphopt.measure.nets import FAMILIES, named_nets, random_net
from graphopt.onnx_io.load import load
from graphopt.onnx_io.normalise import normalise
from graphopt.targets.target import load_target

TARGET = load_target("npu-32")


def loaded(model: onnx.ModelProto, folder: Path) -> Graph:
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return load(path)


def work(graph: Graph) -> Counter[tuple[str, tuple[int, ...] | None]]:
    return Counter((op.op_type, graph.static_shape(op.key)) for op in graph.ops())


def test_random_nets_load_are_static_and_have_nothing_to_normalise(tmp_path: Path) -> None:
    for seed in range(12):
        graph = loaded(random_net(seed), tmp_path)
        assert not graph.open_inputs
        assert all(graph.static_shape(tensor) for op in graph.ops() for tensor in op.outputs)
        if seed % 4 == 0:
            normalised = normalise(graph)
            assert normalised.reason == ""
            assert work(normalised.graph) == work(graph)


def test_random_nets_mix_what_small_chips_run() -> None:
    types: Counter[str] = Counter()
    kernels: Counter[tuple[int, int]] = Counter()
    odd = 0
    for seed in range(60):
        graph = random_net(seed).graph
        types.update({node.op_type for node in graph.node})
        shapes = {tensor.name: tensor.dims for tensor in graph.initializer}
        convs = [node for node in graph.node if node.op_type == "Conv"]
        for node in convs:
            attributes = {one.name: one.ints for one in node.attribute}
            kernels[attributes["kernel_shape"][0], attributes["strides"][0]] += 1
        odd += any(shapes[node.input[1]][0] % 8 for node in convs)
    wanted = {"Conv", "Clip", "Relu", "HardSigmoid", "Sigmoid", "Add", "Mul", "Concat", "MaxPool", "GlobalAveragePool"}
    assert wanted | {"Gemm", "Resize", "ConvTranspose"} <= set(types)
    assert {(1, 1), (3, 1), (3, 2), (5, 1), (5, 2), (7, 1)} <= set(kernels)
    assert 10 < odd < 60  # aligned and unaligned widths both


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_same_seed_gives_the_same_bytes_in_another_process(family: str) -> None:
    code = (
        "import hashlib, json\nfrom graphopt.measure.nets import random_net\n"
        f"digests = [hashlib.sha256(random_net(s, {family!r}).SerializeToString(deterministic=True)).hexdigest()"
        " for s in range(3)]\nprint(json.dumps(digests))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = [random_net(seed, family).SerializeToString(deterministic=True) for seed in range(3)]
    assert json.loads(done.stdout) == [hashlib.sha256(one).hexdigest() for one in here]
    assert len(set(here)) == 3


def test_nets_of_the_narrow_family_differ_in_widths_alone(tmp_path: Path) -> None:
    graphs = [loaded(random_net(seed, "mobilenet"), tmp_path) for seed in range(3)]
    types = [[op.op_type for op in graph.ops() if op.op_type != "Add"] for graph in graphs]
    assert types[0] == types[1] == types[2]
    sizes = [[(graph.static_shape(op.key) or ())[2:] for op in graph.ops() if op.op_type == "Conv"] for graph in graphs]
    assert sizes[0] == sizes[1] == sizes[2]


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ConfigError, match="mobilenet"):
        random_net(0, "mobile")


@pytest.mark.parametrize(
    ("name", "macs", "parameters"),
    [
        # published: 569 M and 4.2 M, 300 M and 3.5 M, 219 M and 5.4 M, 385 M (counted) and 4.7 M,
        # 1814 M and 11.7 M
        ("mobilenet-v1-1.0-224", 569e6, 4.2e6),
        ("mobilenet-v2-1.0-224", 300e6, 3.5e6),
        ("mobilenet-v3-large-224", 219e6, 5.4e6),
        ("efficientnet-lite0-224", 385e6, 4.7e6),
        ("resnet-18-224", 1814e6, 11.7e6),
    ],
)
def test_named_nets_have_their_published_size(name: str, macs: float, parameters: float, tmp_path: Path) -> None:
    from graphopt.cost.estimate import estimate

    found = estimate(loaded(named_nets()[name](), tmp_path), TARGET)
    assert found.macs == pytest.approx(macs, rel=0.03)
    assert found.parameters == pytest.approx(parameters, rel=0.03)


def test_fusing_every_block_leaves_no_depthwise_convolution_but_the_first(tmp_path: Path) -> None:
    graph = loaded(named_nets()["mobilenet-v2-0.5-128-fused-all"](), tmp_path)
    assert sum(op.attribute("group", 1) > 1 for op in graph.ops() if op.op_type == "Conv") == 1
