"""Print what curation is worth to a search: `python -m tests.benchmarks.curation [MODEL] [--target T] [--svg FILE]`.

Two spaces over the same groups and the same range of widths (20 % to 150 %): every width, and the multiples of the
target's parallelism only. In both, latency is minimised while no more capacity is lost than a uniform cut to 75 % of
the channels loses (`graphopt.loss`). The strategies see the same prices and may price the same number of candidates;
several seeds each. The reference is the best that any search found in either space, variable elimination included
(`local` as it ships solves both spaces at once; so moves alone are compared, and evolution without seeded ends).

`--no-sites` leaves fusing and the like out: on large models the tables of every width are large enough without them.

Nothing here is a test: a busy machine must not turn a build red.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np

from graphopt.draft import Job
from graphopt.loss import capacity_loss
from graphopt.prepare import find_catalog, find_rules, open_space, open_subject
from graphopt.report.charts import WIDTH, ticks
from graphopt.report.picture import MARGIN, whole_file
from graphopt.results import Options
from graphopt.search import evolve
from graphopt.search.budget import Budget
from graphopt.search.local import local_search
from graphopt.search.objective import Constraints, Scorer, Values
from graphopt.search.strategy import Found
from graphopt.space.compiler import compile_table
from graphopt.space.table import CostTable

ROOT = Path(__file__).resolve().parent.parent.parent
NO_SITES = ("fuse-*", "merge-*", "swap-*", "fold-*")
"""Rules left out where only widths are searched."""

UNIFORM = 0.75
"""The uniform cut whose lost capacity is the bound."""

WITHIN = (0.1, 0.05, 0.02)
"""How near to the best known a search is asked to come."""


class Traced(Scorer):
    """A scorer that notes the best feasible score after every batch."""

    def __init__(self, table: CostTable, constraints: Constraints) -> None:
        super().__init__(table, "latency", constraints)
        self.trace: list[tuple[int, float]] = []

    def judge(self, values: Values, changes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As its base, noted."""
        off, score = super().judge(values, changes)
        feasible = score[off <= 0]
        if len(feasible) and (not self.trace or feasible.min() < self.trace[-1][1]):
            self.trace.append((self.evaluations, float(feasible.min())))
        return off, score


@dataclass(frozen=True)
class Run:
    """One search: after how many evaluations which score was the best."""

    trace: list[tuple[int, float]]

    def best(self, evaluations: float) -> float:
        """The best score after so many evaluations, infinite before the first feasible candidate."""
        return min((score for at, score in self.trace if at <= evaluations), default=np.inf)

    def reached(self, score: float) -> float:
        """Evaluations until a score is reached, infinite where it never is."""
        return min((at for at, value in self.trace if value <= score), default=np.inf)


def moves(table: CostTable, scorer: Scorer, seed: int, budget: Budget) -> Found:
    """`local` without elimination."""
    return local_search(table, scorer, seed=seed, budget=budget, windows=False)


def evolution(table: CostTable, scorer: Scorer, seed: int, budget: Budget) -> Found:
    """`evolve` without the ends that local search gives it."""
    with mock.patch.object(evolve, "_ends", return_value=[]), mock.patch.object(evolve, "STALE", 10**9):
        return evolve.evolve_search(table, scorer, seed=seed, budget=budget)


SEARCHES: dict[str, Callable[[CostTable, Scorer, int, Budget], Found]] = {"moves": moves, "evolution": evolution}


def spaces(model: str, target: str, *, sites: bool) -> dict[str, tuple[CostTable, float]]:
    """The two priced spaces with the loss of the uniform cut."""
    options = Options(target=target, allow="retrain", curate_widths=True, no_rules=() if sites else NO_SITES)
    catalog = find_catalog(options)
    subject = open_subject(model, target)
    rules = find_rules(catalog, subject.target, options)
    job = Job(model, options, subject=subject)
    found = {}
    for name in ("curated", "every width"):
        if name == "every width":
            every = [replace(r, params=replace(r.params, multiple=1)) if r.id == "curate-widths" else r for r in rules]
            job.space = open_space(subject, tuple(every), catalog, options)
            job.table = compile_table(job.space, subject.target)
        loss = capacity_loss(job)
        widths = [w for w in job.space.widths if len(w.options) > 1]
        cut = 0.0
        for width in widths:  # the share of a group, times what the uniform cut costs of it
            lost = loss[job.table.index("width", width.group.id)]
            sizes = np.array([option.width for option in width.options], float)
            narrow = sizes < width.group.size
            if narrow.any():
                share = lost[narrow][0] / (width.group.size / sizes[narrow][0] - 1.0)
                cut += share * (1.0 / UNIFORM - 1.0)
        found[name] = job.table.with_drift(loss), cut
    return found


