"""A model derived at another size computes what the model built at that size computes, or says why it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.onnx_io.load import load
from graphopt.resolution.model import at_size
from graphopt.verification.session import Session
from tests.resolution.cases import FOLLOWING, Build


def derived(model: onnx.ModelProto, shape: tuple[int, ...], folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(model, path)
    (folder / "sized").mkdir(exist_ok=True)
    return at_size(load(path), {"x": shape}, folder / "sized").path


@pytest.mark.parametrize("build", FOLLOWING, ids=lambda build: build.__name__)
@pytest.mark.parametrize("side", [(24, 24), (48, 16), (30, 42), (30, 26)], ids=str)
def test_equals_the_model_built_at_that_size(build: Build, side: tuple[int, int], tmp_path: Path) -> None:
    feed = {"x": np.random.default_rng(1).standard_normal((1, 3, *side)).astype(np.float32)}
    made = Session(derived(build(32, 28), (1, 3, *side), tmp_path)).run(feed)
    wanted = Session(build(*side).SerializeToString()).run(feed)
    for name, values in wanted.items():
        np.testing.assert_array_equal(made[name], values)
