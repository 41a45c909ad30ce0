"""Small networks with seeded weights, and samples to run them on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnxruntime as ort

from graphopt.ir.graph import Graph, Patch
from graphopt.ir.op import Array, Weight
from graphopt.onnx_io.load import load
from graphopt.onnx_io.save import save


@dataclass(frozen=True)
class Arrays:
    """Samples in memory; a model's fixed batch size wins over the asked one."""

    arrays: Mapping[str, Array]
    fixed: int | None = None

    @property
    def count(self) -> int:
        return len(next(iter(self.arrays.values())))

    def batches(self, indices: Sequence[int], size: int) -> Iterator[Mapping[str, Array]]:
        size = self.fixed or size
        for start in range(0, len(indices) - (size - 1 if self.fixed else 0), size):
            chosen = list(indices[start : start + size])
            yield {name: values[chosen] for name, values in self.arrays.items()}


def noise(count: int, *shape: int, seed: int = 1) -> Arrays:
    """Samples of smooth noise under the name ``image``."""
    values = np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)
    for axis in range(2, values.ndim):
        values = values + np.roll(values, 1, axis)
    return Arrays({"image": values})


def net(text: str, path: Path, *, seed: int = 0) -> Graph:
    """Load a model given as text. Weights that the text leaves out are drawn (biases small, the rest He-scaled)."""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(seed)
    for info in model.graph.value_info:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        scale = 0.2 if len(shape) == 1 else np.sqrt(2 / max(1, np.prod(shape[1:])))
        values = (rng.standard_normal(shape) * scale).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, info.name))
    del model.graph.value_info[:]
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return load(path)


def outputs(graph: Graph, samples: Arrays, folder: Path) -> Array:
    """The first output for all samples."""
    path = folder / "run.onnx"
    save(graph, path)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, dict(feed))[0] for feed in samples.batches(range(samples.count), 16)])


def with_weight(graph: Graph, key: str, slot: int, values: Array) -> Graph:
    """The graph with another constant at one input of the op ``key``, under a new name."""
    op = graph.op(key)
    weight = Weight(f"{op.inputs[slot]}/other", values.shape, values.dtype, lambda: values)
    inputs = (*op.inputs[:slot], weight.name, *op.inputs[slot + 1 :])
    return graph.edited([Patch((key,), (replace(op, inputs=inputs, source=None),), (weight,))])


def spoiled(graph: Graph, key: str, *, slot: int = 1, amount: float = 0.5, seed: int = 5) -> Graph:
    """The graph with noise on one weight of the op ``key``, relative to the weight's size."""
    values = graph.weights[graph.op(key).inputs[slot]].array()
    rng = np.random.default_rng(seed)
    noisy = values + amount * values.std() * rng.standard_normal(values.shape)
    return with_weight(graph, key, slot, noisy.astype(values.dtype))


BLOCK = """
<ir_version: 8, opset_import: ["": 17]>
block (float[N,8,12,12] image) => (float[N,5] scores)
<float[8,8,1,1] w0, float[8] b0, float[32,8,1,1] we, float[32] be, float[32,1,3,3] wd, float[32] bd, float[8,32,1,1] wp,
 float[8] bp, float[16,8,1,1] wl, float[16] bl, float[5,16] wf, float[5] bf, float six = {6.0}, float zero = {0.0}>
{
    s = Conv(image, w0, b0)
    sr = Relu(s)
    e = Conv(sr, we, be)
    er = Clip(e, zero, six)
    d = Conv<pads=[1,1,1,1], group=32>(er, wd, bd)
    dr = Clip(d, zero, six)
    p = Conv(dr, wp, bp)
    sum = Add(p, sr)
    l = Conv(sum, wl, bl)
    lr = Relu(l)
    g = GlobalAveragePool(lr)
    f = Flatten(g)
    scores = Gemm<transB=1>(f, wf, bf)
}
"""
"""A stem, an inverted bottleneck with its residual, a last convolution and a head."""
