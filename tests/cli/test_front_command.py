"""`graphopt optimize --pareto` and `--fit-memory` from the command line."""

from __future__ import annotations

import json
from pathlib import Path


def test_the_command_writes_picture_and_json_and_refuses_what_is_there(run, small_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    arguments = ("optimize", small_model, "--allow", "retrain", "--pareto", "2", "--no-verify", "-o", out)
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert set(values) == {
        "outcome", "reason", "model", "target", "axis", "before", "origin", "points", "candidates", "notes",
        "evaluations", "picture_file", "report_file",
    }  # fmt: skip
    assert [one["label"] for one in values["candidates"]] == ["A", "B"][: len(values["candidates"])]
    assert (tmp_path / "out.front.svg").read_text().startswith("<svg")
    again = run(*arguments)
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    forced = run(*arguments, "--force", "--report", tmp_path / "r.html")
    assert forced.exit_code == 0
    assert "out.A.onnx" in forced.stdout
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert run(*arguments, "--force", "--plan-out", tmp_path / "p.toml").exit_code == 2


def test_fit_memory_says_what_fits_and_fails_in_one_line(run, small_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    fits = run("optimize", small_model, "--fit-memory", "1MB", "--objective", "latency", "-o", out, "--json")
    assert fits.exit_code == 0, fits.stderr
    fit = json.loads(fits.stdout)["fit"]
    assert fit["spare_bytes"] == 1_000_000 - fit["after"]["parameter_bytes"] - fit["after"]["peak_bytes"]
    never = run("optimize", small_model, "--fit-memory", "1KB", "-o", tmp_path / "never.onnx")
    assert never.exit_code == 1
    assert "--fit-memory 1,000 bytes is out of reach" in never.stdout.splitlines()[0]
    assert "nothing was written" in never.stdout.splitlines()[0]
    assert not (tmp_path / "never.onnx").exists()
    assert run("optimize", small_model, "--fit-memory", "lots", "-o", out).exit_code == 2
