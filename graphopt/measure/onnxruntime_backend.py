"""Measure models with onnxruntime: this machine's CPU, or any execution provider by name.

Graphs are optimised as for any user (all optimisations), once; the optimised model is what is then timed, in several
visits in shuffled order, so that no model has all of its runs in the same busy second. Where other jobs disturbed a
visit, there is another one; the quietest ones count. On the CPU the profile tells the nodes apart *in context*
(isolated single-op models add up to 1.4 times the whole), less what profiling itself costs
(:mod:`graphopt.measure.onnxruntime_profile`). Other providers report when work was handed over and not how long it
took: there only the total is measured.
"""

from __future__ import annotations

import json
import platform
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from graphopt.errors import ConfigError, GraphoptError, did_you_mean
from graphopt.ir.graph import Graph
from graphopt.ir.op import Array
from graphopt.measure.backend import Measurement, Refusal, Row
from graphopt.measure.onnxruntime_kernels import RunKernel, name_ops, run_kernels
from graphopt.measure.onnxruntime_profile import CHAIN_NODES, CHAIN_SHAPE, chain_model, node_times, without_notes
from graphopt.measure.stopwatch import (
    CPU,
    REFERENCE_SHAPE,
    WARM_RUNS,
    Run,
    Stopwatch,
    binding,
    pinned,
    reference_model,
    typical,
)
from graphopt.onnx_io.save import save

_VISITS: Final = 5
"""Visits of a model that count: the quietest ones."""

_MOST_VISITS: Final = 10
_PROFILE_RUNS: Final = 15
_SILENT: Final = 4


@dataclass(frozen=True, slots=True)
class _Visit:
    """What one visit of a model told: latencies at the nominal speed, and the reference's as it passed.

    Attributes:
        total_us: of the whole model.
        told_us: of each kernel as the profile tells it; empty where kernels cannot be told apart.
        reference_us: of the reference beside the whole model.
    """

    total_us: float
    told_us: Array
    reference_us: float


@dataclass(slots=True)
class _Subject:
    """A model that is being measured: its optimised file, what it is fed, and what was found so far."""

    model: Path
    feed: dict[str, Array]
    kernels: tuple[RunKernel, ...]
    visits: list[_Visit] = field(default_factory=list)

    @property
    def totals_us(self) -> list[float]:
        """Latencies of the whole model in the visits that count."""
        return [visit.total_us for visit in self._quietest()]

    @property
    def told_us(self) -> Array:
        """What the profile tells of each kernel, shape (kernels,), in the middle of the visits that count."""
        return np.asarray(np.median([visit.told_us for visit in self._quietest()], axis=0))

    def _quietest(self) -> list[_Visit]:
        return sorted(self.visits, key=lambda visit: visit.reference_us)[:_VISITS]

    def wants_another(self, watch: Stopwatch) -> bool:
        """Whether a visit that counts was disturbed, or there are too few."""
        return len(self.visits) < _VISITS or not watch.is_quiet(self._quietest()[-1].reference_us)


