"""Small learned estimators made by hand, and target files that name them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from graphopt.cost.categories import Category
from graphopt.cost.features import INPUTS, SIZES, TERMS
from graphopt.cost.learned import CategoryModel, Learned, Unit, UnitModel
from graphopt.cost.learned_file import packed
from graphopt.cost.trees import LEAVES, Trees
from graphopt.resources import targets_dir


def stumps(splits: dict[str, float], step: float) -> Trees:
    """One tree of two leaves for each input: ``step`` more where the input is above its threshold."""
    node = np.zeros((len(splits), LEAVES - 1), np.uint16)
    node[:, 0] = np.arange(len(splits))
    mask = np.full(node.shape, 0xFFFF, np.uint16)
    mask[:, 0] = 0xFFFE
    value = np.zeros((len(splits), LEAVES), np.float32)
    value[:, 1] = step
    return Trees(
        base=np.zeros(1, np.float32),
        split_feature=np.array([INPUTS.index(name) for name in splits], np.uint8),
        split_at=np.array(list(splits.values()), np.float32),
        node=node,
        mask=mask,
        value=value,
    )


def unit(trees: Trees | None = None, times: float = 1.0) -> UnitModel:
    """Half a nanosecond for each operation padded to 8 channels, 0.1 ns for each byte, 1 us to start; so many times."""
    coefficients = np.zeros(len(TERMS))
    coefficients[[0, 1, 2, 3, 4, 6]] = [5e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1.0]
    return UnitModel(
        tiles=np.array([8, 8], np.int64),
        coefficients=coefficients * times,
        trees=trees or stumps({"log channels_out": 3.0, "rows padded to 16": 1.25, "log pixels": 5.0}, 0.25),
    )


def model(trees: Trees | None = None, sigma: float = 0.02, largest: float = 30.0, **units: UnitModel) -> CategoryModel:
    """One category, of one unit where no others are given (``on_chip`` is the unit ``on-chip``)."""
    names: dict[str, Unit] = {"compute": "compute", "on_chip": "on-chip", "off_chip": "off-chip"}
    return CategoryModel(
        units={names[name]: busy for name, busy in units.items()} or {"whole": unit(trees)},
        low=np.zeros(SIZES, np.float32),
        high=np.full(SIZES, largest, np.float32),
        spread=Trees.constant(float(np.log(sigma))),
    )


def learned(*without: Category, correlation: float = 0.25) -> Learned:
    """An estimator of the common categories."""
    names: tuple[Category, ...] = ("conv-1x1", "conv-kxk", "depthwise", "elementwise", "matmul", "reduce")
    return Learned({name: model() for name in names if name not in without}, correlation)


def target_file(folder: Path, estimator: Learned, base: str = "npu-32", **changes: object) -> Path:
    """A copy of a bundled target with an ``[estimator]`` table, the `.npz` beside it."""
    content = packed(estimator)
    (folder / "mine.npz").write_bytes(content)
    table: dict[str, object] = {
        "file": "mine.npz", "sha256": hashlib.sha256(content).hexdigest(), "backend": "vela", "tool": "vela 5.2.0",
        "measured": "2026-11-21", "nets": 3, "kernels": 90, "data_sha256": "0" * 64,
    }  # fmt: skip
    table |= changes
    lines = [f"{key} = {_toml(key, value)}" for key, value in table.items() if value is not None]
    text = (targets_dir() / f"{base}.toml").read_text("utf-8")
    file = folder / "mine.toml"
    file.write_text(text + "\n[estimator]\n" + "\n".join(lines) + "\n", "utf-8")
    return file


def _toml(key: str, value: object) -> str:
    if isinstance(value, str) and key != "measured":
        return f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else str(value)
