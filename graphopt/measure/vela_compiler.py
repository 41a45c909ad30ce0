"""Arm's compiler for Ethos-U, asked for the cycles of TFLite files.

`compile_files` compiles in a worker process through ``ethosu.regor``, milliseconds a layer. That interface is private:
where this release does not have it as expected, the ``vela`` command is run for each file. Both answer with the same
tables.
"""

from __future__ import annotations

import configparser
import csv
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

Table = Mapping[str, Sequence[str]]
"""One of Vela's tables, by column."""

MEMORY_MODE: Final = "Shared_Sram"
"""Constants in the slow memory, activations in SRAM. In the modes that keep activations in DRAM, an isolated layer
costs many times what it costs in a network."""

ARENA_BYTES: Final = 4 * 1024 * 1024
"""SRAM for activations. Networks that need more are run in stripes (cascades)."""

_TIMEOUT_S: Final = 600
_SCRIPT: Final = Path(__file__).with_name("vela_process.py")
_OPTIONS: Final = (
    "\n[compiler]\nenable_db=true\noutput_format=TFLite\ncop_format=COP1\n\n[scheduler]\noptimize=Performance\n"
    f"arena_size_limit={ARENA_BYTES}\ndisable_feature=\ncpu_tensor_alignment=16\ntensor_allocator=HillClimb\n\n[graph]\n"
)


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One size of the family.

    Attributes:
        name: as Arm names it: ``ethos-<series>-<macs>``.
        architecture: as the compiler names it.
        macs: multiply-accumulates per cycle of one core.
        cores: cores.
        system_config: section of Vela's own ``vela.ini`` that holds clock and bandwidths.
    """

    name: str
    architecture: str
    macs: int
    cores: int
    system_config: str


def _family() -> dict[str, Accelerator]:
    sizes = [("u55", macs, 1, "Ethos_U55_High_End_Embedded") for macs in (32, 64, 128, 256)]
    sizes += [("u65", 256, cores, "Ethos_U65_High_End") for cores in (1, 2)]
    sizes += [("u85", macs, 1, "Ethos_U85_SYS_Flash_High") for macs in (128, 256)]
    sizes += [("u85", macs, 1, "Ethos_U85_SYS_DRAM_Mid") for macs in (512, 1024)]
    sizes += [("u85", 2048, 1, "Ethos_U85_SYS_DRAM_High")]
    members = [
        Accelerator(f"ethos-{series}-{macs * cores}", f"Ethos{series.upper()}", macs, cores, system)
        for series, macs, cores, system in sizes
    ]
    return {member.name: member for member in members}


ACCELERATORS: Final[Mapping[str, Accelerator]] = _family()


@dataclass(frozen=True, slots=True)
class Report:
    """What the compiler says of one model.

    Attributes:
        total_cycles: cycles of one run.
        tables: ``perf``, ``source`` and ``group`` of its debug database.
        said: what it printed.
    """

    total_cycles: int
    tables: Mapping[str, Table]
    said: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a file was not compiled, in one line."""

    reason: str


def compile_files(contents: Sequence[bytes], accelerator: Accelerator) -> list[Report | Failure]:
    """Compile TFLite files. One that crashes the compiler fails alone."""
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        folder = Path(name)
        config = (
            f"[architecture]\nmacs={accelerator.macs}\ncores={accelerator.cores}\n"
            f"[vela]\nsystem_config_name={accelerator.system_config}\nmemory_mode_name={MEMORY_MODE}\n"
            f"{_ini_path().read_text('utf-8')}"
        )
        request = {"architecture": accelerator.architecture, "config": config, "options": _OPTIONS}
        (folder / "request.json").write_text(json.dumps(request), "utf-8")
        for number, content in enumerate(contents):
            (folder / f"model-{number}.tflite").write_bytes(content)
        found: list[Report | Failure] = []
        while len(found) < len(contents):
            found += _ask(folder, range(len(found), len(contents)), accelerator)
        return found


def _ask(folder: Path, numbers: Sequence[int], accelerator: Accelerator) -> list[Report | Failure]:
    """One run of the worker process: an answer for each file up to the one that it died of."""
    command = [sys.executable, "-P", str(_SCRIPT), str(folder), *map(str, numbers)]
    death = _run(command, _TIMEOUT_S * len(numbers), "the compiler")
    found: list[Report | Failure] = []
    for number in numbers:
        file = folder / f"answer-{number}.json"
        if not file.is_file():
            return [*found, Failure(death or "the compiler gave no answer")]
        answer = json.loads(file.read_text("utf-8"))
        said = (folder / f"said-{number}.txt").read_text("utf-8", errors="replace")
        if "missing" in answer:
            found.append(compile_by_command((folder / f"model-{number}.tflite").read_bytes(), accelerator))
        elif "error" in answer:
            found.append(Failure(f"Vela rejects the model: {answer['error']}"))
        else:
            tables = {name: _columns(*lines) for name, lines in answer["tables"].items()}
            found.append(Report(answer["total_cycles"], tables, said))
    return found


def compile_by_command(content: bytes, accelerator: Accelerator) -> Report | Failure:
    """Compile one TFLite file with the ``vela`` command."""
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(content)
        command = [
            *(sys.executable, "-m", "ethosu.vela", str(folder / "model.tflite"), "--output-dir", str(folder)),
            *("--accelerator-config", accelerator.name, "--config", str(_ini_path()), "--enable-debug-db"),
            *("--system-config", accelerator.system_config, "--memory-mode", MEMORY_MODE),
            *("--arena-cache-size", str(ARENA_BYTES)),
        ]
        death = _run(command, _TIMEOUT_S, "the vela command", folder / "said.txt")
        if death:
            return Failure(death)
        summary = next(folder.glob("model_summary_*.csv")).read_text("utf-8")
        total = round(float(next(csv.DictReader(summary.splitlines()))["cycles_total"]))
        debug = (folder / "model_debug.xml").read_text("utf-8")
        said = (folder / "said.txt").read_text("utf-8", errors="replace")
    parts = re.finditer(r'<table name="(\w+)">\s*<!\[CDATA\[\n(.*?)\n?\]\]>', debug, re.DOTALL)
    return Report(total, {part[1]: _columns(*csv.reader(part[2].splitlines())) for part in parts}, said)


def _run(command: Sequence[str], timeout_s: float, what: str, said: Path | None = None) -> str:
    """Run a command; how it died, ``""`` when it did not."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return f"{what} was stopped after {timeout_s:g} s"
    if said is not None:
        said.write_bytes(done.stdout)
    if done.returncode < 0:
        return f"{what} crashed ({signal.Signals(-done.returncode).name})"
    if done.returncode:
        lines = (done.stderr or done.stdout).decode("utf-8", errors="replace").strip().splitlines()
        return f"{what} ended with code {done.returncode}: {lines[-1] if lines else 'no message'}"
    return ""


def _columns(header: Sequence[str], *lines: Sequence[str]) -> Table:
    return {name: [str(line[place]) for line in lines] for place, name in enumerate(header)}


@lru_cache
def core_clock_mhz(system_config: str) -> float:
    """Clock of one of Vela's system configurations, MHz."""
    parser = configparser.ConfigParser()
    parser.read(_ini_path(), "utf-8")
    return float(parser[f"System_Config.{system_config}"]["core_clock"]) / 1e6


def _ini_path() -> Path:
    import ethosu

    return Path(next(iter(ethosu.__path__))) / "config_files" / "Arm" / "vela.ini"
