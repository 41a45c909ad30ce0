"""The order that needs the least memory, against all orders there are."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir.liveness import INPUT, Storage
from graphopt.ir.order import best_order


def live(order: tuple[int, ...], tensors: list[Storage], sizes: list[int]) -> int | None:
    """The largest live set of an order, said as plainly as possible; ``None`` where it cannot run."""
    place = {step: number for number, step in enumerate(order)}
    peak = 0
    spans = []
    for one, size in zip(tensors, sizes, strict=True):
        first = 0 if one.made == INPUT else place[one.made]
        ends = [place[step] for step in one.read]
        if one.made != INPUT and any(end < first for end in ends):
            return None
        spans.append((first, len(order) - 1 if one.kept else max([first, *ends]), size))
    for now in range(len(order)):
        peak = max(peak, sum(size for first, last, size in spans if first <= now <= last))
    return peak


@st.composite
def problems(draw: st.DrawFn) -> tuple[int, list[Storage], list[int]]:
    """Up to 7 steps; each makes one or two tensors, read by any later steps."""
    count = draw(st.integers(1, 7))
    makers = [INPUT, *range(count), *draw(st.lists(st.integers(0, count - 1), max_size=2))]
    tensors, sizes = [], []
    for number, maker in enumerate(makers):
        later = list(range(maker + 1, count))
        read = draw(st.sets(st.sampled_from(later), max_size=3)) if later else set()
        if maker == INPUT:
            read |= {0}
        tensors.append(Storage(f"t{number}", maker, tuple(sorted(read)), draw(st.integers(0, 5)) == 0))
        sizes.append(draw(st.integers(1, 9)))
    return count, tensors, sizes


@settings(max_examples=300, deadline=None)
@given(problems())
def test_no_order_of_all_needs_less(problem: tuple[int, list[Storage], list[int]]) -> None:
    count, tensors, sizes = problem
    found = best_order(count, tensors, sizes)
    peaks = [peak for order in permutations(range(count)) if (peak := live(order, tensors, sizes)) is not None]
    assert live(found.steps, tensors, sizes) == found.peak == found.bound == min(peaks)


@settings(max_examples=100, deadline=None)
@given(problems())
def test_the_heuristic_is_valid_and_never_worse_than_what_was_given(
    problem: tuple[int, list[Storage], list[int]],
) -> None:
    count, tensors, sizes = problem
    found = best_order(count, tensors, sizes, max_states=0)
    now = live(tuple(range(count)), tensors, sizes)
    assert now is not None
    assert live(found.steps, tensors, sizes) == found.peak <= now
    assert found.bound <= found.peak


def branches(count: int, length: int) -> tuple[int, list[Storage], list[int]]:
    """One tensor, ``count`` branches of ``length`` steps that grow and shrink, one step that reads all their ends;
    the order is the worst: all first steps, then all second ones."""
    steps = count * length + 1
    tensors = [Storage("in", INPUT, tuple(range(count)), False)]
    sizes = [4]
    for step in range(count * length):
        after = step + count if step + count < count * length else steps - 1
        tensors.append(Storage(f"t{step}", step, (after,), False))
        sizes.append(1 if step + count >= count * length else 20 + step % 7)
    tensors.append(Storage("out", steps - 1, (), True))
    sizes.append(1)
    return steps, tensors, sizes


def test_wide_branches_run_one_after_the_other() -> None:
    count, tensors, sizes = branches(8, 4)
    given_peak = live(tuple(range(count)), tensors, sizes)
    found = best_order(count, tensors, sizes)
    assert found.is_best
    assert live(found.steps, tensors, sizes) == found.peak < given_peak / 3


def test_a_large_model_is_ordered_in_no_time_and_the_order_is_known_to_be_best() -> None:
    tensors, sizes, base = [Storage("in", INPUT, (0, 1, 2, 3), False)], [30], 0
    for block in range(100):  # a hundred blocks of four branches, one after the other
        last = base + 8
        for branch in range(4):
            first, second = base + branch, base + 4 + branch
            tensors += [Storage(f"a{first}", first, (second,), False), Storage(f"b{second}", second, (last,), False)]
            sizes += [40 + branch, 5]
        after = () if block == 99 else tuple(range(last + 1, last + 5))
        tensors.append(Storage(f"c{last}", last, after, block == 99))
        sizes.append(30)
        base = last + 1
    found = best_order(base, tensors, sizes)
    assert found.is_best
    assert found.peak < live(tuple(range(base)), tensors, sizes)


@pytest.mark.parametrize("max_states", [20_000, 0])
def test_a_chain_stays_as_it_is(max_states: int) -> None:
    tensors = [Storage("in", INPUT, (0,), False), *(Storage(f"t{i}", i, (i + 1,), False) for i in range(5))]
    tensors += [Storage("t5", 5, (6,), False), Storage("y", 6, (), True)]
    found = best_order(7, tensors, [3, 5, 1, 7, 2, 2, 4, 1], max_states=max_states)
    assert found.steps == tuple(range(7))
