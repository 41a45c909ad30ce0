"""How far exact rules are from exact: each alone and all together, wherever they apply, in units of the model's noise.

    GRAPHOPT_MODELS=FOLDER python -m tests.benchmarks.exact

The noise is the distance of the original from itself with and without onnxruntime's optimisations (and with inputs
moved by one unit in the last place); the larger of the largest difference and the relative L2 distance is printed.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from graphopt.resources import sample_models_dir
from graphopt.verification import Verification
from tests.test_exact_rules import EXACT, MODELS, prove


def distance(proof: Verification) -> float:
    """Distance of the worst output, 1 is the noise."""
    ratios = [(o.max_abs / o.noise_max_abs, o.relative_l2 / o.noise_relative_l2) for o in proof.outputs]
    return max(max(pair) for pair in ratios)


def main() -> None:
    """Print one line for each model and rule that finds a place."""
    folders = (Path(os.environ.get("GRAPHOPT_MODELS", "../shared/models")), sample_models_dir())
    known = {path.name: path for folder in folders for path in sorted(folder.glob("*.onnx"))}
    for name in MODELS:
        for rule in (*EXACT, "all"):
            if name not in known:
                continue
            with tempfile.TemporaryDirectory() as folder:
                found = prove(known[name], rule, Path(folder) / "out.onnx")
            if found is not None:
                fired, proof = found
                places = f"{len(fired)} places"
                print(
                    f"{name:45s} {rule:28s} {places:>10s}  {proof.verdict}, {distance(proof):.2f} x noise", flush=True
                )


if __name__ == "__main__":
    main()
