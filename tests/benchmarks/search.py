"""Print how far searches are from the optimum, and how long they take: `python -m tests.benchmarks.search [MODEL ...]`.

For each model and bundled target, every lossy rule in force, with and without a depth multiplier to choose: latency of
each strategy against the optimum that variable elimination proves, and seconds of search. `--bounds` adds the same
under bounds half-way between the fastest and the smallest. Then chains of 10 to 10,000 blocks: time against the number
of decisions, and the exponent of its growth.

A block has one site (keep, fuse, swap) and one width (four options); a kernel meets its block's width and the one
before. Prices are drawn at random, so the optimum is nothing that a sweep finds by itself.

Nothing here is a test: a busy machine must not turn a build red.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphopt.errors import ModelError
from graphopt.prepare import find_catalog, find_rules, open_space, open_subject
from graphopt.results import Options
from graphopt.search.exact import certify
from graphopt.search.objective import Constraints, Scorer
from graphopt.search.run import run_search
from graphopt.search.strategies import STRATEGIES
from graphopt.search.strategy import Found, SearchName
from graphopt.space.compiler import compile_table
from graphopt.space.table import PARAMETER_BYTES, CostTable
from graphopt.targets.target import bundled_targets
from tests.search.tables import chain

ROOT = Path(__file__).resolve().parent.parent.parent
LENGTHS = (10, 100, 1_000, 10_000)
MOVES_UP_TO: dict[SearchName, int] = {"greedy": 100, "evolve": 100}
"""Blocks up to which the strategies are timed that price whole candidates."""

MULTIPLIERS: tuple[tuple[float, ...], ...] = ((), (1.0, 0.75, 0.5))


@dataclass
class Tally:
    """What came out over all cases of one strategy."""

    gaps: list[float]
    seconds: list[float]

    def __str__(self) -> str:
        gaps = np.array(self.gaps)
        return (
            f"optimal in {(gaps == 0).sum()} of {len(gaps)}, worst gap {100 * gaps.max():.3f} %, "
            f"search {np.median(self.seconds):.3f} s at the median, {max(self.seconds):.2f} s at most"
        )


def timed(name: SearchName, table: CostTable, scorer: Scorer) -> tuple[Found, float]:
    """What a strategy finds, and the seconds it takes."""
    started = time.perf_counter()
    found = run_search(name, table, scorer)
    return found, time.perf_counter() - started


def tables(model: str, shape: tuple[int, ...] | None, targets: Sequence[str]) -> Iterator[tuple[str, CostTable]]:
    """The priced spaces of a model for each target."""
    for multipliers in MULTIPLIERS:
        for target in targets:
            options = Options(target=target, allow="retrain", depth_multipliers=multipliers)
            subject = open_subject(model, target, input_shapes=None if shape is None else {"x": shape})
            catalog = find_catalog(options)
            space = open_space(subject, find_rules(catalog, subject.target, options), catalog, options)
            yield f"{target}{' x m' if multipliers else ''}", compile_table(space, subject.target)


def bounds_of(table: CostTable) -> dict[str, Constraints]:
    """Bounds half-way between the fastest candidate and the one with the least of what is bound."""
    found = {}
    for quantity, field in (
        ("parameters", "parameter_bytes"),
        ("peak-memory", "peak_bytes"),
        ("memory", "memory_bytes"),
    ):
        ends = []
        for objective in ("latency", quantity):
            best = run_search("local", table, Scorer(table, objective, Constraints())).best[None]
            ends.append((float(table.evaluate(best, (PARAMETER_BYTES,))[0, 0]), float(table.peak_bytes(best)[0])))
        middle = np.mean(ends, axis=0)
        value = {"parameters": middle[0], "peak-memory": middle[1], "memory": middle.sum()}[quantity]
        found[quantity] = Constraints(**{field: int(value)})
    return found


def show_models(
    models: Sequence[str], shape: tuple[int, ...], targets: Sequence[str], names: Sequence[SearchName], *, bounds: bool
) -> None:
    """One row for each model, target and bound."""
    tallies: dict[SearchName, Tally] = defaultdict(lambda: Tally([], []))
    for model in models:
        try:
            rows = list(tables(model, None, targets))
        except ModelError:  # open shapes: the models of the paddle family call their input x
            rows = list(tables(model, shape, targets))
        for target, table in rows:
            for label, constraints in {"": Constraints(), **(bounds_of(table) if bounds else {})}.items():
                cells = []
                for name in names:
                    scorer = Scorer(table, "latency", constraints)
                    found, seconds = timed(name, table, scorer)
                    proof = found.certificate or certify(table, Scorer(table, "latency", constraints), found.score)
                    gap = float("inf") if proof is None else proof.gap
                    cells.append(f"{name} {100 * gap:7.3f} % {seconds:6.3f} s")
                    tallies[name].gaps.append(gap)
                    tallies[name].seconds.append(seconds)
                where = f"{Path(model).stem[:24]:<24} {target:<24} {label:<11} {len(table.variables):>3}"
                print(f"{where}  {'  '.join(cells)}", flush=True)
    for name, tally in tallies.items():
        print(f"{name:<6} {tally}")


def show_chains(names: Sequence[SearchName]) -> None:
    """One row for each length and strategy, then the growth."""
    spent: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for blocks in LENGTHS:
        table = chain(blocks)
        bound = int(0.8 * table.evaluate(table.default()[None], (PARAMETER_BYTES,))[0, 0])
        for label, constraints in (("free", Constraints()), ("bounded", Constraints(parameter_bytes=bound))):
            for name in names:
                if blocks > MOVES_UP_TO.get(name, blocks):
                    continue
                found, seconds = timed(name, table, Scorer(table, "latency", constraints))
                proved = "" if found.certificate is None else f", gap {100 * found.certificate.gap:.4f} %"
                where = f"{blocks:>6} blocks {len(table.variables):>6} decisions  {name:<6} {label:<7}"
                print(f"{where} {seconds:7.3f} s  {found.score:.5f}{proved}", flush=True)
                spent[f"{name}, {label}"].append((len(table.variables), seconds))
    for what, line in spent.items():
        decisions, seconds = np.log([point[0] for point in line]), np.log([point[1] for point in line])
        ends = (seconds[-1] - seconds[-2]) / (decisions[-1] - decisions[-2])
        fit = np.polyfit(decisions, seconds, 1)[0]
        print(f"{what:<16} grows with decisions ** {fit:.2f} over all lengths, {ends:.2f} between the last two")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Print how good and how fast the searches are.")
    parser.add_argument("models", nargs="*", default=[str(ROOT / "sample_models" / "fashion_classifier.onnx")])
    parser.add_argument("--shape", default="1,3,64,192", help="of an input x that is open [default: %(default)s]")
    parser.add_argument("--targets", default=",".join(bundled_targets()), help="[default: all bundled]")
    parser.add_argument("--search", nargs="+", choices=STRATEGIES, default=["local", "exact", "greedy"])
    parser.add_argument("--bounds", action="store_true", help="search under bounds, too")
    parser.add_argument("--chains", action="store_true", help="only the chains")
    options = parser.parse_args()
    if not options.chains:
        shape = tuple(int(dim) for dim in options.shape.split(","))
        show_models(options.models, shape, options.targets.split(","), options.search, bounds=options.bounds)
    show_chains(options.search)


if __name__ == "__main__":
    main()
