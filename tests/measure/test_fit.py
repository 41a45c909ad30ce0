"""Learning from kernels of a made-up chip whose latencies are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from graphopt.cost.categories import Category
from graphopt.cost.learned import UNITS, Learned, Unit
from graphopt.cost.learned_file import MAX_BYTES, packed, unpacked
from graphopt.cost.trees import LEAF_STEP
from graphopt.cost.workload import Workload
from graphopt.errors import ModelError
from graphopt.measure.fit import MIN_KERNELS, MeasuredKernel, fit
from graphopt.measure.forest import BY_RANK, BY_VALUE, boosted, thresholds
from graphopt.targets.target import load_target

pytest.importorskip("lightgbm", reason="lightgbm (graphopt[measure]) is not installed")

NPU = load_target("npu-32")


def chip(load: Workload, noise: float) -> float:
    """Microseconds on a chip that pads 8 channels in and 16 out, streams bytes, and dislikes narrow pictures."""
    ins, outs = (
        -(-int(channels) // tile) * tile for channels, tile in ((load.channels_in, 8), (load.channels_out, 16))
    )
    compute = 2e-4 * int(load.pixels) * int(load.taps) * ins * outs
    moved = 1e-3 * int(load.input_elements + load.output_elements) + 4e-3 * int(load.weight_elements)
    return (compute + moved + 0.5) * (1.3 if load.output_width < 12 else 1.0) * float(np.exp(noise))


def net(name: str, generator: np.random.Generator, noise: float = 0.0) -> Iterator[MeasuredKernel]:
    size, ins = int(generator.choice([16, 24, 32, 48])), int(generator.integers(3, 40))
    for _ in range(8):
        outs, taps = int(generator.integers(4, 160)), int(generator.choice([1, 9]))
        category: Category = "conv-1x1" if taps == 1 else "conv-kxk"
        load = Workload(
            "convolution", pixels=size * size, taps=taps, channels_in=ins, channels_out=outs, category=category,
            kernel_height=3 if taps == 9 else 1, kernel_width=3 if taps == 9 else 1, output_height=size,
            output_width=size, input_elements=size * size * ins, output_elements=size * size * outs,
            weight_elements=taps * ins * outs,
        )  # fmt: skip
        yield MeasuredKernel(load, chip(load, float(generator.normal()) * noise), name)
        ins, size = outs, max(4, size // int(generator.choice([1, 2])))


def nets(seed: int, count: int, noise: float = 0.0) -> list[MeasuredKernel]:
    generator = np.random.default_rng(seed)
    return [kernel for number in range(count) for kernel in net(f"{seed}-{number}", generator, noise)]


def off(learned: Learned, kernels: list[MeasuredKernel]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logarithm of predicted over measured, predicted latency and one sigma of each kernel."""
    found = learned.predict([kernel.load for kernel in kernels], NPU)
    latency = np.array([float(one.latency_us) for one in found if one is not None])
    sigma = np.array([float(one.uncertainty) for one in found if one is not None])
    return np.log(latency / np.array([kernel.latency_us for kernel in kernels])), latency, sigma


@pytest.fixture(scope="module")
def exact() -> Learned:
    return fit(nets(1, 60), NPU)


def test_the_chips_tiles_are_found_and_unseen_nets_are_predicted(exact: Learned) -> None:
    assert {name: model.units["whole"].tiles.tolist() for name, model in exact.categories.items()} == {
        "conv-1x1": [8, 16],
        "conv-kxk": [8, 16],
    }
    error, _, _ = off(exact, nets(2, 30))
    assert np.mean(np.abs(error) < 0.1) > 0.95
    assert np.median(np.abs(error)) < 0.01


def test_the_same_kernels_make_the_same_file(exact: Learned) -> None:
    content = packed(exact)
    assert len(content) < MAX_BYTES
    assert packed(fit(nets(1, 60), NPU)) == content
    assert packed(unpacked(content, "same.npz")) == content


