"""Does drift without labels predict the accuracy after training? `python -m tests.benchmarks.predictor [--variants N]`.

On the sample classifier: structural variants of several kinds and strengths (blocks fused, hidden or all widths cut,
mixtures), each made as a plan and applied through the public API, repaired from the unlabelled calibration images, and
scored without labels on other images. Then each gets the same short training, and the accuracy on the test images is
what the scores have to rank. Printed: a table, and Spearman's rank correlation of every score with the accuracy after
training and with the repaired one, with a 95 % interval (bootstrap over the variants). 1 is a perfect ranking.

Needs PyTorch (`pip install '.[train]'`) and Fashion-MNIST (Debian: `apt install dataset-fashion-mnist`). Nothing here
is a test: it only prints.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from graphopt.decide import candidate_of, extend_widths
from graphopt.draft import Job
from graphopt.ir.channels import ChannelGroup
from graphopt.ir.graph import Graph, Patch
from graphopt.ir.op import Weight
from graphopt.onnx_io.load import load
from graphopt.onnx_io.save import save
from graphopt.pipeline import apply_plan, scan
from graphopt.plan import Plan, SiteChoice, WidthChoice
from graphopt.resources import sample_models_dir
from graphopt.results import Options
from graphopt.sensitivity import measure_sensitivity
from graphopt.space.compiler import compile_table
from graphopt.space.table import DRIFT
from graphopt.verification.interface import input_types, read_interface
from graphopt.verification.session import Session
from graphopt.verification.tally import Tally
from graphopt.weights.calibration import calibration_from_arrays
from graphopt.weights.taps import Stream

MODEL = sample_models_dir() / "fashion_classifier.onnx"
CALIBRATION = sample_models_dir() / "fashion_calibration.npz"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

TARGET = "npu-32-no-depthwise"
"""On it every block is faster fused, so that every single drift is measured."""

FUSE = "fuse-inverted-bottleneck"
KINDS = ("fused", "hidden", "all", "16", "mixed")
WEAKEST, STRONGEST = 0.8, 0.15
"""Share of the channels that stays, in the weakest and in the strongest variant of a kind."""

SCORE_IMAGES, NASWOT_IMAGES, TRAIN_IMAGES, TEST_IMAGES = 2000, 128, 6400, 4000
BATCH = 64
RESAMPLES = 2000
KL = "KL divergence"

Floats = npt.NDArray[np.float64]
Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


# -- variants ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """A plan and what to call it."""

    name: str
    plan: Plan


def variants(job: Job, keep: Plan, count: int, seed: int) -> list[Variant]:
    """Plans of every kind in turn, from weak to strong."""
    rng = np.random.default_rng(seed)
    blocks = [site.id for site in job.space.sites if site.option(FUSE) is not None]
    free = [group for group in job.space.channels.groups if not group.frozen and not group.is_stem]
    rounds = math.ceil(count / len(KINDS))
    return [
        _variant(KINDS[i % len(KINDS)], (i // len(KINDS)) / max(rounds - 1, 1), keep, blocks, free, rng)
        for i in range(count)
    ]


def _variant(
    kind: str,
    strength: float,
    keep: Plan,
    blocks: Sequence[str],
    free: Sequence[ChannelGroup],
    rng: np.random.Generator,
) -> Variant:
    share = WEAKEST + strength * (STRONGEST - WEAKEST)
    if kind == "fused":
        count = round(3 + strength * (len(blocks) - 3))
        return Variant(f"{count} fused", _changed(keep, rng.permutation(blocks)[:count], {}))
    if kind == "hidden":
        widths = {group: round(group.size * share) for group in free if _is_hidden(group)}
        return Variant(f"hidden x{share:.2f}", _changed(keep, (), widths))
    if kind == "all":
        return Variant(f"all x{share:.2f}", _changed(keep, (), {group: round(group.size * share) for group in free}))
    if kind == "16":
        widths = {group: max(16, int(group.size * rng.uniform(share - 0.15, 1.0)) // 16 * 16) for group in free}
        return Variant(f"multiples of 16, x{share - 0.15:.2f}..1", _changed(keep, (), widths))
    some = [group for group in free if rng.random() < 0.7]
    widths = {group: round(group.size * rng.uniform(share - 0.1, share + 0.1)) for group in some}
    chosen = [block for block in blocks if rng.random() < 0.5]
    return Variant(f"{len(chosen)} fused, {len(some)} x{share:.2f}+-0.1", _changed(keep, chosen, widths))


def _is_hidden(group: ChannelGroup) -> bool:
    """Whether a depthwise convolution carries the channels on."""
    return any(member.role == "carry" and member.op not in group.makers for member in group.members)


def _changed(keep: Plan, fused: Iterable[str], widths: Mapping[ChannelGroup, int]) -> Plan:
    """The plan that leaves everything as it is, with these blocks fused and these widths."""
    chosen = set(fused)
    new = {group.id: WidthChoice(group.id, group.size, width) for group, width in widths.items()}
    return replace(
        keep,
        sites=tuple(SiteChoice(site.site, FUSE) if site.site in chosen else site for site in keep.sites),
        widths=(*(width for width in keep.widths if width.group not in new), *new.values()),
    )


def added_drifts(job: Job, made: Sequence[Variant], cache: Path) -> Floats:
    """What the search predicts for each variant: the drifts of its single decisions, added up."""
    assert job.data is not None
    space = job.space
    for variant in made:
        space = extend_widths(space, variant.plan)
    table = compile_table(space, job.subject.target)
    single = measure_sensitivity(space, table, job.data, job.subject.path, job.subject.digest, cache=cache)
    rows = np.array([candidate_of(variant.plan, space, table) for variant in made])
    sums: Floats = table.with_drift(single.drift).evaluate(rows, (DRIFT,))[0]
    return sums


# -- scores without labels --------------------------------------------------------------------------------------------


def centred_distance(before: Floats, after: Floats) -> float:
    """Relative L2 distance of the logits, each row's mean taken out (it changes no class)."""
    a, b = (scores - scores.mean(axis=1, keepdims=True) for scores in (before, after))
    return float(np.sqrt(((a - b) ** 2).sum() / (a**2).sum()))


