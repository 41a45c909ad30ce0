"""A stream's tensors are the model's own, wherever it starts from; what it keeps stays within its share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from graphopt.errors import ModelError
from graphopt.ir.graph import Graph
from graphopt.onnx_io.save import save
from graphopt.weights.taps import Stream
from tests.weights.nets import BLOCK, Arrays, net, noise, spoiled


def truth(graph: Graph, tensor: str, samples: Arrays, folder: Path) -> np.ndarray:
    path = folder / "tapped.onnx"
    save(graph, path, extra_outputs=[tensor])
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = samples.batches(range(samples.count), samples.fixed or samples.count)
    return np.concatenate([session.run([tensor], dict(feed))[0] for feed in feeds])


def seen(stream: Stream, tensor: str, until: str) -> np.ndarray:
    parts = [values[tensor].copy() for _, values in stream.run([tensor], until)]
    return np.concatenate(parts)


READS = [("image", "s"), ("sr", "e"), ("er", "d"), ("dr", "p"), ("sr", "p"), ("sum", "l"), ("f", "scores"), ("e", "l")]
"""Tensor, and the op that asks; the last looks back behind the cut."""


@pytest.mark.parametrize("cache_bytes", [0, 200_000, 1 << 30])
def test_tensors_are_the_models_own(cache_bytes: int, tmp_path: Path) -> None:
    graph, samples = net(BLOCK, tmp_path / "m.onnx"), noise(45, 8, 12, 12)
    stream = Stream(graph, samples, cache_bytes=cache_bytes)
    assert stream.batch is None
    for tensor, until in READS:
        wanted = truth(graph, tensor, samples, tmp_path) if tensor != "image" else samples.arrays["image"]
        np.testing.assert_allclose(seen(stream, tensor, until), wanted, rtol=1e-4, atol=1e-5)
        assert sum(values.nbytes for values in stream.cut.values()) <= cache_bytes
    assert (stream.place > 0) == (cache_bytes > 0)


def test_an_edit_behind_the_cut_is_seen(tmp_path: Path) -> None:
    graph, samples = net(BLOCK, tmp_path / "m.onnx"), noise(20, 8, 12, 12)
    stream = Stream(graph, samples, cache_bytes=1 << 30)
    seen(stream, "dr", "p")
    edited = spoiled(graph, "p")
    stream.swap(edited)
    got = seen(stream, "sum", "l")
    np.testing.assert_allclose(got, truth(edited, "sum", samples, tmp_path), rtol=1e-4, atol=1e-5)
    assert np.abs(got - truth(graph, "sum", samples, tmp_path)).max() > 0.1


@pytest.mark.parametrize("fixed", [1, 2, 4])
def test_a_fixed_batch_is_respected(fixed: int, tmp_path: Path) -> None:
    text = BLOCK.replace("float[N,", f"float[{fixed},")
    graph = net(text, tmp_path / "m.onnx")
    samples = Arrays(noise(18, 8, 12, 12).arrays, fixed)
    stream = Stream(graph, samples, cache_bytes=1 << 30)
    assert (stream.batch, stream.count) == (fixed, 18 // fixed * fixed)
    for tensor, until in READS[1:]:
        wanted = truth(graph, tensor, samples, tmp_path)
        np.testing.assert_allclose(seen(stream, tensor, until), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 36), (-1, 36), (-1, 18)])
def test_a_batch_that_only_the_weights_fix_is_found(shape: tuple[int, int], tmp_path: Path) -> None:
    """The file says any batch; a Reshape inside says one, any, or does not keep samples apart."""
    text = f"""<ir_version: 8, opset_import: ["": 17]>
        m (float[N,4,3,3] image) => (float[M,2] y) <float[{shape[1]},2] w, int64[2] one = {{{shape[0]}, {shape[1]}}}>
        {{ flat = Reshape(image, one) y = MatMul(flat, w) }}"""
    graph, samples = net(text, tmp_path / "m.onnx"), noise(9, 4, 3, 3)
    stream = Stream(graph, samples, cache_bytes=1 << 20)
    assert stream.batch == (None if shape == (-1, 36) else 1)
    assert seen(stream, "flat", "y").reshape(-1, 36).shape == (9, 36)


def test_samples_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    graph = net(BLOCK, tmp_path / "m.onnx")
    stream = Stream(graph, noise(9, 5, 12, 12), cache_bytes=0)
    with pytest.raises(ModelError, match="does not run on the samples"):
        seen(stream, "sr", "e")
