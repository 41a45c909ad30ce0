"""Grow boosted trees with LightGBM and keep them as plain arrays, which are tested against its own predictions.

LightGBM and scikit-learn's histogram trees predict equally well here (1.0 % error of whole nets each); LightGBM grows
them five times as fast and has a public way to read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from graphopt.cost.trees import LEAVES, Real, Single, Trees
from graphopt.errors import ModelError

_STEP: Final = 2.0**-12
"""Leaves are rounded to multiples of this: they take a third of the room in a compressed file."""

_BINS: Final = 63
"""Thresholds that LightGBM may choose from, for each input: few of them recur, which compresses well, too."""

_EXACT: Final = 2e-3
"""How far the sum of leaves may be from LightGBM's beside their rounding."""


def boosted(inputs: Single, goal: Real, weight: Real, *, trees: int, leaves: int, learning_rate: float) -> Trees:
    """Grow boosted regression trees (squared error); nothing is drawn, and one thread adds up in one order.

    Args:
        inputs: what trees split on, shape (rows, inputs).
        goal: what to predict, shape (rows,).
        weight: how much each row counts, shape (rows,).
        trees: how many to grow.
        leaves: of each tree at most; `LEAVES` is the largest number.
        learning_rate: how much of the error each tree takes away.

    Raises:
        ModelError: when the arrays do not predict what LightGBM predicts.
    """
    import lightgbm

    settings = {
        "objective": "regression",
        "num_leaves": leaves,
        "learning_rate": learning_rate,
        "max_bin": _BINS,
        "min_data_in_leaf": 5,
        "lambda_l2": 1.0,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(inputs, goal, weight=weight, params=settings)
    booster = lightgbm.train(settings, data, num_boost_round=trees)
    made = _as_arrays([tree["tree_structure"] for tree in booster.dump_model()["tree_info"]])
    difference = float(np.abs(made.predict(inputs) - booster.predict(inputs)).max(initial=0.0))
    if difference > len(made.node) * _STEP / 2 + _EXACT:
        raise ModelError(f"the trees as arrays differ from LightGBM's by {difference:.2g}; has its format changed?")
    return made


def _as_arrays(structures: list[Mapping[str, Any]]) -> Trees:
    """LightGBM's trees in our form; a tree of one leaf joins the constant."""
    base = sum(float(tree["leaf_value"]) for tree in structures if "leaf_value" in tree)
    grown = [tree for tree in structures if "leaf_value" not in tree]
    splits: dict[tuple[int, float], int] = {}
    node = np.zeros((len(grown), LEAVES - 1), np.uint16)
    mask = np.full(node.shape, 0xFFFF, np.uint16)
    value = np.zeros((len(grown), LEAVES), np.float32)

    def walk(at: Mapping[str, Any], tree: int, leaves: int, inner: int) -> tuple[int, int]:
        """Lay out what is below; takes and returns how many leaves and inner nodes of the tree there are."""
        if "leaf_value" in at:
            value[tree, leaves] = np.round(at["leaf_value"] / _STEP) * _STEP
            return leaves + 1, inner
        node[tree, inner] = splits.setdefault((at["split_feature"], _rounded_down(at["threshold"])), len(splits))
        after_left, next_inner = walk(at["left_child"], tree, leaves, inner + 1)
        mask[tree, inner] = 0xFFFF & ~((1 << after_left) - (1 << leaves))
        return walk(at["right_child"], tree, after_left, next_inner)

    for tree, structure in enumerate(grown):
        walk(structure, tree, 0, 0)
    return Trees(
        base=np.array([base], np.float32),
        split_feature=np.array([feature for feature, _ in splits], np.uint8),
        split_at=np.array([threshold for _, threshold in splits], np.float32),
        node=node,
        mask=mask,
        value=value,
    )


def _rounded_down(threshold: float) -> float:
    """The largest float32 that is not above: inputs are float32, and none lies in between."""
    rounded = np.float32(threshold)
    # compared as Python's floats: numpy would round the threshold to float32 first
    return float(rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-np.inf)))
