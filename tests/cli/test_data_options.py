"""`--calibration` and what belongs to it: every option does something, is told about, and refuses nonsense."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from graphopt.cli import options as o
from graphopt.cli import progress
from graphopt.ir.op import IMPORTANCES
from graphopt.results import Options
from graphopt.weights.preprocess import bundled_presets


@pytest.fixture
def folder(tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small model with real inputs, labelled ones, and a folder of images; measured drifts are kept there."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((40, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "real.npz", image=images[:16])
    np.save(tmp_path / "real.npy", images[:16])
    np.savez(tmp_path / "labelled.npz", image=images, label=np.arange(40) % 10)
    (tmp_path / "photos").mkdir()
    for number in range(16):
        pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "mine.toml").write_text(
        'resize = "squash"\nfilter = "bilinear"\ndivide_by = 255\nmean = 0.5\nstd = 0.5\n'
    )
    (tmp_path / "metrics.py").write_text(
        "import numpy as np\n"
        "def mean_score(run):\n"
        "    return {'mean score': run({'image': np.ones((1, 3, 32, 32), np.float32)})['scores'].mean()}\n"
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def optimize(run, folder: Path, *more: str, output: str = "out.onnx") -> dict[str, object]:
    arguments = [text.replace("{}", str(folder)) for text in more]
    done = run("optimize", folder / "small.onnx", "-o", folder / output, "--json", *arguments)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout, parse_constant=pytest.fail)


def test_calibration_repairs_and_the_json_says_so(run, folder: Path) -> None:
    values = optimize(run, folder, "--calibration", "{}/real.npz", "--evaluate", "{}/labelled.npz")
    assert (values["outcome"], values["safety"], values["verification"]) == ("optimized", "repaired", None)
    drift = values["drift"]
    assert set(drift) == {"value", "measure", "standard_error", "reason", "top1_agreement", "samples", "outputs"}
    assert drift["samples"] == 8
    assert drift["value"] == drift["outputs"][0]["value"] > 0
    assert any(unit["kept"] and unit["error_after"] < unit["error_before"] for unit in values["repaired"])
    left = [unit for unit in values["repaired"] if not unit["kept"]]
    assert all(unit["note"] for unit in left)
    before, after = values["evaluation"]["before"], values["evaluation"]["after"]
    assert set(before["metrics"]) == set(after["metrics"]) == {"top1", "top5"}
    assert before["samples"] == after["samples"] == 40


def test_the_summary_says_what_was_repaired_and_what_it_costs(run, folder: Path) -> None:
    done = run(
        "optimize", folder / "small.onnx", "-o", folder / "out.onnx", "--calibration", folder / "real.npz",
        "--evaluate", folder / "labelled.npz", "--report", folder / "report.html",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    for text in (
        "safety         repaired (close, not the same: weights repaired on calibration data",
        "weights        2 ops repaired: ", "1 op left alone: one row per sample: needs 256 samples",
        "drift          ", "8 held-out samples", "top-1 agreement", "rel. L2", "cosine",
        "evaluation     top-1 accuracy ", " % +/- ", " points), n = 40",
    ):  # fmt: skip
        assert text in done.stdout
    page = (folder / "report.html").read_text()
    for title in ("<h2>Drift</h2>", "<h2>Repaired weights</h2>", "<h2>Evaluation</h2>"):
        assert title in page


def test_without_calibration_lossy_plans_say_how_to_repair(run, folder: Path) -> None:
    done = run("optimize", folder / "small.onnx", "-o", folder / "out.onnx", "--allow", "repaired")
    assert done.exit_code == 0, done.stderr
    assert "repaired (first-method weights; give --calibration to repair them)" in done.stdout
    assert "held-out" not in done.stdout


def test_no_repair_stays_exact_by_default_and_says_what_lossy_weights_are(run, folder: Path) -> None:
    calibration = ("--calibration", "{}/real.npz", "--no-repair")
    assert optimize(run, folder, *calibration)["safety"] == "exact"
    lossy = optimize(run, folder, *calibration, "--allow", "repaired", output="lossy.onnx")
    fitted = optimize(run, folder, "--calibration", "{}/real.npz", output="fitted.onnx")
    assert (lossy["safety"], lossy["repaired"]) == ("repaired", None)
    assert lossy["plan_digest"] == fitted["plan_digest"]
    assert lossy["drift"]["value"] > 5 * fitted["drift"]["value"]
    arguments = ("-o", folder / "again.onnx", "--calibration", folder / "real.npz", "--no-repair")
    told = run("apply", folder / "small.onnx", folder / "lossy.plan.toml", *arguments)
    assert "repaired (first-method weights, none repaired: see the drift)" in told.stdout
    assert (folder / "again.onnx").read_bytes() == (folder / "lossy.onnx").read_bytes()


def test_arrays_and_images_do_alike(run, folder: Path) -> None:
    named = optimize(run, folder, "--calibration", "{}/real.npz")
    alone = optimize(run, folder, "--calibration", "{}/real.npy", output="alone.onnx")
    assert alone["drift"] == named["drift"]
    images = ("--calibration", "{}/photos", "--preprocess")
    own = optimize(run, folder, *images, "{}/mine.toml", output="own.onnx")
    preset = optimize(run, folder, *images, "unit", output="preset.onnx")
    assert own["safety"] == preset["safety"] == "repaired"
    assert own["drift"]["value"] != preset["drift"]["value"]


def test_the_memory_limit_bounds_the_solves(run, folder: Path) -> None:
    tight = optimize(run, folder, "--calibration", "{}/real.npz", "--memory-limit", "64KiB")
    assert any("memory limit" in unit["note"] for unit in tight["repaired"])


def test_a_function_can_be_the_metric(run, folder: Path) -> None:
    values = optimize(run, folder, "--calibration", "{}/real.npz", "--evaluate", "{}/metrics.py:mean_score")
    before, after = (values["evaluation"][name]["metrics"]["mean score"] for name in ("before", "after"))
    assert before != after
    done = run(
        "apply", folder / "small.onnx", folder / "out.plan.toml", "-o", folder / "again.onnx",
        "--evaluate", f"{folder / 'metrics.py'}:mean_score",
    )  # fmt: skip
    assert f"evaluation     mean score {before:.5g} -> " in done.stdout
    assert "points" not in done.stdout


def test_max_drift_bounds_the_drift(run, folder: Path) -> None:
    free = optimize(run, folder, "--calibration", "{}/real.npz")
    bound = free["drift"]["value"] / 2
    kept = optimize(run, folder, "--calibration", "{}/real.npz", "--max-drift", f"{bound:.6f}", output="kept.onnx")
    assert kept["drift"] is None or kept["drift"]["value"] <= bound


def test_every_option_reaches_the_job() -> None:
    given = {
        "calibration": "c", "preprocess": "unit", "repair": False, "memory_limit_bytes": 5, "evaluate": "m:f",
        "max_drift": 0.5, "allow": "retrain", "importance": "energy",
    }  # fmt: skip
    made = o.make_options(given)
    assert {name: getattr(made, name) for name in given} == given
    assert o.make_options({"repair": True, "allow": None, "max_drift": None}) == Options()
    for name in ("optimize", "apply", "zoo"):
        command = importlib.import_module(f"graphopt.cli.commands.{name}").command
        names = {parameter.name for parameter in command.params}
        assert {"calibration", "preprocess", "repair", "importance", "memory_limit_bytes", "evaluate"} <= names
        assert ("max_drift" in names) == (name != "apply")


def test_importance_chooses_the_channels_and_a_replay_chooses_the_same(run, folder: Path) -> None:
    """A plan that was made with a measure of importance says so; the same without one is told in one line."""
    models = {}
    fewer = ("--calibration", "{}/real.npz", "--allow", "retrain", "--depth-multiplier", "0.5", "--protect", "s")
    for importance in IMPORTANCES:
        values = optimize(run, folder, *fewer, "--importance", importance, output=f"{importance}.onnx")
        assert values["importance"] == (importance if importance != "auto" else "column-subset")
        models[importance] = (folder / f"{importance}.onnx").read_bytes()
        again = folder / "again.onnx"
        plan = folder / f"{importance}.plan.toml"
        arguments = ("apply", folder / "small.onnx", plan, "-o", again, "--force", "--calibration", folder / "real.npz")
        replayed = run(*arguments)
        assert replayed.exit_code == 0, replayed.stderr
        assert again.read_bytes() == models[importance]
        chosen = "column-subset" if importance == "auto" else importance
        assert f"weighted by parameters, chosen by {chosen}" in replayed.stdout
        blind = run("apply", folder / "small.onnx", plan, "-o", again, "--force")
        if importance in ("energy", "column-subset"):
            assert (blind.exit_code, blind.stdout) == (2, "")
            assert f"--importance {importance} measures on real inputs: add --calibration" in blind.stderr
        else:
            assert "chosen by l2" in blind.stdout
    weights = {name: content for name, content in models.items() if name != "auto"}
    assert len(set(weights.values())) == 3
    told = run(*arguments, "--importance", "l2")
    assert "chosen by l2" in told.stdout


def test_importance_counts_without_repair(run, folder: Path) -> None:
    fewer = ("--allow", "retrain", "--depth-multiplier", "0.5", "--protect", "s", "--no-repair")
    real = ("--calibration", "{}/real.npz", "--importance")
    assert optimize(run, folder, *fewer)["importance"] == "l2"
    optimize(run, folder, *fewer, *real[:2], output="auto.onnx")
    optimize(run, folder, *fewer, *real, "energy", output="energy.onnx")
    first, auto, energy = (onnx.load(folder / f"{name}.onnx") for name in ("out", "auto", "energy"))
    assert first.graph == auto.graph
    assert first.graph != energy.graph


CASES = {
    "importance without data": (("--importance", "energy"), ["--importance energy", "--calibration"]),
    "columns without data": (("--importance", "column-subset"), ["--importance column-subset", "--calibration"]),
    "unknown importance": (("--importance", "size"), ["size", "column-subset"]),
    "no such preset": (("--calibration", "{}/photos", "--preprocess", "effcientnet-lite"), ["efficientnet-lite"]),
    "images without preset": (("--calibration", "{}/photos"), ["--preprocess", *bundled_presets()]),
    "preset without images": (("--preprocess", "unit"), ["--calibration"]),
    "preset for arrays": (("--calibration", "{}/real.npz", "--preprocess", "unit"), ["folder of images", "real.npz"]),
    "bad preprocess file": (("--calibration", "{}/photos", "--preprocess", "{}/no.toml"), ["no.toml"]),
    "a folder without images": (("--calibration", "{}/empty", "--preprocess", "unit"), ["empty", "image"]),
    "data of another kind": (("--calibration", "{}/small.onnx"), ["small.onnx", ".npz"]),
    "bad memory limit": (("--calibration", "{}/real.npz", "--memory-limit", "lots"), ["lots", "256KB"]),
    "no memory at all": (("--memory-limit", "0"), ["at least 1"]),
    "drift without data": (("--max-drift", "0.1"), ["--calibration"]),
    "negative drift": (("--calibration", "{}/real.npz", "--max-drift", "-1"), ["-1", "over 0"]),
    "no drift": (("--calibration", "{}/real.npz", "--max-drift", "0"), ["over 0"]),
    "drift that is no number": (("--calibration", "{}/real.npz", "--max-drift", "nan"), ["nan", "over 0"]),
    "latency that is no number": (("--max-latency-us", "nan"), ["nan", "over 0"]),
    "share that is no number": (("--max-latency-us", "half%"), ["half", "over 0"]),
    "share of nothing": (("--max-macs", "0%"), ["0", "over 0"]),
    "two bounds for memory": (("--fit-memory", "1MB", "--max-memory-bytes", "50%"), ["--max-memory-bytes"]),
    "data without labels": (("--evaluate", "{}/real.npz"), ["real.npz", "label"]),
    "no such metric": (("--evaluate", "{}/metrics.py:mean_scor"), ["mean_scor", "mean_score"]),
    "no such module": (("--evaluate", "no_such_module:f"), ["no_such_module"]),
    "neither data nor metric": (("--evaluate", "accuracy"), ["accuracy", ".npz", "module:function"]),
    "unknown level": (("--allow", "anything"), ["anything", "repaired"]),
}


@pytest.mark.faults
@pytest.mark.parametrize(("arguments", "words"), CASES.values(), ids=CASES)
def test_nonsense_is_one_line_and_nothing_is_written(
    run, folder: Path, arguments: tuple[str, ...], words: list[str]
) -> None:
    (folder / "empty").mkdir()
    before = sorted(folder.rglob("*"))
    given = [text.replace("{}", str(folder)) for text in arguments]
    done = run("optimize", folder / "small.onnx", "-o", folder / "out.onnx", *given)
    assert done.exit_code == 2, (done.stdout, done.stderr, done.exception)
    (line,) = done.stderr.splitlines()
    assert line.startswith("graphopt: error: ")
    for word in words:
        assert word in line
    assert done.stdout == ""
    assert sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts) == before


class Terminal:
    """What `rich` needs of a stderr."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("visible", [True, False])
def test_the_bar_shows_on_a_terminal_and_leaves_nothing_behind(visible: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress.progress_bar(visible=visible) as update:
        assert terminal.text == ""
        update(0, None, "looking")
        update(3, 7, "evil\x1b[31m\nname")
    assert ("3/7" in terminal.text) == visible

    assert "evil\\x1b[31m name" in terminal.text or not visible
    if visible:
        assert terminal.text.endswith("\x1b[2K")  # the line is wiped


def test_where_nobody_looks_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress_bar(visible=True) as update:
        update(1, 2, "x")
    assert capsys.readouterr().err == ""
