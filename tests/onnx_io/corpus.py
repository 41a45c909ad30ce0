"""The models that load-and-save is judged on, and the judgement."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.errors import ModelError
from graphopt.ir.graph import Graph, Patch
from graphopt.onnx_io.check import RUNTIME_IR_VERSION
from graphopt.onnx_io.load import load
from graphopt.onnx_io.save import save

SETS = ("models", "light", "real", "simple", "pytorch-converted", "pytorch-operator", "node")


@dataclass(frozen=True)
class Case:
    """One model: a file, or a model made in memory."""

    group: str
    name: str
    model: Path | onnx.ModelProto
    feeds: Path | list[list[Any]] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a case ended: ``equal``, ``different`` or ``excluded``, and why."""

    case: Case
    verdict: str
    reason: str = ""


def _onnx_data() -> Path:
    spec = importlib.util.find_spec("onnx")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "backend" / "test" / "data"


def file_cases(real_models: tuple[Path, ...] = ()) -> list[Case]:
    """Everything that lies in files."""
    data = _onnx_data()
    cases = [Case("models", path.name, path) for path in real_models]
    cases += [Case("light", path.stem, path) for path in sorted((data / "light").glob("*.onnx"))]
    for group in ("simple", "pytorch-converted", "pytorch-operator"):
        for model in sorted((data / group).glob("*/model.onnx")):
            cases.append(Case(group, model.parent.name, model, model.parent))
    for folder in sorted((data / "real").glob("*")):
        cases.append(Case("real", folder.name, _real_model(folder, data), folder))
    return cases


def _real_model(folder: Path, data: Path) -> Path:
    """The file that a ``real`` case names; newer onnx packages point to their own light models."""
    url = json.loads((folder / "data.json").read_text())["url"]
    return data / url.removeprefix("onnx/backend/test/data/")


def node_cases(op_type: str | None = None) -> Iterator[Case]:
    """The node cases that the onnx package generates."""
    from onnx.backend.test.case.node import collect_testcases

    for case in sorted(collect_testcases(op_type), key=lambda case: case.name):
        if case.model is not None:
            yield Case("node", case.name, case.model, [list(inputs) for inputs, _ in case.data_sets])


def sample(cases: list[Case], count: int, seed: int) -> list[Case]:
    """A seeded draw."""
    return random.Random(seed).sample(cases, min(count, len(cases)))


def judge(case: Case, folder: Path, *, rewritten: bool = False) -> Outcome:
    """Load and save one model and compare the outputs, bit by bit.

    Args:
        case: the model.
        folder: a scratch folder.
        rewritten: replace every op by an equal one first, so that all of them are exported anew.
    """
    if isinstance(case.model, Path):
        path = case.model
        if not path.is_file():
            return Outcome(case, "excluded", "the onnx package does not bring the file")
    else:
        path = folder / "in.onnx"
        case.model.ir_version = min(case.model.ir_version, RUNTIME_IR_VERSION)  # newer than onnxruntime by default
        path.write_bytes(case.model.SerializeToString())
    run, by = _run, ""
    try:
        feeds = _feeds(case, path)
        expected, again = run(path, feeds), run(path, feeds)
    except Exception as error:  # whatever onnxruntime does not run, the onnx reference may
        if case.group == "node":
            return Outcome(case, "excluded", f"onnxruntime: {_cause(error)}")
        try:
            run, by = _run_reference, f"by the onnx reference evaluator, since onnxruntime says: {_cause(error)}"
            feeds = _reference_feeds(case)
            expected, again = run(path, feeds), run(path, feeds)
        except Exception as second:
            return Outcome(case, "excluded", f"onnxruntime: {_cause(error)}; onnx reference: {_cause(second)}")
    if not _equal(expected, again):
        return Outcome(case, "excluded", "other outputs on a second run of the same model")
    out = folder / "out.onnx"
    out.unlink(missing_ok=True)
    try:
        graph = load(path)
        save(_all_anew(graph) if rewritten else graph, out)
    except ModelError as error:
        return Outcome(case, "different", f"not loaded: {error}")
    if not rewritten and onnx.load(out, load_external_data=False) != onnx.load(path, load_external_data=False):
        return Outcome(case, "different", "the file says something else")
    same = _equal(expected, run(out, feeds))
    return Outcome(case, "equal", by) if same else Outcome(case, "different", "other outputs")


