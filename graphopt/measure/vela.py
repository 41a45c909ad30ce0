"""The backend ``vela``: Arm Ethos-U NPUs, measured by Arm's compiler, which counts the cycles of what it schedules.

A model is written as int8 TFLite and compiled. Vela's cycles are those of its own performance model, the same in every
run, and the rows add up to the total.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import networkx as nx

from graphopt.cost.learned import Unit
from graphopt.errors import ConfigError, did_you_mean
from graphopt.ir.graph import Graph
from graphopt.measure.backend import Measurement, Refusal, Row, busy_in_turn
from graphopt.measure.tflite import convert
from graphopt.measure.tflite_file import TfModel, TfOp
from graphopt.measure.tflite_writer import WeightSource
from graphopt.measure.vela_compiler import (
    ACCELERATORS,
    MEMORY_MODE,
    Failure,
    Report,
    Table,
    compile_files,
    core_clock_mhz,
)
from graphopt.onnx_io.fixed import fixed

_BATCH: Final = 16
"""Models that are held and compiled at once."""

_ON_CPU: Final = "Passthrough"

_UNITS: Final[Mapping[Unit, Sequence[str]]] = {
    "compute": ("npu_cycles",),
    "on-chip": ("Sram_ac",),
    "off-chip": ("OffChipFlash_ac", "Dram_ac"),
}
"""Columns of Vela's table: cycles of the MAC array, and of what reaches each memory."""


@dataclass(frozen=True, slots=True)
class Vela:
    """Measures on one accelerator.

    Attributes:
        accelerator: a key of `ACCELERATORS`.
        weights: weights of the measured models, see `measure.tflite`.
    """

    accelerator: str
    weights: WeightSource = "model"

    def __post_init__(self) -> None:
        """Check that the accelerator is known and the compiler is there.

        Raises:
            ConfigError: when either is not.
        """
        if self.accelerator not in ACCELERATORS:
            raise ConfigError(
                f"unknown accelerator {self.accelerator!r}{did_you_mean(self.accelerator, ACCELERATORS)}; "
                f"known: {', '.join(ACCELERATORS)}"
            )
        try:
            importlib.metadata.version("ethos-u-vela")
        except importlib.metadata.PackageNotFoundError as error:
            raise ConfigError("the backend 'vela' needs Arm's compiler: pip install 'graphopt[measure]'") from error

    @property
    def name(self) -> str:
        """``vela``."""
        return "vela"

    def version(self) -> str:
        """Compiler, accelerator, system configuration and memory mode."""
        version = importlib.metadata.version("ethos-u-vela")
        system = ACCELERATORS[self.accelerator].system_config
        return f"ethos-u-vela {version} {self.accelerator} {system} {MEMORY_MODE}"

    def measure(self, graphs: Sequence[Graph]) -> list[Measurement | Refusal]:
        """Compile each graph at the shapes it is priced for. An op that cannot be written, or is left to the CPU,
        refuses its graph."""
        found: list[Measurement | Refusal] = []
        for start in range(0, len(graphs), _BATCH):
            batch = graphs[start : start + _BATCH]
            written = [convert(fixed(graph), weights=self.weights) for graph in batch]
            files = [answer.content for answer in written if not isinstance(answer, Refusal)]
            reports = iter(compile_files(files, ACCELERATORS[self.accelerator]))
            for graph, answer in zip(batch, written, strict=True):
                if isinstance(answer, Refusal):
                    found.append(answer)
                else:
                    found.append(self._measurement(graph, answer.model, next(reports)))
        return found

    def _measurement(self, graph: Graph, model: TfModel, report: Report | Failure) -> Measurement | Refusal:
        if isinstance(report, Failure):
            return Refusal(graph.outputs[0], report.reason)
        clock_mhz = core_clock_mhz(ACCELERATORS[self.accelerator].system_config)
        rows = kernel_rows(report, model, clock_mhz)
        if isinstance(rows, Refusal):
            return rows
        return Measurement(report.total_cycles / clock_mhz, tuple(rows), spread=0.0)


def kernel_rows(report: Report, model: TfModel, clock_mhz: float) -> list[Row] | Refusal:
    """Return one row for each kernel: what stands for the same ONNX ops, or was fused, is one.

    What Vela dissolved (a RESHAPE, a PAD that went into the convolution) is in no row, unless it was written for the
    sake of an op that has one.
    """
    perf, source, group = (report.tables[name] for name in ("perf", "source", "group"))
    place = {number: int(key) for number, key in zip(source["id"], source["ext_key"], strict=True)}
    leader = dict(zip(map(int, group["id"]), map(int, group["group_id"]), strict=True))
    order = {tensor: i for i, tensor in enumerate(dict.fromkeys(name for op in model.ops for name in op.covers))}
    ran = nx.Graph()  # Vela's operators by number, ONNX tensors by name
    busy = _busy_us(perf, clock_mhz)
    entries = zip(map(int, perf["id"]), perf["source_id"], perf["operator"], map(int, perf["op_cycles"]), strict=True)
    for line, (number, source_id, operator, cycles) in enumerate(entries):
        op = model.ops[place[source_id]]
        if operator == _ON_CPU:
            return _left_to_cpu(op, model, report.said)
        ran.add_node(number, row=Row((), cycles / clock_mhz, busy[line]))
        ran.add_edges_from((number, tied) for tied in (*op.covers, leader.get(number, number)))
    rows = []
    for members in nx.connected_components(ran):
        tensors = sorted((name for name in members if name in order), key=order.__getitem__)
        parts = [ran.nodes[number]["row"] for number in sorted(name for name in members if name not in order)]
        rows.append(Row(tuple(tensors), sum(row.latency_us for row in parts), busy_in_turn(parts)))
    return rows


def _busy_us(perf: Table, clock_mhz: float) -> list[tuple[tuple[Unit, float], ...]]:
    """What keeps each operator's units busy. An operator takes the longest of these, to the cycle."""
    told = {unit: [perf[name] for name in names if name in perf] for unit, names in _UNITS.items()}
    cycles = {unit: [max(map(int, values)) for values in zip(*columns, strict=True)] for unit, columns in told.items()}
    return [
        tuple((unit, float(values[place]) / clock_mhz) for unit, values in cycles.items() if values)
        for place in range(len(perf["id"]))
    ]


def _left_to_cpu(op: TfOp, model: TfModel, said: str) -> Refusal:
    """Why an operator does not run on the NPU, as far as the compiler says it."""
    name = re.escape(model.tensors[op.outputs[0]].name)
    match = re.search(rf"operator: {op.kind}, ofm: '{name}'\s*Reason: *(.+)", said)
    reason = f" ({match[1].strip()})" if match else ""
    return Refusal(op.covers[0], f"{op.kind} is left to the CPU{reason}, whose time Vela does not know")
