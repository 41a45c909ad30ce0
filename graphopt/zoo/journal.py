"""What a zoo run has finished, in a JSON file beside the results, so that the next run can go on."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from graphopt.outputs import write_text
from graphopt.results import Options, ZooNumbers, ZooRow
from graphopt.version import __version__

FILE = "graphopt-zoo.json"
TABLE = "graphopt-zoo.csv"
FORMAT = 1
_COLUMNS = ("model", "outcome", "reason", "seconds", *(field.name for field in dataclasses.fields(ZooNumbers)))


class Journal:
    """The finished rows of an output folder, by model. Written anew, by rename, after each row."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.folder = folder
        self._options = _fingerprint(options)
        self._rows: dict[str, dict[str, Any]] = _read(folder / FILE)

    def ours(self, name: str) -> bool:
        """Whether an earlier run wrote this model's output."""
        return name in self._rows

    def finished(self, name: str, model: Path) -> ZooRow | None:
        """The row of an earlier run, if the model, the options and graphopt are still the same."""
        row = self._rows.get(name)
        if row is None or row.get("outcome") not in ("optimized", "unchanged") or not (self.folder / name).is_file():
            return None
        if row.get("options") != self._options or row.get("file") != _digest(model):
            return None
        try:
            numbers = ZooNumbers(**row["numbers"])
            if numbers.drift is not None:
                numbers = dataclasses.replace(numbers, drift=float(numbers.drift))
            if numbers.gap is not None:
                numbers = dataclasses.replace(numbers, gap=float(numbers.gap))
            return ZooRow(name, row["outcome"], str(row["reason"]), float(row["seconds"]), numbers)
        except (KeyError, TypeError, ValueError):
            return None

    def add(self, row: ZooRow, model: Path) -> None:
        """Write a finished row down."""
        self._rows[row.model] = {
            "outcome": row.outcome,
            "reason": row.reason,
            "seconds": round(row.seconds, 3),
            "numbers": None if row.numbers is None else _values(row.numbers),
            "file": _digest(model),
            "options": self._options,
        }
        text = json.dumps({"format": FORMAT, "rows": dict(sorted(self._rows.items()))}, indent=1, allow_nan=False)
        write_text(self.folder / FILE, text + "\n")

    def write_table(self, rows: Iterable[ZooRow]) -> None:
        """Write all rows as a table."""
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            numbers = {} if row.numbers is None else dataclasses.asdict(row.numbers)
            writer.writerow(
                {"model": row.model, "outcome": row.outcome, "reason": row.reason, "seconds": f"{row.seconds:.2f}"}
                | numbers
            )
        write_text(self.folder / TABLE, text.getvalue())


def _values(numbers: ZooNumbers) -> dict[str, Any]:
    """The numbers by name. JSON has no infinite drift or gap: it is the text that `float` reads."""
    values = dataclasses.asdict(numbers)
    infinite = {name: repr(value) for name, value in values.items() if value in (math.inf, -math.inf)}
    return values | infinite


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """The rows of an earlier run; none where there is no journal that can be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] == FORMAT:
            return {str(name): row for name, row in content["rows"].items() if isinstance(row, dict)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}


def _fingerprint(options: Options) -> str:
    """A digest of the options, what they name, and graphopt's version."""
    content: list[Any] = [__version__]
    for field in dataclasses.fields(options):
        if field.name == "cache":  # it saves time and changes nothing
            continue
        value = getattr(options, field.name)
        content.append([field.name, sorted(value.items()) if isinstance(value, Mapping) else repr(value)])
    for name in (options.target, options.calibration, options.preprocess, _evaluated(options.evaluate)):
        if name and Path(name).is_file():
            content.append([name, _digest(Path(name))])
    if options.calibration and Path(options.calibration).is_dir():
        content.append(_stamps(Path(options.calibration)))
    for folder in options.rule_dirs:
        content += [[str(file), _digest(file)] for file in sorted(Path(folder).rglob("*.toml"))]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _evaluated(spec: str | None) -> str | None:
    """The file behind ``--evaluate``, where it is one that may change: data, or a module beside us."""
    if spec is None or spec.lower().endswith(".npz"):
        return spec
    module = spec.rpartition(":")[0]
    return module if module.endswith(".py") else f"{module.replace('.', '/')}.py"


def _stamps(folder: Path) -> list[list[Any]]:
    """Name, size and time of each file below a folder: there may be gigabytes of images."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [[str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _digest(file: Path) -> str:
    """SHA-256 of a file's bytes, ``""`` where it cannot be read (it then never counts as finished)."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""
