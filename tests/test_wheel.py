"""The wheel, as a stranger meets it: built from the source archive, installed alone, run from somewhere else."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import onnxruntime
import pytest

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = (
    "README.md",
    "fashion_calibration.npz",
    "fashion_classifier.onnx",
    "fashion_detector.onnx",
    "fashion_detector_calibration.npz",
    "fashion_segmenter.onnx",
    "fashion_segmenter_calibration.npz",
    "fashion_tasks.py",
    "fashion_test.npz",
)

pytestmark = pytest.mark.slow


def run(command: list[str | Path], *, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run without anything of this process's Python that could help."""
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("graphopt-*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new virtual environment that holds the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder / "venv", with_pip=True, system_site_packages=False)
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    run([programs / "python", "-m", "pip", "install", "-qq", wheel], cwd=folder)
    return programs


def test_the_wheel_holds_code_rules_targets_and_samples_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packed = {name for name in names if ".dist-info/" not in name}
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "graphopt").rglob("*.py")}
    folder = ROOT / "graphopt" / "targets"
    targets = {path.relative_to(ROOT).as_posix() for kind in ("*.toml", "*.npz") for path in folder.rglob(kind)}
    rules = {f"graphopt/_data/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "rules").rglob("*.toml")}
    samples = {f"graphopt/_data/sample_models/{name}" for name in SAMPLES}
    assert targets
    assert rules
    assert code | targets | rules | samples | {"graphopt/py.typed"} <= packed
    assert {Path(name).suffix for name in packed - samples - targets} <= {".py", ".toml", ".md", ".typed"}
    assert all(name.startswith("graphopt/") for name in packed)


def test_the_source_archive_holds_the_tests_and_the_licence(built: Path) -> None:
    (path,) = built.glob("graphopt-*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"LICENSE", "README.md", "pyproject.toml", ".ci/run", "tests/test_wheel.py"} <= names
    assert not {name for name in names if "__pycache__" in name or name.startswith("dist/")}


def test_the_main_job_runs_from_an_empty_environment(environment: Path, tmp_path: Path) -> None:
    where = run(
        [environment / "python", "-c", "from graphopt.resources import sample_models_dir as d; print(d())"],
        cwd=tmp_path,
    )
    samples = Path(where.stdout.strip())
    assert samples.is_relative_to(environment.parent)
    run(
        [environment / "graphopt", "optimize", samples / SAMPLES[2], "--target", "npu-32", "-o", "out.onnx"],
        cwd=tmp_path,
    )
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    assert [put.name for put in session.get_inputs()] == ["image"]
    assert [put.name for put in session.get_outputs()] == ["logits"]


def test_no_dependency_is_heavier_than_promised(environment: Path, tmp_path: Path) -> None:
    run([environment / "python", "-m", "pip", "check"], cwd=tmp_path)
    listed = run([environment / "python", "-m", "pip", "list", "--format=freeze"], cwd=tmp_path).stdout.lower()
    installed = {line.split("==")[0].replace("_", "-") for line in listed.splitlines()}
    assert {"onnx", "onnxruntime", "onnx-graphsurgeon", "numpy", "networkx", "click", "rich"} <= installed
    assert not installed & {"torch", "tensorflow", "scipy", "pandas", "pytest", "matplotlib"}
