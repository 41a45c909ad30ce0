"""Cutting and padding channels against the oracle, over random models."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir.channels import channel_groups
from tests.ir.oracle import check_cut, check_padded, load_model, random_cut, random_pad
from tests.ir.random_models import STEPS, random_model

OPSETS = [9, 11, 13, 17, 18]
PLANS = st.lists(st.integers(0, len(STEPS) - 1), min_size=1, max_size=9)
NAMES = sorted({step.__name__ for step in STEPS})


def operate(opset: int, seed: int, steps: list[int]) -> None:
    graph = load_model(random_model(opset, seed, steps))
    channels = channel_groups(graph)
    rng = np.random.default_rng(seed)
    feeds = {"x": rng.standard_normal(graph.static_shape("x") or ()).astype(np.float32)}
    check_cut(graph, channels, random_cut(channels, rng), feeds)
    check_padded(graph, channels, random_pad(channels, rng), feeds)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(opset=st.sampled_from(OPSETS), seed=st.integers(0, 2**16), steps=PLANS)
def test_random_models(opset: int, seed: int, steps: list[int]) -> None:
    operate(opset, seed, steps)


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_op(name: str) -> None:
    """Each kind of op between convolutions, twice in a row, in every opset."""
    step = [made.__name__ for made in STEPS].index(name)
    for seed, opset in enumerate(OPSETS * 2):
        operate(opset, seed, [0, step] if seed % 2 else [step, 0, step])


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(opset=st.sampled_from(OPSETS), seed=st.integers(0, 2**32), steps=PLANS)
def test_many_random_models(opset: int, seed: int, steps: list[int]) -> None:
    operate(opset, seed, steps)
