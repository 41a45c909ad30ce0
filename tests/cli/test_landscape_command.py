"""`graphopt landscape`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def test_on_the_command_line(run, small_model: Path, tmp_path: Path) -> None:
    picture = tmp_path / "p.svg"
    arguments = ("landscape", "--kernel", "conv1x1:28x28:ci=64", "-t", "npu-32", "-t", "npu-16", "-o", picture)
    done = run(*arguments)
    assert done.exit_code == 0, done.stderr
    assert "npu-16, steps of 16 channels" in done.stdout
    assert "32 -> 33 channels: +" in done.stdout
    assert picture.read_text().startswith("<svg")
    assert "--force" in run(*arguments).stderr
    values = json.loads(run("landscape", small_model, "--multiplier", "--json").stdout)
    (one,) = values["landscapes"]  # stem, hidden and output channels: 16 + 96 + 24
    assert (values["kind"], one["target"], one["single"], one["original"]) == ("estimate", "npu-32", False, 136)
    assert len(one["channels"]) == len(one["rocky_us"]) == len(one["smooth_us"])
    assert "original" in run("landscape", small_model, "--multiplier").stdout


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "MODEL or --kernel"),
        (("MODEL", "--kernel", "conv1x1:28x28:ci=64"), "MODEL or --kernel"),
        (("--kernel", "conv1x1:28x28:ci=64", "--multiplier"), "belong to a MODEL"),
        (("MODEL", "--width", "e", "--multiplier"), "one of them"),
        (("MODEL", "--width", "ee"), "nearest: e"),
        (("MODEL", "--width", "zzz"), "there are"),
        (("MODEL", "--width", "scores"), "cannot change"),
        (("MODEL", "-o", "p.png"), ".svg"),
        (("MODEL", "-t", "npu33"), "npu-32"),
    ],
)
def test_bad_input_is_one_line(run, small_model: Path, arguments: tuple[str, ...], part: str) -> None:
    done = run("landscape", *(small_model if one == "MODEL" else one for one in arguments))
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert part in done.stderr
