"""Measure nets and learn from them: sample, measure, fit, look where the estimator is unsure, measure there, fit again.

Seeds keep apart what must not be mixed: training nets count up from the journal's seed, validation nets (on which
choices are made) from `VALIDATION`, and test nets (which nothing but the final figures may see) from `TEST`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from graphopt.cost.learned import Learned
from graphopt.cost.price import price_with
from graphopt.cost.workload import Workload
from graphopt.ir.graph import Graph
from graphopt.measure.backend import Refusal
from graphopt.measure.choice import Choice
from graphopt.measure.data import PARTS, MeasuredNet, measured_kernels, measured_nets, workloads
from graphopt.measure.evaluation import Estimator, Judged, Real, judge, net_score
from graphopt.measure.fit import fit
from graphopt.measure.journal import FILE_NAME, Entry, Header, Journal, digest, read_header
from graphopt.measure.runner import measure_nets
from graphopt.measure.solve import MeasuredTotal, solve
from graphopt.measure.spec import NetFile, make_graph, random_key
from graphopt.targets.target import Target

VALIDATION: Final = 1_000_000
TEST: Final = 2_000_000

_ROUNDS: Final = (0.4, 0.7, 1.0)
"""Share of the nets after which the estimator says where it is unsure."""

_CANDIDATES: Final = 3
"""Nets that are looked at for each that is chosen."""

Progress = Callable[[int, int, str], None]
"""Called with (done, all, what is being done)."""


@dataclass(frozen=True, slots=True)
class Campaign:
    """What is to be measured.

    Attributes:
        choice: the backend.
        target: its analytic target; the fusion table and the precision are taken from it.
        nets: random nets to learn from.
        validation: random nets that choices are made on.
        family: of the random nets.
        seed: of the first one.
        jobs: processes that measure.
        adaptive: whether later nets are those on which the estimator is least sure.
        parts: small nets around single ops that supplement them; of other kinds there are as many as `PARTS` says.
    """

    choice: Choice
    target: Target
    nets: int = 400
    validation: int = 60
    family: str = "mixed"
    seed: int = 0
    jobs: int = 1
    adaptive: bool = True
    parts: int = 0

    @property
    def validation_keys(self) -> list[str]:
        """The nets that choices are made on."""
        return [random_key(self.family, VALIDATION + self.seed + i) for i in range(self.validation)]

    @property
    def part_keys(self) -> list[str]:
        """The nets of the supplement."""
        return [
            random_key(family, self.seed + i) for family, share in PARTS.items() for i in range(self.parts // share)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What came of a campaign.

    Attributes:
        learned: the estimator.
        training: the nets that it was fitted to, the supplement included.
        validation: the validation nets, estimated.
        half_error: mean relative error of whole nets when fitted to every second net.
        error: the same when fitted to all of them.
        refused: nets that could not be measured, by key, with the reason.
        data_sha256: digest of the measurements of all these nets.
    """

    learned: Learned
    training: Sequence[MeasuredNet]
    validation: Sequence[Judged]
    half_error: float
    error: float
    refused: Sequence[tuple[str, Refusal]]
    data_sha256: str

    @property
    def kernels(self) -> int:
        """Number of kernels that it was fitted to."""
        return len(measured_kernels(self.training))

    @property
    def error_with_twice(self) -> float:
        """The error that twice as many nets would leave, if each doubling helps as much as the last one did."""
        return self.error * min(self.error / self.half_error, 1.0) if self.half_error > 0 else self.error


def open_journal(folder: Path, campaign: Campaign) -> Journal:
    """Open the journal of a campaign, or begin it.

    Raises:
        ConfigError: when the folder's measurements are of another kind, or the backend cannot be made.
    """
    choice = _choice(folder, campaign.choice)
    backend = choice.make()
    return Journal(folder, Header(choice.name, backend.version(), choice.config, campaign.seed))


def _choice(folder: Path, choice: Choice) -> Choice:
    """The backend as earlier measurements of the folder had it."""
    return choice.as_before(read_header(folder).tool) if (folder / FILE_NAME).exists() else choice


def collect(
    journal: Journal,
    keys: Sequence[str],
    campaign: Campaign,
    *,
    files: Mapping[str, NetFile] | None = None,
    progress: Progress | None = None,
) -> list[Entry]:
    """Measure what of ``keys`` is not in the journal, and return the entries of all of them, in their order.

    Raises:
        ConfigError: when the backend cannot be made, or another run is measuring into the journal.
    """
    missing = [key for key in keys if key not in journal]
    done = len(keys) - len(missing)

    def keep(entry: Entry) -> None:
        nonlocal done
        journal.append(entry)
        done += 1
        if progress is not None:
            progress(done, len(keys), entry.key)

    if missing:
        if progress is not None:
            progress(done, len(keys), "")
        choice = _choice(journal.path.parent, campaign.choice)
        jobs = campaign.jobs if choice.runs_side_by_side else 1
        with journal.being_filled():
            measure_nets(missing, choice, jobs=jobs, files=files, done=keep)
    found = (journal.get(key) for key in keys)
    return [entry for entry in found if entry is not None]


