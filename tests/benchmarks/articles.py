"""Repeat what the two articles report, on the sample models: `python -m tests.benchmarks.articles [--target T ...]`.

* detector: a depth multiplier alone (V1), fused inverted bottlenecks alone (V2), both (V3), and both with every
  width solved for at once (V4, as AOWS does: the least measured drift at 53 % less latency), on each target;
* classifier: model size and peak activation memory nearly halved, with the least measured drift;
* segmenter: five candidates, from mild to bold, each with the least measured drift at its latency.

For each: estimated latency, the same measured by onnxruntime (original and result in one run) and compiled by Vela, and
the task's metric on test images: of the original, after repair without labels, after fine-tuning (the
original gets the same, so that nothing looks good by more training alone). Multipliers are chosen on validation images:
the smallest whose fine-tuned model stays within half a point of the original.

Results are kept in a JSON file (`--results`): what is in there is not run again, so a run may be stopped at any time,
and two runs may share the work. `--only show` prints the table from it, `--picture FILE.svg` draws it.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphopt.measure.backend import Refusal
from graphopt.measure.onnxruntime_backend import OnnxRuntime
from graphopt.measure.vela import Vela
from graphopt.outputs import write_text
from graphopt.pipeline import optimize, scan
from graphopt.prepare import open_subject
from graphopt.results import OptimizeResult, Options
from graphopt.search.goal import Quantity
from tests.benchmarks.article_report import picture, show
from tests.benchmarks.article_tasks import TASKS, Task

FUSE, SCALE, CURATE = "fuse-inverted-bottleneck", "scale-depth", "curate-widths"
ARTICLE_TARGETS = ("npu-32", "ethos-u55-256", "onnxruntime-cpu")
MULTIPLIERS = (0.5625, 0.75)
ALLOWED_LOSS = 0.005
LATENCY_SHARE = 0.47
"""What the article's detector kept of its latency."""
MEMORY_SHARE = 0.53
"""The article's classifier lost 47 % of its size and of its activations."""

STEPS = ("original", "tune", "measure", "show")
SEGMENTER_SHARES = (0.73, 0.65, 0.59, 0.54, 0.48)
"""What the candidates keep of the latency at most; the article's five keep 0.73 to 0.49."""


@dataclass(frozen=True)
class Variant:
    """One way to optimise.

    Attributes:
        name: for tables.
        options: without a multiplier.
        multipliers: to try, boldest first; the first that keeps the metric is taken.
    """

    name: str
    options: Options
    multipliers: tuple[float, ...] = ()


def variants(task: Task, target: str) -> list[Variant]:
    """What is tried for a task on a target."""
    base = Options(
        target=target, allow="retrain", calibration=str(task.calibration), verify=False, packs=(), search="exact"
    )
    solved: dict[str, Any] = {"objective": "drift>latency"}
    if task.name == "detector":
        return [
            Variant("V3 both", replace(base, rules=(SCALE, FUSE)), MULTIPLIERS),
            Variant("V4 solved", replace(base, rules=(FUSE, CURATE), shares={"latency": LATENCY_SHARE}, **solved)),
            Variant("V1 depth multiplier", replace(base, rules=(SCALE,)), MULTIPLIERS),
            Variant("V2 fused IBN", replace(base, rules=(FUSE,))),
        ]
    if task.name == "segmenter":
        both = replace(base, rules=(FUSE, CURATE), **solved)
        candidates = zip("ABCDE", SEGMENTER_SHARES, strict=True)
        return [Variant(letter, replace(both, shares={"latency": share})) for letter, share in candidates]
    halves: dict[Quantity, float] = {"peak-memory": MEMORY_SHARE, "parameters": MEMORY_SHARE}
    return [Variant("memory budget", replace(base, packs=("default",), search="local", shares=halves, **solved))]


