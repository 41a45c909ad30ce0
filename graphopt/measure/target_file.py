"""Write what was learned as a target: the analytic target's file with an ``[estimator]`` table, and its `.npz`."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import date
from pathlib import Path

from graphopt.cost.learned_file import packed
from graphopt.measure.campaign import Outcome
from graphopt.measure.journal import Header
from graphopt.outputs import staged
from graphopt.resources import targets_dir

_TABLE = re.compile(r"^\[estimator\]$.*?(?=^\[|\Z)", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"^name\s*=.*$", re.MULTILINE)


def source_path(target: str) -> Path:
    """The file of a bundled target's name, or of a path."""
    return Path(target) if target.endswith(".toml") else targets_dir() / f"{target}.toml"


def write_target(source: Path, outcome: Outcome, header: Header, day: date, output: Path) -> None:
    """Write ``output`` and the `.npz` of the same name beside it; each is there whole, or not at all.

    Args:
        source: the analytic target; its numbers, fusion table and comments are kept.
        outcome: what was learned.
        header: what measured.
        day: when they were made.
        output: a path that ends in ``.toml``; its stem is the target's name.

    Raises:
        ConfigError: when the estimator is too large.
        OSError: when a file cannot be read or written.
    """
    content = packed(outcome.learned)
    estimator = {
        "file": estimator_name(output),
        "sha256": hashlib.sha256(content).hexdigest(),
        "backend": re.sub(r"[^a-z0-9-]+", "-", header.backend.rpartition(":")[2].lower()).strip("-") or "own",
        "tool": header.tool,
        "nets": len(outcome.training),
        "kernels": outcome.kernels,
        "data_sha256": outcome.data_sha256,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in estimator.items()]
    lines.insert(4, f"measured = {day.isoformat()}")
    text = _TABLE.sub("", source.read_text("utf-8")).rstrip()
    text = _NAME.sub(lambda _: f"name = {json.dumps(output.stem)}", text, count=1)
    text = "\n".join([text, "", "[estimator]", *lines, ""])
    with staged(output) as stage:
        stage.path.with_name(estimator_name(output)).write_bytes(content)
        stage.path.write_text(text, encoding="utf-8", newline="\n")
        stage.keep()


def estimator_name(output: Path) -> str:
    """Name of the estimator's file beside a target file."""
    return output.with_suffix(".npz").name
