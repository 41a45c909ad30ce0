"""From journal entries to what is learned and judged: each net with its kernels' workloads and measured latencies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from graphopt.cost.categories import Category
from graphopt.cost.kernels import Kernel, decompose
from graphopt.cost.learned import FAR
from graphopt.cost.workload import Workload, workload
from graphopt.errors import ModelError
from graphopt.ir.graph import Graph
from graphopt.measure.backend import Refusal
from graphopt.measure.fit import MeasuredKernel
from graphopt.measure.join import Group, join
from graphopt.measure.journal import Entry
from graphopt.measure.spec import NetFile, fingerprint, make_graph
from graphopt.targets.target import Target

LAYER_WEIGHT: Final = 0.3
"""How much a kernel of a net of one or two kernels counts: in a real net it would find its input on the chip."""

SINGLE: Final = "single"
"""The family of nets that are a layer or two."""

PARTS: Final = {"parts": 1, "parts-padding": 2, "parts-stem": 6, SINGLE: 3}
"""The families of nets that are a supplement (`graphopt.measure.nets.parts`), and for how many of the first there is
one of each."""

PART_WEIGHT: Final = 0.5
"""How much a kernel counts there if whole nets have few of its kind."""

SURROUNDING_WEIGHT: Final = 0.02
"""How much one counts there of a kind that every net is made of: the shapes are not those of nets."""

_EVERYWHERE: Final[frozenset[Category]] = frozenset({"conv-1x1", "conv-kxk", "depthwise", "matmul", "elementwise"})


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredNet:
    """One net: what it does and how long the device took.

    Attributes:
        key: which net.
        loads: workloads of its kernels, in running order.
        groups: measured latencies (none where the device tells the total only).
        total_us: measured latency of the whole net.
        spread: relative spread of the total from repeat to repeat.
    """

    key: str
    loads: tuple[Workload, ...]
    groups: tuple[Group, ...]
    total_us: float
    spread: float

    @property
    def is_isolated(self) -> bool:
        """Whether this is a layer or two, which in a real net would find their input on the chip."""
        return len(self.loads) <= 2


def measured_nets(
    entries: Iterable[Entry], target: Target, files: Mapping[str, NetFile] | None = None
) -> list[MeasuredNet]:
    """Make the nets of ``entries`` again and join them with what was measured; refused ones are left out.

    Raises:
        ModelError: when a net is not the one that was measured any more.
    """
    return [_measured(entry, target, files) for entry in entries if not isinstance(entry.answer, Refusal)]


def _measured(entry: Entry, target: Target, files: Mapping[str, NetFile] | None) -> MeasuredNet:
    return _joined(entry, target, files) if files and entry.key in files else _made_again(entry, target)


@lru_cache(maxsize=10_000)
def _made_again(entry: Entry, target: Target) -> MeasuredNet:
    """A campaign asks for the same nets in every round; making one again takes a twentieth of a second."""
    return _joined(entry, target, None)


def _joined(entry: Entry, target: Target, files: Mapping[str, NetFile] | None) -> MeasuredNet:
    answer = entry.answer
    assert not isinstance(answer, Refusal)
    graph = make_graph(entry.key, files)
    if fingerprint(graph) != entry.fingerprint:
        raise ModelError(
            f"{entry.key} is not the net that was measured: this graphopt makes other nets; take another folder"
        )
    kernels = decompose(graph, target)
    groups = join(graph, kernels, answer.rows) if answer.rows else ()
    return MeasuredNet(entry.key, _loads(graph, kernels), groups, answer.total_us, answer.spread)


def workloads(graph: Graph, target: Target) -> tuple[Workload, ...]:
    """The work of each kernel of a graph, in running order.

    Raises:
        ModelError: when a tensor has no static shape.
    """
    return _loads(graph, decompose(graph, target))


def _loads(graph: Graph, kernels: Sequence[Kernel]) -> tuple[Workload, ...]:
    return tuple(workload(kernel, graph, _shapes(graph)) for kernel in kernels)


def _shapes(graph: Graph) -> Callable[[str], Sequence[int]]:
    def shape_of(tensor: str) -> Sequence[int]:
        shape = graph.static_shape(tensor)
        if shape is None:
            raise ModelError(f"tensor {tensor!r} has no static shape; fix the inputs' shapes (--input-shape)")
        return shape

    return shape_of


def measured_kernels(nets: Iterable[MeasuredNet]) -> list[MeasuredKernel]:
    """The kernels whose own latency is known."""
    return [
        MeasuredKernel(
            load := net.loads[group.kernels[0]], group.latency_us, net.key, _weight(net, load), group.busy_us
        )
        for net in nets
        for group in net.groups
        if group.is_single
    ]


def _weight(net: MeasuredNet, load: Workload) -> float:
    family = net.key.partition(":")[0]
    if family in PARTS and family != SINGLE:
        usual = load.category in _EVERYWHERE and max(load.stride_height, load.stride_width) <= FAR
        return SURROUNDING_WEIGHT if usual else PART_WEIGHT
    return LAYER_WEIGHT if net.is_isolated else 1.0
