"""Measure on Arm Ethos-U NPUs by asking Arm's compiler: `vela` counts the cycles of every operator it schedules.

The model is written as int8 TFLite and compiled in this process through ``ethosu.regor`` (milliseconds a layer).
That interface is private, so where it is missing the ``vela`` command is asked instead; both answer with the same
tables. Vela's cycles are its performance model's, the same in every run, and the rows add up to the total.

Constants live in the slow memory and activations in SRAM (``Shared_Sram``): in the modes that keep activations in
DRAM, an isolated layer costs many times what it costs in a network.
"""

from __future__ import annotations

import configparser
import csv
import importlib.metadata
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import networkx as nx

from graphopt.errors import ConfigError, did_you_mean
from graphopt.ir.graph import Graph
from graphopt.measure.backend import Measurement, Refusal, Row
from graphopt.measure.tflite import convert
from graphopt.measure.tflite_file import TfModel
from graphopt.measure.tflite_writer import WeightSource

Table = Mapping[str, Sequence[str]]
"""One of Vela's tables, by column."""

MEMORY_MODE: Final = "Shared_Sram"
ARENA_BYTES: Final = 4 * 1024 * 1024
"""SRAM for activations. Networks that need more are run in stripes (cascades)."""

_TIMEOUT_S: Final = 600
_ON_CPU: Final = "Passthrough"


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One size of the family: Arm's name is ``ethos-<series>-<macs>``.

    Attributes:
        architecture: as the compiler names it.
        macs: multiply-accumulates per cycle of one core.
        cores: cores.
        system_config: section of Vela's own ``vela.ini`` that holds clock and bandwidths.
    """

    architecture: str
    macs: int
    cores: int
    system_config: str


_U55: Final = "Ethos_U55_High_End_Embedded"
_U65: Final = "Ethos_U65_High_End"

ACCELERATORS: Final[Mapping[str, Accelerator]] = {
    **{f"ethos-u55-{macs}": Accelerator("EthosU55", macs, 1, _U55) for macs in (32, 64, 128, 256)},
    "ethos-u65-256": Accelerator("EthosU65", 256, 1, _U65),
    "ethos-u65-512": Accelerator("EthosU65", 256, 2, _U65),
    **{f"ethos-u85-{macs}": Accelerator("EthosU85", macs, 1, "Ethos_U85_SYS_Flash_High") for macs in (128, 256)},
    **{f"ethos-u85-{macs}": Accelerator("EthosU85", macs, 1, "Ethos_U85_SYS_DRAM_Mid") for macs in (512, 1024)},
    "ethos-u85-2048": Accelerator("EthosU85", 2048, 1, "Ethos_U85_SYS_DRAM_High"),
}


@dataclass(frozen=True, slots=True)
class Report:
    """What the compiler says of one model.

    Attributes:
        total_cycles: cycles of one run.
        tables: ``perf``, ``source`` and ``group`` of its debug database.
    """

    total_cycles: int
    tables: Mapping[str, Table]


@dataclass(frozen=True, slots=True)
class Vela:
    """The backend ``vela`` for one accelerator.

    Attributes:
        accelerator: a key of `ACCELERATORS`.
        weights: weights of the measured model, see `measure.tflite`.
    """

    accelerator: str
    weights: WeightSource = "model"

    def __post_init__(self) -> None:
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
        """Compile each graph. An op that cannot be written, or runs on the CPU, refuses its graph."""
        return [self._measure(graph) for graph in graphs]

    def _measure(self, graph: Graph) -> Measurement | Refusal:
        written = convert(graph, weights=self.weights)
        if isinstance(written, Refusal):
            return written
        try:
            report = compile_report(written.content, ACCELERATORS[self.accelerator], self.accelerator)
        except CompilerError as error:
            return Refusal(graph.outputs[0], str(error))
        rows = cycle_rows(report, written.model)
        if isinstance(rows, Refusal):
            return rows
        clock_mhz = core_clock_mhz(ACCELERATORS[self.accelerator].system_config)
        return Measurement(
            total_us=report.total_cycles / clock_mhz,
            rows=tuple(Row(tensors, cycles / clock_mhz) for tensors, cycles in rows),
            spread=0.0,
        )


class CompilerError(Exception):
    """The compiler gave up on a model; the message is its own."""


def cycle_rows(report: Report, model: TfModel) -> list[tuple[tuple[str, ...], int]] | Refusal:
    """Return (ONNX tensors, cycles) for each kernel: what stands for the same ONNX ops, or was fused, is one.

    What Vela dissolved (a RESHAPE, a PAD that went into the convolution) is in no row, unless it was written for the
    sake of an op that has one.
    """
    perf, source, group = (report.tables[name] for name in ("perf", "source", "group"))
    place = {number: int(key) for number, key in zip(source["id"], source["ext_key"], strict=True)}
    leader = dict(zip(map(int, group["id"]), map(int, group["group_id"]), strict=True))
    order = {tensor: i for i, op in enumerate(model.ops) for tensor in op.covers}
    ran = nx.Graph()  # Vela's operators by number, ONNX tensors by name
    entries = zip(map(int, perf["id"]), perf["source_id"], perf["operator"], map(int, perf["op_cycles"]), strict=True)
    for number, source_id, operator, cycles in entries:
        op = model.ops[place[source_id]]
        if operator == _ON_CPU:
            return Refusal(op.covers[0], f"{op.kind} is left to the CPU, whose time Vela does not know")
        ran.add_node(number, cycles=cycles)
        ran.add_edges_from((number, tied) for tied in (*op.covers, leader.get(number, number)))
    rows = []
    for members in nx.connected_components(ran):
        tensors = sorted((name for name in members if name in order), key=order.__getitem__)
        rows.append((tuple(tensors), sum(ran.nodes[name].get("cycles", 0) for name in members)))
    return rows


def compile_report(content: bytes, accelerator: Accelerator, name: str) -> Report:
    """Compile a TFLite file.

    Raises:
        CompilerError: when the compiler rejects the file.
    """
    try:
        from ethosu import regor

        compile_ = regor.compile
    except (ImportError, AttributeError):
        return command_report(content, accelerator, name)
    config = (
        f"[architecture]\nmacs={accelerator.macs}\ncores={accelerator.cores}\n"
        f"[vela]\nsystem_config_name={accelerator.system_config}\nmemory_mode_name={MEMORY_MODE}\n"
        f"{_ini_path().read_text('utf-8')}"
    )
    options = (
        "\n[compiler]\nenable_db=true\noutput_format=TFLite\ncop_format=COP1\n\n[scheduler]\n"
        f"optimize=Performance\narena_size_limit={ARENA_BYTES}\ndisable_feature=\ncpu_tensor_alignment=16\n"
        "tensor_allocator=HillClimb\n\n[graph]\n"
    )
    try:
        compiled = compile_(accelerator.architecture, content, "TFLITE", config, options=options, verbose=False)
        tables = compiled.opt_database.tables
        total = int(compiled.perf_report.totalCycles)
    except AttributeError:  # another release of the private interface
        return command_report(content, accelerator, name)
    except (RuntimeError, ValueError) as error:
        raise CompilerError(f"Vela rejects the model: {error}") from error
    return Report(total, {key: _columns(list(table.header), table.data) for key, table in tables.items()})


def command_report(content: bytes, accelerator: Accelerator, name: str) -> Report:
    """Compile a TFLite file with the ``vela`` command.

    Raises:
        CompilerError: when it ends with an error or in more than ten minutes.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        file = Path(folder) / "model.tflite"
        file.write_bytes(content)
        command = [
            *(sys.executable, "-m", "ethosu.vela", str(file), "--output-dir", folder, "--enable-debug-db"),
            *("--accelerator-config", name, "--config", str(_ini_path())),
            *("--system-config", accelerator.system_config, "--memory-mode", MEMORY_MODE),
            *("--arena-cache-size", str(ARENA_BYTES)),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise CompilerError(f"the vela command did not end within {_TIMEOUT_S} s") from error
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise CompilerError(f"the vela command ended with code {done.returncode}: {said}")
        summary = next(Path(folder).glob("model_summary_*.csv"))
        row = next(csv.DictReader(summary.read_text("utf-8").splitlines()))
        debug = (Path(folder) / "model_debug.xml").read_text("utf-8")
    tables = {}
    for match in re.finditer(r'<table name="(\w+)">\s*<!\[CDATA\[\n(.*?)\n?\]\]>', debug, re.DOTALL):
        header, *data = csv.reader(match[2].splitlines())
        tables[match[1]] = _columns(header, data)
    return Report(round(float(row["cycles_total"])), tables)


def _columns(header: Sequence[str], data: Sequence[Sequence[Any]]) -> Table:
    return {name: [str(line[i]) for line in data] for i, name in enumerate(header)}


@lru_cache
def core_clock_mhz(system_config: str) -> float:
    """Clock of one of Vela's system configurations, MHz."""
    parser = configparser.ConfigParser()
    parser.read(_ini_path())
    return float(parser[f"System_Config.{system_config}"]["core_clock"]) / 1e6


def _ini_path() -> Path:
    import ethosu

    return Path(next(iter(ethosu.__path__))) / "config_files" / "Arm" / "vela.ini"