def naswot(graph: Graph, images: Images) -> float:
    """Log-determinant of how often two images switch the same units on (arXiv:2006.04647); no training, no teacher."""
    units = [op.key for op in graph.ops() if op.op_type in ("Clip", "Relu")]
    samples = calibration_from_arrays({"image": images}, input_types(read_interface(MODEL)))
    on: dict[str, list[Images]] = {unit: [] for unit in units}
    for _, values in Stream(graph, samples, cache_bytes=0).run(units, graph.ops()[-1].key):
        for unit in units:
            on[unit].append((values[unit] > 0).reshape(len(values[unit]), -1).astype(np.float32))
    kernel = np.zeros((len(images), len(images)))
    for codes in map(np.concatenate, on.values()):
        kernel += codes @ codes.T + (1 - codes) @ (1 - codes).T
    return float(np.linalg.slogdet(kernel)[1])


def untrained(graph: Graph, seed: int) -> Graph:
    """The same structure with drawn weights (He, arXiv:1502.01852) and no biases."""
    rng = np.random.default_rng(seed)
    patches = []
    for op in graph.ops():
        new = {}
        for name in op.inputs[1:] if op.op_type in ("Conv", "Gemm") else ():
            shape = graph.weights[name].shape
            values = rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:])) * (len(shape) > 1)
            new[name] = _weight(f"{op.key}/drawn/{name}", values.astype(np.float32))
        if new:
            inputs = tuple(new[name].name if name in new else name for name in op.inputs)
            patches.append(Patch((op.key,), (replace(op, inputs=inputs, source=None),), tuple(new.values())))
    return graph.edited(patches)


def _weight(name: str, values: Images) -> Weight:
    return Weight(name, values.shape, values.dtype, lambda: values)


def logits_of(path: Path, images: Images) -> Floats:
    """Outputs on all images."""
    session = Session(path)
    parts = [session.run({"image": images[i : i + 250]})["logits"] for i in range(0, len(images), 250)]
    return np.concatenate(parts).astype(np.float64)


