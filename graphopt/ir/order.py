"""In which order the steps of a model need the least memory.

A *down-set* is a set of steps that holds everything its steps depend on: what may have run. What is alive depends on it
alone, not on the way there, so the best way to each is enough (dynamic programming; best-first, the smallest peak
first). Two things keep it small: no order needs less than its largest step, so everything up to there is free; and a
step that neither raises the peak nor leaves more alive than before can run at once (whatever runs in between, it frees
then at least what it frees now). What is left to decide are the branches around the peak.

Beyond :data:`MAX_STATES` down-sets a beam takes over, which is a heuristic.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ir.liveness import INPUT, Storage

MAX_STATES = 20_000
"""Down-sets looked at before the exact search gives up."""

BEAM = 32
"""Down-sets of one size that the heuristic keeps."""


@dataclass(frozen=True, slots=True)
class Order:
    """An order of the steps.

    Attributes:
        steps: step numbers, in the order in which they run.
        peak: its largest live set, in the unit of the sizes.
        bound: no order has a smaller one.
        is_only: whether there is no other order.
    """

    steps: tuple[int, ...]
    peak: int
    bound: int
    is_only: bool = False

    @property
    def is_best(self) -> bool:
        """Whether no order has a smaller live set."""
        return self.peak == self.bound


def best_order(count: int, tensors: Sequence[Storage], sizes: Sequence[int], *, max_states: int = MAX_STATES) -> Order:
    """Find an order with the smallest largest live set; the given one where it is as good.

    Args:
        count: number of steps; 0, 1, 2 ... is an order that works.
        tensors: what needs memory.
        sizes: of each tensor.
        max_states: down-sets to look at before a heuristic takes over.
    """
    problem = _Problem(count, tensors, sizes)
    given = tuple(range(count))
    now, is_only = problem.look(given)
    if now == problem.floor or is_only:
        return Order(given, now, now, is_only)
    found = _exact(problem, now, max_states)
    if found is not None:
        return found
    steps = _beam(problem)
    peak, _ = problem.look(steps)
    return Order(steps, peak, problem.floor) if peak < now else Order(given, now, problem.floor)


@dataclass(frozen=True, slots=True)
class _State:
    """A down-set, what is alive after it, and which steps may follow."""

    done: int
    live: int
    ready: tuple[int, ...]


class _Problem:
    """The steps in the form that a search needs; sets of steps are the bits of a number."""

    def __init__(self, count: int, tensors: Sequence[Storage], sizes: Sequence[int]) -> None:
        self.count = count
        self.all = (1 << count) - 1
        self._makes = [0] * count
        self._ends: list[list[tuple[int, int]]] = [[] for _ in range(count)]
        self._needs = [0] * count
        self._followers: list[set[int]] = [set() for _ in range(count)]
        self._start = kept = 0
        alone = [0] * count
        for tensor, size in zip(tensors, sizes, strict=True):
            own = () if tensor.made == INPUT else (tensor.made,)
            steps = {*tensor.read, *own}
            if not steps and not tensor.kept:
                continue  # an input that nobody reads: no order changes what it needs
            for maker in own:
                self._makes[maker] += size
                for step in steps - {maker}:
                    self._needs[step] |= 1 << maker
                    self._followers[maker].add(step)
            self._start += 0 if own else size
            kept += size if tensor.kept else 0
            readers = sum(1 << step for step in steps)
            for step in steps:
                alone[step] += size
                if not tensor.kept:
                    self._ends[step].append((readers, size))
        # no order needs less than a step by itself, the inputs or the outputs
        self.floor = max(self._start, kept, *alone)

    def first(self) -> _State:
        """Nothing has run."""
        return _State(0, self._start, tuple(step for step in range(self.count) if not self._needs[step]))

    def run(self, state: _State, step: int) -> tuple[int, _State]:
        """What is alive while a step runs, and the state after it."""
        done = state.done | 1 << step
        during = state.live + self._makes[step]
        live = during - sum(size for readers, size in self._ends[step] if readers & done == readers)
        follow = [s for s in self._followers[step] if self._needs[s] & done == self._needs[s]]
        return during, _State(done, live, tuple(sorted({*state.ready, *follow} - {step})))

    def closed(self, state: _State, peak: int) -> tuple[_State, list[int]]:
        """Run what costs nothing under a peak, and say what that was."""
        ran: list[int] = []
        while True:
            for step in state.ready:
                during, after = self.run(state, step)
                if during <= peak and after.live <= state.live:
                    state = after
                    ran.append(step)
                    break
            else:
                return state, ran

    def look(self, steps: Sequence[int]) -> tuple[int, bool]:
        """The largest live set of an order, and whether it leaves no choice."""
        state, peak, is_only = self.first(), self._start, True
        for step in steps:
            is_only = is_only and len(state.ready) == 1
            during, state = self.run(state, step)
            peak = max(peak, during)
        return peak, is_only


def _exact(problem: _Problem, now: int, max_states: int) -> Order | None:
    """The best order, or ``None`` where that takes too many states. ``now`` is the peak of the given one."""
    state, ran = problem.closed(problem.first(), problem.floor)
    cameby: dict[int, tuple[int, list[int]]] = {state.done: (-1, ran)}
    best = {state.done: problem.floor}
    queue = [(problem.floor, -state.done.bit_count(), state.done, state)]
    settled: set[int] = set()
    while queue:
        peak, _, _, state = heapq.heappop(queue)
        if state.done == problem.all:
            steps = _way(cameby, state.done)
            return Order(tuple(steps), peak, peak)
        if state.done in settled:
            continue
        settled.add(state.done)
        if len(settled) > max_states:
            return None
        for step in state.ready:
            during, after = problem.run(state, step)
            reached = max(peak, during)
            if reached >= now:
                continue  # no better than the order that is there
            after, ran = problem.closed(after, reached)
            if reached < best.get(after.done, now):
                best[after.done] = reached
                cameby[after.done] = state.done, [step, *ran]
                heapq.heappush(queue, (reached, -after.done.bit_count(), after.done, after))
    return Order(tuple(range(problem.count)), now, now)


def _way(cameby: dict[int, tuple[int, list[int]]], done: int) -> list[int]:
    parts = []
    while done != -1:
        done, ran = cameby[done]
        parts.append(ran)
    return [step for ran in reversed(parts) for step in ran]


def _beam(problem: _Problem) -> tuple[int, ...]:
    """A good order: of each number of steps the few down-sets with the smallest peak, then the least alive."""
    level: list[tuple[int, _State, tuple[int, ...]]] = [(problem.floor, problem.first(), ())]
    for _ in range(problem.count):
        reached: dict[int, tuple[int, _State, tuple[int, ...]]] = {}
        for peak, state, steps in level:
            for step in state.ready:
                during, after = problem.run(state, step)
                known = reached.get(after.done)
                if known is None or max(peak, during) < known[0]:
                    reached[after.done] = max(peak, during), after, (*steps, step)
        level = sorted(reached.values(), key=lambda item: (item[0], item[1].live, item[2]))[:BEAM]
    return level[0][2]