def show(model: str, target: str, seeds: int, evaluations: int, svg: str | None, *, sites: bool) -> None:
    """Measure, print, and draw."""
    runs: dict[tuple[str, str], list[Run]] = {}
    known = []
    for space, (table, cut) in spaces(model, target, sites=sites).items():
        bound = Constraints(drift=cut)
        started = time.perf_counter()
        solved = local_search(table, Scorer(table, "latency", bound)).score
        seconds = time.perf_counter() - started
        options = int(table.sizes.sum())
        print(
            f"{space}: {len(table.variables)} decisions, {options} options; "
            f"with elimination {solved:.4f}, {seconds:.1f} s"
        )
        known.append(solved)
        for name, search in SEARCHES.items():
            for seed in range(seeds):
                scorer = Traced(table, bound)
                search(table, scorer, seed, Budget(evaluations))
                runs.setdefault((name, space), []).append(Run(scorer.trace))
                known.append(scorer.trace[-1][1] if scorer.trace else np.inf)
    best = min(known)
    points = [evaluations // 100, evaluations // 10, evaluations]
    print(f"best known {best:.4f} of the original's latency; median of {seeds} seeds")
    for (name, space), its in runs.items():
        reached = [f"{100 * w:.0f} %: {_count([r.reached(best * (1 + w)) for r in its])}" for w in WITHIN]
        values = [f"{at}: {np.median([run.best(at) for run in its]):.4f}" for at in points]
        print(f"  {name:<10} {space:<12} within {', '.join(reached)}; best after {', '.join(values)}", flush=True)
    if svg is not None:
        Path(svg).write_text(picture(f"{Path(model).stem} on {target}", runs, best, evaluations), encoding="utf-8")


def _count(evaluations: Sequence[float]) -> str:
    middle = float(np.median(evaluations))
    return f"{middle:,.0f}" if np.isfinite(middle) else "never"


_STYLE = """
polyline{fill:none;stroke-width:2}.curated{stroke:#16794c}.every{stroke:#2f6fd0}.evolution{stroke-dasharray:6 4}
@media (prefers-color-scheme:dark){.curated{stroke:#4cc38a}.every{stroke:#5b96f0}}
"""


def picture(title: str, runs: dict[tuple[str, str], list[Run]], best: float, evaluations: int) -> str:
    """The median best against evaluations, as a whole SVG file."""
    left, top, width, height = MARGIN + 60.0, 130.0, WIDTH - 76.0, 260.0
    low, high = np.log10(100), np.log10(evaluations)
    ats = np.logspace(low, high, 120)
    curves = {key: np.array([np.median([r.best(at) for r in its]) for at in ats]) for key, its in runs.items()}
    worst = max(float(line[np.isfinite(line)].max()) for line in curves.values() if np.isfinite(line).any())
    y_of = lambda v: top + height * (1 - (v - 0.99 * best) / (worst - 0.99 * best))  # noqa: E731
    parts = []
    right, axis = left + width, 'text class="axis"'
    for tick in ticks(worst, 0.99 * best):
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y_of(tick):.1f}" y2="{y_of(tick):.1f}"/>')
        parts.append(f'<{axis} x="{left - 8}" y="{y_of(tick) + 4:.1f}" text-anchor="end">{tick:.2f}</text>')
    for power in range(2, int(high) + 1):
        x = left + width * (power - low) / (high - low)
        parts.append(f'<{axis} x="{x:.0f}" y="{top + height + 18}" text-anchor="middle">{10**power:,}</text>')
    for row, ((name, space), line) in enumerate(curves.items()):
        style = f"{'curated' if space == 'curated' else 'every'} {name}"
        pairs = [
            f"{left + width * (np.log10(at) - low) / (high - low):.1f},{y_of(value):.1f}"
            for at, value in zip(ats, line, strict=True)
            if np.isfinite(value)
        ]
        parts.append(f'<polyline class="{style}" points="{" ".join(pairs)}"/>')
        x, y = MARGIN + 180 * (row % 2), 84 + 18 * (row // 2)
        parts.append(f'<polyline class="{style}" points="{x},{y} {x + 26},{y}"/>')
        parts.append(f'<text x="{x + 32}" y="{y + 4}">{name}, {space}</text>')
    note = "Estimated latency of the best so far, relative to the original, against candidates priced"
    return whole_file(title, note, parts, int(top + height + 40), _STYLE)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Print what curation is worth to a search.")
    parser.add_argument("model", nargs="?", default=str(ROOT / "sample_models" / "fashion_classifier.onnx"))
    parser.add_argument("--target", default="npu-32", help="[default: %(default)s]")
    parser.add_argument("--seeds", type=int, default=5, help="[default: %(default)s]")
    parser.add_argument("--evaluations", type=int, default=100_000, help="of each search [default: %(default)s]")
    parser.add_argument("--no-sites", action="store_true", help="widths only")
    parser.add_argument("--svg", help="draw the curves here")
    options = parser.parse_args()
    show(options.model, options.target, options.seeds, options.evaluations, options.svg, sites=not options.no_sites)


if __name__ == "__main__":
    main()
