"""Hardware profiles: one TOML file per chip, checked strictly, read into a frozen :class:`Target`.

A person who knows a chip copies a bundled file, edits the numbers and passes the path; ``README.md`` in this folder
explains every key. Each number carries its unit in its name and its source in the ``[sources]`` table.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final, Literal, cast

from graphopt.errors import ConfigError, did_you_mean
from graphopt.resources import targets_dir
from graphopt.strict import read_table

Precision = Literal["int8", "float16", "float32"]
DenseMode = Literal["weight-stationary", "vector"]
DepthwiseMode = Literal["block-diagonal", "per-channel", "vector"]

BYTES_PER_ELEMENT: Final[Mapping[str, int]] = {"int8": 1, "float16": 2, "float32": 4}
BYTES_PER_BIAS: Final[Mapping[str, int]] = {"int8": 4, "float16": 2, "float32": 4}

ACTIVATIONS: Final[frozenset[str]] = frozenset({
    "Abs", "Celu", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Mish", "Neg",
    "PRelu", "Pow", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu",
})  # fmt: skip
"""Op types that a target may list as fusable: one tensor in, one out, element by element (PRelu: constant slope)."""

_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "precision": ("int8", "float16", "float32"),
    "dense": ("weight-stationary", "vector"),
    "depthwise": ("block-diagonal", "per-channel", "vector"),
}
_COUNTS: Final = ("parallelism_channels", "fuse_limit_channels", "on_chip_memory_kib")
_QUANTITIES: Final = ("clock_mhz", "vector_elements_per_cycle", "dram_bandwidth_gb_per_s", "kernel_overhead_us")
_MAY_BE_ZERO: Final = ("kernel_overhead_us",)
_ENERGIES: Final = ("energy_pj_per_mac", "energy_pj_per_dram_byte")
"""Numbers that a file may leave out, both together."""
_MODE_NUMBERS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("dense", "weight-stationary"): ("array_rows", "array_columns"),
    ("dense", "vector"): ("dense_macs_per_cycle",),
    ("depthwise", "vector"): ("depthwise_macs_per_cycle",),
}
"""Numbers that a file must have (and others must not) because of a mode that it chooses."""
_WHOLE: Final = (*_COUNTS, "array_rows", "array_columns")
_SWITCHES: Final = ("affine", "residual_add", "elementwise_chains")
_OPTIONAL_SWITCHES: Final = ("gates",)
ARITHMETIC: Final = frozenset({"Add", "Sub", "Mul", "Div"})
_TEXTS: Final = ("name", "summary")
_SHA256: Final = (r"[0-9a-f]{64}", "64 hexadecimal digits in quotes")
_ESTIMATOR_TEXTS: Final[Mapping[str, tuple[str, str]]] = {
    "file": (r"[A-Za-z0-9_][A-Za-z0-9._-]*\.npz", "the name of an .npz file beside this one, without a folder"),
    "sha256": _SHA256,
    "backend": (r"[a-z][a-z0-9-]*", "the name of the backend that measured"),
    "tool": (r"[^\r\n]*\S[^\r\n]*", "one line in quotes: the tool that measured, and its version"),
    "data_sha256": _SHA256,
}
"""Keys of the ``[estimator]`` table: the pattern of each, and how to say it."""
_ESTIMATOR_COUNTS: Final = ("nets", "kernels")


@dataclass(frozen=True, slots=True)
class Fusion:
    """What the target runs as one kernel with the op before it.

    Attributes:
        activations: op types that cost nothing right after a convolution, matrix product or Add.
        affine: BatchNormalization, and Add/Sub/Mul/Div with a constant, directly after a convolution or matrix product.
        residual_add: the Add (or two-input Sum) that closes a residual block.
        spelled_out_activations: op types that an activation may be written with that is several ops (hard-swish as
            Add/Clip/Mul/Div, SiLU as Sigmoid*x); empty where such activations are not fused.
        elementwise_chains: activations after a kernel that is no convolution or matrix product (Add, pooling ...).
        gates: x * sigmoid(x) as a kernel of its own, where nothing else takes it.
    """

    activations: frozenset[str]
    affine: bool
    residual_add: bool
    spelled_out_activations: frozenset[str]
    elementwise_chains: bool
    gates: bool


@dataclass(frozen=True, slots=True)
class EstimatorFile:
    """Where the learned estimator of a target is, and what it was learned from.

    Attributes:
        file: name of an `.npz` beside the target file.
        sha256: of that file, hexadecimal.
        backend: what measured: ``vela``, ``onnxruntime``, ``totals``.
        tool: its version, one line.
        measured: the day of the measurements, ISO 8601.
        nets: how many nets were measured.
        kernels: how many kernels of them.
        data_sha256: SHA-256 of the raw measurements, hexadecimal.
        path: the `.npz` on this machine; no part of the target's identity.
    """

    file: str
    sha256: str
    backend: str
    tool: str
    measured: str
    nets: int
    kernels: int
    data_sha256: str
    path: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Target:
    """One hardware profile.

    Attributes:
        name: as on the command line and in plans.
        summary: one sentence.
        precision: number format the chip computes in, whatever the file holds; sets the element size.
        dense: how dense convolutions and matrix products run.
        depthwise: how depthwise (and narrow grouped) convolutions run.
        parallelism: channels that are computed at once; widths like multiples of it.
        fuse_limit: expanded channels above which fusing an inverted bottleneck is not even tried.
        clock_mhz: clock of the compute units, MHz.
        array_rows: rows of the MAC array (0 unless ``dense`` is ``weight-stationary``).
        array_columns: columns of the MAC array (0 unless ``dense`` is ``weight-stationary``).
        dense_macs_per_cycle: dense throughput (0 unless ``dense`` is ``vector``).
        depthwise_macs_per_cycle: depthwise throughput (0 unless ``depthwise`` is ``vector``).
        vector_elements_per_cycle: elements that the elementwise unit handles per cycle.
        dram_bandwidth_gb_per_s: reached (not peak) bandwidth, 10^9 bytes a second.
        on_chip_memory_kib: memory for activations, KiB.
        kernel_overhead_us: time that each kernel costs on top, microseconds.
        fusion: what runs as one kernel.
        sources: (key, where the number comes from) pairs.
        digest: SHA-256 of the file, hexadecimal, which names the estimator's; plans record it.
        left_to_cpu: op types that the chip cannot run, and leaves to the processor beside it: no rewrite may make one.
        energy_pj_per_mac: picojoules of a multiply-accumulate, 0 where nobody said.
        energy_pj_per_dram_byte: picojoules of a byte to or from DRAM, 0 where nobody said.
        estimator: what was learned from measurements, if anything was; the numbers above serve the rules all the same,
            and price what was not learned.
    """

    name: str
    summary: str
    precision: Precision
    dense: DenseMode
    depthwise: DepthwiseMode
    parallelism: int
    fuse_limit: int
    clock_mhz: float
    array_rows: int
    array_columns: int
    dense_macs_per_cycle: float
    depthwise_macs_per_cycle: float
    vector_elements_per_cycle: float
    dram_bandwidth_gb_per_s: float
    on_chip_memory_kib: int
    kernel_overhead_us: float
    fusion: Fusion
    sources: tuple[tuple[str, str], ...]
    digest: str
    left_to_cpu: frozenset[str] = frozenset()
    energy_pj_per_mac: float = 0.0
    energy_pj_per_dram_byte: float = 0.0
    estimator: EstimatorFile | None = None

    @property
    def element_bytes(self) -> int:
        """Bytes of one activation or weight."""
        return BYTES_PER_ELEMENT[self.precision]

    @property
    def bias_bytes(self) -> int:
        """Bytes of one bias value."""
        return BYTES_PER_BIAS[self.precision]

    @property
    def on_chip_bytes(self) -> int:
        """On-chip memory in bytes."""
        return self.on_chip_memory_kib * 1024

    @property
    def tells_energy(self) -> bool:
        """Whether the file says what work and traffic take."""
        return self.energy_pj_per_mac > 0

    def energy_uj(self, macs: Any, dram_bytes: Any) -> Any:
        """Energy of so much work and traffic, numbers or arrays, microjoules; idle power is not in it."""
        return (macs * self.energy_pj_per_mac + dram_bytes * self.energy_pj_per_dram_byte) / 1e6

    @property
    def properties(self) -> Mapping[str, int | float | str]:
        """What a card may bind a parameter to: ``{ target = "parallelism" }``."""
        return {
            name: getattr(self, name)
            for name in ("parallelism", "fuse_limit", "array_rows", "array_columns", "on_chip_bytes", "precision")
        }


def bundled_targets() -> tuple[str, ...]:
    """Names of the targets that ship with graphopt, sorted."""
    return tuple(sorted(path.stem for path in targets_dir().glob("*.toml")))


def load_target(name_or_path: str | os.PathLike[str]) -> Target:
    """Read a bundled target by name, or any target file by its path (ending in ``.toml``).

    Raises:
        ConfigError: when there is no such target or file, or the file breaks the schema.
    """
    text = os.fspath(name_or_path)
    if text.endswith(".toml"):
        return _read(Path(text))
    names = bundled_targets()
    if text not in names:
        raise ConfigError(
            f"unknown target {text!r}{did_you_mean(text, names)}; `graphopt targets list` shows them, and a path "
            "ending in .toml loads your own"
        )
    return _read(targets_dir() / f"{text}.toml")


def _read(path: Path) -> Target:
    values = read_table(path).values
    return _Checker(str(path), values).target(hashlib.sha256(path.read_bytes()).hexdigest())


class _Checker:
    """Turns the parsed TOML into a target, or says which key is wrong and what would work."""

    def __init__(self, file: str, data: Mapping[str, Any]) -> None:
        self.file = file
        self.data = data

    def error(self, field: str, message: str) -> ConfigError:
        return ConfigError(message, file=self.file, field=field)

    def target(self, digest: str) -> Target:
        modes = {key: self.choice(key) for key in _CHOICES}
        needed = [name for key in ("dense", "depthwise") for name in _MODE_NUMBERS.get((key, modes[key]), ())]
        energies = () if self.data.keys().isdisjoint(_ENERGIES) else _ENERGIES
        numbers = (*_COUNTS, *_QUANTITIES, *needed, *energies)
        optional = (*_ENERGIES, "left_to_cpu", "estimator")
        self.no_others(self.data, (*_TEXTS, *_CHOICES, *numbers, "fusion", "sources", *optional), "")
        value = {name: self.number(name) for name in numbers}
        return Target(
            name=self.text("name"),
            summary=self.text("summary"),
            precision=cast(Precision, modes["precision"]),
            dense=cast(DenseMode, modes["dense"]),
            depthwise=cast(DepthwiseMode, modes["depthwise"]),
            parallelism=int(value["parallelism_channels"]),
            fuse_limit=int(value["fuse_limit_channels"]),
            clock_mhz=value["clock_mhz"],
            array_rows=int(value.get("array_rows", 0)),
            array_columns=int(value.get("array_columns", 0)),
            dense_macs_per_cycle=value.get("dense_macs_per_cycle", 0.0),
            depthwise_macs_per_cycle=value.get("depthwise_macs_per_cycle", 0.0),
            vector_elements_per_cycle=value["vector_elements_per_cycle"],
            dram_bandwidth_gb_per_s=value["dram_bandwidth_gb_per_s"],
            on_chip_memory_kib=int(value["on_chip_memory_kib"]),
            kernel_overhead_us=value["kernel_overhead_us"],
            fusion=self.fusion(),
            sources=self.sources(numbers),
            digest=digest,
            left_to_cpu=self.left_to_cpu(),
            **{name: value[name] for name in energies},
            estimator=self.estimator() if "estimator" in self.data else None,
        )

    def no_others(self, table: Mapping[str, Any], known: tuple[str, ...], prefix: str) -> None:
        for key in table:
            if key not in known:
                conditional = [f"{k} = {v!r}" for (k, v), names in _MODE_NUMBERS.items() if key in names]
                hint = f" without {conditional[0]}" if conditional and not prefix else did_you_mean(key, known)
                raise self.error(prefix + key, f"unknown key{hint}; known here: {', '.join(known)}")

    def required(self, key: str) -> Any:
        if key not in self.data:
            raise self.error(key, "missing; copy the line from a bundled target and edit it")
        return self.data[key]

    def text(self, key: str) -> str:
        value = self.required(key)
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, "must be a text in quotes that is not empty")
        return value

    def choice(self, key: str) -> str:
        value = self.required(key)
        if value not in _CHOICES[key]:
            raise self.error(key, f"is {value!r}; must be one of {', '.join(_CHOICES[key])}")
        return str(value)

    def number(self, key: str) -> float:
        value = self.required(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, f"is {value!r}; must be a number without quotes")
        if key in _WHOLE and not isinstance(value, int):
            raise self.error(key, f"is {value!r}; must be a whole number")
        if not (0 < value < float("inf") or (value == 0 and key in _MAY_BE_ZERO)):
            raise self.error(key, f"is {value!r}; must be a finite number greater than 0")
        return float(value)

    def table(self, key: str) -> Mapping[str, Any]:
        value = self.required(key)
        if not isinstance(value, dict):
            raise self.error(key, f"must be a table: [{key}]")
        return value

    def fusion(self) -> Fusion:
        table = self.table("fusion")
        needed = ("activations", *_SWITCHES, "spelled_out_activations")
        self.no_others(table, (*needed, *_OPTIONAL_SWITCHES), "fusion.")
        for key in needed:
            if key not in table:
                raise self.error(f"fusion.{key}", "missing; copy the line from a bundled target and edit it")
        for key in (*_SWITCHES, *_OPTIONAL_SWITCHES):
            if not isinstance(table.get(key, False), bool):
                raise self.error(f"fusion.{key}", f"is {table[key]!r}; must be true or false")
        activations = self.op_types("activations", table["activations"], ACTIVATIONS)
        spelled_out = table["spelled_out_activations"]
        if isinstance(spelled_out, bool):
            spelled_out = activations | ARITHMETIC if spelled_out else frozenset()
        else:
            spelled_out = self.op_types("spelled_out_activations", spelled_out, ACTIVATIONS | ARITHMETIC)
        return Fusion(
            activations=activations,
            affine=table["affine"],
            residual_add=table["residual_add"],
            spelled_out_activations=spelled_out,
            elementwise_chains=table["elementwise_chains"],
            gates=table.get("gates", False),
        )

    def op_types(self, key: str, value: Any, known: frozenset[str]) -> frozenset[str]:
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            either = "true, false or " if key == "spelled_out_activations" else ""
            raise self.error(f"fusion.{key}", f'must be {either}a list of ONNX op types, for example ["Relu", "Clip"]')
        for name in value:
            if name not in known:
                raise self.error(f"fusion.{key}", f"{name!r} is no activation op type{did_you_mean(name, known)}")
        return frozenset(value)

    def left_to_cpu(self) -> frozenset[str]:
        names = self.data.get("left_to_cpu", [])
        if not isinstance(names, list) or not all(isinstance(name, str) and name.isidentifier() for name in names):
            raise self.error("left_to_cpu", 'must be a list of ONNX op types, for example ["SpaceToDepth"]')
        return frozenset(names)

    def estimator(self) -> EstimatorFile:
        table = self.table("estimator")
        self.no_others(table, (*_ESTIMATOR_TEXTS, *_ESTIMATOR_COUNTS, "measured"), "estimator.")
        for key, (pattern, wanted) in _ESTIMATOR_TEXTS.items():
            if not isinstance(table.get(key), str) or not re.fullmatch(pattern, table[key]):
                raise self.error(f"estimator.{key}", f"must be {wanted}")
        for key in _ESTIMATOR_COUNTS:
            if isinstance(table.get(key), bool) or not isinstance(table.get(key), int) or table[key] < 1:
                raise self.error(f"estimator.{key}", "must be a whole number greater than 0")
        measured = table.get("measured")
        if not isinstance(measured, date) or isinstance(measured, datetime):
            raise self.error("estimator.measured", "must be a day without quotes, for example 2026-11-21")
        texts = {key: table[key] for key in _ESTIMATOR_TEXTS}
        counts = {key: table[key] for key in _ESTIMATOR_COUNTS}
        path = str(Path(self.file).with_name(table["file"]))
        return EstimatorFile(**texts, **counts, measured=measured.isoformat(), path=path)

    def sources(self, numbers: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
        table = self.table("sources")
        self.no_others(table, numbers, "sources.")
        for key in numbers:
            if not isinstance(table.get(key), str) or not table[key].strip():
                raise self.error(f"sources.{key}", "missing; say in a sentence where the number comes from")
        return tuple((key, table[key]) for key in numbers)
