"""Trees as arrays against trees walked node by node, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.cost.trees import LEAVES, Trees
from tests.cost.learner import stumps

FEATURES = 5


def grown(generator: np.random.Generator, leaves: int) -> Any:
    """A random tree: (feature, threshold, left, right) or the number in a leaf."""
    if leaves == 1:
        return float(generator.normal())
    left = int(generator.integers(1, leaves))
    condition = int(generator.integers(FEATURES)), float(np.float32(generator.integers(-2, 3)))
    return (*condition, grown(generator, left), grown(generator, leaves - left))


def walked(tree: Any, row: Any) -> float:
    while isinstance(tree, tuple):
        feature, threshold, left, right = tree
        tree = left if row[feature] <= threshold else right
    return float(tree)


def arrays(forest: list[Any]) -> Trees:
    splits: list[tuple[int, float]] = []
    node = np.zeros((len(forest), LEAVES - 1), np.uint16)
    mask = np.full(node.shape, 0xFFFF, np.uint16)
    value = np.zeros((len(forest), LEAVES), np.float32)

    def lay(tree: Any, at: int, leaf: int, slot: int) -> tuple[int, int]:
        if not isinstance(tree, tuple):
            value[at, leaf] = tree
            return leaf + 1, slot
        splits.append(tree[:2])
        node[at, slot] = len(splits) - 1
        middle, after = lay(tree[2], at, leaf, slot + 1)
        for below in range(leaf, middle):
            mask[at, slot] &= ~np.uint16(1 << below)
        return lay(tree[3], at, middle, after)

    for at, tree in enumerate(forest):
        lay(tree, at, 0, 0)
    features, thresholds = zip(*splits, strict=True)
    return Trees(
        np.ones(1, np.float32), np.array(features, np.uint8), np.array(thresholds, np.float32), node, mask, value
    )


@given(st.integers(0, 10_000), st.integers(2, LEAVES))
def test_arrays_lead_where_the_nodes_lead(seed: int, leaves: int) -> None:
    generator = np.random.default_rng(seed)
    forest = [grown(generator, leaves) for _ in range(4)]
    trees = arrays(forest)
    assert trees.fault(FEATURES) == ""
    rows = generator.integers(-3, 4, (20, FEATURES)).astype(np.float32)  # often exactly on a threshold
    expected = [1 + sum(walked(tree, row) for tree in forest) for row in rows]
    assert trees.predict(rows) == pytest.approx(expected, abs=1e-5)


def test_a_row_predicts_the_same_alone_and_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    trees = arrays([grown(generator, LEAVES) for _ in range(50)])
    rows = generator.normal(size=(300, FEATURES)).astype(np.float32)
    together = trees.predict(rows)
    alone = [float(trees.predict(rows[i : i + 1])[0]) for i in range(len(rows))]
    assert together == pytest.approx(alone, rel=1e-12)
    monkeypatch.setattr("graphopt.cost.trees._CHUNK_CELLS", 10_000)
    assert (trees.predict(rows) == together).all()


def test_no_trees_and_no_rows() -> None:
    assert Trees.constant(0.5).fault(FEATURES) == ""
    assert (Trees.constant(0.5).predict(np.zeros((3, FEATURES), np.float32)) == 0.5).all()
    assert stumps({"log pixels": 1.0}, 1.0).predict(np.zeros((0, FEATURES), np.float32)).shape == (0,)


GOOD = arrays([grown(np.random.default_rng(3), LEAVES) for _ in range(3)])


def edited(name: str, index: Any, value: Any) -> Trees:
    array = getattr(GOOD, name).copy()
    array[index] = value
    return replace(GOOD, **{name: array})


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (edited("split_feature", 0, FEATURES), "split_feature names a feature beyond"),
        (edited("node", (1, 2), 999), "node names a split that does not exist"),
        (edited("mask", (0, 0), 0), "mask leaves a row without a leaf"),
        (edited("value", (0, 0), np.nan), "not finite"),
        (edited("split_at", 0, np.inf), "not finite"),
        (edited("value", (0, 0), 100.0), "beyond a factor"),
        (replace(GOOD, node=GOOD.node[:2]), "mask is uint16"),
        (replace(GOOD, value=GOOD.value.astype(np.float64)), "value is float64"),
        (replace(GOOD, split_at=GOOD.split_at[:-1]), "split_at is float32"),
        (replace(GOOD, base=np.zeros(2, np.float32)), "base is float32"),
    ],
)
def test_damaged_arrays_are_named(bad: Trees, fault: str) -> None:
    assert GOOD.fault(FEATURES) == ""
    assert fault in bad.fault(FEATURES)
