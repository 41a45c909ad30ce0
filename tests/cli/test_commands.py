"""What each command answers, by its exit code, its text and its JSON."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.cli.app import COMMANDS
from graphopt.search.strategy import Certificate

T = ("--target", "npu-32-no-depthwise")


def test_every_command_has_help_with_an_example(run) -> None:
    listed = run("--help")
    assert listed.exit_code == 0
    for name in COMMANDS:
        assert name in listed.stdout
        shown = run(name, "--help")
        assert shown.exit_code == 0, shown.stderr
        assert f"graphopt {name}" in shown.stdout
        assert "Example:" in shown.stdout
        command = importlib.import_module(f"graphopt.cli.commands.{name}").command
        assert command.name == name


def test_version(run) -> None:
    from graphopt import __version__

    assert run("--version").stdout == f"graphopt {__version__}\n"


def test_optimize_writes_model_and_plan_and_tells(run, small_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    done = run("optimize", small_model, *T, "-o", out, "--report", tmp_path / "report.html")
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    texts = ("latency", "peak activation memory", "off-chip traffic", "capacity kept", "verification   equal", "next ")
    for text in texts:
        assert text in done.stdout
    assert len(done.stdout.splitlines()) < 45
    onnx.checker.check_model(onnx.load(out))
    assert (tmp_path / "out.plan.toml").read_text().startswith("# graphopt plan")
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.onnx",
        "out.plan.toml",
        "report.html",
        "small.onnx",
    ]


def test_optimize_json_has_its_keys_and_the_plan_replays(run, small_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    done = run("optimize", small_model, *T, "-o", out, "--json")
    values = json.loads(done.stdout)
    assert set(values) == {
        "outcome", "reason", "model", "output", "plan_file", "report_file", "safety", "plan_digest", "before", "after",
        "capacity_kept", "importance", "changes", "front", "verification", "drift", "repaired", "refined", "evaluation",
        "refusals", "notes", "evaluations", "certificate", "op_order", "fit", "resolution",
    }  # fmt: skip
    assert values["outcome"] == "optimized"
    assert [values[key] for key in ("drift", "repaired", "refined", "evaluation")] == [None] * 4
    assert values["after"]["latency_us"] < values["before"]["latency_us"]
    again = run("apply", small_model, values["plan_file"], "-o", tmp_path / "again.onnx", "--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["plan_digest"] == values["plan_digest"]
    assert (tmp_path / "again.onnx").read_bytes() == out.read_bytes()


def test_a_search_is_chosen_and_certified(run, small_model: Path, tmp_path: Path) -> None:
    latency = {}
    for search in ("exact", "local", "greedy"):
        out = tmp_path / f"{search}.onnx"
        done = run("optimize", small_model, *T, "-o", out, "--search", search, "--certify", "--no-verify", "--json")
        values = json.loads(done.stdout)
        latency[search] = values["after"]["latency_us"]
        certificate = values["certificate"]
        assert certificate["value"] == pytest.approx(latency[search], rel=1e-6)
        assert certificate["bound"] == pytest.approx(latency["exact"], rel=1e-6)
        assert certificate["gap"] == pytest.approx(latency[search] / latency["exact"] - 1, abs=1e-6)
    assert latency["exact"] <= latency["local"] <= latency["greedy"]
    shown = run("optimize", small_model, *T, "-o", tmp_path / "shown.onnx", "--search", "exact")
    assert "optimality gap 0 % (certified)" in shown.stdout
    for objective in ("peak-memory", "memory", "latency=1,memory=0.5"):
        out = tmp_path / "sum.onnx"
        asked = run("optimize", small_model, *T, "-f", "-o", out, "--objective", objective, "--certify", "--json")
        assert json.loads(asked.stdout)["certificate"]["gap"] == pytest.approx(0, abs=1e-6)


def test_a_certificate_that_the_estimate_contradicts_is_void(
    run, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphopt.search.run.certify", lambda *_: Certificate("latency", 1.0, 1.0))
    done = run("optimize", small_model, *T, "-o", tmp_path / "out.onnx", "--certify", "--json")
    values = json.loads(done.stdout)
    assert values["certificate"] is None
    assert any("no certificate" in note for note in values["notes"])


def test_the_default_output_is_in_the_current_folder(
    run, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert run("optimize", small_model).exit_code == 0
    assert sorted(path.name for path in here.iterdir()) == ["small.npu-32.onnx", "small.npu-32.plan.toml"]
    taken = run("optimize", small_model)
    assert taken.exit_code == 2
    assert "--force" in taken.stderr
    assert run("optimize", small_model, "--force").exit_code == 0


def test_a_bound_out_of_reach_is_a_no(run, small_model: Path, tmp_path: Path) -> None:
    done = run("optimize", small_model, "-o", tmp_path / "out.onnx", "--max-macs", "10")
    assert done.exit_code == 1
    assert "--max-macs" in done.stdout
    assert not (tmp_path / "out.onnx").exists()
    assert not (tmp_path / "out.plan.toml").exists()


def test_scan_edit_apply(run, small_model: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    done = run("scan", small_model, *T, "-o", plan, "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert set(values) == {"model", "plan_file", "plan_digest", "before", "decisions", "refusals", "notes"}
    (site,) = [d for d in values["decisions"] if any("swap-depthwise-for-dense" in o["rules"] for o in d["options"])]
    text = plan.read_text()
    head, tail = text.split(f'id = "{site["id"]}"', 1)
    option = next(o["label"] for o in site["options"] if "swap-depthwise-for-dense" in o["rules"])
    plan.write_text(head + f'id = "{site["id"]}"' + tail.replace('"keep"', f'"{option}"', 1))
    done = run("apply", small_model, plan, "-o", tmp_path / "out.onnx", "--json")
    assert done.exit_code == 0, done.stderr
    assert "swap-depthwise-for-dense" in [change["rule"] for change in json.loads(done.stdout)["changes"]]
    groups = [a.i for n in onnx.load(tmp_path / "out.onnx").graph.node for a in n.attribute if a.name == "group"]
    assert set(groups) <= {1}


def test_a_plan_with_protected_parts_replays(run, small_model: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    protect = ("--allow", "retrain", "--protect", "we", "--protect", "p*")
    done = run("optimize", small_model, *T, *protect, "-o", first, "--no-verify", "--json")
    assert done.exit_code == 0, done.stderr
    digest = json.loads(done.stdout)["plan_digest"]
    again = run("apply", small_model, tmp_path / "first.plan.toml", "-o", second, "--no-verify", "--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["plan_digest"] == digest
    assert first.read_bytes() == second.read_bytes()


def test_explain_says_what_fired_and_what_did_not(run, small_model: Path) -> None:
    values = json.loads(run("explain", small_model, "--json").stdout)
    rules = {rule["rule"]: rule for rule in values["rules"]}
    assert rules["fuse-inverted-bottleneck"]["fired"]
    assert all(one["reason"] for rule in rules.values() for one in rule["refused"])
    table = run("explain", small_model).stdout
    assert "fuse-inverted-bottleneck" in table
    only = run("explain", small_model, "--rule", "round-channels")
    assert only.exit_code == 0, only.stderr
    assert "round-channels" in only.stdout
    assert "fuse-inverted" not in only.stdout


def test_estimate(run, small_model: Path) -> None:
    values = json.loads(run("estimate", small_model, "--per-kernel", "--json").stdout)
    assert values["kind"] == "estimate"
    assert sum(kernel["macs"] for kernel in values["kernels"]) == values["macs"] > 0
    assert {kernel["bound"] for kernel in values["kernels"]} <= {"compute", "memory", "overhead", "on-chip"}
    table = run("estimate", small_model, "--per-kernel").stdout
    assert "bound by" in table
    assert "Conv+Relu" in table
    assert "kernels" not in json.loads(run("estimate", small_model, "--json").stdout)


def test_verify_answers_yes_and_no(run, small_model: Path, tmp_path: Path) -> None:
    same = run("verify", small_model, small_model)
    assert same.exit_code == 0
    assert "equal" in same.stdout
    model = onnx.load(small_model)
    tensor = model.graph.initializer[1]
    values = onnx.numpy_helper.to_array(tensor) * np.float32(1.01)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "other.onnx")
    other = run("verify", small_model, tmp_path / "other.onnx", "--json")
    assert other.exit_code == 1
    assert json.loads(other.stdout)["verdict"] == "differs"


def test_json_has_no_nan(run, small_model: Path, tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> m (float[2,8] x) => (float[2,8] y)'
        "{ k = Constant<value_float=0.0>() y = Div(x, k) }"
    )
    onnx.save(model, tmp_path / "inf.onnx")
    done = run("verify", tmp_path / "inf.onnx", tmp_path / "inf.onnx", "--json")
    assert done.exit_code == 1
    values = json.loads(done.stdout, parse_constant=pytest.fail)
    assert values["verdict"] == "inconclusive"
    assert values["outputs"][0]["max_abs"] is None


def test_rules_and_targets(run) -> None:
    listed = json.loads(run("rules", "list", "--json").stdout)
    ids = [rule["id"] for rule in listed["rules"]]
    assert "fuse-inverted-bottleneck" in ids
    assert {"exact", "default", "edge-npu"} <= {pack["id"] for pack in listed["packs"]}
    for name in ids:
        assert json.loads(run("rules", "show", name, "--json").stdout)["id"] == name
        assert run("rules", "show", name).exit_code == 0
    targets = json.loads(run("targets", "list", "--json").stdout)["targets"]
    assert "npu-32" in [target["name"] for target in targets]
    assert "npu-32" in run("targets", "list").stdout
    shown = json.loads(run("targets", "show", "npu-32", "--json").stdout)
    assert shown["parallelism"] == 32
    assert run("targets", "show", shown["file"]).exit_code == 0
    assert "array_rows" in run("targets", "show", "npu-32").stdout


def test_rules_check_finds_a_lying_example(run, tmp_path: Path) -> None:
    from graphopt.resources import rules_dir

    good = (rules_dir() / "widths" / "round-channels.toml").read_text()
    folder = tmp_path / "mine" / "widths"
    folder.mkdir(parents=True)
    (folder / "my-rounding.toml").write_text(good)
    assert run("rules", "check", tmp_path / "mine").exit_code == 0
    lie = good.replace('unchanged = "', 'unchanged = "not ')
    assert lie != good
    (folder / "my-rounding.toml").write_text(lie)
    done = run("rules", "check", tmp_path / "mine", "--json")
    assert done.exit_code == 1, done.stderr
    assert "my-rounding.toml" in json.loads(done.stdout)["problems"][0]["file"]


def test_hostile_names_cannot_repaint_the_terminal(run, tmp_path: Path, small_model: Path) -> None:
    model = onnx.load(small_model)
    evil = "evil\x1b[31m\r\n[bold]x[/nope]"
    for number, node in enumerate(model.graph.node):
        node.name = f"{evil}{number}"
        node.input[:] = [evil if name == "d" else name for name in node.input]
        node.output[:] = [evil if name == "d" else name for name in node.output]
    onnx.save(model, small_model)
    for arguments in (
        (
            "optimize",
            small_model,
            *T,
            "--allow",
            "retrain",
            "-o",
            tmp_path / "out.onnx",
            "--report",
            tmp_path / "r.html",
        ),
        ("scan", small_model, *T),
        ("explain", small_model),
        ("estimate", small_model, "--per-kernel"),
    ):
        done = run(*arguments)
        assert done.exit_code == 0, done.stderr
        assert "\x1b" not in done.stdout
        assert "\r" not in done.stdout
    assert "[bold]x[/nope]" in run("scan", small_model, *T).stdout
    assert "\x1b" not in (tmp_path / "r.html").read_text()


def test_in_a_pipe_nothing_is_cut_or_coloured(small_model: Path) -> None:
    model = onnx.load(small_model)
    long = "a_very_long_name_" * 12
    for node in model.graph.node:
        node.input[:] = [long if name == "d" else name for name in node.input]
        node.output[:] = [long if name == "d" else name for name in node.output]
    onnx.save(model, small_model)
    done = subprocess.run(
        [sys.executable, "-c", "from graphopt.cli import main; main()", "scan", str(small_model)],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "60"},
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert long in done.stdout
    assert "\x1b" not in done.stdout


def test_debug_shows_the_traceback_and_its_absence_one_line(run, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"bad")
    quiet = run("estimate", tmp_path / "bad.onnx")
    loud = run("estimate", tmp_path / "bad.onnx", "--debug")
    assert quiet.exit_code == loud.exit_code == 2
    assert len(quiet.stderr.splitlines()) == 1
    assert "Traceback" in loud.stderr
    assert loud.stderr.splitlines()[-1] == quiet.stderr.splitlines()[0]


def test_a_bug_is_one_line_and_no_yes(run, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("gremlin")

    monkeypatch.setattr("graphopt.prepare.open_subject", broken)
    done = run("estimate", small_model)
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    assert "internal error: KeyError: 'gremlin'" in done.stderr
    assert "--debug" in done.stderr


def test_a_reader_that_goes_away_is_no_error(small_model: Path) -> None:
    code = "from graphopt.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "rules", "list"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2],
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
