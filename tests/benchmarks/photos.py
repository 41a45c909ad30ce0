"""Trade drift against latency on an ImageNet classifier, with photographs that Python packages ship.

    python -m tests.benchmarks.photos MODEL.onnx [--target T] [--max-drift D ...] [--photos FOLDER]

Needs scikit-image, scikit-learn and foolbox (`pip install scikit-image scikit-learn foolbox`); nothing of theirs is
kept.
A few photographs are set aside whole; random views (crop, mirror) of the others are the calibration data. For each
bound it prints the estimated latency, the drift and top-1 agreement on held-out views, and the agreement on views of
the photographs that were set aside.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from graphopt.pipeline import optimize
from graphopt.results import Options
from graphopt.verification.drift import measure_drift
from graphopt.verification.interface import input_types, read_interface
from graphopt.weights.calibration import open_calibration

SIZE = 224
APART = 4
"""Every so-many-th photograph is set aside."""

SKIMAGE = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "motorcycle_left.png", "rocket.jpg")


def photographs() -> list[Path]:
    """Natural photographs in the installed packages."""
    folders = {name: _folder(name) for name in ("skimage", "sklearn", "foolbox")}
    found = [folders["skimage"] / "data" / name for name in SKIMAGE]
    found += sorted((folders["sklearn"] / "datasets" / "images").glob("*.jpg"))
    found += sorted((folders["foolbox"] / "data").glob("imagenet_*.jpg"))
    return [path for path in found if path.exists()]


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package} is not installed: pip install scikit-image scikit-learn foolbox")
    return Path(spec.submodule_search_locations[0])


def views(paths: list[Path], count: int, least_area: float, seed: int) -> npt.NDArray[np.float32]:
    """Random views: a crop of ``least_area`` to all of the area, mirrored half of the time, as EfficientNet-Lite wants
    it; shape (len(paths) * count, 3, SIZE, SIZE)."""
    rng = np.random.default_rng(seed)
    made = []
    for path in paths:
        picture = Image.open(path).convert("RGB")
        for _ in range(count):
            share = np.sqrt(rng.uniform(least_area, 1.0))
            width, height = (max(1, int(side * share)) for side in picture.size)
            left, top = (
                int(rng.integers(0, full - part + 1)) for full, part in zip(picture.size, (width, height), strict=True)
            )
            view = picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR, (left, top, left + width, top + height))
            pixels = np.asarray(view, np.float32)
            made.append(pixels[:, ::-1] if rng.random() < 0.5 else pixels)
    return np.ascontiguousarray((np.stack(made).transpose(0, 3, 1, 2) - 127.0) / 128.0, np.float32)


def main() -> None:
    """Print one line for each bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--target", default="npu-32")
    parser.add_argument("--max-drift", type=float, nargs="+", default=[0.006, 0.01, 0.015])
    parser.add_argument("--cache", help="folder for measured drifts")
    parser.add_argument("--photos", type=Path, help="folder of more photographs to solve on")
    parser.add_argument("--repair-steps", type=int, default=0)
    parser.add_argument("--views", type=int, default=40, help="random views of each photograph")
    parser.add_argument("--least-area", type=float, default=0.6, help="smallest crop, as a share of the area")
    parser.add_argument("--out", type=Path, help="folder for the models and plans; a temporary one otherwise")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    inputs = input_types(read_interface(given.model))
    (name,) = inputs
    paths = photographs()
    apart = paths[::APART]
    solve = [path for path in paths if path not in apart]
    if given.photos is not None:
        solve += sorted(path for path in given.photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    with tempfile.TemporaryDirectory() as folder:
        data, strangers = Path(folder) / "views.npz", Path(folder) / "strangers.npz"
        np.savez(data, **{name: views(solve, given.views, given.least_area, given.seed)})
        np.savez(strangers, **{name: views(apart, given.views, given.least_area, given.seed + 1)})
        other = open_calibration(strangers, inputs)
        kind = f"{given.views} views of each, crops of at least {given.least_area:.0%} of the area"
        print(f"{len(solve)} photographs to solve on, {len(apart)} set aside; {kind}")
        for bound in given.max_drift:
            start = time.perf_counter()
            out = (given.out or Path(folder)) / f"out-{bound}.onnx"
            options = Options(
                target=given.target,
                calibration=str(data),
                max_drift=bound,
                seed=given.seed,
                cache=given.cache,
                repair_steps=given.repair_steps,
            )
            result = optimize(given.model, out, options)
            seconds = time.perf_counter() - start
            before, after = result.estimates
            gain = 100 * (after.latency_us / before.latency_us - 1)
            cost = f"{before.latency_us:,.0f} -> {after.latency_us:,.0f} us ({gain:+.1f} %)"
            line = f"--max-drift {bound:g}: {result.outcome}, {cost}"
            if result.drift is not None:
                stranger = measure_drift(given.model, out, other, range(other.count))
                line += f"; drift {result.drift.value:.4f}, top-1 agreement {result.drift.top1_agreement:.1%} of "
                line += f"{result.drift.samples} held-out views, {stranger.top1_agreement:.1%} of {stranger.samples} "
                line += "views of photographs set aside"
            print(f"{line}; {seconds:.0f} s", flush=True)
            print("   ", "; ".join(result.notes), flush=True)


if __name__ == "__main__":
    main()
