"""Proof: run the original and the rewritten model on the same inputs and compare what comes out.

**The measure is the model's own noise.** The original is run with none and with all of onnxruntime's optimisations:
both compute the same function and round differently, so their distance is what rounding alone does to this model on
these inputs. One such pair can agree by luck where the model amplifies rounding a lot, so the original is also run
(with none) on *twins* of the samples, whose inputs are off by one unit in the last place. The rewritten model is run
without optimisations, against the original without. For each floating-point output, over all samples,

    noise     = max(|none - all|, |none - none(twin)|)
    tolerance = FACTOR * max(noise, ULPS * eps(dtype) * max|none|)

in the largest absolute difference, and the same in the relative L2 distance (with ``ULPS * eps``); an output is
*equal* when it keeps both. ``FACTOR`` is 8: all exact rules together lie at 0.3 to 4.2 times the noise on five real
models, six seeds and two targets (36 times where the twins are left out); one weight tensor that is off by 1e-4 lies at
60 to 130 at the median. The lower bound of ``ULPS`` = 4 (so 32 units in the last place of the output's scale, 4e-6 for
float32) is for outputs where all runs happen to round alike: a sum in another order is off by some ulps all the same,
and the noise of real models is 3 to 60 ulps. Integer, bool and string outputs must be identical.

**A probe that cannot fail proves nothing.** Every second sample is a neighbour of another one (moved by 5 % towards a
third). An output that reacts to that by less than ``RESPONSE`` = 100 tolerances is constant or saturated, and agreement
on it is *inconclusive*; so are outputs that are not finite. Disagreement always counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from graphopt.errors import VerificationError, did_you_mean
from graphopt.ir.op import Array
from graphopt.onnx_io.shapes import LIKELY
from graphopt.onnx_io.worker import Answer, Failure, Optimisation, Task, work
from graphopt.verification.compare import OutputComparison, Verdict, compare
from graphopt.verification.interface import Interface, interface_difference, one_line, read_interface
from graphopt.verification.probes import (
    concrete_shape,
    given_samples,
    made_up,
    read_npz,
    rounded_twins,
    with_neighbours,
)

_SMALL_FILE_BYTES = 8_000_000


@dataclass(frozen=True, slots=True)
class Verification:
    """The proof.

    Attributes:
        verdict: ``differs`` if any output differs, else ``inconclusive`` if any is, else ``equal``.
        outputs: one comparison for each output of the original.
        samples: number of runs of each model, neighbours included.
        inputs: whether the inputs were given or made up from the seed.
        seed: seed of made-up inputs.
        reason: what decided the verdict, ``""`` when everything is equal.
    """

    verdict: Verdict
    outputs: tuple[OutputComparison, ...]
    samples: int
    inputs: Literal["given", "seeded"]
    seed: int
    reason: str = ""


def verify(
    original: str | Path,
    rewritten: str | Path,
    *,
    inputs: Mapping[str, Array] | str | Path | None = None,
    seed: int = 0,
    samples: int | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    timeout_s: float = 600.0,
) -> Verification:
    """Compare two models; see the module's text for the rule.

    Args:
        original: ONNX file that is the reference.
        rewritten: ONNX file to judge.
        inputs: real inputs by input name, or an `.npz` of them. The first axis runs over samples; arrays that are no
            inputs (labels) are ignored. ``None`` makes inputs up: for anything image-like one sample of white noise
            and smooth scenes with edges for the rest, normal values for other floats, zeros and ones for integers.
        seed: of made-up inputs.
        samples: runs of each model (two at least). Default: 6, or 2 where a model file is over 8 MB.
        input_shapes: concrete shapes for dynamic inputs; open dimensions are else 1 (the first), 224 (images), 16.
        timeout_s: wall-clock limit for all runs together.

    Raises:
        VerificationError: when a model or an input cannot be read, or a model does not load or run in onnxruntime.
    """
    original, rewritten = Path(original), Path(rewritten)
    specs, other = read_interface(original), read_interface(rewritten)
    count = max(2, samples if samples is not None else (6 if _size(original, rewritten) <= _SMALL_FILE_BYTES else 2))
    source: Literal["given", "seeded"] = "seeded" if inputs is None else "given"
    difference = interface_difference(specs, other)
    if difference:
        return Verification("differs", (), 0, source, seed, difference)
    base = _samples(specs, inputs, seed, (count + 1) // 2, input_shapes)
    feeds, neighbours = with_neighbours(base, count)
    reference, optimised, result = _runs(original, rewritten, tuple(feeds), tuple(rounded_twins(base)), timeout_s)
    reference, twins = reference[: len(feeds)], reference[len(feeds) :]
    runs = (*reference, *optimised, *result)
    parts = sorted({name for run in runs for name in run if not all(name in other for other in runs)})
    if parts:
        return Verification("differs", (), len(feeds), source, seed, f"not every run gives '{parts[0]}'")
    outputs = tuple(
        compare(
            name,
            _column(reference, name),
            _column(optimised, name),
            _column(result, name),
            neighbours,
            list(enumerate(_column(twins, name))),
        )
        for name in reference[0]
    )
    verdict, reason = _overall(outputs)
    return Verification(verdict, outputs, len(feeds), source, seed, reason)


def sample_inputs(
    model: str | Path,
    inputs: Mapping[str, Array] | str | Path | None = None,
    *,
    seed: int = 0,
    count: int = 4,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> tuple[dict[str, Array], ...]:
    """Return what :func:`verify` would feed a model with, neighbours left out: at most ``count`` samples.

    Raises:
        VerificationError: when the model or the inputs cannot be read, or do not fit each other.
    """
    return tuple(_samples(read_interface(Path(model)), inputs, seed, count, input_shapes))


def _samples(
    specs: Interface,
    inputs: Mapping[str, Array] | str | Path | None,
    seed: int,
    count: int,
    input_shapes: Mapping[str, Sequence[int]] | None,
) -> list[dict[str, Array]]:
    for name in set(input_shapes or {}) - {*specs.inputs, LIKELY}:
        raise VerificationError(f"there is no input {name!r}{did_you_mean(name, specs.inputs)}")
    shapes = {name: concrete_shape(spec, (input_shapes or {}).get(name)) for name, spec in specs.inputs.items()}
    if inputs is None:
        return made_up(specs, shapes, count, np.random.default_rng(seed))
    values = read_npz(inputs) if isinstance(inputs, str | Path) else inputs
    return given_samples(specs, shapes, values, count)


def _column(runs: Sequence[Mapping[str, Array]], name: str) -> list[Array]:
    return [run[name] for run in runs]


def _size(*paths: Path) -> int:
    return max(path.stat().st_size for path in paths)


def _runs(
    original: Path,
    rewritten: Path,
    feeds: tuple[dict[str, Array], ...],
    twins: tuple[dict[str, Array], ...],
    timeout_s: float,
) -> list[tuple[dict[str, Any], ...]]:
    """Run everything in one process: original without (twins, too) and with optimisations, rewritten without."""
    jobs: tuple[tuple[Path, Optimisation, tuple[dict[str, Array], ...], str], ...] = (
        (original, "none", (*feeds, *twins), "the original does not run in onnxruntime"),
        (original, "all", feeds, "the original does not run with onnxruntime's optimisations"),
        (rewritten, "none", feeds, "the rewritten model does not run in onnxruntime"),
    )
    tasks = [Task("run", model, optimisation=level, inputs=fed) for model, level, fed, _ in jobs]
    found = []
    for (model, _, _, trouble), answer in zip(jobs, work(tasks, timeout_s=timeout_s), strict=True):
        if isinstance(answer, Failure):
            raise VerificationError(f"{model}: {trouble}: {one_line(answer.reason)}")
        found.append(tuple(_flat_run(run) for run in answer.runs) if isinstance(answer, Answer) else ())
    return found


def _flat_run(run: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs by name; the parts of sequences and maps become ``name[key]``, an empty optional an empty array."""
    flat: dict[str, Any] = {}

    def put(name: str, value: Any) -> None:
        if isinstance(value, list | dict):
            for key, item in enumerate(value) if isinstance(value, list) else value.items():
                put(f"{name}[{key}]", item)
        else:
            flat[name] = np.asarray([] if value is None else value)

    for name, value in run.items():
        put(name, value)
    return flat


def _overall(outputs: tuple[OutputComparison, ...]) -> tuple[Verdict, str]:
    for verdict in ("differs", "inconclusive"):
        for output in outputs:
            if output.verdict == verdict:
                return output.verdict, f"output '{output.name}': {output.reason}"
    return "equal", ""
