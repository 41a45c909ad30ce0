"""What each lossy decision costs alone: its drift, measured, so that the search can trade it against latency.

Every lossy option of a site, and a few widths of every group, are applied alone, repaired around the change, and the
whole model's drift is measured on samples that no solve has seen. Between the measured widths the square root of the
drift is interpolated over the share of removed channels (it is a distance; with nothing removed it is zero). Small
drifts of independent changes add up when they are measured as KL divergence, or as the *square* of a relative L2
distance, so what the search adds is that. The sum is a guess: the finished model is measured again.

Each measurement is written down as soon as it is made, in a file named by the digests of model and samples: a run that
was killed goes on where it stopped, and a second run measures nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from graphopt.apply import SiteAction, WidthAction, apply_actions
from graphopt.decide import decisions_of
from graphopt.ir.graph import Graph
from graphopt.onnx_io.save import save
from graphopt.real_data import RealData
from graphopt.space.site import Option, Width
from graphopt.space.space import Space
from graphopt.space.table import CostTable
from graphopt.verification.drift import Drift, Reference, drift_from, reference_outputs
from graphopt.version import __version__
from graphopt.weights.linear import LINEAR
from graphopt.weights.units import is_changed

MEASURED_WIDTHS = 3
"""Widths of a group that are measured at most; the others lie between."""

SOLVE_SAMPLES = 64
"""Samples of a single repair at most."""

JUDGE_SAMPLES = 128
"""Held-out samples that a drift is measured on at most."""

UNMEASURED = 1e6
"""Stands for the drift of an option that was not measured, or is not finite: no budget allows it."""


def added(drift: Drift) -> float:
    """The part of a drift that adds up over small independent changes."""
    return drift.value if drift.worst.measure != "relative-l2" else drift.value**2


def bound_of(max_drift: float, measure: str) -> float:
    """What the added parts may come to for a drift of at most ``max_drift``."""
    return max_drift if measure != "relative-l2" else max_drift**2


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Measured drifts of single decisions.

    Attributes:
        drift: for each variable of the cost table, what each of its options adds, shape (options,).
        measure: what the numbers are (see :mod:`graphopt.verification.drift`).
        measured: number of measurements behind them.
        reused: how many of these an earlier run had made.
    """

    drift: Mapping[int, npt.NDArray[np.float64]]
    measure: str
    measured: int
    reused: int


