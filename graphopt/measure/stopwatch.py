"""Time runs of onnxruntime on a machine that does other things, too.

A shared machine changes its clock and takes the processor away. So one thread is pinned to one processor, its own CPU
time is read (no wall clock), and every run is taken next to a run of a reference convolution: the ratio of the two
hardly moves. Multiplied by what the reference takes on an idle machine (its *nominal* time) the ratio is microseconds
again. What disturbs a run makes it slower and never faster, so of many runs the fastest quarter is averaged
(`typical`); that repeats better than medians do, and a single fastest run is luck. What else the processor's caches
serve slows a net down more than the reference, so that no ratio helps; but it can be told: the reference itself takes
longer than in quiet moments (`Stopwatch.is_quiet`). Several threads, or a device, are timed by the wall clock instead:
nothing else sees them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

CPU: Final = "CPUExecutionProvider"

REFERENCE_SHAPE: Final = (1, 64, 14, 14)
"""The reference: a 3x3 convolution from 64 to 64 channels on 14x14 with ReLU, about 100 us on a server's core."""

WARM_RUNS: Final = 2
MOST_RUNS: Final = 200
_LEAST_RUNS: Final = 7

_NOMINAL_SECONDS: Final = 2.0
"""Wall-clock time to spend on the nominal time: a neighbour on the same core stays for half a second or a whole one."""

_QUIETER: Final = 0.1
"""The share of all moments that is taken as quiet."""

_QUIET: Final = 1.03
"""How much longer than then the reference may take in a moment that still is."""

Run = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a run took.

    Attributes:
        own_us: microseconds of one run as they passed.
        reference_us: microseconds of the reference in the same moments.
        nominal_us: microseconds of the reference on an idle machine.
    """

    own_us: float
    reference_us: float
    nominal_us: float

    @property
    def speed(self) -> float:
        """By what to multiply times of these moments for the nominal speed."""
        return self.nominal_us / self.reference_us

    @property
    def us(self) -> float:
        """Microseconds of one run at the nominal speed."""
        return self.own_us * self.speed


class Stopwatch:
    """Times runs against a reference that runs on the same provider and threads.

    Attributes:
        nominal_us: microseconds of the reference on an idle machine; results are scaled to it.
    """

    def __init__(self, reference: Run, *, alone: bool, nominal_us: float | None = None) -> None:
        """Take a warm ``reference`` run.

        Args:
            reference: one run of the reference.
            alone: whether all work is done by the calling thread, so that its CPU time is the whole story.
            nominal_us: the reference's nominal time; measured here when not given.
        """
        self._clock = time.thread_time_ns if alone else time.perf_counter_ns
        self._reference = reference
        self._references_us: list[float] = []
        self.nominal_us = nominal_us or self._nominal()

    def timed(self, run: Run, seconds: float, most_runs: int = MOST_RUNS) -> Timing:
        """Time one run.

        Args:
            run: one run; it is repeated, warm.
            seconds: wall-clock time to spend (a few runs are made in any case).
            most_runs: timed runs at most; each has a warm one before it.
        """
        for _ in range(WARM_RUNS):
            run()
        mine: list[int] = []
        reference: list[int] = []
        end = time.perf_counter() + seconds
        while len(mine) < _LEAST_RUNS or (time.perf_counter() < end and len(mine) < most_runs):
            self._reference()  # warms the cache again after the other run
            reference.append(self._time(self._reference))
            run()
            mine.append(self._time(run))
        found = Timing(typical(mine) / 1e3, typical(reference) / 1e3, self.nominal_us)
        self._references_us.append(found.reference_us)
        return found

    def is_quiet(self, reference_us: float) -> bool:
        """Whether the reference took about as long as in the quieter moments of all that was timed so far."""
        return reference_us <= _QUIET * quiet(self._references_us)

    def _time(self, run: Run) -> int:
        start = self._clock()
        run()
        return self._clock() - start

    def _nominal(self) -> float:
        for _ in range(WARM_RUNS):
            self._reference()
        found: list[float] = []
        end = time.perf_counter() + _NOMINAL_SECONDS
        while not found or time.perf_counter() < end:
            found.append(typical([self._time(self._reference) for _ in range(MOST_RUNS)]) / 1e3)
        return quiet(found)


def quiet(times: Sequence[float]) -> float:
    """What a reference takes in quiet moments, given what it took in many: the quietest one alone is luck."""
    return float(np.quantile(times, _QUIETER))


def typical(times: Sequence[float]) -> float:
    """The mean of the fastest quarter."""
    ordered = np.sort(times)
    return float(np.mean(ordered[: (len(ordered) + 3) // 4]))


def reference_model() -> bytes:
    """The reference convolution as an ONNX file's content."""
    import onnx
    from onnx import helper, numpy_helper

    channels = REFERENCE_SHAPE[1]
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((channels, channels, 3, 3)) / np.sqrt(9 * channels)).astype(np.float32)
    info = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, REFERENCE_SHAPE) for name in ("x", "y")]
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4), helper.make_node("Relu", ["c"], ["y"])]
    graph = helper.make_graph(nodes, "reference", info[:1], info[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def binding(session: Any, feed: dict[str, np.ndarray[Any, Any]]) -> Any:
    """Inputs and outputs of a session bound once, so that a run copies nothing in this process."""
    bound = session.io_binding()
    for name, values in feed.items():
        bound.bind_cpu_input(name, values)
    for output in session.get_outputs():
        bound.bind_output(output.name, "cpu")
    return bound


@contextlib.contextmanager
def pinned(alone: bool) -> Iterator[None]:
    """Keep the calling thread on one processor (where the system can), and let it go at the end."""
    if not alone or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
