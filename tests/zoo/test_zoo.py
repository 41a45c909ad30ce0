"""A zoo: every model ends in an outcome, and one bad model is nobody else's problem."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

import graphopt.zoo.run
from graphopt import ConfigError, Options, ZooRow, optimize_zoo
from graphopt.cli import app
from graphopt.onnx_io.shapes import LIKELY
from graphopt.zoo.run import _Runner

T = Options(target="npu-32-no-depthwise")
QUICK = Options(target="npu-32-no-depthwise", verify=False)


@pytest.fixture
def zoo(tmp_path: Path, small_model_bytes: bytes) -> Path:
    """A folder with a good model, one in a sub-folder, a damaged one, a dynamic one and one without convolutions."""
    folder = tmp_path / "zoo"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "good.onnx").write_bytes(small_model_bytes)
    (folder / "deep" / "er" / "good.onnx").write_bytes(small_model_bytes)
    (folder / "bad.onnx").write_bytes(small_model_bytes[:-400])
    (folder / "note.txt").write_text("no model")
    dynamic = onnx.load_model_from_string(small_model_bytes)
    dynamic.graph.input[0].name = dynamic.graph.node[0].input[0] = "photo"
    dynamic.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(dynamic, folder / "dynamic.onnx")
    plain = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> m (float[2,8] x) => (float[2,8] y) { y = Tanh(x) }'
    )
    onnx.save(plain, folder / "plain.onnx")
    return folder


OUTCOMES = {
    "bad.onnx": "failed",
    "deep/er/good.onnx": "optimized",
    "dynamic.onnx": "skipped",
    "good.onnx": "optimized",
    "plain.onnx": "unchanged",
}


def outcomes(rows: tuple[ZooRow, ...]) -> dict[str, str]:
    return {row.model: row.outcome for row in rows}


def test_every_model_ends_in_an_outcome_and_a_second_run_goes_on(zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    seen: list[tuple[str, int]] = []
    rows = optimize_zoo(zoo, out, T, jobs=2, on_row=lambda row, total: seen.append((row.model, total)))
    assert outcomes(rows) == OUTCOMES
    assert sorted(seen) == [(name, 5) for name in OUTCOMES]
    by_name = {row.model: row for row in rows}
    assert "truncated" in by_name["bad.onnx"].reason
    assert "--input-shape photo:" in by_name["dynamic.onnx"].reason
    assert "convolution" in by_name["plain.onnx"].reason
    good = by_name["deep/er/good.onnx"]
    assert good.result is not None
    assert good.result.verification is not None
    assert good.numbers is not None
    assert (good.numbers.verdict, good.numbers.safety) == ("equal", "exact")
    assert good.numbers.latency_us_after < good.numbers.latency_us_before
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert files == [
        "deep/er/good.onnx", "deep/er/good.plan.toml", "good.onnx", "good.plan.toml", "graphopt-zoo.csv",
        "graphopt-zoo.json", "plain.onnx", "plain.plan.toml",
    ]  # fmt: skip
    with (out / "graphopt-zoo.csv").open(newline="") as file:
        assert {row["model"]: row["outcome"] for row in csv.DictReader(file)} == OUTCOMES

    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.onnx")}
    (zoo / "good.onnx").write_bytes((zoo / "good.onnx").read_bytes() + b"\x32\x01x")  # another doc string
    shapes = {"photo": (1, 3, 32, 32)}
    again = optimize_zoo(zoo, out, T)
    assert outcomes(again) == OUTCOMES
    changed = {path.relative_to(out).as_posix() for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed == {"good.onnx"}
    assert {row.model: row.numbers for row in again}["deep/er/good.onnx"] == good.numbers
    other = optimize_zoo(zoo, out, Options(target="npu-32-no-depthwise", input_shapes=shapes))
    assert outcomes(other) == OUTCOMES | {"dynamic.onnx": "optimized"}
    likely = optimize_zoo(zoo, out, Options(target="npu-32-no-depthwise", input_shapes={LIKELY: ()}))
    assert outcomes(likely) == OUTCOMES | {"dynamic.onnx": "optimized"}


def test_results_inside_the_folder_are_not_models(zoo: Path) -> None:
    for name in ("bad.onnx", "dynamic.onnx", "plain.onnx"):
        (zoo / name).unlink()
    first = optimize_zoo(zoo, zoo / "results", QUICK)
    assert outcomes(optimize_zoo(zoo, zoo / "results", QUICK)) == outcomes(first)
    assert len(first) == 2


def test_files_that_are_not_ours_stay(zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "good.onnx").write_text("mine")
    for name in ("bad.onnx", "dynamic.onnx", "plain.onnx", "deep/er/good.onnx"):
        (zoo / name).unlink()
    rows = {row.model: row for row in optimize_zoo(zoo, out, QUICK)}
    assert rows["good.onnx"].outcome == "skipped"
    assert "--force" in rows["good.onnx"].reason
    assert (out / "good.onnx").read_text() == "mine"
    assert outcomes(optimize_zoo(zoo, out, QUICK, force=True)) == {"good.onnx": "optimized"}


def test_external_data(zoo: Path, tmp_path: Path, small_model_bytes: bytes) -> None:
    for path in zoo.rglob("*.onnx"):
        path.unlink()
    model = onnx.load_model_from_string(small_model_bytes)
    onnx.save_model(model, zoo / "split.onnx", save_as_external_data=True, location="split.bin", size_threshold=0)
    (row,) = optimize_zoo(zoo, tmp_path / "out", QUICK)
    assert row.outcome == "optimized", row.reason
    onnx.checker.check_model(str(tmp_path / "out" / "split.onnx"))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "out of memory"),
        ("import os; os._exit(7)", "code 7"),
        ("import time; time.sleep(60)", "stopped after 2 s"),
    ],
)
def test_a_process_that_dies_fails_alone(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, why: str
) -> None:
    """A model named `killer` makes its process run ``code`` first."""
    (zoo / "killer.onnx").write_bytes((zoo / "good.onnx").read_bytes())
    for name in ("bad.onnx", "dynamic.onnx", "plain.onnx", "deep/er/good.onnx"):
        (zoo / name).unlink()
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import pathlib, sys\n"
        "argument = sys.orig_argv[-1]\n"
        "job = pathlib.Path(argument) / 'job.pickle'\n"
        f"if job.is_file() and b'killer' in job.read_bytes():\n    {code}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    rows = {
        row.model: row for row in optimize_zoo(zoo, tmp_path / "out", QUICK, timeout_s=2 if "sleep" in code else 60)
    }
    assert rows["killer.onnx"].outcome == "failed"
    assert why in rows["killer.onnx"].reason
    if "sleep" not in code:
        assert rows["good.onnx"].outcome == "optimized"


def test_an_interruption_keeps_what_is_finished(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    started = threading.Event()
    ask = _Runner._ask

    def slow(self: _Runner, job: graphopt.zoo.run.Job) -> object:
        if job.model.name == "plain.onnx":
            started.set()
        return ask(self, job)

    monkeypatch.setattr(_Runner, "_ask", slow)

    def interrupt(row: ZooRow, total: int) -> None:
        if row.model == "good.onnx":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize_zoo(zoo, out, QUICK, on_row=interrupt)
    journal = json.loads((out / "graphopt-zoo.json").read_text())["rows"]
    assert journal["good.onnx"]["outcome"] == "optimized"
    assert (out / "good.onnx").is_file()
    assert not any(path.name.startswith(".graphopt-") for path in out.rglob("*"))
    monkeypatch.undo()
    assert outcomes(optimize_zoo(zoo, out, QUICK)) == OUTCOMES


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_control_c_on_the_command_line(zoo: Path, tmp_path: Path) -> None:
    # a shell that runs the tests in the background has them ignore the signal, and that is inherited
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heard}; from graphopt.cli import main; main()"
    command = [sys.executable, "-c", code, "zoo", str(zoo), "-o", str(tmp_path / "out")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        while not (tmp_path / "out" / "graphopt-zoo.json").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.read().strip() == "graphopt: interrupted"
    assert process.returncode == 130


@pytest.mark.parametrize("damage", ["", "[]", '{"format": 1, "rows": {"good.onnx": {"outcome": "optimized"}}}', "{"])
def test_a_damaged_journal_is_no_journal(zoo: Path, tmp_path: Path, damage: str) -> None:
    for name in ("bad.onnx", "dynamic.onnx", "plain.onnx", "deep/er/good.onnx"):
        (zoo / name).unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "graphopt-zoo.json").write_text(damage)
    assert outcomes(optimize_zoo(zoo, tmp_path / "out", QUICK)) == {"good.onnx": "optimized"}


def test_folders_that_make_no_sense(zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, output, why in (
        (tmp_path / "nowhere", tmp_path / "out", "is no folder"),
        (tmp_path / "empty", tmp_path / "out", "no *.onnx files"),
        (zoo, zoo, "another folder"),
        (zoo, zoo / "good.onnx", "is no folder"),
    ):
        with pytest.raises(ConfigError) as caught:
            optimize_zoo(folder, output)
        assert why in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_command_tells_about_every_model(zoo: Path, tmp_path: Path) -> None:
    arguments = ["zoo", str(zoo), "-o", str(tmp_path / "out"), "-t", "npu-32-no-depthwise", "-j", "2", "--no-verify"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "5 models: 2 optimized, 1 unchanged, 1 skipped, 1 failed" in done.stdout
    assert done.stderr == ""
    (zoo / "bad.onnx").unlink()
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0
    values = json.loads(done.stdout)
    assert values["outcomes"] == {"optimized": 2, "unchanged": 1, "skipped": 1, "failed": 0}
    assert {row["model"]: row["outcome"] for row in values["rows"]} == {
        name: kind for name, kind in OUTCOMES.items() if name != "bad.onnx"
    }


def test_a_share_bounds_every_model_by_its_own_cost(zoo: Path, tmp_path: Path) -> None:
    small = ["-o", str(tmp_path / "out"), "--target", "npu-32-no-depthwise", "--no-verify", "--json"]
    for share, outcome in (("100%", "optimized"), ("1%", "failed")):
        done = CliRunner().invoke(app, ["zoo", str(zoo), *small, "--max-latency-us", share, "-f"])
        rows = {row["model"]: row for row in json.loads(done.stdout)["rows"]}
        assert rows["good.onnx"]["outcome"] == rows["deep/er/good.onnx"]["outcome"] == outcome, rows
