from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from graphopt.cost.workload import Workload
from graphopt.measure.data import MeasuredNet
from graphopt.measure.evaluation import judge, kernel_score, net_score, score
from graphopt.measure.examine import KINDS, Dot, kind_of
from graphopt.measure.join import Group
from graphopt.report.scatter import svg_scatter

LOAD = Workload("vector")


def net(key: str, *latencies: float, merged: bool = False) -> MeasuredNet:
    groups = [Group((i,), us) for i, us in enumerate(latencies)]
    if merged:
        groups = [Group((0, 1), latencies[0] + latencies[1]), *groups[2:]]
    return MeasuredNet(key, (LOAD,) * len(latencies), tuple(groups), sum(latencies), 0.0)


def test_shares_and_means_by_hand() -> None:
    pairs = np.array([(100.0, 104.0), (100.0, 92.0), (10.0, 13.0), (1.0, 1.1 - 1e-9), (0.0, 5.0)])
    found = score(pairs)
    assert found.count == 4  # what took no time has no relative error
    assert found.mape == pytest.approx((0.04 + 0.08 + 0.3 + 0.1) / 4)
    assert (found.within_5, found.within_10) == (0.25, 0.75)


def test_spearman_is_scipys_with_ties() -> None:
    rng = np.random.default_rng(0)
    pairs = np.round(rng.uniform(1, 9, (50, 2)))
    assert score(pairs).spearman == pytest.approx(spearmanr(*pairs.T).statistic)
    assert np.isnan(score(pairs[:2]).spearman)


def test_nothing_to_compare_is_no_error() -> None:
    assert score(np.zeros((0, 2))).count == 0
    assert net_score([]).count == kernel_score([]).count == 0


def test_nets_are_judged_by_their_sums_and_groups_by_theirs() -> None:
    judged = judge([net("a", 1.0, 2.0), net("b", 3.0, 4.0, 5.0, merged=True)], lambda loads: np.arange(5) + 1.0)
    assert [one.estimated_us for one in judged] == [3.0, 12.0]
    assert judged[1].kernels.tolist() == [[7.0, 7.0], [5.0, 5.0]]
    assert net_score(judged).mape == 0.0
    assert kernel_score(judged).count == 4


def test_nets_are_told_apart_by_what_they_are_made_of() -> None:
    blocks, layers = net("mixed:7", 1.0, 2.0, 3.0), net("mixed:8", 1.0, 2.0)
    zeros = replace(LOAD, category="copy", op_type="Concat", weight_elements=9)
    padded = replace(blocks, loads=(LOAD, zeros, LOAD))
    joined = replace(blocks, loads=(LOAD, replace(zeros, weight_elements=0), LOAD))
    named = net("named:resnet-8-32", 1.0)
    kinds = [kind_of(one, "mixed") for one in (blocks, padded, joined, layers, named)]
    assert kinds == ["blocks", "paddings", "blocks", "layers", "named"]
    assert {*kinds} == {*KINDS}


def test_the_scatter_plot_places_and_names_every_net() -> None:
    dots = [Dot("<a>", "blocks", 10.0, 10.0, 0.0), Dot("b", "named", 1000.0, 500.0, 0.0)]
    picture = svg_scatter("my target", "tool 1.0", dots)
    assert "&lt;a&gt;: measured 10 us" in picture
    assert "<a>" not in picture
    circles = re.findall(r'<circle class="(\w+)" cx="([\d.]+)" cy="([\d.]+)"', picture)
    assert [kind for kind, _, _ in circles] == ["blocks", "named"]
    left, right = (float(x) for _, x, _ in circles)
    low, high = (float(y) for _, _, y in circles)
    assert left < right
    assert low > high  # upwards is more
    assert "50.0 %" in picture
    assert picture.count("http") == 1  # the name space alone: nothing is loaded