class Results:
    """What was found so far, in a JSON file that several processes may write."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Any]:
        """Everything."""
        return json.loads(self._path.read_text("utf-8")) if self._path.exists() else {}

    def put(self, key: str, values: dict[str, Any]) -> None:
        """Add to the entry ``key``."""
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = self.read()
            found[key] = found.get(key, {}) | values
            write_text(self._path, json.dumps(found, indent=1, sort_keys=True) + "\n")


@dataclass(frozen=True)
class Benchmark:
    """One run.

    Attributes:
        results: what is known.
        folder: for models.
        share: of the samples to fine-tune on.
    """

    results: Results
    folder: Path
    share: float

    def original(self, task: Task) -> dict[str, Any]:
        """What is known of the original; it is judged here where nobody did."""
        key = f"{task.name}|original"
        if key not in self.results.read():
            self.results.put(key, {"metric": task.metric, "original": judged(task, task.model)})
        entry: dict[str, Any] = self.results.read()[key]
        return entry

    def tune_original(self, task: Task) -> None:
        """Give the original the fine-tuning that the others get."""
        if "tuned" in self.original(task):
            return
        out = self.folder / f"{task.name}.original.tuned.onnx"
        seconds = self._tune(task, task.model, out)
        self.results.put(f"{task.name}|original", {"tuned": judged(task, out), "seconds": seconds})

    def tune(self, task: Task, target: str, variant: Variant) -> None:
        """Optimise, fine-tune and judge: multipliers in turn until one keeps the metric on the validation images."""
        key = f"{task.name}|{target}|{variant.name}"
        entry = self.results.read().get(key, {})
        if "chosen" in entry:
            return
        attempts: dict[str, Any] = entry.get("attempts", {})
        wanted = self.original(task)["original"]["validation"][task.metric] - ALLOWED_LOSS
        multipliers: tuple[float | None, ...] = variant.multipliers or (None,)
        for multiplier in multipliers:
            label = str(multiplier)
            if label not in attempts:
                attempts[label] = self._attempt(task, target, variant, multiplier)
                self.results.put(key, {"attempts": attempts})
            if attempts[label]["tuned"]["validation"][task.metric] >= wanted:
                break
        self.results.put(key, {"chosen": label, "worse": worse_blocks(task, target)})

    def _attempt(self, task: Task, target: str, variant: Variant, multiplier: float | None) -> dict[str, Any]:
        several = variant.multipliers if multiplier is None else (multiplier,)
        name = f"{task.name}.{target}.{variant.name.split()[0]}{'' if multiplier is None else f'.x{multiplier:g}'}"
        repaired, tuned = (self.folder / f"{name}.{state}.onnx" for state in ("repaired", "tuned"))
        started = time.perf_counter()
        result = optimize(task.model, repaired, replace(variant.options, depth_multipliers=several))
        if result.outcome == "failed":
            raise SystemExit(f"{name}: {result.reason}")
        seconds = time.perf_counter() - started
        values = {"models": [repaired.name, tuned.name], "repair_seconds": seconds, **numbers(result)}
        known = self.results.read()
        if result.outcome == "unchanged":  # nothing pays on this target: there is nothing to train
            state = self.original(task)
            return values | {"repaired": state["original"], "tuned": state["original"], "seconds": 0.0}
        for key, entry in known.items():
            for attempt in entry.get("attempts", {}).values() if key.startswith(f"{task.name}|") else ():
                if attempt["changes"] == values["changes"]:  # another variant came to the same decisions
                    return attempt | numbers(result)
        seconds = self._tune(task, repaired, tuned)
        return values | {"repaired": judged(task, repaired), "tuned": judged(task, tuned), "seconds": seconds}

    def _tune(self, task: Task, start: Path, out: Path) -> float:
        """Fine-tune, and return the seconds of one core that it took."""
        started = time.process_time()
        task.tune(start, out, self.share)
        spent = time.process_time() - started
        print(f"{out.name}: fine-tuned in {spent:.0f} s", flush=True)
        return spent

    def measure(self, task: Task, accelerator: str) -> None:
        """Run every chosen model beside the original: onnxruntime in one run, and Vela."""
        known = self.results.read()
        keys = [key for key, row in known.items() if key.startswith(f"{task.name}|") and "chosen" in row]
        files = [task.model, *(self.folder / known[key]["attempts"][known[key]["chosen"]]["models"][1] for key in keys)]
        present = [path.exists() for path in files]
        graphs = [open_subject(path, "npu-32").graph for path, there in zip(files, present, strict=True) if there]
        measured = {}
        for name, backend in (("onnxruntime", OnnxRuntime(seconds=0.5)), (f"vela {accelerator}", Vela(accelerator))):
            found = iter(backend.measure(graphs))
            answers = [next(found) if there else None for there in present]
            measured[name] = [None if one is None or isinstance(one, Refusal) else one.total_us for one in answers]
        for place, key in enumerate(keys, start=1):
            pairs = {name: (values[0], values[place] or values[0]) for name, values in measured.items()}
            self.results.put(key, {"measured": pairs})


def judged(task: Task, path: Path) -> dict[str, Any]:
    """The metrics of a model, on the images for choices and on those for figures."""
    return {part: task.judge(path, part) for part in ("validation", "test")}


def numbers(result: OptimizeResult) -> dict[str, Any]:
    """The estimates of a result, and what was fused."""
    fused = sum(choice.choice.startswith(FUSE) for choice in result.plan.sites)
    changes = sorted(f"{change.place}: {change.text}" for change in result.changes)
    named = ("latency_us", "peak_activation_bytes", "parameter_bytes", "macs")
    before, after = ({name: getattr(one, name) for name in named} for one in result.estimates)
    return {
        "before": before,
        "after": after,
        "fused": fused,
        "changes": changes,
        "multiplier": dict(result.plan.knobs).get("depth-multiplier"),
    }


def worse_blocks(task: Task, target: str) -> list[tuple[str, float]]:
    """Blocks that would be slower fused: the op, and what it costs in microseconds."""
    found = scan(task.model, Options(target=target, allow="retrain", packs=(), rules=(FUSE,)))
    options = [(decision.where, option) for decision in found.decisions for option in decision.options]
    return [(where, -option.gain_us) for where, option in options if option.rules and option.gain_us < 0]


def main() -> None:
    """Run what is asked for and not known yet, and show it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--target", nargs="+", default=list(ARTICLE_TARGETS), help="for the detector; the others: the first"
    )
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--variant", nargs="+", default=[""], help="beginnings of the variants' names; all by default")
    parser.add_argument("--results", type=Path, default=Path("articles.json"))
    parser.add_argument("--models", type=Path, default=Path("articles"), help="folder for the models made")
    parser.add_argument("--picture", type=Path, help="write this SVG")
    parser.add_argument("--quick", action="store_true", help="a tenth of the fine-tuning; figures are worse")
    given = parser.parse_args()
    given.models.mkdir(parents=True, exist_ok=True)
    job = Benchmark(Results(given.results), given.models, 0.1 if given.quick else 1.0)
    for name in given.task if set(given.only) - {"show"} else ():
        task = TASKS[name]()
        if "original" in given.only:
            job.tune_original(task)
        if "tune" in given.only:
            for target in given.target if name == "detector" else given.target[:1]:
                for variant in variants(task, target):
                    if variant.name.startswith(tuple(given.variant)):
                        job.tune(task, target, variant)
        if "measure" in given.only:
            job.measure(task, "ethos-u55-256")
    if "show" in given.only:
        show(job.results.read())
    if given.picture is not None:
        write_text(given.picture, picture(job.results.read()))


if __name__ == "__main__":
    main()