def measure_sensitivity(
    space: Space,
    table: CostTable,
    data: RealData,
    original: Path,
    digest: str,
    *,
    cache: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Sensitivity:
    """Measure every lossy decision of a space.

    Args:
        space: the decisions.
        table: its prices; its variables number the result.
        data: calibration samples.
        original: the model's file.
        digest: of that file.
        cache: folder for the measurements; the user's cache folder where it is ``None``.
        progress: called with (done, all, the decision).

    Raises:
        ModelError, VerificationError: when a model does not run on the samples.
    """
    meter = _Meter(space, data.limited(SOLVE_SAMPLES, JUDGE_SAMPLES), original)
    journal = _Journal(_cache_folder(cache), digest, meter.data)
    wanted = _wanted(space, table)
    values: dict[str, float] = {}
    reused = 0
    for done, (key, sites, widths) in enumerate(wanted):
        if progress is not None:
            progress(done, len(wanted), key)
        known = journal.get(key)
        if known is None:
            known = min(meter.measure(sites, widths), UNMEASURED)
            journal.put(key, known)
        else:
            reused += 1
        values[key] = known
    if progress is not None:
        progress(len(wanted), len(wanted), "")
    drift: dict[int, npt.NDArray[np.float64]] = {}
    for v, variable in enumerate(table.variables):
        if variable.kind == "site":
            site = next(site for site in space.sites if site.id == variable.id)
            drift[v] = np.array([values.get(_site_key(o), UNMEASURED) if _lossy(o) else 0.0 for o in site.options])
        elif variable.kind == "width":
            width = next(width for width in space.widths if width.group.id == variable.id)
            drift[v] = _interpolated(width, values)
    return Sensitivity(drift, meter.measure_name, len(wanted), reused)


def _lossy(option: Option) -> tuple[SiteAction, ...]:
    """The parts of an option that are not exact."""
    return tuple(SiteAction(one.rule, one.match.anchor) for one in option.fired if one.safety != "exact")


def _site_key(option: Option) -> str:
    return " + ".join(f"{action.rule.id} at {action.anchor}" for action in _lossy(option))


def _width_key(width: Width, channels: int) -> str:
    return f"{width.group.id}: {width.group.size} -> {channels} channels"


def _wanted(space: Space, table: CostTable) -> list[tuple[str, tuple[SiteAction, ...], tuple[WidthAction, ...]]]:
    """Everything to measure: a key, and what to apply. Options of sites that gain nothing by themselves on this target
    are left out (and then out of the search): a late block's dense kernel takes longest to fit, and is never chosen."""
    found: dict[str, tuple[tuple[SiteAction, ...], tuple[WidthAction, ...]]] = {}
    gains = {
        (site.id, option.label): option.gain_us
        for site in decisions_of(space, table, table.default())
        for option in site.options
    }
    for site in space.sites:
        for option in site.options:
            if _lossy(option) and gains[site.id, option.label] > 0:
                found[_site_key(option)] = (_lossy(option), ())
    for width in space.widths:
        for channels in _measured_widths(width):
            action = WidthAction(width.group.id, channels, "measured")
            found[_width_key(width, channels)] = ((), (action,))
    return [(key, *actions) for key, actions in found.items()]


def _measured_widths(width: Width) -> list[int]:
    """A few of the widths below the present one, the smallest and the largest among them."""
    below = sorted(option.width for option in width.options if option.width < width.group.size)
    if len(below) <= MEASURED_WIDTHS:
        return below
    places = np.linspace(0, len(below) - 1, MEASURED_WIDTHS).round().astype(int)
    return [below[place] for place in places]


def _interpolated(width: Width, values: Mapping[str, float]) -> npt.NDArray[np.float64]:
    """Drift of each width on offer; more channels than now cost none."""
    measured = _measured_widths(width)
    removed = [0.0, *(1.0 - channels / width.group.size for channels in reversed(measured))]
    roots = [0.0, *(math.sqrt(max(values[_width_key(width, c)], 0.0)) for c in reversed(measured))]
    grown = np.maximum.accumulate(roots)  # fewer channels never drift less; what says so is noise
    shares = [max(0.0, 1.0 - option.width / width.group.size) for option in width.options]
    return np.asarray(np.interp(shares, removed, grown) ** 2, np.float64)


class _Meter:
    """Applies, repairs and measures one decision at a time."""

    def __init__(self, space: Space, data: RealData, original: Path) -> None:
        self.space = space
        self.data = data
        self._original = original
        self._reference: Reference = reference_outputs(original, data.calibration, data.held_out)
        self.measure_name = drift_from(self._reference, original, data.calibration).worst.measure

    def measure(self, sites: Sequence[SiteAction], widths: Sequence[WidthAction]) -> float:
        """The drift of these changes alone, repaired around them."""
        graph, channels = self.space.graph, self.space.channels
        selections = self.data.select(graph, channels, {action.group: action.width for action in widths})
        rewritten = apply_actions(graph, channels, sites, widths, selections)
        near = _near(graph, rewritten)
        repaired = self.data.repair(graph, rewritten, channels, selections, only=near)
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            path = Path(folder) / "changed.onnx"
            save(repaired.graph, path)
            return added(drift_from(self._reference, path, self.data.calibration))


def _near(original: Graph, rewritten: Graph) -> frozenset[str]:
    """The linear ops that changed, and the first ones behind them."""
    changed = [op.key for op in rewritten.ops() if is_changed(original, rewritten, op)]
    near = {key for key in changed if rewritten.op(key).op_type in LINEAR}
    stack = [tensor for key in changed for tensor in rewritten.op(key).outputs if tensor]
    seen: set[str] = set()
    while stack:
        for use in rewritten.uses(stack.pop()):
            if use.op.key in seen:
                continue
            seen.add(use.op.key)
            if use.op.op_type in LINEAR:
                near.add(use.op.key)
            else:
                stack += [tensor for tensor in use.op.outputs if tensor]
    return frozenset(near)


def _cache_folder(given: Path | None) -> Path:
    if given is not None:
        return given
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "graphopt" / "sensitivity"


class _Journal:
    """Measurements on disk, one JSON line each; a line that was cut off by a kill is left out."""

    def __init__(self, folder: Path, model: str, data: RealData) -> None:
        parts = [__version__, model, data.calibration.digest, str(data.seed), str(data.solve.count)]
        parts += [str(len(data.held_out)), data.importance]
        name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
        self._file = folder / f"{name}.jsonl"
        self._known: dict[str, float] = {}
        self._torn = False
        with contextlib.suppress(OSError):
            text = self._file.read_text(encoding="utf-8")
            self._torn = not text.endswith("\n")
            for line in text.splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    self._known[str(entry["decision"])] = float(entry["drift"])

    def get(self, key: str) -> float | None:
        """What an earlier run measured."""
        return self._known.get(key)

    def put(self, key: str, drift: float) -> None:
        """Write a measurement down. A cache that cannot be written only costs time."""
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write("\n" * self._torn + json.dumps({"decision": key, "drift": drift}) + "\n")
            self._torn = False
