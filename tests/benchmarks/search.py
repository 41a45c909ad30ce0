"""Print how far searches are from the optimum, and how long they take: `python -m tests.benchmarks.search [MODEL ...]`.

For each model and target, every lossy rule in force: latency of each strategy against the optimum that variable
elimination proves, and seconds of search. Then chains of 10 to 10,000 blocks: time against the number of decisions.

A block has one site (keep, fuse, swap) and one width (four options); a kernel meets its block's width and the one
before. Prices are drawn at random, so the optimum is nothing that a sweep finds by itself.

Nothing here is a test: a busy machine must not turn a build red.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from graphopt.errors import ModelError
from graphopt.prepare import find_catalog, find_rules, open_space, open_subject
from graphopt.results import Options
from graphopt.search.exact import certify
from graphopt.search.objective import Constraints, Scorer
from graphopt.search.strategies import STRATEGIES
from graphopt.search.strategy import Found, SearchName
from graphopt.space.compiler import compile_table
from graphopt.space.table import PARAMETER_BYTES, CostTable
from tests.search.tables import chain

ROOT = Path(__file__).resolve().parent.parent.parent
TARGETS = ("npu-16", "npu-32", "npu-64", "npu-32-no-depthwise", "cpu-x86-64")
LENGTHS = (10, 100, 1_000, 10_000)
MOVES_UP_TO = 100
"""Blocks up to which the strategies that try moves are timed: each of their sweeps prices the whole chain anew."""


def timed(name: SearchName, table: CostTable, constraints: Constraints) -> tuple[Found, float]:
    """What a strategy finds, and the seconds it takes."""
    scorer = Scorer(table, "latency", constraints)
    started = time.perf_counter()
    return STRATEGIES[name](table, scorer), time.perf_counter() - started


def tables(model: str, shape: tuple[int, ...] | None) -> Iterator[tuple[str, CostTable]]:
    """The priced space of a model for each target."""
    for target in TARGETS:
        options = Options(target=target, allow="retrain")
        subject = open_subject(model, target, input_shapes=None if shape is None else {"x": shape})
        catalog = find_catalog(options)
        space = open_space(subject, find_rules(catalog, subject.target, options), catalog, options)
        yield target, compile_table(space, subject.target)


def show_models(models: list[str], shape: tuple[int, ...]) -> None:
    """One row for each model and target."""
    cases = optimal = 0
    worst = slowest = 0.0
    for model in models:
        try:
            rows = list(tables(model, None))
        except ModelError:  # open shapes: the models of the paddle family call their input x
            rows = list(tables(model, shape))
        for target, table in rows:
            cells = []
            for name in STRATEGIES:
                found, seconds = timed(name, table, Constraints())
                certificate = certify(table, Scorer(table, "latency", Constraints()), found.score)
                gap = float("nan") if certificate is None else certificate.gap
                cells.append(f"{name} {100 * gap:7.3f} % {seconds:6.3f} s")
                if name == "local":
                    cases, optimal = cases + 1, optimal + (gap == 0)
                    worst, slowest = max(worst, gap), max(slowest, seconds)
            print(f"{Path(model).stem[:28]:<28} {target:<20} {len(table.variables):>3}  {'  '.join(cells)}", flush=True)
    print(f"local: optimal in {optimal} of {cases}, worst gap {100 * worst:.3f} %, longest search {slowest:.2f} s")


def show_chains() -> None:
    """One row for each length."""
    for blocks in LENGTHS:
        table = chain(blocks)
        bound = int(0.8 * table.evaluate(table.default()[None], (PARAMETER_BYTES,))[0, 0])
        cells = []
        for label, constraints in (("free", Constraints()), ("bounded", Constraints(parameter_bytes=bound))):
            scorer = Scorer(table, "latency", constraints)
            started = time.perf_counter()
            certificate = certify(table, scorer, 1.0)
            seconds = time.perf_counter() - started
            assert certificate is not None
            cells.append(f"proof, {label} {seconds:7.3f} s ({1e6 * seconds / len(table.variables):5.0f} us/decision)")
        for name in STRATEGIES:
            if name == "exact" or blocks <= MOVES_UP_TO:
                found, seconds = timed(name, table, Constraints())
                cells.append(f"{name} {seconds:7.3f} s at {found.score:.4f}")
        print(f"{blocks:>6} blocks {len(table.variables):>6} decisions  {'  '.join(cells)}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Print how good and how fast the searches are.")
    parser.add_argument("models", nargs="*", default=[str(ROOT / "sample_models" / "fashion_classifier.onnx")])
    parser.add_argument("--shape", default="1,3,64,192", help="of an input x that is open [default: %(default)s]")
    options = parser.parse_args()
    show_models(options.models, tuple(int(dim) for dim in options.shape.split(",")))
    show_chains()


if __name__ == "__main__":
    main()
