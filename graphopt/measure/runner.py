"""Measure many nets in processes of their own: a compiler that dies takes one net along and not the campaign."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing import active_children, get_context
from typing import Final

from graphopt.measure.backend import Backend, Measurement, Refusal
from graphopt.measure.choice import Choice
from graphopt.measure.journal import Entry
from graphopt.measure.spec import NetFile, fingerprint, make_graph

BATCH: Final = 8
"""Nets for one call of a backend that measures alone and may interleave them."""

DIED: Final = "the backend's process died on this net"


def measure_nets(
    keys: Sequence[str],
    choice: Choice,
    *,
    jobs: int = 1,
    files: Mapping[str, NetFile] | None = None,
    done: Callable[[Entry], None],
) -> None:
    """Measure the nets of ``keys``, in any order.

    Args:
        keys: which nets (:mod:`graphopt.measure.spec`).
        choice: the backend.
        jobs: processes.
        files: model files by key.
        done: called with each entry as soon as it is known, in this process.

    Raises:
        ConfigError: when the backend cannot be made, or a key names no net.
    """
    chunks = [tuple(keys[i : i + _size(jobs)]) for i in range(0, len(keys), _size(jobs))]
    files = dict(files or {})
    while chunks:
        lost = _run(chunks, choice, jobs, files, done)
        for key in lost:
            if _run([(key,)], choice, 1, files, done):
                graph = make_graph(key, files)
                done(Entry(key, fingerprint(graph), Refusal(graph.outputs[0], DIED)))


def _size(jobs: int) -> int:
    return BATCH if jobs == 1 else 1


def _run(
    chunks: list[tuple[str, ...]],
    choice: Choice,
    jobs: int,
    files: Mapping[str, NetFile],
    done: Callable[[Entry], None],
) -> list[str]:
    """Work ``chunks`` off from the front until all are done or a process dies; returns the nets of what was lost."""
    running: dict[Future[list[Entry]], tuple[str, ...]] = {}
    others = set(active_children())
    # a fresh interpreter: what this one has open (onnxruntime's threads) does not survive a fork
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_ignore_interrupts) as pool:
        try:
            while chunks or running:
                while chunks and len(running) < jobs:
                    chunk = chunks.pop(0)
                    running[pool.submit(_measure, choice, chunk, files)] = chunk
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    entries = future.result()
                    del running[future]
                    for entry in entries:
                        done(entry)
        except BrokenProcessPool:
            return [key for chunk in running.values() for key in chunk]
        except BaseException:
            for worker in set(active_children()) - others:  # nobody waits for their nets any more
                worker.terminate()
            raise
    return []


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process of the terminal; the first one decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@lru_cache(maxsize=1)
def _backend(choice: Choice) -> Backend:
    return choice.make()


def _measure(choice: Choice, keys: Sequence[str], files: Mapping[str, NetFile]) -> list[Entry]:
    graphs = [make_graph(key, files) for key in keys]
    answers: Iterable[Measurement | Refusal] = _backend(choice).measure(graphs)
    return [Entry(key, fingerprint(graph), a) for key, graph, a in zip(keys, graphs, answers, strict=True)]
