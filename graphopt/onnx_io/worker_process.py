"""The other side of :mod:`graphopt.onnx_io.worker`: a script that imports numpy and onnxruntime and nothing of ours.

It reads folders from its standard input, one a line. In each are ``request.json`` and ``request.npz``; it leaves
``answer-<i>.json`` (and ``.npz``) there for each task, by rename, so that an answer is complete if it is there at all,
and writes a line when the folder is done.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort

_LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def _session(order: dict[str, Any]) -> Any:
    """Open a session: one thread, CPU only, quiet."""
    options = ort.SessionOptions()
    options.graph_optimization_level = _LEVELS[order["optimisation"]]
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if order["kind"] == "optimise":
        options.optimized_model_filepath = order["out"]
    return ort.InferenceSession(order["model"], options, providers=["CPUExecutionProvider"])


def _shape(value: Any) -> tuple[str, list[int]] | None:
    """Type name and shape of an output, ``None`` for what is no tensor."""
    return (value.dtype.name, list(value.shape)) if isinstance(value, np.ndarray) else None


def _encode(value: Any, arrays: dict[str, Any]) -> Any:
    """Turn one output into JSON, its arrays put aside."""
    if value is None:
        return None
    if isinstance(value, list):
        return ["list", [_encode(item, arrays) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[key, _encode(item, arrays)] for key, item in value.items()]]
    if isinstance(value, np.ndarray):
        key = str(len(arrays))
        arrays[key] = value.astype(str) if value.dtype == object else value
        return ["array", key]
    return ["plain", value.item() if isinstance(value, np.generic) else value]


def _do(order: dict[str, Any], fed: Mapping[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
    """Do one task and return its answer."""
    session = _session(order)
    if order["kind"] in ("open", "optimise"):
        return {}
    names = order["outputs"] or [output.name for output in session.get_outputs()]
    runs: list[Any] = []
    for feed in order["inputs"]:
        values = session.run(names, {name: fed[str(key)] for name, key in feed.items()})
        if order["kind"] == "shapes":
            runs.append({name: _shape(value) for name, value in zip(names, values, strict=True)})
        else:
            runs.append([[name, _encode(value, arrays)] for name, value in zip(names, values, strict=True)])
    return {"shapes" if order["kind"] == "shapes" else "runs": runs}


def serve() -> None:
    """Do one request for each line of standard input (a folder), and answer each with a line."""
    answers = os.fdopen(os.dup(1), "w")  # what native code prints must not be taken for an answer
    os.dup2(2, 1)
    ort.disable_telemetry_events()
    ort.set_default_logger_severity(4)
    for line in sys.stdin:
        do_request(line.rstrip("\n"))
        answers.write("done\n")
        answers.flush()


def do_request(folder: str) -> None:
    """Do all tasks of the request in ``folder``."""
    with open(os.path.join(folder, "request.json"), encoding="utf-8") as file:
        orders = json.load(file)
    with np.load(os.path.join(folder, "request.npz"), allow_pickle=False) as fed:
        for position, order in enumerate(orders):
            _answer(order, fed, os.path.join(folder, f"answer-{position}"))


def _answer(order: dict[str, Any], fed: Mapping[str, Any], stem: str) -> None:
    """Do one task and leave its answer."""
    arrays: dict[str, Any] = {}
    try:
        answer = _do(order, fed, arrays)
    except Exception as error:  # whatever onnxruntime raises is the task's answer
        answer = {"error": " ".join(str(error).split()) or type(error).__name__}
    if arrays:
        np.savez(stem + ".npz", **arrays)
    elif "runs" in answer:
        np.savez(stem + ".npz")
    with open(stem + ".tmp", "w", encoding="utf-8") as file:
        json.dump(answer, file)
    os.replace(stem + ".tmp", stem + ".json")


if __name__ == "__main__":
    serve()
