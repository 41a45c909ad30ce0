"""Print how fast graphopt is: `python -m tests.benchmarks.speed [MODEL] [--runs N]`.

Four figures, each with its goal:

* CPU time of a whole `graphopt optimize MODEL --target npu-32 -o OUT` (exact rules, no report), children included,
  against a process that only loads the model, infers shapes and opens an onnxruntime session. They alternate; the
  figure is the ratio of their medians. A second row leaves out the proof, which runs both models.
* wall time of `graphopt --help`;
* candidates that the price table prices in a second;
* peak memory of the `optimize` process and its children, against three times the model file plus 200 MB.

Nothing here is a test: a busy machine must not turn a build red. Linux only (it reads /proc).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphopt.prepare import find_catalog, find_rules, open_space, open_subject
from graphopt.results import Options
from graphopt.search.objective import Constraints, Scorer
from graphopt.space.compiler import compile_table

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = "npu-32"
GRAPHOPT = "import sys; from graphopt.cli import main; sys.exit(main())"
BASELINE = """
import sys, onnx, onnxruntime
onnx.shape_inference.infer_shapes(onnx.load(sys.argv[1]))
onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
"""
POLL_S = 0.005
BATCH = 1024


@dataclass(frozen=True)
class Spent:
    """What one process and its children took."""

    cpu_s: float
    wall_s: float
    peak_bytes: int


def spend(code: str, *arguments: str, watch_memory: bool = False) -> Spent:
    """Run Python ``code`` in a process of its own; peak memory is measured only when it is watched (that costs CPU)."""
    # An installation has its bytecode; a checkout may have been told not to keep any.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        peak = watch(process.pid) if watch_memory else 0
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - started
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{arguments} ended with {process.returncode}:\n{log.read().decode()}")
    return Spent(usage.ru_utime + usage.ru_stime, wall_s, max(peak, usage.ru_maxrss * 1024 if watch_memory else 0))


def watch(pid: int) -> int:
    """Return the peak of the memory of ``pid`` and its children (each shared page counted once), until it ends."""
    peak = 0
    while (now := tree_bytes(pid)) is not None:
        peak = max(peak, now)
        time.sleep(POLL_S)
    return peak


def tree_bytes(pid: int) -> int | None:
    """Return the proportional set size of a process and its descendants; ``None`` once it is gone or a zombie."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text("ascii").split()]
    except OSError:
        return None
    own = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return own + sum(tree_bytes(child) or 0 for child in children)


def candidates_per_second(model: str) -> tuple[float, int]:
    """Score random candidates, batch after batch, for about a second.

    Returns:
        How many were scored in a second of CPU time, and how many decisions a candidate has: every rule of the
        default pack is in force, whatever it does to accuracy, with depth multipliers to choose from.
    """
    options = Options(target=TARGET, allow="retrain", depth_multipliers=(0.5, 0.75, 1.0))
    subject = open_subject(model, TARGET)
    catalog = find_catalog(options)
    space = open_space(subject, find_rules(catalog, subject.target, options), catalog, options)
    scorer = Scorer(compile_table(space, subject.target), "latency", Constraints())
    rng = np.random.default_rng(0)
    candidates = rng.integers(0, scorer.table.sizes, size=(BATCH, len(scorer.table.sizes)))
    scorer(candidates)
    scored, started = 0, time.process_time()
    while (taken_s := time.process_time() - started) < 1.0:
        scorer(candidates)
        scored += BATCH
    return scored / taken_s, len(scorer.table.sizes)


def repeat(times: int, *runs: Callable[[], Spent]) -> list[list[Spent]]:
    """Alternate ``runs``; one unmeasured round first fills the disk cache."""
    for run in runs:
        run()
    rounds = [[run() for run in runs] for _ in range(times)]
    return [list(column) for column in zip(*rounds, strict=True)]


def line(what: str, figure: str, goal: str, met: bool) -> None:
    """Print one row."""
    print(f"{what:<34} {figure:<44} goal {goal:<24} {'met' if met else 'MISSED'}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Print how fast graphopt is on a model.")
    parser.add_argument("model", nargs="?", default=str(ROOT / "sample_models" / "fashion_classifier.onnx"))
    parser.add_argument("--runs", type=int, default=7, help="measured runs of each process")
    options = parser.parse_args()
    model = str(Path(options.model).resolve())
    size = Path(model).stat().st_size
    print(f"{model} ({size / 1e6:.1f} MB), target {TARGET}, median of {options.runs} alternated runs")

    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "out.onnx")

        def optimize(*more: str, watch_memory: bool = False) -> Spent:
            arguments = ("optimize", model, "--target", TARGET, "-o", out, "--force", *more)
            return spend(GRAPHOPT, *arguments, watch_memory=watch_memory)

        columns = repeat(options.runs, optimize, lambda: optimize("--no-verify"), lambda: spend(BASELINE, model))
        proved_s, unproved_s, bare_s = (statistics.median(run.cpu_s for run in column) for column in columns)
        for what, cpu_s in (("CPU time of optimize", proved_s), ("the same with --no-verify", unproved_s)):
            ratio = cpu_s / bare_s
            line(what, f"{ratio:.2f}x ({cpu_s:.2f} s against {bare_s:.2f} s)", "<= 3x", ratio <= 3)

        (helped,) = repeat(options.runs, lambda: spend(GRAPHOPT, "--help"))
        help_s = statistics.median(run.wall_s for run in helped)
        line("wall time of --help", f"{help_s:.3f} s", "< 0.3 s", help_s < 0.3)

        rate, decisions = candidates_per_second(model)
        line("pricing", f"{rate:,.0f} candidates/s of {decisions} decisions", ">= 200,000/s", rate >= 200_000)

        peak, limit = optimize(watch_memory=True).peak_bytes, 3 * size + 200_000_000
        line("peak memory of optimize", f"{peak / 1e6:.0f} MB", f"<= {limit / 1e6:.0f} MB", peak <= limit)


if __name__ == "__main__":
    main()