def test_one_sigma_covers_two_thirds_of_what_was_never_seen() -> None:
    learned = fit(nets(3, 80, noise=0.08), NPU)
    unseen = nets(4, 80, noise=0.08)
    error, latency, sigma = off(learned, unseen)
    assert 0.58 < np.mean(np.abs(np.expm1(error)) <= sigma) < 0.78
    measured = np.array([kernel.latency_us for kernel in unseen])
    covered = []
    for name in {kernel.net for kernel in unseen}:
        own = np.array([kernel.net == name for kernel in unseen])
        total = learned.total_uncertainty(latency[own], sigma[own])
        covered.append(abs(latency[own].sum() / measured[own].sum() - 1) <= total)
    assert 0.5 < np.mean(covered) < 0.86


def test_what_is_harder_to_tell_gets_more_trees(exact: Learned) -> None:
    kernels = nets(1, 60)
    generator = np.random.default_rng(5)
    noisy = [
        replace(kernel, latency_us=kernel.latency_us * float(np.exp(generator.normal() * 0.3)))
        if kernel.load.category == "conv-1x1" else kernel
        for kernel in kernels
    ]  # fmt: skip
    plain, harder = (
        {name: len(model.units["whole"].trees.node) for name, model in learned.categories.items()}
        for learned in (exact, fit(noisy, NPU))
    )
    assert harder["conv-1x1"] / harder["conv-kxk"] > 2 * plain["conv-1x1"] / plain["conv-kxk"]
    assert sum(harder.values()) <= len(kernels) // 5


def told(kernels: list[MeasuredKernel], bytes_per_us: float) -> list[MeasuredKernel]:
    """The same kernels on a chip whose weights come from a slow memory while it computes."""
    found = []
    for kernel in kernels:
        busy = kernel.latency_us, int(kernel.load.weight_elements) / bytes_per_us
        units: tuple[tuple[Unit, float], ...] = (("compute", busy[0]), ("on-chip", 1e-4), ("off-chip", busy[1]))
        found.append(replace(kernel, latency_us=max(busy), busy_us=units))
    return found


def test_units_that_are_told_apart_are_learned_apart_and_better() -> None:
    learning, unseen = told(nets(1, 60), 8.0), told(nets(2, 60), 8.0)
    slowest = np.array([max(kernel.busy_us, key=lambda one: one[1])[0] for kernel in unseen])
    assert 0.2 < np.mean(slowest == "off-chip") < 0.8
    learned = fit(learning, NPU)
    # nobody ever waits for the on-chip memory
    assert {tuple(model.units) for model in learned.categories.values()} == {("compute", "off-chip")}
    predictions = learned.predict([kernel.load for kernel in unseen], NPU)
    guessed = np.array([UNITS[int(one.unit)] for one in predictions if one is not None])
    assert np.mean(guessed == slowest) > 0.95
    whole = fit([replace(kernel, busy_us=()) for kernel in learning], NPU)
    assert all(list(model.units) == ["whole"] for model in whole.categories.values())
    errors = [np.abs(off(one, unseen)[0]) for one in (learned, whole)]
    assert np.mean(errors[0]) < 0.7 * np.mean(errors[1])
    # one kernel that is not told, and the maximum is all there is
    partly = fit([replace(learning[0], busy_us=()), *learning[1:]], NPU).categories
    assert list(partly[learning[0].load.category].units) == ["whole"]


def test_a_unit_that_waits_is_not_told_to_be_the_slowest() -> None:
    """It is hardly ever seen, so nothing but these kernels says how little it does."""
    kernels = told(nets(1, 60), 8.0)
    waiting = [
        replace(kernel, busy_us=(("compute", kernel.latency_us), ("off-chip", 1e-6 * kernel.latency_us)))
        if kernel.load.output_width >= 16 else kernel
        for kernel in kernels
    ]  # fmt: skip
    learned = fit(waiting, NPU)
    for model in learned.categories.values():
        assert set(model.units) == {"compute", "off-chip"}
    here = [kernel for kernel in waiting if kernel.load.output_width >= 16]
    error = off(learned, here)[0]
    assert np.quantile(error, 0.99) < 0.2


