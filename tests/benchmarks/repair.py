"""Print what label-free repair saves on the sample classifier.

    python -m tests.benchmarks.repair [--images N] [--repair-steps N]

Three plans, each with first-method weights (naive) and repaired from unlabelled calibration images:

* every inverted bottleneck fused: repaired loses at most a quarter of what naive loses;
* hidden widths x0.75: repaired loses at most 1.0 point;
* every group rounded down to a multiple of 16: repaired loses at most 1.5 points.

With `--repair-steps` the repaired models take gradient steps, too (needs PyTorch: `pip install 'graphopt[train]'`).
Accuracy is on the labelled test images, which nothing else sees. Nothing here is a test: it only prints.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from graphopt.apply import SiteAction, WidthAction, apply_actions
from graphopt.ir.channels import ChannelGroup
from graphopt.ir.graph import Graph
from graphopt.ir.op import Array
from graphopt.ir.resize import Selection
from graphopt.onnx_io.save import save
from graphopt.prepare import find_catalog, find_rules, open_space, open_subject
from graphopt.resources import sample_models_dir
from graphopt.results import Options
from graphopt.space.space import Space
from graphopt.weights.choose import select_channels
from graphopt.weights.kept import kept_positions
from graphopt.weights.repair import Repaired, repair

FUSE = "fuse-inverted-bottleneck"
PLANS = ("fused", "hidden x0.75", "multiples of 16")


@dataclass(frozen=True)
class Images:
    """Samples in memory."""

    arrays: Mapping[str, Array]

    @property
    def count(self) -> int:
        return len(next(iter(self.arrays.values())))

    def batches(self, indices: Sequence[int], size: int) -> Iterator[Mapping[str, Array]]:
        for start in range(0, len(indices), size):
            chosen = list(indices[start : start + size])
            yield {name: values[chosen] for name, values in self.arrays.items()}


def open_model(path: Path) -> Space:
    """Everything on offer, exact or not."""
    options = Options(target="npu-32", allow="retrain")
    subject = open_subject(path, "npu-32")
    catalog = find_catalog(options)
    return open_space(subject, find_rules(catalog, subject.target, options), catalog, options)


def is_hidden(group: ChannelGroup) -> bool:
    """Whether one convolution makes the channels and one other, behind a depthwise one, sums over them."""
    roles = [member.role for member in group.members]
    return len(group.makers) == 1 and roles.count("consume") == 1 and roles.count("carry") > 1 and not group.frozen


def widths_of(space: Space, plan: str) -> dict[str, int]:
    """New widths by group."""
    if plan == "hidden x0.75":
        depthwise = {op.key for op in space.graph.ops() if op.attribute("group", 1) > 1}
        hidden = [g for g in space.channels.groups if is_hidden(g) and depthwise & {m.op for m in g.members}]
        return {group.id: round(group.size * 0.75) for group in hidden}
    if plan == "multiples of 16":
        free = [group for group in space.channels.groups if not group.frozen and not group.is_stem]
        return {group.id: group.size // 16 * 16 for group in free if group.size % 16 and group.size > 16}
    return {}


def rewritten(space: Space, plan: str, selections: Mapping[str, Selection] | None) -> Graph:
    """The model with first-method weights: composed kernels, and channels chosen by their weights unless given."""
    fired = [fired for site in space.sites for option in site.options for fired in option.fired]
    anchors = {one.match.anchor: one.rule for one in fired if one.rule.id == FUSE} if plan == "fused" else {}
    sites = [SiteAction(rule, anchor) for anchor, rule in anchors.items()]
    widths = [WidthAction(group, width, "by-hand") for group, width in widths_of(space, plan).items()]
    return apply_actions(space.graph, space.channels, sites, widths, selections)


def repaired(space: Space, plan: str, samples: Images, seed: int) -> Repaired:
    """The model with channels chosen and weights fitted on the calibration images."""
    chosen = select_channels(space.graph, space.channels, widths_of(space, plan), samples, seed=seed)
    first = rewritten(space, plan, chosen)
    return repair(space.graph, first, kept_positions(space.channels, chosen), samples, seed=seed)


def refined(space: Space, plan: str, done: Repaired, samples: Images, seed: int, steps: int) -> Repaired:
    """The repaired model after gradient steps on the same images."""
    from graphopt.train.refine import refine

    chosen = select_channels(space.graph, space.channels, widths_of(space, plan), samples, seed=seed)
    return refine(space.graph, done.graph, kept_positions(space.channels, chosen), samples, steps=steps, seed=seed)


def accuracy(graph: Graph, test: Mapping[str, Array]) -> float:
    """Share of the test images that are classified correctly, in percent."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save(graph, path)
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (scores,) = session.run(None, {"image": test["image"]})
    return 100.0 * float((scores.argmax(1) == test["label"]).mean())


def show(done: Repaired) -> None:
    """One line for each repaired op."""
    for unit in done.units:
        print(f"    {unit.op:14s} {unit.method:18s} {unit.error_before:7.4f} -> {unit.error_after:7.4f}  {unit.note}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512, help="calibration images to use")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plan", choices=PLANS, help="one plan only")
    parser.add_argument("--units", action="store_true", help="print every repaired op")
    parser.add_argument("--repair-steps", type=int, default=0, help="gradient steps for each block")
    given = parser.parse_args()
    folder = sample_models_dir()
    samples = Images({"image": np.load(folder / "fashion_calibration.npz")["image"][: given.images]})
    with np.load(folder / "fashion_test.npz") as file:
        test = {name: file[name] for name in file.files}
    space = open_model(folder / "fashion_classifier.onnx")
    base = accuracy(space.graph, test)
    print(f"original: {base:.2f} % of {len(test['label'])} test images; {samples.count} calibration images")
    print(f"{'plan':18s} {'naive':>8s} {'repaired':>9s} {'loses':>7s} {'allowed':>8s} {'time':>8s}")
    for plan in (given.plan,) if given.plan else PLANS:
        before = accuracy(rewritten(space, plan, None), test)
        started = time.perf_counter()
        done = repaired(space, plan, samples, given.seed)
        spent = time.perf_counter() - started
        after = accuracy(done.graph, test)
        allowed = {"fused": (base - before) / 4, "hidden x0.75": 1.0, "multiples of 16": 1.5}[plan]
        loses = base - after
        verdict = "" if loses <= allowed else "  MISSED"
        print(f"{plan:18s} {before:8.2f} {after:9.2f} {loses:7.2f} {allowed:8.2f} {spent:6.1f} s{verdict}", flush=True)
        if given.units:
            show(done)
        if given.repair_steps:
            started = time.perf_counter()
            steps = refined(space, plan, done, samples, given.seed, given.repair_steps)
            spent = time.perf_counter() - started
            after = accuracy(steps.graph, test)
            print(f"{'  and refined':18s} {'':8s} {after:9.2f} {base - after:7.2f} {'':8s} {spent:6.1f} s", flush=True)
            if given.units:
                show(steps)


if __name__ == "__main__":
    main()
