"""What several rooms' tests share."""

from __future__ import annotations

import os
from pathlib import Path

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
