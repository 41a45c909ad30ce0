"""What sample_models/README.md claims is recomputed here: checksums, accuracy, and how the files fit together."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "sample_models"
README = (FOLDER / "README.md").read_text("utf-8")
FILES = ("fashion_classifier.onnx", "fashion_calibration.npz", "fashion_test.npz")


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(FOLDER / FILES[0], options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", FILES)
def test_checksum_in_the_readme(name: str) -> None:
    claimed = re.search(rf"`{re.escape(name)}` \| ([0-9a-f]{{64}}) ", README)
    assert claimed is not None
    assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == claimed[1]


def test_accuracy_in_the_readme(session: onnxruntime.InferenceSession) -> None:
    claimed = re.search(r"first 2,000 test images: ([0-9.]+) %", README)
    assert claimed is not None
    data = np.load(FOLDER / "fashion_test.npz")
    (logits,) = session.run(["logits"], {"image": data["image"]})
    right = int((logits.argmax(1) == data["label"]).sum())
    # Another processor may round an image at the border of two classes the other way.
    assert abs(right - float(claimed[1]) / 100 * len(data["label"])) <= 2


def test_model_is_what_the_readme_says() -> None:
    model = onnx.load(FOLDER / "fashion_classifier.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 10
    (put,) = model.graph.input
    assert [dim.dim_param or dim.dim_value for dim in put.type.tensor_type.shape.dim] == ["N", 1, 28, 28]
    widths = {tensor.dims[0] for tensor in model.graph.initializer if len(tensor.dims) == 4}
    assert {16, 24, 40, 80, 112} <= widths
    assert sum(node.op_type == "Add" for node in model.graph.node) == 5


def test_calibration_images_are_unlabelled_distinct_and_fit_the_model(session: onnxruntime.InferenceSession) -> None:
    data = np.load(FOLDER / "fashion_calibration.npz")
    assert data.files == ["image"]
    images = data["image"]
    assert images.shape == (512, 1, 28, 28)
    assert images.dtype == np.float32
    pixels = images * 128 + 64
    assert pixels.min() == 0
    assert pixels.max() == 255
    assert np.array_equal(pixels, np.round(pixels))
    assert len({image.tobytes() for image in images}) == 512
    tested = {image.tobytes() for image in np.load(FOLDER / "fashion_test.npz")["image"]}
    assert not tested & {image.tobytes() for image in images}
    (logits,) = session.run(None, {"image": images[:7]})
    assert logits.shape == (7, 10)
