"""The house rules, read off the source: who may import whom, who may print or exit, and what start-up loads."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "graphopt"

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "outputs", "resources", "version"}),
    frozenset({"strict"}),
    frozenset({"ir"}),
    frozenset({"onnx_io"}),
    frozenset({"targets"}),
    frozenset({"cost"}),
    frozenset({"rewrites"}),
    frozenset({"catalog"}),
    frozenset({"plan"}),
    frozenset({"space"}),
    frozenset({"search"}),
    frozenset({"weights"}),
    frozenset({"train"}),
    frozenset({"apply", "verification"}),
    frozenset({"resolution"}),
    frozenset({"results"}),
    frozenset({"prepare", "real_data"}),
    frozenset({"decide"}),
    frozenset({"landscape", "sensitivity", "teacher"}),
    frozenset({"draft"}),
    frozenset({"loss", "sizing"}),
    frozenset({"candidates"}),
    frozenset({"fitting", "reach"}),
    frozenset({"finetuning", "fronts", "pipeline"}),
    frozenset({"measure"}),
    frozenset({"zoo", "report"}),
    frozenset({"cli"}),
)
"""Lowest first. A room imports from lower layers and from itself, never from its own layer's other rooms."""

RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}

STRANGERS = {
    # Rewrites know neither targets nor prices.
    "rewrites": {"graphopt.targets", "graphopt.cost", "onnx", "onnxruntime"},
    # Search knows no ONNX.
    "search": {"graphopt.onnx_io", "onnx", "onnxruntime", "onnx_graphsurgeon"},
    # Measuring needs the graph, its file and its kernels, and nothing of the jobs.
    "measure": {"graphopt.search", "graphopt.weights", "graphopt.pipeline"},
}

CLI_ONLY = {"click", "rich"}
TOP = "__init__"
HEAVY = {"networkx", "numpy", "onnx", "onnx_graphsurgeon", "onnxruntime", "rich", "torch"}


def imported(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute dotted name) for every import, those inside functions included."""
    parts = module.split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = parts[: len(parts) - node.level + int(is_package)]
                base = ".".join([*anchor, base] if base else anchor)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def layer_faults(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Return a sentence for each import in ``source`` that the layers do not allow."""
    room = module.split(".")[1] if "." in module else TOP
    if room == TOP:
        return []
    if room not in RANK:
        return [f"{module}: the room {room!r} has no place in LAYERS"]
    faults = []
    for line, name in imported(ast.parse(source), module, is_package=is_package):
        parts = name.split(".")
        for stranger in sorted(STRANGERS.get(room, ())):
            if name == stranger or name.startswith(f"{stranger}."):
                faults.append(f"{module}:{line}: {room} must not know {stranger}")
        if parts[0] in CLI_ONLY and room != "cli":
            faults.append(f"{module}:{line}: only cli imports {parts[0]}")
        if parts[0] != "graphopt" or room == "cli":
            continue
        other = parts[1] if len(parts) > 1 else TOP
        if other == room:
            continue
        if other not in RANK:
            faults.append(f"{module}:{line}: {name} is the public front, which only cli may use")
        elif RANK[other] >= RANK[room]:
            faults.append(f"{module}:{line}: {room} must not import {other}")
    return faults


def output_faults(source: str, module: str) -> list[str]:
    """Return a sentence for each place in ``source`` that prints, exits, or catches everything without a name."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            faults.append(f"{module}:{node.lineno}: bare except")
        if isinstance(node, ast.Name) and node.id in {"print", "exit", "quit", "SystemExit"}:
            faults.append(f"{module}:{node.lineno}: {node.id} belongs to cli")
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and (node.value.id, node.attr) in {("sys", "exit"), ("os", "_exit"), ("sys", "stdout"), ("sys", "stderr")}
        ):
            faults.append(f"{module}:{node.lineno}: {node.value.id}.{node.attr} belongs to cli")
    return faults


def modules() -> list[tuple[str, Path]]:
    """Every module of the package: dotted name and file."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


MODULES = [pytest.param(name, path, id=name) for name, path in modules()]
QUIET = [pytest.param(name, path, id=name) for name, path in modules() if not name.startswith("graphopt.cli")]


@pytest.mark.parametrize(("module", "path"), MODULES)
def test_imports_only_go_down(module: str, path: Path) -> None:
    assert layer_faults(path.read_text("utf-8"), module, is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize(("module", "path"), QUIET)
def test_only_the_command_line_prints_and_exits(module: str, path: Path) -> None:
    assert output_faults(path.read_text("utf-8"), module) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("graphopt.ir.graph", "from graphopt.onnx_io.load import load"),
        ("graphopt.ir.graph", "from graphopt import pipeline"),
        ("graphopt.ir.graph", "from ..cost import estimate"),
        ("graphopt.ir.graph", "def f():\n    import graphopt.cli"),
        ("graphopt.ir.graph", "from graphopt import optimize"),
        ("graphopt.zoo.run", "from graphopt.report.text import table"),
        ("graphopt.rewrites.fuse", "from graphopt.targets.target import Target"),
        ("graphopt.search.local", "import onnx.helper"),
        ("graphopt.pipeline", "import click"),
        ("graphopt.attic", "import os"),
    ],
)
def test_a_planted_import_is_found(module: str, source: str) -> None:
    assert len(layer_faults(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "graphopt.ir.graph",
            "from graphopt.ir.op import Op\nfrom .op import Op\nfrom graphopt.errors import ModelError",
        ),
        (
            "graphopt.cli.optimize",
            "import click\nfrom graphopt.pipeline import optimize\nfrom graphopt import optimize",
        ),
        ("graphopt", "from graphopt.pipeline import optimize"),
    ],
)
def test_an_honest_import_is_let_through(module: str, source: str) -> None:
    assert layer_faults(source, module) == []


def test_a_relative_import_from_a_package_starts_at_the_package() -> None:
    assert layer_faults("from .op import Op", "graphopt.ir", is_package=True) == []
    assert layer_faults("from ..cli import main", "graphopt.ir.op") == ["graphopt.ir.op:1: ir must not import cli"]


@pytest.mark.parametrize(
    "source", ["print('x')", "import sys\nsys.exit(1)", "raise SystemExit", "try:\n    f()\nexcept:\n    pass"]
)
def test_planted_output_is_found(source: str) -> None:
    assert len(output_faults(source, "graphopt.ir.graph")) == 1


def loaded_after(code: str) -> set[str]:
    """Run ``code`` in a fresh interpreter and return which of HEAVY it imported."""
    report = f"import json, sys\nsys.stderr.write(json.dumps([m for m in {sorted(HEAVY)} if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr))


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import graphopt") == set()


def test_help_loads_nothing_heavy() -> None:
    code = "\n".join(
        [
            "import sys",
            "sys.argv = ['graphopt', '--help']",
            "from graphopt.cli import main",
            "try:",
            "    code = main()",
            "except SystemExit as stop:",
            "    code = stop.code",
            "assert not code, code",
        ]
    )
    assert loaded_after(code) == set()


def test_the_probe_of_heavy_imports_sees_one() -> None:
    assert loaded_after("import numpy") == {"numpy"}
