"""Ops that work on each element, and softmax."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from graphopt.train.call import Call


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Call], Tensor]:
    return lambda call: function(call[0])


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call], Tensor]:
    """An op with any number of operands."""
    return lambda call: reduce(function, (call[slot] for slot in range(len(call.values))))


def _div(call: Call) -> Tensor:
    x, y = call[0], call[1]
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _clip(call: Call) -> Tensor:
    x, low, high = call[0], call.number(1, "min"), call.number(2, "max")
    if low is not None and high is not None and low <= high and x.is_floating_point():
        return F.hardtanh(x, low, high)  # as clamp, but its gradient is one pass over the memory instead of four
    return x if low is None and high is None else x.clamp(low, high)


def _hard_sigmoid(call: Call) -> Tensor:
    return (call[0] * call.attribute("alpha", 0.2) + call.attribute("beta", 0.5)).clamp(0.0, 1.0)


def _gelu(call: Call) -> Tensor:
    return F.gelu(call[0], approximate=call.attribute("approximate", "none"))


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Callable[[Call], Tensor]:
    def run(call: Call) -> Tensor:
        x = call[0]
        if call.opset >= 13:
            return function(x, call.attribute("axis", -1))
        axis = call.attribute("axis", 1) % x.dim()
        return function(x.flatten(axis), axis).reshape(x.shape)

    return run


def torch_dtype(number: int) -> Any:
    """The torch type behind an ONNX element type."""
    return getattr(torch, onnx.helper.tensor_dtype_to_np_dtype(number).name)


def _cast(call: Call) -> Tensor:
    return call[0].to(torch_dtype(call.attribute("to")))


ELEMENTWISE: dict[str, Callable[[Call], Any]] = {
    "Abs": _unary(torch.abs),
    "Add": _folded(torch.add),
    "Cast": _cast,
    "Clip": _clip,
    "Div": _div,
    "Dropout": _unary(lambda x: x),
    "Elu": lambda call: F.elu(call[0], call.attribute("alpha", 1.0)),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(F.hardswish),
    "Identity": _unary(lambda x: x),
    "LeakyRelu": lambda call: F.leaky_relu(call[0], call.attribute("alpha", 0.01)),
    "Log": _unary(torch.log),
    "LogSoftmax": _softmax(torch.log_softmax),
    "Max": _folded(torch.maximum),
    "Min": _folded(torch.minimum),
    "Mul": _folded(torch.mul),
    "Neg": _unary(torch.neg),
    "PRelu": lambda call: torch.where(call[0] < 0, call[0] * call[1], call[0]),
    "Pow": lambda call: call[0] ** call[1],
    "Reciprocal": _unary(torch.reciprocal),
    "Relu": _unary(torch.relu),
    "Sigmoid": _unary(torch.sigmoid),
    "Softmax": _softmax(torch.softmax),
    "Softplus": _unary(F.softplus),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _folded(torch.sub),
    "Sum": _folded(torch.add),
    "Tanh": _unary(torch.tanh),
}
"""Op functions by op type."""