def accuracy(path: Path, images: Images, labels: Labels) -> float:
    """Share of images that are classified right, in percent."""
    return 100.0 * float((logits_of(path, images).argmax(axis=1) == labels).mean())


# -- ranking ----------------------------------------------------------------------------------------------------------


def ranks(values: Floats) -> Floats:
    """Ranks from 0; equal values share the mean of theirs."""
    return np.array([(values < value).sum() + ((values == value).sum() - 1) / 2 for value in values])


def spearman(a: Floats, b: Floats) -> float:
    """Rank correlation; not a number where one side is constant."""
    x, y = ranks(a), ranks(b)
    return float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) and np.ptp(y) else math.nan


def interval(a: Floats, b: Floats, seed: int) -> tuple[float, float]:
    """95 % interval of the rank correlation: percentiles over resampled variants."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(a), (RESAMPLES, len(a)))
    low, high = np.nanpercentile([spearman(a[rows], b[rows]) for rows in drawn], [2.5, 97.5])
    return float(low), float(high)


# -- the whole --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """Images of Fashion-MNIST as the model is fed; the calibration images are in none of them.

    Attributes:
        scored: without labels, for the scores.
        train: for the short training.
        test: for the accuracy.
    """

    scored: Images
    train: tuple[Images, Labels]
    test: tuple[Images, Labels]


def read_data(folder: Path, seed: int) -> Data:
    """Divide the training set; the test images are the first of the test set."""
    images, labels = read_split(folder, "train")
    with np.load(CALIBRATION) as file:
        known = {image.tobytes() for image in file["image"]}
    fresh = np.array([i for i, image in enumerate(images) if image.tobytes() not in known])
    order = np.random.default_rng(seed).permutation(fresh)
    scored, train = order[:SCORE_IMAGES], order[SCORE_IMAGES : SCORE_IMAGES + TRAIN_IMAGES]
    test_images, test_labels = read_split(folder, "t10k")
    test = test_images[:TEST_IMAGES], test_labels[:TEST_IMAGES]
    return Data(images[scored], (images[train], labels[train]), test)


def read_split(folder: Path, prefix: str) -> tuple[Images, Labels]:
    """Read one split from its two gzipped IDX files, prepared as `sample_models/README.md` says."""
    with gzip.open(folder / f"{prefix}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(folder / f"{prefix}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
    return ((pixels.astype(np.float32) - 64) / 128).astype(np.float32), labels


@dataclass(frozen=True)
class Row:
    """What was measured of one variant; `scores` are turned so that more promises more accuracy."""

    name: str
    scores: Mapping[str, float]
    naive: float
    repaired: float
    trained: float


def measure(variant: Variant, data: Data, reference: Floats, train: Callable[[Path, Path], None], folder: Path) -> Row:
    """Apply, repair, score, train and judge one variant."""
    naive, repaired, trained = (folder / f"{name}.onnx" for name in ("naive", "repaired", "trained"))
    apply_plan(MODEL, variant.plan, naive, Options(verify=False))
    done = apply_plan(MODEL, variant.plan, repaired, Options(calibration=str(CALIBRATION), verify=False))
    train(repaired, trained)
    assert done.drift is not None
    assert done.after is not None
    outputs = logits_of(repaired, data.scored)
    apart = _drift(reference, outputs)
    scores = {
        KL: -apart[0],
        "top-1 agreement": apart[1],
        "relative L2 of centred logits": -centred_distance(reference, outputs),
        "KL on 128 held-out calibration images": -done.drift.value,
        "KL without repair": -_drift(reference, logits_of(naive, data.scored))[0],
        "naswot of the repaired model": naswot(load(repaired), data.scored[:NASWOT_IMAGES]),
        "naswot, untrained": naswot(untrained(load(repaired), seed=0), data.scored[:NASWOT_IMAGES]),
        "parameters": float(done.after.parameters),
        "MACs": float(done.after.macs),
        "number of changes": -float(done.plan.changes),
    }
    return Row(variant.name, scores, *(accuracy(path, *data.test) for path in (naive, repaired, trained)))


def _drift(before: Floats, after: Floats) -> tuple[float, float]:
    """KL divergence and top-1 agreement."""
    tally = Tally("logits")
    tally.add(before, after, len(before))
    found = tally.result()
    assert found.kl is not None
    assert found.top1_agreement is not None
    return found.kl, found.top1_agreement


def trainer(data: Data, steps: int | None, seed: int) -> Callable[[Path, Path], None]:
    """The same short training for all: from a file to a file."""
    from graphopt.train.finetune import Recipe, cross_entropy, finetune

    images, labels = data.train
    recipe = Recipe(steps=steps, batch=BATCH, seed=seed)

    def train(source: Path, out: Path) -> None:
        save(finetune(load(source), {"image": images, "label": labels}, cross_entropy(), recipe).graph, out)

    return train


def show(rows: Sequence[Row], seed: int) -> None:
    """Print how well each score ranks."""
    trained, repaired = (np.array(values) for values in ([r.trained for r in rows], [r.repaired for r in rows]))
    error = 100.0 * math.sqrt(float(np.mean(trained / 100 * (1 - trained / 100))) / TEST_IMAGES)
    print(
        f"\naccuracy after training: {trained.min():.2f} to {trained.max():.2f} %, standard deviation between variants"
    )
    print(f"{trained.std(ddof=1):.2f}, standard error of each {error:.2f} ({TEST_IMAGES} test images)")
    print(f"\n{'Spearman rho with the accuracy':38s} {'after training':>23s} {'as repaired':>23s}")
    for name in rows[0].scores:
        values = np.array([row.scores[name] for row in rows])
        print(f"{name:38s} {_rho(values, trained, seed)}  {_rho(values, repaired, seed)}")
    print(f"{'(repaired accuracy, with labels)':38s} {_rho(repaired, trained, seed)}")


def _rho(values: Floats, wanted: Floats, seed: int) -> str:
    low, high = interval(values, wanted, seed)
    return f"{spearman(values, wanted):+6.2f} ({low:+.2f} to {high:+.2f})".rjust(23)


def main() -> None:
    """Print the table and the correlations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", type=int, default=14)
    parser.add_argument(
        "--steps", type=int, help=f"batches of {BATCH} in the training; one pass over {TRAIN_IMAGES} images otherwise"
    )
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="folder of the gzipped IDX files")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if not (given.data / "train-images-idx3-ubyte.gz").exists():
        raise SystemExit(
            f"no Fashion-MNIST in {given.data}: apt install dataset-fashion-mnist, or name a folder with --data"
        )
    if importlib.util.find_spec("torch") is None:
        raise SystemExit("PyTorch is not installed: pip install '.[train]'")
    started = time.process_time()
    data = read_data(given.data, given.seed)
    train = trainer(data, given.steps, given.seed)
    reference = logits_of(MODEL, data.scored)
    job = Job(MODEL, Options(target=TARGET, allow="retrain", calibration=str(CALIBRATION), max_drift=1.0))
    made = variants(job, scan(MODEL, job.options).plan, given.variants, given.seed)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(MODEL, folder / "original.onnx")
        before, after = (accuracy(path, *data.test) for path in (MODEL, folder / "original.onnx"))
        print(f"original: {before:.2f} %, and {after:.2f} % after the same training")
        print(f"{'':32s} {'parameters':>10s} {'KL':>8s} {'agrees':>7s} {'naive':>7s} {'repaired':>8s} {'trained':>7s}")
        sums = added_drifts(job, made, folder)
        for variant, added in zip(made, sums, strict=True):
            row = measure(variant, data, reference, train, folder)
            row = replace(row, scores={**row.scores, "single drifts added up": -float(added)})
            rows.append(row)
            print(
                f"{row.name:32s} {row.scores['parameters']:10,.0f} {-row.scores[KL]:8.4f} "
                f"{row.scores['top-1 agreement']:7.1%} {row.naive:7.2f} {row.repaired:8.2f} {row.trained:7.2f}",
                flush=True,
            )
    show(rows, given.seed)
    print(f"\n{(time.process_time() - started) / 60:.1f} minutes of processor time")


if __name__ == "__main__":
    main()
