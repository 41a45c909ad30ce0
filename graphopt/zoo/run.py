"""Optimise every model of a folder, each in a process of its own: what kills one leaves the others alone."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from graphopt.errors import ConfigError
from graphopt.prepare import check_repair_steps
from graphopt.results import OptimizeResult, Options, ZooRow
from graphopt.zoo.journal import Journal
from graphopt.zoo.numbers import numbers_of
from graphopt.zoo.one import JOB, RESULT, Job

NEEDS_SHAPES = "--input-shape"
"""Part of the message of a model that only lacks concrete shapes: it is skipped, not failed."""


def optimize_zoo(
    folder: str | Path,
    output_folder: str | Path,
    options: Options | None = None,
    *,
    jobs: int = 1,
    force: bool = False,
    timeout_s: float = 3600.0,
    on_row: Callable[[ZooRow, int], None] | None = None,
) -> tuple[ZooRow, ...]:
    """Optimise all `*.onnx` below ``folder`` into the same layout below ``output_folder``.

    Every model ends in an outcome: *optimized*; *unchanged* (a copy is written); *skipped* (it needs
    ``--input-shape``, or its output is a file that is not ours); *failed* (it cannot be read, its process crashed or
    ran out of time, a constraint is out of reach, or the proof did not hold). Each finished model is written to the
    journal ``graphopt-zoo.json`` at once, so that an interrupted run goes on where it stopped; models that are
    optimized or unchanged are done again only when the model, the options or graphopt's version changed.
    ``graphopt-zoo.csv`` holds the same table.

    Args:
        folder: where the models are.
        output_folder: where the results go; it is made if it is not there, and never searched for models.
        options: as for `optimize`. Input shapes for inputs that a model does not have are ignored. A model's own
            calibration data is ``<name>.npz``, ``<name>.npy`` or a folder of images ``<name>`` in the folder that
            ``calibration`` names; the others share what lies there, or the file. A model whose inputs the shared set
            does not fit is optimized without, and its row's ``reason`` says so.
        jobs: processes at a time.
        force: do all models again, and replace files that are not ours.
        timeout_s: wall-clock limit for each model.
        on_row: called for each row when it is there, with the number of models of the whole run.

    Returns:
        One row for each model, sorted by path.

    Raises:
        ConfigError: ``folder`` is no folder or holds no models, ``output_folder`` is ``folder``, there is no
            calibration data, or gradient steps are asked for and cannot be made.
        KeyboardInterrupt: what is running is stopped; what is finished stays.
    """
    folder, output_folder = Path(folder), Path(output_folder)
    options = options or Options()
    check_repair_steps(options)
    names = _find(folder, output_folder)
    if options.calibration is not None and not Path(options.calibration).exists():
        raise ConfigError("no such file or folder", file=options.calibration)
    output_folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(output_folder, options)
    runner = _Runner(folder, output_folder, options, timeout_s)
    rows: list[ZooRow] = []

    def done(row: ZooRow) -> None:
        rows.append(row)
        if on_row is not None:
            on_row(row, len(names))

    todo = []
    for name in names:
        finished = None if force else journal.finished(name, folder / name)
        if finished is not None:
            done(finished)
        elif not force and not journal.ours(name) and (output_folder / name).exists():
            done(ZooRow(name, "skipped", f"{output_folder / name} exists already; --force replaces it", 0.0))
        else:
            todo.append(name)
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        futures: list[Future[ZooRow]] = [pool.submit(runner.run, name) for name in todo]
        try:
            for future in as_completed(futures):
                row = future.result()
                journal.add(row, folder / row.model)
                done(row)
        except BaseException:
            runner.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    rows.sort(key=lambda row: row.model)
    journal.write_table(rows)
    return tuple(rows)


def _find(folder: Path, output_folder: Path) -> list[str]:
    """Models below ``folder``, as relative paths with forward slashes, sorted; results are none of them."""
    if not folder.is_dir():
        raise ConfigError("is no folder", file=str(folder))
    if folder.resolve() == output_folder.resolve():
        raise ConfigError("results must go to another folder than the models'", file=str(output_folder))
    if output_folder.exists() and not output_folder.is_dir():
        raise ConfigError("is no folder", file=str(output_folder))
    results = output_folder.resolve()
    found = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.onnx")
        if path.is_file() and results not in path.resolve().parents
    ]
    if not found:
        raise ConfigError("there are no *.onnx files below it", file=str(folder))
    return sorted(found)


class _Runner:
    """Starts the processes, and can stop them."""

    def __init__(self, folder: Path, output_folder: Path, options: Options, timeout_s: float) -> None:
        self.folder = folder.absolute()
        self.output_folder = output_folder.absolute()
        self.options = options
        self.timeout_s = timeout_s
        self._lock = threading.Lock()
        self._stopped = False
        self._running: set[subprocess.Popen[bytes]] = set()

    def run(self, name: str) -> ZooRow:
        """Optimise one model in a process of its own."""
        start = time.monotonic()
        output = self.output_folder / name
        plan = output.with_name(f"{output.stem}.plan.toml")
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            answer = self._ask(Job(name, self.folder / name, output, plan, self.options))
        except OSError as error:
            answer = f"{error.filename or output}: {error.strerror or error}"
        row = self._row(name, answer, time.monotonic() - start)
        if row.outcome in ("skipped", "failed"):  # what an earlier run left there is no result of this one
            output.unlink(missing_ok=True)
            plan.unlink(missing_ok=True)
        return row

    def stop(self) -> None:
        """Stop what is running; start nothing more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                _kill(process)

    def _ask(self, job: Job) -> OptimizeResult | str:
        """Return the result, or why there is none."""
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with tempfile.TemporaryDirectory(prefix="graphopt-zoo-") as place:
            (Path(place) / JOB).write_bytes(pickle.dumps(job))
            with (Path(place) / "log").open("wb") as log:
                with self._lock:
                    if self._stopped:
                        return "interrupted"
                    process = subprocess.Popen(
                        [sys.executable, "-P", "-m", "graphopt.zoo.one", place],
                        stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
                    )  # fmt: skip
                    self._running.add(process)
                try:
                    process.wait(self.timeout_s)
                except subprocess.TimeoutExpired:
                    return f"stopped after {self.timeout_s:g} s"
                finally:
                    _kill(process)
                    process.wait()
                    with self._lock:
                        self._running.discard(process)
            result = Path(place) / RESULT
            if result.is_file():
                answer: OptimizeResult | str = pickle.loads(result.read_bytes())  # our own process wrote it
                return answer
            return _death(process.returncode, (Path(place) / "log").read_text("utf-8", errors="replace"))

    def _row(self, name: str, answer: OptimizeResult | str, seconds: float) -> ZooRow:
        if isinstance(answer, str):
            reason = answer.removeprefix(f"{self.folder / name}: ")
            return ZooRow(name, "skipped" if NEEDS_SHAPES in reason else "failed", reason, seconds)
        result = replace(answer, model=str(self.folder / name))
        reason = result.reason or ("" if result.drift is None else result.drift.reason)
        return ZooRow(name, result.outcome, reason, seconds, numbers_of(result), result)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and what it started (it leads a session of its own)."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):
        pass


def _death(code: int, log: str) -> str:
    """Why a process left no result."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"its process was killed ({name})" + (", most likely out of memory" if name == "SIGKILL" else "")
    lines = log.strip().splitlines()
    return f"its process ended with code {code}: {lines[-1] if lines else 'no message'}"
