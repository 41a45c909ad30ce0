"""--resolutions on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from graphopt.cli import app
from tests.resolution.cases import resize_to_sizes


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(resize_to_sizes(32, 32), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_optimize_tells_and_its_json_has_the_interface(model: Path, tmp_path: Path) -> None:
    asked = ("--resolutions", "x:48x32,24", "--allow", "retrain", "--max-macs", "60K", "-o", tmp_path / "out.onnx")
    done = run("optimize", model, *asked, "--report", tmp_path / "out.html")
    assert done.exit_code == 0, done.stderr
    for text in ("x 1x3x32x32 -> 1x3x24x24; constants of 2 ops followed", "1x2x24x24: what reads it has to follow"):
        assert text in done.stdout
        assert text.replace(">", "&gt;") in (tmp_path / "out.html").read_text()
    found = json.loads(run("optimize", model, *asked, "--force", "--json").stdout)["resolution"]
    assert found["inputs"] == [{"name": "x", "before": [1, 3, 32, 32], "after": [1, 3, 24, 24]}]
    assert (found["constants"], found["open"], found["finite"]) == (2, False, True)


def test_estimate_compares_sizes(model: Path) -> None:
    found = json.loads(run("estimate", model, "--resolutions", "16,48", "--json").stdout)
    assert [one["inputs"]["x"] for one in found["resolutions"]] == [[1, 3, 48, 48], [1, 3, 16, 16]]
    assert found["resolutions"][1]["macs"] * 9 == found["resolutions"][0]["macs"]
    assert "1x3x48x48" in run("estimate", model, "--resolutions", "16,48").stdout


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("--resolutions", "24"), "add --allow retrain"),
        (("--resolutions", "24y"), "are no image sizes; write 320,256,224"),
        (("--resolutions", "0"), "of pixels from 1 to 16384"),
        (("--resolutions", "y:24", "--allow", "retrain"), "no image input 'y'"),
    ],
)
def test_bad_input_is_one_line(model: Path, arguments: tuple[str, ...], wanted: str) -> None:
    done = run("optimize", model, "-o", model.with_name("out.onnx"), *arguments)
    assert done.exit_code == 2
    assert wanted in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
