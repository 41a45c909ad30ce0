"""Cost against channels: prices are those of models that really have these widths, and the stairs are the chip's."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from graphopt.cost.estimate import estimate
from graphopt.cost.price import price_all
from graphopt.errors import ConfigError
from graphopt.ir.channels import channel_groups
from graphopt.ir.graph import Graph
from graphopt.ir.resize import resize
from graphopt.landscape.layer import layer
from graphopt.landscape.model import all_widths, one_width
from graphopt.landscape.stairs import find_stairs
from graphopt.landscape.sweep import landscape
from graphopt.prepare import open_subject
from graphopt.report.stairs import headline, svg_landscapes
from graphopt.resources import sample_models_dir
from graphopt.space.affine import selection
from graphopt.targets.target import load_target
from tests.cost.builder import Builder, inverted_bottleneck

NPU = load_target("npu-32")
CPU = load_target("cpu-x86-64")


@pytest.fixture(scope="module")
def sample() -> Graph:
    return open_subject(sample_models_dir() / "fashion_classifier.onnx", NPU).graph


def resized(graph: Graph, widths: dict[str, int]) -> Graph:
    channels = channel_groups(graph)
    chosen = {name: selection(channels.group(name).size, width) for name, width in widths.items()}
    return graph.edited([resize(graph, channels, chosen)])


# FACTS: latency is a stair in channels, with steps of what the chip computes at once.
@pytest.mark.parametrize(("target", "step"), [("npu-16", 16), ("npu-32", 32), ("npu-64", 64), ("cpu-x86-64", 16)])
@pytest.mark.parametrize(
    "spec",
    [
        "conv3x3:28x28:ci=64",
        "conv1x1:28x28:co=64:sweep=ci",
        "depthwise3x3:56x56",
        "ibn:28x28:ci=32:co=32:sweep=hidden",
        "fused-ibn:28x28:ci=32:co=32:sweep=hidden",
    ],
)
def test_steps_are_the_parallelism_of_the_target(target: str, step: int, spec: str) -> None:
    found = landscape(layer(spec), load_target(target))
    assert found.stairs.step == step
    first = -(-found.channels[0] // step) * step
    assert {first, first + step} <= set(found.stairs.cheapest)


# What was learned from measurements finds the steps by itself.
@pytest.mark.parametrize(("target", "step"), [("ethos-u55-128", 8), ("ethos-u55-256", 8), ("onnxruntime-cpu", 16)])
def test_learned_targets_have_the_steps_of_their_chips(target: str, step: int) -> None:
    test_steps_are_the_parallelism_of_the_target(target, step, "conv3x3:28x28:ci=64")


def test_curated_widths_are_multiples_within_the_range_and_the_original() -> None:
    found = landscape(layer("conv3x3:28x28:ci=64:co=72"), NPU)
    assert (found.channels[0], found.channels[-1], found.original) == (15, 108, 72)
    assert [channels for channels, _ in found.curated] == [32, 64, 72, 96]
    rocky = dict(zip(found.channels, found.rocky_us, strict=True))
    assert all(rocky[channels] == cost for channels, cost in found.curated)
    assert dict(zip(found.channels, found.smooth_us, strict=True))[36] == pytest.approx(rocky[72] / 2)


@pytest.mark.parametrize("target", [NPU, CPU], ids=lambda target: target.name)
def test_one_width_costs_what_the_resized_model_costs(sample: Graph, target) -> None:
    subject = one_width("sample", sample, target)
    found = landscape(subject, target)
    (span,) = subject.spans
    before = estimate(sample, target).latency_us
    cost = dict(zip(found.channels, found.rocky_us, strict=True))
    assert found.share == pytest.approx(cost[span.original] / before)
    for width in (span.low, span.original - 1, span.original + 1, span.high):
        after = estimate(resized(sample, {span.name: width}), target).latency_us
        assert cost[width] - cost[span.original] == pytest.approx(after - before)


def test_all_widths_together_cost_what_the_resized_model_costs(sample: Graph) -> None:
    subject = all_widths("sample", sample)
    found = landscape(subject, NPU)
    cost = dict(zip(found.channels, found.rocky_us, strict=True))
    assert cost[found.original] == pytest.approx(estimate(sample, NPU).latency_us)
    for widths in ({s.name: s.low for s in subject.spans}, {s.name: s.high for s in subject.spans}):
        assert cost[sum(widths.values())] == pytest.approx(estimate(resized(sample, widths), NPU).latency_us)
    # the article's figure: for as many channels, curated widths cost less than others
    curated = np.array(found.curated)
    elsewhere = np.interp(curated[:, 0], found.channels, found.rocky_us)
    assert np.mean(curated[:, 1] / elsewhere) < 0.95


def test_the_whole_model_counts_what_no_width_moves() -> None:
    m = Builder()
    x = m.input(1, 3, 32, 32)
    y = m.conv(m.conv(m.conv(x, 32), 48), 8)
    graph = m.graph(m.unary("Softmax", y), m.conv(x, 8))  # outputs are never cut: some kernels cost the same throughout
    subject = all_widths("three", graph)
    found = landscape(subject, NPU)
    before = estimate(graph, NPU)
    assert found.share < 1
    at = found.channels.index(found.original)
    assert found.rocky_us[at] == pytest.approx(before.latency_us)
    after = estimate(resized(graph, {span.name: span.high for span in subject.spans}), NPU)
    assert found.smooth_us[-1] == pytest.approx(before.latency_us * after.macs / before.macs)
    assert found.rocky_us[-1] == pytest.approx(after.latency_us)


@pytest.mark.parametrize("kind", ["ibn", "fused-ibn"])
def test_a_block_costs_what_the_same_block_in_a_model_costs(kind: str) -> None:
    found = landscape(layer(f"{kind}:28x28:ci=32:co=48:s=2"), NPU)
    model = inverted_bottleneck(28, 32, 48, 2, fused=kind == "fused-ibn")
    cost = dict(zip(found.channels, found.rocky_us, strict=True))
    assert cost[48] == pytest.approx(estimate(model, NPU).latency_us)


def test_widths_beyond_what_was_measured_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def learned(loads, target):
        costs = price_all(loads, target)
        return [replace(cost, extrapolates=load.channels_out > 100) for load, cost in zip(loads, costs, strict=True)]

    monkeypatch.setattr("graphopt.landscape.sweep.price_all", learned)
    found = landscape(layer("conv3x3:28x28:ci=64"), NPU)
    assert found.beyond == 28
    assert "28 of 128 widths beyond what was measured" in headline(found)


def test_cliffs_go_both_ways_and_a_wider_channel_count_can_be_the_cheaper_one() -> None:
    channels = np.arange(1, 129)
    cost = 100.0 * np.ceil(channels / 64) + np.where(channels % 64 == 0, -60.0, 0.0) + 0.5 * channels
    found = find_stairs(channels, cost)
    (down, up, last) = found.cliffs
    assert (down.below, down.above, up.below, last.above) == (63, 64, 64, 128)
    assert down.change == pytest.approx(72 / 131.5 - 1)
    assert [tread.cheap for tread in found.treads] == [False, True, False, True]


def test_measured_stairs_of_a_cpu_are_told_as_they_are() -> None:
    # FACTS: onnxruntime, 3x3 on 28x28: 109 us for 4 to 16 channels out, 149 to 32, 203 to 48
    found = find_stairs(np.arange(4, 49), np.repeat([109.0, 149.0, 203.0], [13, 16, 16]))
    assert (found.step, found.cheapest) == (16, (16, 32, 48))
    assert [(c.below, c.above, round(100 * c.change)) for c in found.cliffs] == [(16, 17, 37), (32, 33, 36)]


def test_a_price_in_proportion_has_neither_step_nor_cliff() -> None:
    channels = np.arange(1, 129)
    found = find_stairs(channels, 3.0 * channels)
    assert (found.step, found.cliffs, len(found.treads)) == (None, (), 1)
    assert find_stairs(channels, 2.0 * channels**2).step is None
    assert find_stairs(channels, 20 * channels - 10 * np.ceil(channels / 16)).step is None  # falls, which is no stair
    noisy = 3.0 * channels + np.random.default_rng(0).normal(0, 1, len(channels))
    assert find_stairs(channels, noisy).step is None


def test_the_slope_between_two_stairs_hides_no_step() -> None:
    channels = np.arange(1, 129)
    noise = np.random.default_rng(0).normal(0, 0.4, len(channels))
    assert find_stairs(channels, 20 * np.ceil(channels / 16) + 3 * channels + noise).step == 16


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("", "no such kind"),
        ("cnov3x3:28x28:ci=3", "conv3x3"),
        ("conv3x3", "no input size"),
        ("conv3x3:28:ci=3", "no input size"),
        ("conv3x3:28x28", "ci: missing"),
        ("conv3x3:28x28:ci=0", "from 1 to"),
        (f"conv3x3:28x28:ci={'9' * 5000}", "from 1 to"),
        ("conv99x3:28x28:ci=3", "from 1 to"),
        ("conv3x3:28x28:ci=3:ci=4", "twice"),
        ("conv3x3:28x28:ci=3:t=6", "unknown"),
        ("conv3x3:28x28:ci=3:co=9..4", "smaller"),
        ("conv3x3:28x28:ci=3:co=1", "nothing to sweep"),
        ("conv3x3:28x28:ci=3:co=many", "a range"),
        ("conv3x3:28x28:ci=3:co=²", "must be"),
        ("conv3x3:28x28:ci=1..9", "whole number"),
        ("depthwise3x3:28x28:sweep=co", "one of c"),
        ("ibn:28x28:ci=32:co=32:t=6:hidden=96", "t and hidden"),
    ],
)
def test_a_wrong_description_is_one_clear_line(spec: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        layer(spec)
    assert part in str(caught.value)
    assert str(caught.value).startswith(f"--kernel {spec}")


def test_the_picture_has_a_panel_for_each_target_and_is_well_formed() -> None:
    subject = layer("conv3x3:28x28:ci=64:co=72")
    ns = "{http://www.w3.org/2000/svg}"
    tree = ElementTree.fromstring(svg_landscapes([landscape(subject, target) for target in (NPU, CPU)]))
    curves = [line.get("class") for line in tree.iter(f"{ns}polyline")]
    assert [curves.count(name) for name in ("rocky", "smooth", "curated")] == [3, 3, 3]  # a legend and two panels
    texts = [text.text for text in tree.iter(f"{ns}text")]
    assert "npu-32, steps of 32 channels" in texts
    assert texts.count("original 72") == 2
