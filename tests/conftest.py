"""What several rooms' tests share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest


@pytest.fixture(scope="session")
def real_models() -> tuple[Path, ...]:
    """Real models: the `*.onnx` of ``$GRAPHOPT_MODELS``, else of ``shared/models`` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "models"
    folder = Path(os.environ.get("GRAPHOPT_MODELS", beside))
    found = tuple(sorted(folder.glob("*.onnx")))
    if not found:
        pytest.skip(f"no real models in {folder} (set GRAPHOPT_MODELS)")
    return found


SMALL_NET = """
<ir_version: 8, opset_import: ["": 17]>
small (float[1,3,32,32] image) => (float[1,10] scores)
<float[16,3,3,3] ws, float[96,16,1,1] we, float[96,1,3,3] wd, float[24,96,1,1] wp, float[24,10] wf>
{
    s = Conv<pads=[1,1,1,1], strides=[2,2]>(image, ws)
    sr = Relu(s)
    e = Conv(sr, we)
    er = Relu(e)
    d = Conv<pads=[1,1,1,1], group=96>(er, wd)
    dr = Relu(d)
    p = Conv(dr, wp)
    g = GlobalAveragePool(p)
    f = Flatten(g)
    scores = MatMul(f, wf)
}
"""
"""A stem and one inverted bottleneck: every target of 32 and up has something to change."""


@pytest.fixture(scope="session")
def small_model_bytes() -> bytes:
    """The net above with seeded weights, as a file's content."""
    model = onnx.parser.parse_model(SMALL_NET)
    rng = np.random.default_rng(0)
    for info in model.graph.value_info:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        values = rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), info.name))
    del model.graph.value_info[:]
    return bytes(model.SerializeToString())


@pytest.fixture
def small_model(small_model_bytes: bytes, tmp_path: Path) -> Path:
    """The net above as a file of its own."""
    path = tmp_path / "small.onnx"
    path.write_bytes(small_model_bytes)
    return path
