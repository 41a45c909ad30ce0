"""Cutting and padding channels against the oracle, over random models."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir.channels import channel_groups
from tests.ir.oracle import check_cut, check_padded, load_model, random_cut, random_pad
from tests.ir.random_models import STEPS, random_model

plans = st.lists(st.integers(0, len(STEPS) - 1), min_size=1, max_size=9)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(opset=st.sampled_from([9, 11, 13, 17, 18]), seed=st.integers(0, 2**16), steps=plans)
def test_random_models_survive_surgery(opset: int, seed: int, steps: list[int]) -> None:
    model = random_model(opset, seed, steps)
    graph = load_model(model)
    channels = channel_groups(graph)
    rng = np.random.default_rng(seed)
    shape = graph.static_shape("x")
    assert shape is not None
    feeds = {"x": rng.standard_normal(shape).astype(np.float32)}
    check_cut(graph, channels, random_cut(channels, rng), feeds)
    check_padded(graph, channels, random_pad(channels, rng), feeds)
