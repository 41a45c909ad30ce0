"""Gradient steps bring a block nearer to the original, never further away, and always by the same way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from graphopt.apply import WidthAction, apply_actions
from graphopt.ir.channels import channel_groups
from graphopt.ir.graph import Graph
from graphopt.ir.resize import Selection
from graphopt.weights.kept import kept_positions
from tests.weights.nets import BLOCK, Arrays, net, noise, outputs, spoiled

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'graphopt[train]'")

from graphopt.train import refine as module  # noqa: E402  (imports torch)
from graphopt.train.blocks import find_blocks  # noqa: E402
from graphopt.train.refine import refine  # noqa: E402

SAMPLES = noise(48, 8, 12, 12)


@pytest.fixture
def block(tmp_path: Path) -> Graph:
    return net(BLOCK, tmp_path / "block.onnx")


def away(graph: Graph, original: Graph, folder: Path) -> float:
    """Relative distance of the outputs on samples that nothing was trained on."""
    strangers = noise(32, 8, 12, 12, seed=9)
    found, wanted = outputs(graph, strangers, folder), outputs(original, strangers, folder)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_spoiled_weights_come_nearer_on_strangers(block: Graph, tmp_path: Path) -> None:
    other = spoiled(spoiled(block, "d"), "l", amount=0.2)
    done = refine(block, other, {}, SAMPLES, steps=40)
    assert [unit.op for unit in done.units] == ["l", "scores"]
    assert all(unit.kept and unit.error_after < unit.error_before for unit in done.units)
    assert away(done.graph, block, tmp_path) < 0.7 * away(other, block, tmp_path)


def test_only_what_a_change_reaches_is_refined(block: Graph) -> None:
    assert find_blocks(block, block, {}) == []
    (head,) = find_blocks(block, spoiled(block, "scores"), {})
    assert (head.inputs, head.outputs, head.last) == (("g",), ("scores",), "scores")


def test_a_block_that_gets_no_better_keeps_its_weights(block: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RATE", 1e3)
    other = spoiled(block, "p", amount=0.01)
    done = refine(block, other, {}, SAMPLES, steps=3)
    assert done.graph is other
    assert all(unit.error_after == unit.error_before and not unit.kept for unit in done.units)
    assert {unit.note for unit in done.units} == {"held-out error did not fall"}


def resized(block: Graph, selection: Selection, width: int) -> tuple[Graph, dict[str, npt.NDArray[np.intp]]]:
    """The block with other channels between its last convolution and its head, and where they were before."""
    channels = channel_groups(block)
    group = next(one for one in channels.groups if one.size == 16)
    chosen = {group.id: selection}
    other = apply_actions(block, channels, [], [WidthAction(group.id, width, "by-hand")], chosen)
    return other, kept_positions(channels, chosen)


def test_removed_channels_are_made_up_for(block: Graph, tmp_path: Path) -> None:
    other, kept = resized(block, Selection(np.arange(1, 13)), 12)
    done = refine(block, other, kept, SAMPLES, steps=20)
    assert done.units[-1].op == "scores"
    assert away(done.graph, block, tmp_path) < away(other, block, tmp_path)


def test_channels_that_the_original_lacks_have_no_part_in_the_error(block: Graph) -> None:
    other, kept = resized(block, Selection(np.arange(16), pad=2), 18)
    done = refine(block, other, kept, SAMPLES, steps=1)
    assert all(unit.error_before < 1e-3 for unit in done.units)


def test_the_same_seed_makes_the_same_weights_and_torch_is_left_as_it_was(block: Graph, tmp_path: Path) -> None:
    other = spoiled(block, "d")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(7)
        wanted = torch.rand(3)
        torch.manual_seed(7)
        first = refine(block, other, {}, SAMPLES, steps=6, seed=3)
        assert torch.equal(torch.rand(3), wanted)
        assert torch.get_num_threads() == 2
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(threads)
    second = refine(block, other, {}, SAMPLES, steps=6, seed=3)
    third = refine(block, other, {}, SAMPLES, steps=6, seed=4)
    one, two, three = (outputs(done.graph, SAMPLES, tmp_path) for done in (first, second, third))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, three)


def test_a_model_with_a_fixed_batch_is_refined_in_such_batches(tmp_path: Path) -> None:
    original = net(BLOCK.replace("float[N,", "float[4,"), tmp_path / "fixed.onnx")
    samples = Arrays(SAMPLES.arrays, fixed=4)
    done = refine(original, spoiled(original, "d"), {}, samples, steps=10)
    assert done.units[0].kept


@pytest.mark.parametrize(("limit", "kept"), [(700_000, True), (20_000, False)])
def test_a_small_memory_limit_means_fewer_samples_and_then_none(limit: int, kept: bool, block: Graph) -> None:
    done = refine(block, spoiled(block, "d"), {}, SAMPLES, steps=10, memory_limit_bytes=limit)
    assert done.units[0].kept is kept
    assert ("do not fit into the memory limit" in done.units[0].note) is not kept


def test_progress_counts_the_blocks(block: Graph) -> None:
    seen: list[tuple[int, int, str]] = []
    refine(block, spoiled(block, "d"), {}, SAMPLES, steps=1, progress=lambda *now: seen.append(now))
    assert seen == [(0, 2, "refining l"), (1, 2, "refining scores"), (2, 2, "")]
