"""Channels are kept for what they explain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.ir.channels import channel_groups
from graphopt.ir.graph import Graph
from graphopt.ir.op import Importance
from graphopt.weights.choose import column_subset, select_channels, strongest
from tests.weights.nets import BLOCK, net, noise, with_weight


def energy(rows: np.ndarray) -> np.ndarray:
    return np.cov(rows.T)


def test_dead_channels_go_first() -> None:
    rows = np.random.default_rng(0).standard_normal((500, 6)) * [1, 0, 2, 1e-9, 1, 3]
    assert column_subset(energy(rows), 4) == (0, 2, 4, 5)


def test_of_twins_one_stays() -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((500, 3)) * [3.0, 3.0, 1.0]
    rows = np.concatenate([rows, rows[:, :1] + 0.01 * rng.standard_normal((500, 1))], axis=1)
    chosen = column_subset(energy(rows), 3)
    assert {1, 2} < set(chosen)
    assert len({0, 3} & set(chosen)) == 1


@given(size=st.integers(1, 12), rank=st.integers(0, 12), seed=st.integers(0, 99), share=st.floats(0.01, 1))
def test_any_energy_gives_the_asked_number(size: int, rank: int, seed: int, share: float) -> None:
    half = np.random.default_rng(seed).standard_normal((size, rank))
    count = max(1, round(share * size))
    chosen = column_subset(half @ half.T, count)
    assert len(set(chosen)) == count
    assert list(chosen) == sorted(chosen)
    assert all(0 <= channel < size for channel in chosen)


def test_energy_keeps_the_loudest_and_does_not_know_twins() -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((500, 3)) * [3.0, 1.0, 2.0]
    rows = np.concatenate([rows + 100.0, rows[:, :1]], axis=1)
    assert strongest(energy(rows), 2) == (0, 3)
    assert not {0, 3} <= set(column_subset(energy(rows), 2))


def planted(graph: Graph, dead: list[int]) -> Graph:
    """The block whose expanded channels ``dead`` never come through the activation."""
    values = graph.weights["bd"].array().copy()
    values[dead] = -100.0
    return with_weight(graph, "d", 2, values)


@pytest.mark.parametrize("importance", ["l2", "energy", "column-subset"])
def test_a_models_dead_channels_are_found(importance: Importance, tmp_path: Path) -> None:
    """Their weights are as large as the others': only the samples tell."""
    dead = [1, 7, 8, 20, 31]
    graph = planted(net(BLOCK, tmp_path / "m.onnx"), dead)
    channels = channel_groups(graph)
    chosen = select_channels(graph, channels, {"e": 27}, noise(40, 8, 12, 12), importance=importance)
    assert (set(range(32)) - set(chosen["e"].keep) == set(dead)) == (importance != "l2")


def test_growing_groups_are_padded_and_others_left_out(tmp_path: Path) -> None:
    graph = net(BLOCK, tmp_path / "m.onnx")
    channels = channel_groups(graph)
    chosen = select_channels(graph, channels, {"e": 40, "l": 16}, noise(40, 8, 12, 12))
    assert set(chosen) == {"e"}
    assert chosen["e"].pad == 8


def test_a_flattened_group_is_chosen_by_all_its_columns(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        m (float[N,3,4,4] image) => (float[N,5] y) <float[3,3,1,1] ws, float[6,3,1,1] w, float[6] b, float[96,5] wf>
        { s = Conv(image, ws) c = Conv(s, w, b) r = Relu(c) f = Flatten(r) y = MatMul(f, wf) }"""
    graph = net(text, tmp_path / "m.onnx")
    group = next(group.id for group in channel_groups(graph).groups if "c" in group.makers)
    loud = graph.weights["wf"].array().reshape(6, 16, 5).copy()
    loud[[2, 4], 7] *= 100.0
    edited = with_weight(graph, "y", 1, loud.reshape(96, 5))
    chosen = select_channels(edited, channel_groups(edited), {group: 2}, noise(60, 3, 4, 4))
    assert chosen[group].keep == (2, 4)
