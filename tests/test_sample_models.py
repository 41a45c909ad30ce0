"""What sample_models/README.md claims is recomputed here: checksums, accuracy, and how the files fit together."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "sample_models"
README = (FOLDER / "README.md").read_text("utf-8")
FILES = ("fashion_classifier.onnx", "fashion_calibration.npz", "fashion_test.npz")
CANVAS_TASKS = ("detector", "segmenter")
CANVAS_FILES = tuple(f"fashion_{task}{end}" for task in CANVAS_TASKS for end in (".onnx", "_calibration.npz"))


def opened(name: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(FOLDER / name, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def tasks() -> ModuleType:
    """`sample_models/fashion_tasks.py`, as `--evaluate` imports it."""
    spec = importlib.util.spec_from_file_location("fashion_tasks", FOLDER / "fashion_tasks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return opened(FILES[0])


@pytest.mark.parametrize("name", [*FILES, *CANVAS_FILES])
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


@pytest.mark.parametrize(
    ("task", "function", "claims"),
    [
        ("detector", "detection", {"ap50": r"AP@0\.5 ([0-9.]+) %", "right": r"([0-9.]+) % of the canvases right"}),
        ("segmenter", "segmentation", {"miou": r"mIoU ([0-9.]+) %", "pixels": r"([0-9.]+) % of the pixels right"}),
    ],
)
def test_metrics_in_the_readme(task: str, function: str, claims: dict[str, str], tasks: ModuleType) -> None:
    model = opened(f"fashion_{task}.onnx")
    names = [output.name for output in model.get_outputs()]
    found = getattr(tasks, function)(lambda feed: dict(zip(names, model.run(None, feed), strict=True)))
    for metric, pattern in claims.items():
        claimed = re.search(pattern, README)
        assert claimed is not None, pattern
        assert abs(100 * found[metric] - float(claimed[1])) < 0.06


@pytest.mark.parametrize("task", CANVAS_TASKS)
def test_calibration_canvases_are_unlabelled_and_fit_the_model(task: str) -> None:
    data = np.load(FOLDER / f"fashion_{task}_calibration.npz")
    assert data.files == ["image"]
    assert data["image"].shape == (256, 1, 64, 64)
    assert data["image"].dtype == np.float32
    assert opened(f"fashion_{task}.onnx").run(None, {"image": data["image"][:3]})[0].shape[0] == 3
    sizes = [(FOLDER / f"fashion_{task}{end}").stat().st_size for end in (".onnx", "_calibration.npz")]
    assert sum(sizes) < 2_000_000


def test_scenes_follow_from_the_seed_and_boxes_and_masks_fit_the_items(tasks: ModuleType) -> None:
    items, classes = tasks.test_items()
    assert items.shape == (2000, 28, 28)
    one, same, other = (tasks.detection_scenes(items, classes, 40, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.pixels, same.pixels)
    assert not np.array_equal(one.pixels, other.pixels)
    present = one.boxes[:, 2] > 0
    assert 0.5 < present.mean() < 0.95
    for mask, box in zip(one.masks[present], one.boxes[present], strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] == box.tolist()
    assert not one.masks[~present].any()


def test_the_metrics_know_a_perfect_and_a_blind_model(tasks: ModuleType) -> None:
    items, classes = tasks.test_items()
    scenes = tasks.detection_scenes(items, classes, 60, 3)
    cells = scenes.boxes / (tasks.SIZE / tasks.CELLS)

    def perfect(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        logits = np.full((60, 1, 8, 8), -9.0, np.float32)
        sides = np.zeros((60, 4, 8, 8), np.float32)
        for n, (left, top, right, bottom) in enumerate(cells):
            column, row = int((left + right) / 2), int((top + bottom) / 2)
            if right:
                logits[n, 0, row, column] = 9
            middle = np.array([column, row]) + 0.5
            sides[n, :, row, column] = [*(middle - (left, top)), *((right, bottom) - middle)]
        return {"object": logits, "box": sides}

    def blind(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"object": np.full((60, 1, 8, 8), -9.0), "box": np.zeros((60, 4, 8, 8))}

    assert tasks.detection_metrics(perfect, scenes) == {"right": 1.0, "ap50": 1.0}
    assert tasks.detection_metrics(blind, scenes) == {"right": float((cells[:, 2] == 0).mean()), "ap50": 0.0}
    masks = tasks.segmentation_scenes(items, classes, 60, 3)
    named = {"segment": np.eye(5, dtype=np.float32)[masks.masks].transpose(0, 3, 1, 2)}
    assert tasks.segmentation_metrics(lambda feed: named, masks) == {"miou": 1.0, "pixels": 1.0}
