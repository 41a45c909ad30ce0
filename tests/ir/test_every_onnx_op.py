"""The oracle on ONNX's own node tests: every op, in every spelling, with channels running along every axis.

The chosen input goes through a product with the identity, which gives one of its axes channels of its own; the outputs
go through products along every axis, which use up whatever channels they carry. Other inputs become constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

from graphopt.ir.channels import channel_groups
from graphopt.ir.resize import resize
from tests.ir.oracle import assert_close, assert_sizes, load_model, mask_consumers, random_cut, random_pad, run

LATEST = 24
"""The latest opset that every onnxruntime at hand can load."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    name: str
    model: onnx.ModelProto
    inputs: list[Array]


def cases() -> list[Case]:
    """The node cases that take tensors, by name."""
    found = []
    for case in sorted(collect_testcases(None), key=lambda case: case.name):
        inputs = list(case.data_sets[0][0]) if case.data_sets else [None]
        if case.model is not None and all(isinstance(value, np.ndarray) for value in inputs):
            found.append(Case(case.name, case.model, inputs))
    return found


def along(graph: onnx.GraphProto, x: str, rank: int, axis: int, weight: Array, name: str) -> str:
    """Multiply axis ``axis`` of ``x`` by a constant matrix."""
    perm = [i for i in range(rank) if i != axis] + [axis]
    back = [perm.index(i) for i in range(rank)]
    graph.initializer.append(numpy_helper.from_array(weight, f"{name}.weight"))
    graph.node.append(helper.make_node("Transpose", [x], [f"{name}.turned"], perm=perm))
    graph.node.append(helper.make_node("MatMul", [f"{name}.turned", f"{name}.weight"], [f"{name}.product"]))
    graph.node.append(helper.make_node("Transpose", [f"{name}.product"], [name], perm=back))
    return name


def wrapped(model: onnx.ModelProto, inputs: list[Array], axes: dict[int, int]) -> onnx.ModelProto | None:
    """The case between products; ``axes`` says which axis of which input gets channels. None if it is no float."""
    old = model.graph
    new = onnx.GraphProto(name="wrapped")
    feeds = {old.input[slot].name for slot in axes}
    for slot, (info, value) in enumerate(zip(old.input, inputs, strict=True)):
        if info.name not in feeds:
            new.initializer.append(numpy_helper.from_array(value, info.name))
            continue
        fed = f"{info.name}.fed"
        new.input.append(helper.make_tensor_value_info(fed, TensorProto.FLOAT, value.shape))
        along(new, fed, value.ndim, axes[slot], np.eye(value.shape[axes[slot]], dtype=np.float32), info.name)
    new.initializer.extend(old.initializer)
    new.node.extend(old.node)
    for i, info in enumerate(old.output):
        kind = info.type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        if not info.name or not kind.elem_type or 0 in shape or len(shape) == 0:
            return None
        x = info.name
        if kind.elem_type != TensorProto.FLOAT:
            new.node.append(helper.make_node("Cast", [x], [f"{x}.float"], to=TensorProto.FLOAT))
            x = f"{x}.float"
        new.value_info.append(info)
        for axis, size in enumerate(shape):
            weight = np.random.default_rng(axis).uniform(-1, 1, (size, 2)).astype(np.float32)
            x = along(new, x, len(shape), axis, weight, f"{info.name}.closed{i}.{axis}")
        new.output.append(helper.make_tensor_value_info(x, TensorProto.FLOAT, [2] * len(shape)))
    opsets = [helper.make_opsetid(each.domain, min(each.version, LATEST)) for each in model.opset_import]
    return helper.make_model(new, opset_imports=opsets, ir_version=min(model.ir_version, 10))


def choices(inputs: list[Array]) -> Iterator[dict[int, int]]:
    """Every axis of every float input by itself, and axis by axis all inputs at once."""
    floats = [slot for slot, value in enumerate(inputs) if value.dtype == np.float32 and value.ndim and value.size]
    for slot in floats:
        for axis in range(inputs[slot].ndim):
            yield {slot: axis}
    for back in range(1, max((inputs[slot].ndim for slot in floats), default=0) + 1):
        chosen = {slot: inputs[slot].ndim - back for slot in floats if inputs[slot].ndim >= back}
        if len(chosen) > 1:
            yield chosen


def operate(case: Case, seed: int = 0) -> tuple[int, int]:
    """Operate on one case in every way; return how many groups were cut and padded."""
    model, inputs = case.model, case.inputs
    cut_groups = padded_groups = 0
    for axes in choices(inputs):
        whole = wrapped(model, inputs, axes)
        if whole is None:
            continue
        feeds = {f"{model.graph.input[slot].name}.fed": inputs[slot] for slot in axes}
        try:
            graph = load_model(whole)
            reference = run(graph, feeds)
        except Exception:  # the checker, the loader or the runtime cannot take it: it proves nothing
            continue
        channels = channel_groups(graph)
        rng = np.random.default_rng(seed)
        finite = all(np.isfinite(value).all() for value in reference)
        for chosen, want in ((random_cut(channels, rng, 0.9), None), (random_pad(channels, rng, 0.9), reference)):
            if not chosen:
                continue
            new = graph.edited([resize(graph, channels, chosen)])
            assert_sizes(graph, channels, chosen, new)
            got = run(new, feeds)
            expected = run(mask_consumers(graph, channels, chosen), feeds) if want is None else want
            if finite and all(np.isfinite(value).all() for value in expected):
                assert_close(got, expected, 1e-4)
                cut_groups += len(chosen) if want is None else 0
                padded_groups += len(chosen) if want is not None else 0
    return cut_groups, padded_groups


@pytest.mark.corpus
@pytest.mark.filterwarnings("ignore")
def test_every_onnx_op() -> None:
    cut = padded = 0
    wrong: dict[str, str] = {}
    for case in cases():
        try:
            more_cut, more_padded = operate(case)
        except Exception as error:  # every wrong case is to be listed, not the first one
            wrong[case.name] = repr(error)[:300]
        else:
            cut, padded = cut + more_cut, padded + more_padded
    assert not wrong
    assert cut > 1000
    assert padded > 800
