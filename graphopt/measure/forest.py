"""Grow boosted trees with LightGBM and keep them as plain arrays, which are tested against its own predictions.

LightGBM and scikit-learn's histogram trees predict equally well here (1.0 % error of whole nets each); LightGBM grows
them five times as fast and has a public way to read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from graphopt.cost.trees import LEAF_STEP, LEAVES, NO_NODE, Real, Single, Trees
from graphopt.errors import ModelError

BY_RANK: Final = 63
"""Thresholds for each input that all trees of an estimator choose from, as many values between one and the next: those
that recur take no room in its file, and twice or four times as many predict no better."""

BY_VALUE: Final = 32
"""More of them, at even distances: few kernels are very large, but those are most of their nets."""

_EXACT: Final = 2e-3
"""How far the sum of leaves may be from LightGBM's before they are rounded to `LEAF_STEP`."""


def thresholds(tables: Sequence[Single]) -> list[Single]:
    """Choose thresholds for each input: by rank, a smaller table's rows counting for more, and by value.

    Args:
        tables: rows of inputs, shape (rows, inputs) each.

    Returns:
        ascending thresholds of each input, between values that occur.
    """
    rows = np.concatenate(tables)
    weight = np.concatenate([np.full(len(table), max(len(table), 1) ** -0.5) for table in tables])
    found = []
    for column in rows.T:
        values, place = np.unique(column, return_inverse=True)
        below = np.cumsum(np.bincount(place, weight, minlength=len(values)))
        last = np.arange(len(values))
        if len(values) > BY_RANK:
            by_rank = np.searchsorted(below, np.arange(1, BY_RANK + 1) / (BY_RANK + 1) * below[-1])
            by_value = np.searchsorted(values, np.linspace(values[0], values[-1], BY_VALUE + 2)[1:-1]) - 1
            last = np.concatenate([by_rank, by_value])
        last = last[last < len(values) - 1]
        # of half precision: 11 bits take less room than 24
        between = ((values[last] + values[last + 1]) / 2).astype(np.float16)
        found.append(np.unique(between[np.isfinite(between)]).astype(np.float32))
    return found


def boosted(
    inputs: Single, goal: Real, weight: Real, at: Sequence[Single], *, trees: int, leaves: int, learning_rate: float
) -> Trees:
    """Grow boosted regression trees (squared error); nothing is drawn, and one thread adds up in one order.

    Args:
        inputs: what trees split on, shape (rows, inputs).
        goal: what to predict, shape (rows,).
        weight: how much each row counts, shape (rows,).
        at: thresholds that they may choose from, for each input.
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
        "max_bin": BY_RANK + BY_VALUE + 1,
        "min_data_in_bin": 1,
        "min_data_in_leaf": 5,
        "lambda_l2": 1.0,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    # how many thresholds are below each value: a bin of LightGBM's for each
    bins = np.stack([np.searchsorted(own, column) for own, column in zip(at, inputs.T, strict=True)], axis=1)
    bins = bins.astype(np.float32)
    data = lightgbm.Dataset(bins, goal, weight=weight, params=settings)
    booster = lightgbm.train(settings, data, num_boost_round=trees)
    made = _as_arrays([tree["tree_structure"] for tree in booster.dump_model()["tree_info"]], at)
    difference = float(np.abs(made.predict(inputs) - booster.predict(bins)).max(initial=0.0))
    if difference > _EXACT:
        raise ModelError(f"the trees as arrays differ from LightGBM's by {difference:.2g}; has its format changed?")
    return replace(made, value=(np.round(made.value / LEAF_STEP) * LEAF_STEP).astype(np.float32))


def _as_arrays(structures: list[Mapping[str, Any]], at: Sequence[Single]) -> Trees:
    """LightGBM's trees in our form; a tree of one leaf joins the constant."""
    base = sum(float(tree["leaf_value"]) for tree in structures if "leaf_value" in tree)
    grown = [tree for tree in structures if "leaf_value" not in tree]
    splits: dict[tuple[int, int], int] = {}
    node = np.zeros((len(grown), LEAVES - 1), np.uint16)
    mask = np.full(node.shape, NO_NODE, np.uint16)
    value = np.zeros((len(grown), LEAVES), np.float32)

    def walk(below: Mapping[str, Any], tree: int, leaves: int, inner: int) -> tuple[int, int]:
        """Lay out what is below; takes and returns how many leaves and inner nodes of the tree there are."""
        if "leaf_value" in below:
            value[tree, leaves] = below["leaf_value"]
            return leaves + 1, inner
        # between whole numbers of thresholds, so many of which are below
        split = below["split_feature"], int(below["threshold"])
        node[tree, inner] = splits.setdefault(split, len(splits))
        after_left, next_inner = walk(below["left_child"], tree, leaves, inner + 1)
        mask[tree, inner] = 0xFFFF & ~((1 << after_left) - (1 << leaves))
        return walk(below["right_child"], tree, after_left, next_inner)

    for tree, structure in enumerate(grown):
        walk(structure, tree, 0, 0)
    return Trees(
        base=np.array([base], np.float32),
        split_feature=np.array([feature for feature, _ in splits], np.uint8),
        split_at=np.array([at[feature][number] for feature, number in splits], np.float32),
        node=node,
        mask=mask,
        value=value,
    )
