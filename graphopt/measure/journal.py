"""Measurements on disk: one JSON line each in ``measurements.jsonl``, behind a line that says what measured them.

A line is appended as soon as it is known, and flushed to the disk. A kill in the middle of a line costs that line: it
is cut off when the journal is opened again. Rows are kept as the device told them; they are joined with kernels when
they are read, so that a better fusion table needs no new measurement.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from graphopt.cost.learned import Unit
from graphopt.errors import ConfigError
from graphopt.measure.backend import Measurement, Refusal, Row

FILE_NAME: Final = "measurements.jsonl"
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Header:
    """What all measurements of a journal have in common.

    Attributes:
        backend: its name, or the ``module:class`` of a user's own.
        tool: tool and version.
        config: which device or configuration of the tool.
        seed: first seed of the random nets.
    """

    backend: str
    tool: str
    config: str
    seed: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One net and what the device said.

    Attributes:
        key: which net (:mod:`graphopt.measure.spec`).
        fingerprint: of its graph.
        answer: the measurement, or why there is none.
    """

    key: str
    fingerprint: str
    answer: Measurement | Refusal


class Journal:
    """The measurements in a folder.

    Attributes:
        path: the file.
        header: what measured them.
    """

    def __init__(self, folder: Path, header: Header) -> None:
        """Open the journal of a folder, or begin one.

        Raises:
            ConfigError: when the folder's measurements are of another device, tool or seed, or the file is not ours.
            OSError: when it cannot be read or written.
        """
        self.path = folder / FILE_NAME
        self.header = header
        self._entries: dict[str, Entry] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and self.path.stat().st_size:
            found, self._entries = _read(self.path, mend=True)
            _refuse_mixing(found, header, self.path)
        else:
            self._write({"graphopt": _FORMAT} | asdict(header))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[Entry]:
        """Entries in the order in which they were made."""
        return iter(self._entries.values())

    def get(self, key: str) -> Entry | None:
        """The entry of a net, if there is one."""
        return self._entries.get(key)

    def append(self, entry: Entry) -> None:
        """Write an entry down. One that is there already stays as it is."""
        if entry.key not in self._entries:
            self._write(_values(entry))
            self._entries[entry.key] = entry

    @contextmanager
    def being_filled(self) -> Iterator[None]:
        """Keep other runs out while nets are measured: two would measure the same ones. A killed run keeps nobody out.

        Raises:
            ConfigError: when another run is at it.
        """
        with self.path.open("rb") as file:
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    "another run is measuring into this journal; wait for it, or take another folder",
                    file=str(self.path),
                ) from error
            except (ImportError, OSError):  # Windows, or a file system without locks: lines stay whole even so
                pass
            yield

    def _write(self, values: Mapping[str, Any]) -> None:
        line = json.dumps(values, separators=(",", ":")) + "\n"
        with self.path.open("ab", buffering=0) as file:  # one write: lines of two runs at once stay whole
            file.write(line.encode("utf-8"))
            os.fsync(file.fileno())


def read_header(folder: Path) -> Header:
    """What measured the entries of a folder.

    Raises:
        ConfigError: when the folder holds no journal.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise ConfigError("holds no journal; `graphopt measure run --journal` makes one", file=str(folder))
    return _read(path, mend=False)[0]


def digest(entries: Iterator[Entry] | list[Entry]) -> str:
    """SHA-256 of measurements, whatever order they were made in."""
    lines = sorted(json.dumps(_values(entry), separators=(",", ":")) for entry in entries)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _refuse_mixing(found: Header, wanted: Header, path: Path) -> None:
    for name, value in asdict(wanted).items():
        there = getattr(found, name)
        if there != value:
            raise ConfigError(
                f"holds measurements with {name} {there!r}, not {value!r}; they do not mix, so take another folder",
                file=str(path),
            )


def _read(path: Path, *, mend: bool) -> tuple[Header, dict[str, Entry]]:
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    lines = content[:whole].decode("utf-8", "replace").splitlines()
    if not lines:
        raise ConfigError("is cut off within its first line; remove it", file=str(path))
    try:
        first, *rest = [json.loads(line) for line in lines]
        if first.pop("graphopt") != _FORMAT:
            raise ConfigError("was written by another version of graphopt; take another folder", file=str(path))
        header, entries = Header(**first), {entry.key: entry for entry in map(_entry, rest)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"is no journal of measurements, or is damaged: {error}", file=str(path)) from error
    if mend and whole < len(content):
        os.truncate(path, whole)
    return header, entries


def _values(entry: Entry) -> dict[str, Any]:
    values: dict[str, Any] = {"net": entry.key, "print": entry.fingerprint}
    answer = entry.answer
    if isinstance(answer, Refusal):
        return values | {"refused": [answer.place, answer.reason]}
    values |= {"total_us": answer.total_us, "spread": answer.spread}
    if answer.energy_uj is not None:
        values["energy_uj"] = answer.energy_uj
    return values | {"rows": [_row_values(row) for row in answer.rows]}


def _row_values(row: Row) -> list[Any]:
    told = [list(row.tensors), row.latency_us]
    return [*told, dict(row.busy_us)] if row.busy_us else told


def _row(tensors: Sequence[str], latency_us: float, busy_us: Mapping[Unit, float] | None = None) -> Row:
    return Row(tuple(tensors), float(latency_us), tuple((unit, float(us)) for unit, us in (busy_us or {}).items()))


def _entry(values: Mapping[str, Any]) -> Entry:
    answer: Measurement | Refusal
    if "refused" in values:
        place, reason = values["refused"]
        answer = Refusal(place, reason)
    else:
        rows = tuple(_row(*row) for row in values["rows"])
        answer = Measurement(float(values["total_us"]), rows, float(values["spread"]), values.get("energy_uj"))
    return Entry(values["net"], values["print"], answer)
