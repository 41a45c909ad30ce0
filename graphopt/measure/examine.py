"""Put a target to the test: its estimates and the baselines' beside measurements of nets that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from graphopt.cost.learned import PADDING, apart
from graphopt.cost.price import price_all
from graphopt.cost.workload import Workload
from graphopt.errors import ConfigError
from graphopt.measure.backend import Refusal
from graphopt.measure.baselines import flops_only, raw_forest, roofline_only
from graphopt.measure.campaign import TEST, Campaign, Progress, collect, training_entries
from graphopt.measure.choice import Choice
from graphopt.measure.data import MeasuredNet, measured_nets
from graphopt.measure.evaluation import Estimator, Judged, Real, Score, judge, kernel_score, net_score
from graphopt.measure.journal import Header, Journal, read_header
from graphopt.measure.spec import NetFile, named_keys, random_key
from graphopt.targets.target import Target

LEARNED: Final = "target"
"""The name under which the target's own estimates stand among the baselines."""

KINDS: Final = ("blocks", "paddings", "layers", "named")
"""Random nets of blocks; those with paddings of channels, which may cost ten times more at one size than at the next;
random nets that are a layer or two, which stand for no net but are told all the same; and well-known nets, model files
among them."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What is to be compared.

    Attributes:
        target: whose estimates.
        journal: folder with measurements.
        backend: what measures; ``None`` for what the journal says.
        nets: random test nets.
        family: of these.
        named: whether well-known nets are compared, too.
        files: model files.
        baselines: whether baselines are fitted to the journal's training nets.
        max_spread: nets with a larger relative spread between repeats are left out; ``None`` keeps all.
        jobs: processes that measure.
    """

    target: Target
    journal: Path
    backend: str | None = None
    nets: int = 200
    family: str = "mixed"
    named: bool = True
    files: tuple[NetFile, ...] = ()
    baselines: bool = True
    max_spread: float | None = None
    jobs: int = 1


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the comparison.

    Attributes:
        estimator: ``target`` or the name of a baseline.
        nets: one of `KINDS`.
        of: ``nets`` or ``kernels``.
        score: how it did.
    """

    estimator: str
    nets: str
    of: str
    score: Score


@dataclass(frozen=True, slots=True)
class Dot:
    """One net: its name, one of `KINDS`, and microseconds by measurement and by the target's estimate."""

    name: str
    kind: str
    measured_us: float
    estimated_us: float
    spread: float


@dataclass(frozen=True, slots=True, eq=False)
class Examined:
    """What came of it.

    Attributes:
        tool: what measured.
        lines: scores.
        dots: the nets.
        refused: nets that could not be measured, with the reason.
        noise: median relative spread of the nets' own repeats.
        left_out: how many nets were left out for their spread.
    """

    tool: str
    lines: tuple[Line, ...]
    dots: tuple[Dot, ...]
    refused: tuple[tuple[str, Refusal], ...]
    noise: float
    left_out: int


def examine(plan: Examination, progress: Progress | None = None) -> Examined:
    """Measure what is missing, estimate, and compare.

    Raises:
        ConfigError: when the folder holds no journal, or there is nothing to compare.
        ModelError: when a model cannot be read.
    """
    header = read_header(plan.journal)
    journal = Journal(plan.journal, _as_measured(header, plan))
    files = {file.key(): file for file in plan.files}
    random = [random_key(plan.family, TEST + header.seed + i) for i in range(plan.nets)]
    named = [*(named_keys() if plan.named else ()), *files]
    campaign = Campaign(Choice(plan.backend or header.backend, header.config), plan.target, jobs=plan.jobs)
    entries = collect(journal, [*random, *named], campaign, files=files, progress=progress)
    names = {key: str(file.path.name) for key, file in files.items()}
    nets = measured_nets(entries, plan.target, files)
    kept = [net for net in nets if plan.max_spread is None or net.spread <= plan.max_spread]
    if not kept:
        raise ConfigError("there is nothing to compare: ask for --nets or --named, or give MODELs")
    if progress is not None:
        progress(len(entries), len(entries), "estimating")
    estimators: dict[str, Estimator] = {LEARNED: lambda loads: _estimates(loads, plan.target)}
    if plan.baselines and (training := measured_nets(training_entries(journal, plan.family), plan.target)):
        estimators |= _baselines(training, plan.target)
    kinds = [kind_of(net, plan.family) for net in kept]
    lines = []
    own: list[Judged] = []
    for name, estimator in estimators.items():
        judged = judge(kept, estimator)
        own = judged if name == LEARNED else own
        for kind in KINDS:
            part = [one for one, its in zip(judged, kinds, strict=True) if its == kind]
            if part:
                lines.append(Line(name, kind, "nets", net_score(part)))
                lines.append(Line(name, kind, "kernels", kernel_score(part)))
    return Examined(
        tool=header.tool,
        lines=tuple(line for line in lines if line.score.count),
        dots=tuple(
            Dot(
                name=names.get(one.net.key, one.net.key.removeprefix("named:")),
                kind=kind,
                measured_us=one.net.total_us,
                estimated_us=one.estimated_us,
                spread=one.net.spread,
            )
            for one, kind in zip(own, kinds, strict=True)
        ),
        refused=tuple(
            (names.get(entry.key, entry.key), entry.answer) for entry in entries if isinstance(entry.answer, Refusal)
        ),
        noise=float(np.median([net.spread for net in nets])),
        left_out=len(nets) - len(kept),
    )


def kind_of(net: MeasuredNet, family: str) -> str:
    """Which of `KINDS` a net is, among random nets of a family."""
    if not net.key.startswith(f"{family}:"):
        return "named"
    if net.is_isolated:
        return "layers"
    return "paddings" if any(apart(load) == PADDING for load in net.loads) else "blocks"


def _as_measured(header: Header, plan: Examination) -> Header:
    """The journal's own header if the backend still is what it was; else the difference will be refused."""
    choice = Choice(plan.backend or header.backend, header.config).as_before(header.tool)
    return Header(choice.name, choice.make().version(), choice.config, header.seed)


def _estimates(loads: Sequence[Workload], target: Target) -> Real:
    return np.array([float(price.latency_us) for price in price_all(loads, target)], np.float64)


def _baselines(training: Sequence[MeasuredNet], target: Target) -> dict[str, Estimator]:
    found = {"MACs alone": flops_only(training), "roofline alone": roofline_only(training, target)}
    if any(net.groups for net in training):
        found["random forest"] = raw_forest(training, target)
    return found
