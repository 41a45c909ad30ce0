"""Grow boosted trees with scikit-learn and keep them as plain arrays, which are tested against its own predictions."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from graphopt.cost.trees import LEAVES, Real, Single, Trees
from graphopt.errors import ModelError

_STEP: Final = 2.0**-16
"""Leaves are rounded to multiples of this: they take half the room in a compressed file."""

_ROUNDING: Final = 1e-3
"""How far the sum of rounded leaves may be from scikit-learn's."""


def boosted(
    inputs: Single, goal: Real, weight: Real, *, trees: int, leaves: int, learning_rate: float, seed: int
) -> Trees:
    """Grow boosted regression trees (squared error).

    Args:
        inputs: features, shape (rows, features).
        goal: what to predict, shape (rows,).
        weight: how much each row counts, shape (rows,).
        trees: how many to grow.
        leaves: of each tree at most; `LEAVES` is the largest number.
        learning_rate: how much of the error each tree takes away.
        seed: of what is drawn while they grow.

    Raises:
        ModelError: when the arrays do not predict what scikit-learn predicts.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    grower = HistGradientBoostingRegressor(
        learning_rate=learning_rate,
        max_iter=trees,
        max_leaf_nodes=leaves,
        min_samples_leaf=10,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    )
    grower.fit(inputs, goal, sample_weight=weight)
    made = _as_arrays(grower)
    difference = float(np.abs(made.predict(inputs) - grower.predict(inputs)).max(initial=0.0))
    if difference > _ROUNDING:
        raise ModelError(f"the trees as arrays differ from scikit-learn's by {difference:.2g}; has its format changed?")
    return made


def _as_arrays(grower: Any) -> Trees:
    """The library's trees in our form. Thresholds are rounded down to float32: no feature lies in between."""
    grown = [predictor.nodes for (predictor,) in grower._predictors]
    base = float(np.ravel(grower._baseline_prediction)[0])
    base += sum(float(nodes[0]["value"]) for nodes in grown if nodes[0]["is_leaf"])
    grown = [nodes for nodes in grown if not nodes[0]["is_leaf"]]
    splits: dict[tuple[int, float], int] = {}
    node = np.zeros((len(grown), LEAVES - 1), np.uint16)
    mask = np.full(node.shape, 0xFFFF, np.uint16)
    value = np.zeros((len(node), LEAVES), np.float32)
    for tree, nodes in enumerate(grown):
        leaves = inner = 0

        def walk(at: int, tree: int = tree, nodes: Any = nodes) -> None:
            nonlocal leaves, inner
            if nodes[at]["is_leaf"]:
                value[tree, leaves] = np.round(nodes[at]["value"] / _STEP) * _STEP
                leaves += 1
                return
            slot, inner = inner, inner + 1
            exact = float(nodes[at]["num_threshold"])
            threshold = np.float32(exact)
            if threshold > exact:
                threshold = np.nextafter(threshold, np.float32(-np.inf))
            key = (int(nodes[at]["feature_idx"]), float(threshold))
            node[tree, slot] = splits.setdefault(key, len(splits))
            first = leaves
            walk(int(nodes[at]["left"]))
            mask[tree, slot] = 0xFFFF & ~((1 << leaves) - (1 << first))
            walk(int(nodes[at]["right"]))

        walk(0)
    return Trees(
        base=np.array([base], np.float32),
        split_feature=np.array([feature for feature, _ in splits], np.uint8),
        split_at=np.array([threshold for _, threshold in splits], np.float32),
        node=node,
        mask=mask,
        value=value,
    )