class OnnxRuntime:
    """The `Backend` named ``onnxruntime``.

    Latencies are microseconds at the reference convolution's nominal speed (:mod:`graphopt.measure.stopwatch`): the
    nominal time is measured once on an idle machine and given to every later backend whose figures go into the same
    table.
    """

    name = "onnxruntime"

    def __init__(
        self,
        provider: str = CPU,
        *,
        threads: int = 1,
        nominal_us: float | None = None,
        seconds: float = 0.08,
    ) -> None:
        """Prepare to measure.

        Args:
            provider: onnxruntime's name of an execution provider.
            threads: threads within an op.
            nominal_us: the reference's nominal time; measured when it is first needed if not given.
            seconds: time to spend on the runs of one model in one visit.

        Raises:
            ConfigError: when this onnxruntime has no such provider.
        """
        import onnxruntime

        onnxruntime.disable_telemetry_events()
        known = onnxruntime.get_available_providers()
        if provider not in known:
            near = did_you_mean(provider, known)
            raise ConfigError(f"onnxruntime has no provider {provider!r} here{near}; there are: {', '.join(known)}")
        self.provider = provider
        self.threads = threads
        self.seconds = seconds
        self._alone = provider == CPU and threads == 1
        self._nominal_us = nominal_us

    @cached_property
    def _watch(self) -> Stopwatch:
        """One for all models, that knows the quiet moments among all of theirs. Its first use wants an idle machine."""
        values = np.random.default_rng(0).standard_normal(REFERENCE_SHAPE).astype(np.float32)
        run = _run(self._session(reference_model()), {"x": values})
        with pinned(self._alone):
            return Stopwatch(run, alone=self._alone, nominal_us=self._nominal_us)

    def version(self) -> str:
        """The version, provider, threads, the processor, and the reference's nominal time."""
        import onnxruntime

        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        speed = f"reference {self._watch.nominal_us:.1f} us"
        return f"onnxruntime {onnxruntime.__version__} {self.provider}, {threads}, {processor()}, {speed}"

    def measure(self, graphs: Sequence[Graph]) -> list[Measurement | Refusal]:
        """See `Backend`. The models are visited several times in a shuffled order that is always the same."""
        with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
            found = [self._prepare(graph, Path(name) / f"{i}.onnx") for i, graph in enumerate(graphs)]
            told = any(map(_has_kernels, found))
            if told:
                found.append(_chain(Path(name)))
            self._visit(found)
        notes_us = _notes_us(found.pop()) if told else 0.0
        return [one if isinstance(one, Refusal) else _result(one, notes_us) for one in found]

    def _visit(self, found: list[_Subject | Refusal]) -> None:
        """Visit all of them in turn, until each was visited often enough."""
        order = list(range(len(found)))
        with pinned(self._alone):
            for visit in range(_MOST_VISITS):
                random.Random(visit).shuffle(order)
                for position in order:
                    subject = found[position]
                    if isinstance(subject, _Subject) and subject.wants_another(self._watch):
                        found[position] = self._visited(subject)

    def kernels(self, graph: Graph) -> tuple[RunKernel, ...] | Refusal:
        """What onnxruntime runs of a model as one, without any run; nothing where the provider does not tell."""
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            found = self._prepare(graph, Path(folder) / "model.onnx")
        return found if isinstance(found, Refusal) else found.kernels

    def _session(
        self, model: str | bytes, *, optimised: Path | None = None, done: bool = False, profile: str = ""
    ) -> Any:
        """Open a session; ``optimised`` is where its optimised model goes, ``done`` says that it is one already."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _SILENT
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if optimised is not None:
            options.optimized_model_filepath = str(optimised)
        if done:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if profile:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        return onnxruntime.InferenceSession(model, options, providers=[self.provider])

    def _prepare(self, graph: Graph, file: Path) -> _Subject | Refusal:
        """Write the model, let onnxruntime optimise it, and find out which node runs which ops."""
        import onnx

        feed = _feed(graph)
        if isinstance(feed, Refusal):
            return feed
        try:
            save(graph, file)
        except GraphoptError as error:
            return Refusal("", f"cannot be written: {error}")
        if self.provider != CPU:
            return _Subject(file, feed, ())
        model = onnx.load(file, load_external_data=False)
        name_ops(model)
        onnx.save(model, file)
        out = file.with_suffix(".optimised.onnx")
        try:
            self._session(str(file), optimised=out)
        except Exception as error:  # onnxruntime's own exceptions have no common base
            return Refusal("", f"onnxruntime does not load it: {_one_line(error)}")
        optimised = onnx.load(out, load_external_data=False)
        kernels = run_kernels(graph, optimised)
        for position, node in enumerate(optimised.graph.node):
            node.name = f"{position}"
        onnx.save(optimised, out)
        return _Subject(out, feed, kernels)

    def _visited(self, subject: _Subject) -> _Subject | Refusal:
        """Time one model once more, and its kernels where they can be told apart."""
        try:
            session = self._session(str(subject.model), done=bool(subject.kernels))
            timing = self._watch.timed(_run(session, subject.feed), self.seconds)
            times = self._profile(subject.model, subject.feed) if subject.kernels else {}
            told = [sum(times.get(str(node), 0.0) for node in kernel.nodes) for kernel in subject.kernels]
            subject.visits.append(_Visit(timing.us, np.array(told), timing.reference_us))
        except Exception as error:  # as above
            return Refusal("", f"onnxruntime does not run it: {_one_line(error)}")
        return subject

    def _profile(self, model: Path, feed: dict[str, Array]) -> dict[str, float]:
        """Microseconds of each node, by name and at the nominal speed, as the profile of several runs tells them."""
        session = self._session(str(model), done=True, profile=str(model.with_suffix(".profile")))
        timing = self._watch.timed(_run(session, feed), self.seconds, _PROFILE_RUNS)
        profile = Path(session.end_profiling())
        events = json.loads(profile.read_text(encoding="utf-8"))
        profile.unlink()
        return {node: us * timing.speed for node, us in node_times(events, WARM_RUNS).items()}


def _chain(folder: Path) -> _Subject:
    """The chain whose nodes do next to nothing (:mod:`graphopt.measure.onnxruntime_profile`), all of it one kernel."""
    path = folder / "chain.onnx"
    path.write_bytes(chain_model())
    return _Subject(path, {"x": np.ones(CHAIN_SHAPE, np.float32)}, (RunKernel((), tuple(range(CHAIN_NODES))),))


def _notes_us(chain: _Subject | Refusal) -> float:
    """What profiling adds to the time of a node, microseconds at the nominal speed."""
    assert isinstance(chain, _Subject)
    return max((float(chain.told_us.sum()) - typical(chain.totals_us)) / CHAIN_NODES, 0.0)


def _run(session: Any, feed: dict[str, Array]) -> Run:
    bound = binding(session, feed)
    return lambda: session.run_with_iobinding(bound)


def _has_kernels(found: _Subject | Refusal) -> bool:
    return isinstance(found, _Subject) and bool(found.kernels)


def _result(subject: _Subject, notes_us: float) -> Measurement:
    total = typical(subject.totals_us)
    low, high = np.quantile(subject.totals_us, (0.25, 0.75))
    spread = float(high - low) / total
    if not subject.kernels:
        return Measurement(total, (), spread)
    nodes = np.array([len(kernel.nodes) for kernel in subject.kernels])
    latencies = without_notes(subject.told_us, nodes, total, notes_us)
    rows = [Row(kernel.tensors, float(us)) for kernel, us in zip(subject.kernels, latencies, strict=True)]
    return Measurement(total, tuple(rows), spread)


def _feed(graph: Graph) -> dict[str, Array] | Refusal:
    """Seeded noise for each input (no zeros: they would make a few kernels faster), zeros where it is not a float."""
    rng = np.random.default_rng(0)
    feed: dict[str, Array] = {}
    for name in graph.inputs:
        shape, dtype = graph.static_shape(name), graph.dtype(name)
        if shape is None:
            return Refusal(name, "the input has no static shape")
        if dtype is None or dtype.kind not in "fiub":
            return Refusal(name, f"the input is no array of numbers ({dtype})")
        feed[name] = (rng.standard_normal(shape) if dtype.kind == "f" else np.zeros(shape)).astype(dtype)
    return feed


def processor() -> str:
    """The processor's name as the system tells it, else the machine's kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names or [platform.processor()])[0] or platform.machine()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
