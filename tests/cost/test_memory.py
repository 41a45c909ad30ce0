"""Lifetimes, and the arena against a checker, a bound and brute force."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.cost.kernels import decompose
from graphopt.cost.memory import activation_lifetimes, arena, peak_activation_bytes, place
from graphopt.ir.liveness import Lifetime, lifetimes
from graphopt.targets.target import load_target
from tests.cost.builder import Builder, inverted_bottleneck
from tests.cost.live_set import live_set

NPU = load_target("npu-32")
CPU = load_target("cpu-x86-64")


def spans_of(*spans: tuple[int, int]) -> list[Lifetime]:
    return [Lifetime(f"t{i}", first, last) for i, (first, last) in enumerate(spans)]


def test_lifetimes_of_a_residual_block() -> None:
    graph = inverted_bottleneck(8, 16, 16, 1, fused=False)
    kernels = decompose(graph, NPU)
    assert activation_lifetimes(graph, kernels) == (
        Lifetime("in0", 0, 2),
        Lifetime("clip1", 0, 1),
        Lifetime("clip3", 1, 2),
        Lifetime("add5", 2, 2),
    )
    # 16-channel input, both hidden tensors
    assert peak_activation_bytes(graph, kernels, NPU) == 64 * (16 + 96 + 96)
    assert peak_activation_bytes(graph, kernels, CPU) == 4 * 64 * (16 + 96 + 96)
    fused = inverted_bottleneck(8, 16, 16, 1, fused=True)
    assert peak_activation_bytes(fused, decompose(fused, NPU), NPU) == 64 * (16 + 96 + 16)


def test_views_share_memory_and_pass_their_uses_on() -> None:
    m = Builder()
    x = m.conv(m.input(1, 8, 4, 4), 8)
    flat = m.op("Flatten", [x], (1, 128))
    y = m.conv(x, 8)
    again = m.op("Identity", [flat], (1, 128))
    graph = m.graph(m.unary("Softmax", y), m.unary("Softmax", again), flat)
    spans = lifetimes(graph, [kernel.ops for kernel in decompose(graph, NPU)])
    assert [span.tensor for span in spans] == ["in0", x, y, "softmax4", "softmax5"]
    assert (spans[1].first, spans[1].last) == (0, 3)  # flat is an output: to the end
    assert (spans[0].first, spans[0].last) == (0, 0)


def test_inputs_outputs_and_tensors_that_nobody_reads() -> None:
    m = Builder()
    unused, x = m.input(1, 8), m.input(1, 8, 4, 4)
    first = m.conv(x, 8)
    dead = m.unary("Softmax", first)
    last = m.conv(x, 8)
    graph = m.graph(first, last)
    spans = {s.tensor: (s.first, s.last) for s in lifetimes(graph, [[op.key] for op in graph.ops()])}
    assert spans == {unused: (0, 0), x: (0, 2), first: (0, 2), dead: (1, 1), last: (2, 2)}


def test_placement_by_hand() -> None:
    # a (50 -> 64) and c (33 -> 48) share nothing in time; b (20 -> 32) lives throughout
    spans = spans_of((0, 1), (0, 3), (2, 3))
    assert place(spans, [50, 20, 33]) == (0, 64, 0)
    assert arena(spans, [50, 20, 33]) == 96
    assert arena([], []) == 0


def test_equal_sizes_place_the_later_tensor_first() -> None:
    assert place(spans_of((0, 1), (1, 2)), [16, 16]) == (16, 0)


def test_a_gap_is_used() -> None:
    # big (0..0) leaves room below the long-lived tensor above it
    spans = spans_of((0, 0), (0, 2), (1, 1), (2, 2))
    assert place(spans, [160, 80, 64, 48]) == (0, 160, 0, 0)


def test_a_gap_that_fits_to_the_byte_is_used() -> None:
    spans = spans_of((0, 2), (0, 0), (0, 2), (1, 1), (1, 1))
    assert place(spans, [160, 96, 80, 64, 32]) == (0, 160, 256, 160, 224)


SPANS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(0, 200)).map(lambda t: (t[0], t[0] + t[1], t[2])),
    min_size=1,
    max_size=12,
)


@given(SPANS)
def test_tensors_that_live_together_never_overlap(drawn: list[tuple[int, int, int]]) -> None:
    spans, sizes = spans_of(*((first, last) for first, last, _ in drawn)), [size for _, _, size in drawn]
    offsets = place(spans, sizes)
    for i, a in enumerate(spans):
        assert offsets[i] % 16 == 0
        for j, b in enumerate(spans[:i]):
            if a.first <= b.last and b.first <= a.last:
                assert offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]
    peak = arena(spans, sizes)
    assert max(o + size for o, size in zip(offsets, sizes, strict=True)) <= peak
    assert live_set(spans, sizes) <= peak <= sum(-(-size // 16) * 16 for size in sizes)


def best_arena(spans: list[Lifetime], sizes: list[int]) -> int:
    """The smallest arena of all orders of lowest-offset placement, an independent few lines; sizes in 16 bytes."""
    best = sum(sizes)
    for order in permutations(range(len(spans))):
        offsets: dict[int, int] = {}
        for i in order:
            others = sorted(
                (offsets[j], offsets[j] + sizes[j])
                for j in offsets
                if spans[i].first <= spans[j].last and spans[j].first <= spans[i].last
            )
            ends = [0, *(end for _, end in others)]
            offsets[i] = min(
                start for start in ends if all(start + sizes[i] <= low or high <= start for low, high in others)
            )
        best = min(best, max(offsets[i] + sizes[i] for i in offsets))
    return best


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(1, 9)), min_size=1, max_size=5).map(
        lambda drawn: [(first, first + length, size) for first, length, size in drawn]
    )
)
def test_arena_is_near_the_optimum_and_above_the_live_set(drawn: list[tuple[int, int, int]]) -> None:
    spans, sizes = spans_of(*((first, last) for first, last, _ in drawn)), [size for _, _, size in drawn]
    optimum = 16 * best_arena(spans, sizes)
    peak = arena(spans, [16 * size for size in sizes])
    assert live_set(spans, [16 * size for size in sizes]) <= optimum <= peak <= 2 * optimum