def run(journal: Journal, campaign: Campaign, progress: Progress | None = None) -> Outcome:
    """Measure, learn, and judge on the validation nets. What the journal holds already is reused.

    Raises:
        ConfigError: when the backend cannot be made.
        ModelError: when too little can be measured to learn from, or the journal is of other nets.
    """

    def say(what: str) -> None:
        if progress is not None:
            progress(campaign.nets, campaign.nets, what)

    for share in _ROUNDS if campaign.adaptive else _ROUNDS[-1:]:
        known = training_entries(journal, campaign.family)
        wanted = max(round(campaign.nets * share) - len(known), 0)
        if wanted:
            say("looking for nets on which the estimator is unsure")
            keys = [*(entry.key for entry in known), *_chosen(known, wanted, campaign)]
            collect(journal, keys, campaign, progress=progress)
    say("validation")
    apart = collect(journal, campaign.validation_keys, campaign)
    held_out = measured_nets(apart, campaign.target)
    entries = training_entries(journal, campaign.family)[: campaign.nets]
    say("parts")
    entries += collect(journal, campaign.part_keys, campaign)
    say("fitting")
    training = measured_nets(entries, campaign.target)
    half = learn(training[::2], campaign.target)
    learned = learn(training, campaign.target)
    judged = judge(held_out, estimator_of(learned, campaign.target))
    return Outcome(
        learned=learned,
        training=training,
        validation=judged,
        half_error=net_score(judge(held_out, estimator_of(half, campaign.target))).mape,
        error=net_score(judged).mape,
        refused=[(entry.key, entry.answer) for entry in entries if isinstance(entry.answer, Refusal)],
        data_sha256=digest([*entries, *apart]),
    )


def learn(nets: Sequence[MeasuredNet], target: Target) -> Learned:
    """Fit an estimator to measured nets: to their kernels, or to totals where the device tells no more.

    Raises:
        ModelError: when there are too few.
    """
    if any(net.groups for net in nets):
        return fit(measured_kernels(nets), target)
    return solve([MeasuredTotal(net.loads, net.total_us) for net in nets], target)


def estimator_of(learned: Learned, target: Target) -> Estimator:
    """Latencies by a learned estimator; categories that were not learned are priced analytically."""

    def estimate(loads: Sequence[Workload]) -> Real:
        return np.array([float(found.latency_us) for found in price_with(loads, target, learned)])

    return estimate


def training_entries(journal: Journal, family: str) -> list[Entry]:
    """The training nets that a journal holds, by seed."""
    first = journal.header.seed
    found = {_seed(entry.key): entry for entry in journal if entry.key.startswith(f"{family}:")}
    return [found[seed] for seed in sorted(found) if first <= seed < first + VALIDATION]


def _seed(key: str) -> int:
    return int(key.partition(":")[2])


def _chosen(known: Sequence[Entry], wanted: int, campaign: Campaign) -> list[str]:
    """The next nets to measure: in order at first; then half of them where the estimator is least sure.

    Nets that were passed over are not looked at again: seeds go on behind the largest one.
    """
    last = max((_seed(entry.key) for entry in known), default=campaign.seed - 1)
    if not known or not campaign.adaptive:
        return [random_key(campaign.family, last + 1 + i) for i in range(wanted)]
    learned = learn(measured_nets(known, campaign.target), campaign.target)
    candidates = [random_key(campaign.family, last + 1 + i) for i in range(wanted * _CANDIDATES)]
    plain, rest = candidates[: wanted - wanted // 2], candidates[wanted - wanted // 2 :]
    doubt = {key: _doubt(make_graph(key), learned, campaign.target) for key in rest}
    return [*plain, *sorted(sorted(rest, key=lambda key: -doubt[key])[: wanted // 2], key=candidates.index)]


def _doubt(graph: Graph, learned: Learned, target: Target) -> float:
    """Mean relative uncertainty of a net's kernels. (A net's own total would hide those that cost little in it.)"""
    guesses = learned.predict(workloads(graph, target), target)
    return float(np.mean([1.0 if guess is None else float(guess.uncertainty) for guess in guesses] or [0.0]))
