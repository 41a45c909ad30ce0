"""Work for onnxruntime in a process of its own, so that a native crash or a hang ends there and not here.

Starting the process costs about 0.2 s of CPU time, so it is kept for the next list of tasks. Each task ends in an
:class:`Answer` or a :class:`Failure`; when the process dies, the tasks that were done keep their answers, the one that
was running gets the blame, and the next list gets a new process.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from graphopt.ir.op import Array

Optimisation = Literal["none", "basic", "all"]

_SCRIPT = Path(__file__).with_name("worker_process.py")


@dataclass(frozen=True, slots=True)
class Task:
    """One job.

    Attributes:
        kind: ``open`` only makes a session; ``optimise`` makes one that writes the optimised model to ``out``;
            ``run`` runs the model on each of ``inputs``; ``shapes`` runs it and brings back shapes and types only.
        model: the ONNX file.
        out: where ``optimise`` writes.
        optimisation: onnxruntime's graph optimisation level.
        inputs: for each run, the fed tensors by name (plain numpy types; strings as unicode arrays).
        outputs: names of the outputs to bring back, ``None`` for all.
    """

    kind: Literal["open", "optimise", "run", "shapes"]
    model: Path
    out: Path | None = None
    optimisation: Optimisation = "all"
    inputs: tuple[Mapping[str, Array], ...] = ()
    outputs: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a task brought back.

    Attributes:
        runs: for each run, the outputs by name. A tensor is an array; a sequence is a list, a map a dict of them and
            an empty optional ``None``. For ``shapes``: the (dtype name, shape) pair of each output, ``None`` for
            what is no tensor.
    """

    runs: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task brought nothing back: one line. ``crashed`` if the process died or ran out of time."""

    reason: str
    crashed: bool = False


@dataclass(slots=True)
class _Arrays:
    """The arrays of one npz file while it is filled."""

    values: dict[str, Array] = field(default_factory=dict)

    def put(self, array: Array) -> int:
        key = len(self.values)
        self.values[str(key)] = array.astype(str) if array.dtype == object else array
        return key


def work(tasks: Sequence[Task], *, timeout_s: float = 300.0) -> tuple[Answer | Failure, ...]:
    """Do ``tasks`` in order in the worker process.

    The process is started when it is first needed and stays for the next call; one that died is replaced.

    Args:
        tasks: what to do.
        timeout_s: wall-clock limit for all of them together.

    Returns:
        One answer or failure for each task. Tasks after one that crashed the process are failures, too.
    """
    if not tasks:
        return ()
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        folder = Path(name)
        arrays = _Arrays()
        orders = [_order(task, arrays) for task in tasks]
        np.savez(folder / "request.npz", **arrays.values)  # type: ignore[arg-type]
        (folder / "request.json").write_text(json.dumps(orders), encoding="utf-8")
        with _LOCK:
            death = _process().do(folder, timeout_s)
        return _collect(folder, len(tasks), death)


class _Process:
    """The worker process: reads a folder from its standard input, does what is asked there, and says so."""

    def __init__(self, script: Path) -> None:
        self.script = script
        self._log = tempfile.TemporaryFile(prefix="graphopt-")  # noqa: SIM115 - lives as long as the process
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )

    @property
    def alive(self) -> bool:
        """Whether it can take another request."""
        return self._child.poll() is None

    def do(self, folder: Path, timeout_s: float) -> str:
        """Do one request; return how the process died, ``""`` when it lives."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._child.kill()

        timer = threading.Timer(timeout_s, stop)
        timer.start()
        try:
            self._child.stdin.write(f"{folder}\n".encode())
            self._child.stdin.flush()
            answered = self._child.stdout.readline()
        except BrokenPipeError:
            answered = b""
        finally:
            timer.cancel()
        if answered:
            return ""
        code = self._child.wait()
        if late.is_set():
            return f"onnxruntime was stopped after {timeout_s:g} s"
        if code < 0:
            return f"onnxruntime crashed ({signal.Signals(-code).name})"
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", errors="replace").strip().splitlines()
        return f"the onnxruntime process ended with code {code}: {lines[-1] if lines else 'no message'}"

    def close(self) -> None:
        """End it."""
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


_LOCK = threading.Lock()
_running: _Process | None = None


def _process() -> _Process:
    """The process that runs, or a new one."""
    global _running
    if _running is None or not _running.alive or _running.script != _SCRIPT:
        close()
        _running = _Process(_SCRIPT)
    return _running


@atexit.register
def close() -> None:
    """End the worker process, if one runs (it also ends by itself with this process)."""
    global _running
    if _running is not None:
        _running.close()
        _running = None


def _order(task: Task, arrays: _Arrays) -> dict[str, Any]:
    """Return ``task`` as JSON, its arrays put aside."""
    return {
        "kind": task.kind,
        "model": str(task.model.absolute()),
        "out": None if task.out is None else str(task.out.absolute()),
        "optimisation": task.optimisation,
        "inputs": [{name: arrays.put(array) for name, array in feed.items()} for feed in task.inputs],
        "outputs": None if task.outputs is None else list(task.outputs),
    }


def _collect(folder: Path, count: int, death: str) -> tuple[Answer | Failure, ...]:
    """Read the answers that the process wrote."""
    found: list[Answer | Failure] = []
    for position in range(count):
        file = folder / f"answer-{position}.json"
        if file.is_file():
            found.append(_answer(json.loads(file.read_text(encoding="utf-8")), folder / f"answer-{position}.npz"))
            continue
        reason = death or "the onnxruntime process gave no answer"
        if any(isinstance(answer, Failure) and answer.crashed for answer in found):
            reason = f"not tried, an earlier task ended the process: {reason}"
        found.append(Failure(reason, crashed=True))
    return tuple(found)


def _answer(answer: dict[str, Any], arrays: Path) -> Answer | Failure:
    """Turn one answer's JSON and arrays into values."""
    if "error" in answer:
        return Failure(str(answer["error"]))
    if "shapes" in answer:
        return Answer(tuple(answer["shapes"]))
    if "runs" not in answer:
        return Answer()
    with np.load(arrays, allow_pickle=False) as values:
        return Answer(tuple({name: _decode(value, values) for name, value in run} for run in answer["runs"]))


def _decode(value: Any, arrays: Mapping[str, Array]) -> Any:
    """Undo the encoding of one output."""
    if value is None:
        return None
    kind, content = value
    if kind == "array":
        return arrays[str(content)]
    if kind == "list":
        return [_decode(item, arrays) for item in content]
    if kind == "dict":
        return {key: _decode(item, arrays) for key, item in content}
    return content
