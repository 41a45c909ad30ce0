"""Write first, prove, and only then give the file its name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Stage:
    """A place for files that are not final yet.

    Attributes:
        path: where to write the model; its external data, if any, goes beside it.
        output: where it belongs, ``None`` when nothing is kept.
    """

    path: Path
    output: Path | None

    def keep(self) -> None:
        """Move everything to where it belongs: models last, since they point to their data."""
        if self.output is None:
            return
        for file in sorted(
            self.path.parent.iterdir(),
            key=lambda file: (file.suffix == ".onnx" or file.name == self.path.name, file.name),
        ):
            os.replace(file, self.output.parent / file.name)


@contextmanager
def staged(output: str | Path | None) -> Iterator[Stage]:
    """A hidden folder beside ``output`` (or a temporary one) that is gone at the end, whatever happens."""
    final = None if output is None else Path(output)
    parent = None if final is None else final.parent
    with tempfile.TemporaryDirectory(prefix=".graphopt-", dir=parent) as folder:
        yield Stage(Path(folder) / (final.name if final else "model.onnx"), final)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file by rename: it is there whole, or not at all."""
    with staged(path) as stage:
        stage.path.write_text(text, encoding="utf-8", newline="\n")
        stage.keep()
