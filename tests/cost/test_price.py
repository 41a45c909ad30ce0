"""Pricing in one call: analytic targets as ever, learned ones with what their file holds."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graphopt.cost.estimate import estimate
from graphopt.cost.learned import Learned
from graphopt.cost.price import UNLEARNED, learned_of, price_all
from graphopt.cost.roofline import BOUNDS, price
from graphopt.errors import ConfigError
from graphopt.targets.target import load_target
from tests.cost.builder import inverted_bottleneck
from tests.cost.learner import learned, model, target_file, unit
from tests.cost.test_features import conv

NPU = load_target("npu-32")
LOADS = [conv(16, 24), replace(conv(8, 8), category="other"), conv(np.arange(3, 9), 8)]


def test_an_analytic_target_prices_as_it_did() -> None:
    for found, load in zip(price_all(LOADS, NPU), LOADS, strict=True):
        alone = price(load, NPU)
        assert (found.latency_us == alone.latency_us).all()
        assert (found.dram_bytes == alone.dram_bytes).all()
        assert found.uncertainty is None
    assert price_all([], NPU) == []


def test_a_learned_target_predicts_latency_and_counts_the_rest(tmp_path: Path) -> None:
    target = load_target(target_file(tmp_path, learned()))
    first, other, many = price_all(LOADS, target)
    predictions = learned().predict(LOADS, target)
    assert first.latency_us == predictions[0].latency_us  # type: ignore[union-attr]
    assert many.latency_us.shape == many.extrapolates.shape == (6,)  # type: ignore[union-attr]
    assert first.dram_bytes == price(LOADS[0], NPU).dram_bytes
    # nothing was learned about it: the closed form, and no trust in it
    assert other.latency_us == price(LOADS[1], NPU).latency_us
    assert (other.uncertainty, other.extrapolates) == (1.0, True)


def test_what_bounds_a_kernel_is_what_was_measured(tmp_path: Path) -> None:
    loads = [conv(16, 24)] * 2
    for slow, bound in (("compute", "compute"), ("on_chip", "on-chip"), ("off_chip", "memory")):
        units = {name: unit(times=3.0 if name == slow else 1.0) for name in ("compute", "on_chip", "off_chip")}
        target = load_target(target_file(tmp_path, Learned({"conv-kxk": model(**units)})))
        assert {BOUNDS[int(cost.bound)] for cost in price_all(loads, target)} == {bound}
    target = load_target(target_file(tmp_path, Learned({"conv-kxk": model()})))
    assert [cost.bound for cost in price_all(loads, target)] == [price(load, target).bound for load in loads]


def test_a_model_says_how_far_to_trust_it(tmp_path: Path) -> None:
    graph = inverted_bottleneck(14, 96, 96, 1, fused=False)
    target = load_target(target_file(tmp_path, learned("depthwise", correlation=1.0)))
    found = estimate(graph, target)
    assert [kernel.extrapolates for kernel in found.kernels] == [False, True, False]
    assert found.extrapolating == 1
    shares = np.array([kernel.latency_us for kernel in found.kernels]) / found.latency_us
    assert found.uncertainty == pytest.approx(shares @ [0.02, UNLEARNED, 0.02])
    plain = estimate(graph, NPU)
    assert (plain.uncertainty, plain.extrapolating) == (None, 0)
    assert found.dram_bytes == plain.dram_bytes


def test_the_estimator_is_read_when_it_is_needed_and_checked_then(tmp_path: Path) -> None:
    target = load_target(target_file(tmp_path, learned()))
    same = pickle.loads(pickle.dumps(target))
    assert same == target
    assert learned_of(same) is learned_of(target)
    (tmp_path / "mine.npz").write_bytes(b"something else")
    assert learned_of(target) is not None  # read before
    again = load_target(target_file(tmp_path, learned(), sha256="1" * 64))
    with pytest.raises(ConfigError, match=r"mine\.npz: estimator\.sha256: is not the file"):
        price_all(LOADS, again)
    (tmp_path / "mine.npz").unlink()
    with pytest.raises(ConfigError, match=r"mine\.npz: cannot read the estimator"):
        price_all(LOADS, again)