def test_what_is_rare_or_never_varies_is_dealt_with(exact: Learned) -> None:
    kernels = nets(1, 60)
    pool = Workload("vector", vector_ops=100, category="pool", input_elements=400, output_elements=100)
    few = [MeasuredKernel(pool, 2.0, f"1-{number}") for number in range(MIN_KERNELS - 1)]
    assert fit(kernels + few, NPU).categories.keys() == exact.categories.keys()
    copy = Workload("vector", vector_ops=100, category="copy", input_elements=100, output_elements=100)
    free = [MeasuredKernel(copy, 0.0, f"1-{number}") for number in range(MIN_KERNELS)]
    found = fit(kernels + free, NPU).predict([copy], NPU)[0]
    assert found is not None
    assert 0 <= found.latency_us < 1.01e-3 * np.median([kernel.latency_us for kernel in kernels])


def test_moves_of_many_kernels_are_learned_apart_and_rare_ones_together() -> None:
    def moves(op_type: str, count: int, us: float, **more: int) -> list[MeasuredKernel]:
        sizes = np.random.default_rng(count).integers(100, 10_000, count)
        return [
            MeasuredKernel(
                Workload("vector", category="copy", op_type=op_type, output_elements=int(size), **more),
                us * int(size), f"{op_type}-{number}",
            )
            for number, size in enumerate(sizes)
        ]  # fmt: skip

    kernels = [*moves("Pad", 40, 2e-3), *moves("Concat", 40, 2e-3, weight_elements=9), *moves("Concat", 70, 1e-5)]
    learned = fit([*kernels, *moves("Slice", 20, 1e-4)], NPU)
    assert learned.categories.keys() == {"copy", "copy:Concat", "copy:Pad"}
    assert np.abs(off(learned, kernels)[0]).max() < 0.05


def test_trees_split_at_shared_thresholds_between_values_that_occur() -> None:
    generator = np.random.default_rng(0)
    few = np.array([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0]], np.float32)
    many = np.stack([generator.choice([1.0, 2.0, 4.0], 900), generator.normal(size=900)], axis=1).astype(np.float32)
    at = thresholds([few, many])
    assert at[0].tolist() == [1.5, 3.0]
    assert BY_RANK < len(at[1]) <= BY_RANK + BY_VALUE  # some meet
    assert np.diff([many[:, 1].min(), *at[1], many[:, 1].max()]).max() < 0.7  # the ends too
    below = np.mean(many[:, 1, None] <= at[1], axis=0)
    assert np.abs(np.diff([0, *below, 1])).max() < 0.05  # quantiles
    goal = np.where(many[:, 0] > 1.5, 1.0, 0.0) + np.where(many[:, 1] > at[1][20], 0.5, 0.0)
    grown = boosted(many, goal, np.ones(900), at, trees=60, leaves=4, learning_rate=0.2)
    assert np.abs(grown.predict(many) - goal).max() < 0.01
    assert set(zip(grown.split_feature.tolist(), grown.split_at.tolist(), strict=True)) <= {
        (feature, float(value)) for feature, own in enumerate(at) for value in own
    }
    assert (grown.value / LEAF_STEP % 1 == 0).all()


def test_what_does_not_fit_into_a_file_gets_fewer_trees(exact: Learned, monkeypatch: pytest.MonkeyPatch) -> None:
    small = len(packed(exact)) * 3 // 4
    monkeypatch.setattr("graphopt.cost.learned_file.MAX_BYTES", small)
    learned = fit(nets(1, 60), NPU)
    assert len(packed(learned)) <= small
    assert np.median(np.abs(off(learned, nets(2, 30))[0])) < 0.02


def test_what_cannot_be_learned_from_is_refused() -> None:
    with pytest.raises(ModelError, match="8 measured kernels are too few"):
        fit(nets(1, 1), NPU)
    with pytest.raises(ModelError, match="too few"):
        fit([], NPU)
    kernels = nets(1, 10)
    with pytest.raises(ModelError, match="negative or no finite number"):
        fit([*kernels, MeasuredKernel(kernels[0].load, float("nan"), "x")], NPU)
