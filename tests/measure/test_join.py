from __future__ import annotations

import pytest

from graphopt.cost.kernels import decompose
from graphopt.ir.graph import Graph
from graphopt.measure.backend import Row, busy_in_turn
from graphopt.measure.join import Group, join
from graphopt.targets.target import load_target
from tests.cost.builder import Builder

TARGET = load_target("npu-32")


def net() -> tuple[Graph, dict[str, str]]:
    """conv + relu, pool, conv, a view of it, and a fully connected layer: four kernels on the target."""
    b = Builder()
    x = b.input(1, 8, 8, 8)
    names = {"conv": b.conv(x, 16)}
    names["relu"] = b.op("Relu", [names["conv"]], (1, 16, 8, 8))
    names["pool"] = b.op("MaxPool", [names["relu"]], (1, 16, 4, 4), kernel_shape=(2, 2))
    names["second"] = b.conv(names["pool"], 8)
    names["flat"] = b.op("Flatten", [names["second"]], (1, 128))
    names["fc"] = b.op("Gemm", [names["flat"], b.weight(128, 10)], (1, 10))
    return b.graph(names["fc"]), names


def joined(*rows: tuple[float, tuple[str, ...]]) -> tuple[Group, ...]:
    graph, names = net()
    kernels = decompose(graph, TARGET)
    assert len(kernels) == 4
    return join(graph, kernels, [Row(tuple(names.get(t, t) for t in tensors), us) for us, tensors in rows])


def test_rows_that_line_up_are_the_kernels_own() -> None:
    groups = joined((1.0, ("conv", "relu")), (2.0, ("pool",)), (3.0, ("second",)), (4.0, ("fc",)))
    assert groups == (Group((0,), 1.0), Group((1,), 2.0), Group((2,), 3.0), Group((3,), 4.0))
    assert all(group.is_single for group in groups)


def test_rows_inside_a_kernel_are_added_up() -> None:
    assert joined((1.0, ("conv",)), (0.5, ("relu",)), (2.0, ("pool",)))[0] == Group((0,), 1.5)


def test_units_are_busy_in_turn() -> None:
    first = Row(("conv",), 10.0, (("compute", 10.0), ("off-chip", 2.0)))
    second = Row(("relu",), 6.0, (("compute", 1.0), ("off-chip", 6.0)))
    free = Row(("more",), 0.0)
    assert busy_in_turn([first, free]) == first.busy_us
    # 11 and 8 in 16 microseconds, as each waits for the other: the longest is stretched to the whole
    assert dict(busy_in_turn([first, free, second])) == pytest.approx({"compute": 16.0, "off-chip": 8 * 16 / 11})
    assert busy_in_turn([first, Row(("untold",), 1.0)]) == ()
    assert busy_in_turn([]) == busy_in_turn([free]) == ()
    graph, names = net()
    rows = [Row((names["conv"],), 10.0, first.busy_us), Row((names["relu"],), 6.0, second.busy_us)]
    joined_up = join(graph, decompose(graph, TARGET), rows)[0]
    assert (joined_up.latency_us, joined_up.busy_us) == (16.0, busy_in_turn([first, second]))


def test_a_row_over_several_kernels_makes_them_a_group() -> None:
    groups = joined((1.0, ("conv", "relu")), (5.0, ("second", "pool")), (0.5, ("second",)), (4.0, ("fc",)))
    assert groups == (Group((0,), 1.0), Group((1, 2), 5.5), Group((3,), 4.0))
    assert [group.is_single for group in groups] == [True, False, True]


def test_chains_of_shared_rows_are_one_group() -> None:
    groups = joined((1.0, ("second", "fc")), (2.0, ("relu", "pool")), (4.0, ("pool", "second")))
    assert groups == (Group((0, 1, 2, 3), 7.0),)


def test_a_copied_view_counts_where_its_data_comes_from() -> None:
    assert joined((3.0, ("second",)), (1.0, ("flat",)))[2] == Group((2,), 4.0)


def test_kernels_without_a_row_took_no_time_and_unknown_rows_are_left_out() -> None:
    groups = joined((3.0, ("second",)), (9.0, ("of the device's own",)))
    assert [group.latency_us for group in groups] == [0.0, 0.0, 3.0, 0.0]
