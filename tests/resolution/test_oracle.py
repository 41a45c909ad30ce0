"""A random net at another size must equal, op for op, the net that was built at that size from the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.ir.graph import Graph
from graphopt.ir.op import Op
from graphopt.measure.nets import random_nets
from graphopt.measure.nets.blocks import Block
from graphopt.measure.nets.builder import Map, NetBuilder
from graphopt.onnx_io.load import load
from graphopt.onnx_io.save import save
from graphopt.resolution.state import SizeMisfit
from graphopt.resolution.walk import resized


def built(seed: int, side: tuple[int, int], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Graph:
    """The random net ``seed`` with an image of this height and width, narrow instead of cut where it is dear."""
    draw = random_nets._image

    def image(rng: np.random.Generator) -> Map:
        return draw(rng)[0], *side

    def always(b: NetBuilder, x: str, make: random_nets.MakeBlock, block: Block, habits: object) -> str:
        return make(b, x, block)

    with monkeypatch.context() as patched:
        patched.setattr(random_nets, "_LAYER_SHARE", 0.0)
        patched.setattr(random_nets, "_MAX_WIDTH", 24)
        patched.setattr(random_nets, "_image", image)
        patched.setattr(random_nets, "_affordable", always)
        patched.setattr(random_nets, "_parameters_left", lambda b, habits: 50_000)
        path = folder / f"{seed}.{side[0]}.{side[1]}.onnx"
        onnx.save(random_nets.random_net(seed), path)
    return load(path)


def sides(rng: np.random.Generator) -> list[tuple[int, int]]:
    """Two sizes, multiples of 64 up to 384, both square or both not (the builder tells them apart)."""
    square = bool(rng.random() < 0.5)
    found: list[tuple[int, int]] = []
    while len(found) < 2:
        height, width = (64 * int(n) for n in rng.integers(2, 7, 2))
        if square or height != width:
            found.append((height, height if square else width))
    return found


def skeleton(graph: Graph) -> list[tuple[str, tuple[str, ...], object, object]]:
    """What must be alike for two nets to be one net at two sizes: ops, wiring, kernels, pads, shapes of float weights.

    Constants of whole numbers and zeros beside a map may differ: they are what follows.
    """
    return [(op.op_type, op.inputs, op.attributes, linear_shapes(graph, op)) for op in graph.ops()]


def linear_shapes(graph: Graph, op: Op) -> object:
    if op.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return None
    return [weight.shape for weight in map(graph.weight, op.inputs) if weight is not None]


def assert_same(made: Graph, wanted: Graph, folder: Path) -> None:
    """Same ops, same constants bit for bit, same shapes, in the file that is written."""
    save(made, folder / "made.onnx")
    made = load(folder / "made.onnx")
    assert [op.op_type for op in made.ops()] == [op.op_type for op in wanted.ops()]
    for mine, theirs in zip(made.ops(), wanted.ops(), strict=True):
        assert (mine.outputs, mine.attributes) == (theirs.outputs, theirs.attributes)
        for a, b in zip(mine.inputs, theirs.inputs, strict=True):
            first, second = made.weight(a), wanted.weight(b)
            if first is None or second is None:
                assert a == b
            else:
                np.testing.assert_array_equal(first.array(), second.array(), err_msg=f"{mine} {a}")
        for tensor in mine.outputs:
            assert made.shape(tensor) == wanted.shape(tensor), (mine, tensor)
    for name in made.inputs:
        assert made.shape(name) == wanted.shape(name)


def compare(seeds: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, int]:
    """How many pairs were compared, how many of them had constants that follow, how many the walk refused."""
    compared = followed = refused = 0
    for seed in seeds:
        old, wanted = (built(seed, side, tmp_path, monkeypatch) for side in sides(np.random.default_rng(seed)))
        if skeleton(old) != skeleton(wanted):
            continue  # the builder made another net of it: other pads, or a stride more
        shape = wanted.static_shape("image")
        assert shape is not None
        try:
            patch = resized(old, {"image": shape})
        except SizeMisfit:
            refused += 1
            continue
        compared += 1
        followed += bool(patch.add)
        assert_same(old.edited([patch]), wanted, tmp_path)
    return compared, followed, refused


def test_random_nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared, followed, refused = compare(range(14), tmp_path, monkeypatch)
    assert compared >= 6
    assert followed >= 1
    assert refused == 0


@pytest.mark.slow
def test_many_random_nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared, followed, refused = compare(range(14, 400), tmp_path, monkeypatch)
    assert compared >= 100
    assert followed >= 20
    assert refused == 0