def _run(path: Path, feeds: list[dict[str, Any]]) -> list[Any]:
    session = _session(path)
    return [session.run(None, feed) for feed in feeds]


def _run_reference(path: Path, feeds: list[dict[str, Any]]) -> list[Any]:
    evaluator = ReferenceEvaluator(str(path))
    return [evaluator.run(None, feed) for feed in feeds]


def _reference_feeds(case: Case) -> list[dict[str, Any]]:
    assert isinstance(case.feeds, Path)
    names = ReferenceEvaluator(str(case.model)).input_names
    feeds = []
    for folder in sorted(case.feeds.glob("test_data_set_*")):
        files = sorted(folder.glob("input_*.pb"), key=lambda file: int(file.stem.split("_")[1]))
        values = [numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes())) for file in files]
        feeds.append(dict(zip(names, values, strict=False)))
    return feeds


def _all_anew(graph: Graph) -> Graph:
    ops = graph.ops()
    fresh = tuple(dataclasses.replace(op, source=None) for op in ops)
    return graph.edited([Patch(remove=tuple(op.key for op in ops), add=fresh)])


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _cause(error: Exception) -> str:
    """The heart of an onnxruntime message, short enough to group by."""
    text = " ".join(str(error).split())
    for pattern in (
        r"Could not find an implementation for \S+",
        r"Failed to find kernel for \S+",
        r"\S+ is not a registered function/op",
        r"Unsupported model IR version: \d+",
        r"only \*guarantees\* support",
        r"Unrecognized attribute: .*",
        r"Failed to construct locale",
        r"Batchwise recurrent operations \(layout == 1\) are not supported",
    ):
        found = re.search(pattern, text)
        if found:
            return _PLAINLY.get(found.group(), found.group())
    return text[:160]


_PLAINLY = {"only *guarantees* support": "the opset is not released yet"}


def _feeds(case: Case, path: Path) -> list[dict[str, Any]]:
    session = _session(path)
    names = [value.name for value in session.get_inputs()]
    if isinstance(case.feeds, list):
        return [dict(zip(names, (_plain(value) for value in feed), strict=False)) for feed in case.feeds]
    if isinstance(case.feeds, Path):
        sets = sorted(case.feeds.glob("test_data_set_*"))
        found = [dict(zip(names, _read_inputs(folder, session), strict=False)) for folder in sets]
        if found:
            return found
    return [{value.name: _random(value) for value in session.get_inputs()}]


def _plain(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        value = numpy_helper.to_array(value)
    if isinstance(value, np.generic):
        value = np.asarray(value)
    return value.astype(str) if isinstance(value, np.ndarray) and value.dtype.kind == "O" else value


def _read_inputs(folder: Path, session: ort.InferenceSession) -> list[Any]:
    values: list[Any] = []
    files = sorted(folder.glob("input_*.pb"), key=lambda file: int(file.stem.split("_")[1]))
    for file, value in zip(files, session.get_inputs(), strict=False):
        data = file.read_bytes()
        if value.type.startswith("seq"):
            values.append(numpy_helper.to_list(onnx.SequenceProto.FromString(data)))
        else:
            values.append(_plain(numpy_helper.to_array(onnx.TensorProto.FromString(data))))
    return values


def _random(value: Any) -> np.ndarray[Any, Any]:
    shape = [dim if isinstance(dim, int) and dim > 0 else _size(position) for position, dim in enumerate(value.shape)]
    return np.random.default_rng(0).random(shape, np.float32)


def _size(position: int) -> int:
    return 1 if position == 0 else 64


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(_equal(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, np.ndarray):
        numeric = left.dtype.kind in "fc"
        return left.dtype == right.dtype and np.array_equal(left, right, equal_nan=numeric)
    return bool(left == right or (left != left and right != right))
