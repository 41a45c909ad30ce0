"""Repair PP-OCR's text detector and direction classifier on rendered text, and print their drift.

    python -m tests.benchmarks.text FOLDER [--target T] [--images N]

FOLDER holds ``ch_PP-OCRv3_det_infer.onnx`` and ``ch_ppocr_mobile_v2.0_cls_infer.onnx``. Every repaired-level change
that pays is made, once with first-method weights and once repaired; drift is measured on text that no solve saw.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from graphopt.pipeline import optimize
from graphopt.results import OptimizeResult, Options

MODELS = {
    "ch_PP-OCRv3_det_infer.onnx": (160, 160),
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": (48, 192),
}
"""Height and width that each is run at."""

WORDS = [
    "edge",
    "width",
    "array",
    "depth",
    "fuse",
    "plan",
    "drift",
    "proof",
    "chip",
    "label",
    "stage",
    "block",
    "model",
    "tensor",
    "price",
    "2026",
    "17",
    "93",
    "405",
]
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def page(height: int, width: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Lines of words in several sizes and colours on a plain ground; half of the narrow ones upside down."""
    light = rng.random() < 0.7
    ground, ink = (rng.integers(190, 256, 3), rng.integers(0, 90, 3))
    if not light:
        ground, ink = ink, ground
    picture = Image.new("RGB", (width, height), tuple(map(int, ground)))
    draw = ImageDraw.Draw(picture)
    top = int(rng.integers(0, 8))
    while top < height - 10:
        size = int(rng.integers(12, 30)) if height > 64 else int(rng.integers(24, 40))
        font = ImageFont.load_default(size)
        text = " ".join(rng.choice(WORDS, int(rng.integers(1, 4))))
        draw.text((int(rng.integers(0, max(1, width // 4))), top), text, tuple(map(int, ink)), font)
        top += size + int(rng.integers(4, 20))
    if height <= 64 and rng.random() < 0.5:
        picture = picture.rotate(180)
    return np.asarray(picture, np.float32) / 255.0


def pages(name: str, count: int, seed: int) -> npt.NDArray[np.float32]:
    """Rendered samples as the model wants them."""
    rng = np.random.default_rng(seed)
    height, width = MODELS[name]
    pixels = np.stack([page(height, width, rng) for _ in range(count)])
    mean, std = (MEAN, STD) if "det" in name else (0.5, 0.5)
    return np.ascontiguousarray(((pixels - mean) / std).transpose(0, 3, 1, 2), np.float32)


def line(name: str, result: OptimizeResult, seconds: float) -> str:
    """One row of the table."""
    before, after = result.estimates
    gain = 100 * (after.latency_us / before.latency_us - 1)
    if result.drift is None:
        return f"{name:12s} {result.outcome}: {result.reason}"
    worst = result.drift.worst
    agreement = "" if worst.top1_agreement is None else f", top-1 agreement {worst.top1_agreement:.1%}"
    return (
        f"{name:12s} {gain:+.1f} % latency, {len(result.changes)} changes, drift ({worst.measure}) {worst.value:.4f}, "
        f"relative L2 {worst.relative_l2:.4f}{agreement} on {result.drift.samples} samples; {seconds:.0f} s"
    )


def main() -> None:
    """Print two lines for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", default="npu-32")
    parser.add_argument("--images", type=int, default=128)
    given = parser.parse_args()
    for name, (height, width) in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "pages.npz"
            np.savez(data, x=pages(name, given.images, seed=0))
            shapes = {"x": (1, 3, height, width)}
            print(name, flush=True)
            for label, repair in (("naive", False), ("repaired", True)):
                start = time.perf_counter()
                options = Options(
                    target=given.target, allow="repaired", calibration=str(data), repair=repair, input_shapes=shapes
                )
                result = optimize(given.folder / name, None, options)
                print("  " + line(label, result, time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
