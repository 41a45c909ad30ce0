"""A device that takes a known time for everything, and dies on demand; it can be named as MODULE:CLASS."""

from __future__ import annotations

import os
from collections.abc import Sequence

from graphopt.cost.kernels import decompose
from graphopt.cost.roofline import price
from graphopt.cost.workload import workload
from graphopt.ir.graph import Graph
from graphopt.measure.backend import Measurement, Refusal, Row
from graphopt.targets.target import load_target

NAME = "tests.measure.fake_device:FakeDevice"
REFUSES = "Resize"


class FakeDevice:
    """Twice the analytic price, and one microsecond for each kernel."""

    name = "fake"

    def __init__(self, config: str = "npu-32") -> None:
        self.target = load_target(config.partition("!")[0])
        self.deadly_ops = int(config.partition("!")[2] or 0)

    def version(self) -> str:
        return f"fake 1.0 {self.target.name}"

    def measure(self, graphs: Sequence[Graph]) -> list[Measurement | Refusal]:
        return [self._measure(graph) for graph in graphs]

    def _measure(self, graph: Graph) -> Measurement | Refusal:
        if len(graph) == self.deadly_ops:
            os._exit(11)
        if any(op.op_type == REFUSES for op in graph.ops()):
            return Refusal(graph.outputs[0], "no Resize on this device")
        rows = []
        for kernel in decompose(graph, self.target):
            load = workload(kernel, graph, lambda tensor: graph.static_shape(tensor) or ())
            rows.append(Row(kernel.ops, 2 * float(price(load, self.target).latency_us) + 1))
        return Measurement(sum(row.latency_us for row in rows), tuple(rows), 0.0)
