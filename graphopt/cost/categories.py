"""What kind of work an op is, by its type: the columns of a price list."""

from __future__ import annotations

from typing import Final, Literal

from graphopt.ir.graph import Graph
from graphopt.ir.op import Op
from graphopt.targets.target import ACTIVATIONS

Category = Literal[
    "conv-1x1", "conv-kxk", "depthwise", "grouped", "transposed", "matmul",
    "elementwise", "normalise", "pool", "reduce", "resize", "copy", "other",
]  # fmt: skip

WEIGHT_SLOT: Final = {
    "Conv": 1,
    "ConvInteger": 1,
    "ConvTranspose": 1,
    "Gemm": 1,
    "MatMul": 1,
    "MatMulInteger": 1,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
}
"""Ops that run on the MAC array, and the input slot of their weight (a MatMul's may be an activation)."""

BIAS_SLOT: Final = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "QLinearConv": 8}

# fmt: off
_CATEGORIES: Final[dict[Category, frozenset[str]]] = {
    "elementwise": ACTIVATIONS | {
        "Add", "And", "BatchNormalization", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast",
        "CastLike", "Ceil", "Cos", "Div", "Equal", "Floor", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less",
        "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Not", "Or", "Round", "Shrink", "Sign", "Sin", "Sub",
        "Sum", "Where", "Xor",
    },
    "normalise": frozenset({
        "GroupNormalization", "InstanceNormalization", "LRN", "LayerNormalization", "LogSoftmax", "LpNormalization",
        "MeanVarianceNormalization", "RMSNormalization", "Softmax",
    }),
    "pool": frozenset({
        "AveragePool", "LpPool", "MaxPool",
    }),
    "reduce": frozenset({
        "ArgMax", "ArgMin", "CumSum", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "ReduceL1", "ReduceL2",
        "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
        "ReduceSumSquare", "TopK",
    }),
    "resize": frozenset({
        "Resize", "Upsample",
    }),
    "copy": frozenset({
        "Concat", "DepthToSpace", "Expand", "Gather", "GatherElements", "GatherND", "Pad", "ScatterElements",
        "ScatterND", "Slice", "SpaceToDepth", "Split", "Tile", "Transpose",
    }),
}
# fmt: on
_CATEGORY_OF: Final = {op_type: category for category, op_types in _CATEGORIES.items() for op_type in op_types}


def category(graph: Graph, op: Op) -> Category:
    """Return what kind of work ``op`` is as an anchor."""
    if op.domain:
        return "other"
    if op.op_type not in WEIGHT_SLOT:
        return _CATEGORY_OF.get(op.op_type, "other")
    if op.op_type == "ConvTranspose":
        return "transposed"
    if "Conv" not in op.op_type:
        return "matmul"
    shape = graph.static_shape(op.input(WEIGHT_SLOT[op.op_type])) or ()
    if op.attribute("group", 1) > 1:
        return "depthwise" if len(shape) > 1 and shape[1] == 1 else "grouped"
    return "conv-1x1" if all(size == 1 for size in shape[2:]) else "conv-kxk"
