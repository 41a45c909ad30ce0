"""Which transfer function carries labels through which op: the whole table, and the walk that uses it.

An op that is not in the table freezes every label it sees. That is always right, only less useful.
"""

from __future__ import annotations

from collections.abc import Callable

from graphopt.ir.graph import Graph
from graphopt.ir.labels import Labels
from graphopt.ir.op import Op
from graphopt.ir.transfer_dims import freeze_dims, move_dims, shape_of, size_of
from graphopt.ir.transfer_elementwise import (
    cumulative,
    divide,
    elementwise,
    group_norm,
    layer_norm,
    local_response,
    lp_norm,
    mean_variance_norm,
    modulo,
    partial_unary,
    power,
    quantise,
    softmax,
    unary,
)
from graphopt.ir.transfer_linear import batch_norm, conv, conv_transpose, gemm, instance_norm, matmul
from graphopt.ir.transfer_reduce import arg_reduce, grid_sample, partial_reduce, pool, reduce, resize
from graphopt.ir.transfer_regroup import depth_to_space, reshape, space_to_depth
from graphopt.ir.transfer_shape import (
    concat,
    constant_of_shape,
    expand,
    gather,
    pad,
    slice_,
    split,
    squeeze,
    tile,
    transpose,
    unsqueeze,
)
from graphopt.ir.walk import Role, Walk, WeightUse

Transfer = Callable[[Walk, Op], None]

MAKERS: dict[str, Transfer] = {"Conv": conv, "ConvTranspose": conv_transpose, "Gemm": gemm, "MatMul": matmul}
"""Ops that make channels."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_UNARY = _names(
    "Abs Asinh Atan BitwiseNot Cast Ceil Celu Clip Cos Cosh Dropout Elu Erf Exp Floor Gelu HardSigmoid HardSwish "
    "Identity IsInf IsNaN LeakyRelu Mish Neg Not Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Swish "
    "Tanh ThresholdedRelu"
)
_PARTIAL = _names("Acos Acosh Asin Atanh Log Reciprocal Sqrt Tan")
_ELEMENTWISE = _names(
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mul "
    "Or PRelu Sub Sum Where Xor"
)
_POOL = _names("AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool")
_REDUCE = _names(
    "ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
)

TRANSFER: dict[str, Transfer] = {
    **MAKERS,
    **dict.fromkeys(_UNARY, unary),
    **dict.fromkeys(_PARTIAL, partial_unary),
    **dict.fromkeys(_ELEMENTWISE, elementwise),
    "Div": divide,
    "Pow": power,
    "Mod": modulo,
    "QuantizeLinear": quantise,
    "DequantizeLinear": quantise,
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "Softmax": softmax,
    "LogSoftmax": softmax,
    "Hardmax": softmax,
    "LayerNormalization": layer_norm,
    "RMSNormalization": layer_norm,
    "GroupNormalization": group_norm,
    "LpNormalization": lp_norm,
    "MeanVarianceNormalization": mean_variance_norm,
    "LRN": local_response,
    "CumSum": cumulative,
    **dict.fromkeys(_POOL, pool),
    **dict.fromkeys(_REDUCE, reduce),
    "ReduceLogSum": partial_reduce,
    "ArgMax": arg_reduce,
    "ArgMin": arg_reduce,
    "Resize": resize,
    "Upsample": resize,
    "GridSample": grid_sample,
    "Reshape": reshape,
    "Flatten": reshape,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "Pad": pad,
    "Expand": expand,
    "Tile": tile,
    "ConstantOfShape": constant_of_shape,
    "Shape": shape_of,
    "Size": size_of,
}

_OPERANDS = frozenset({*MAKERS, *_ELEMENTWISE, "Div", "Pow", "Mod", "Concat"})
"""Ops whose transfer function looks at every input."""

_WEIGHTED = frozenset({"BatchNormalization", "InstanceNormalization", "QuantizeLinear", "DequantizeLinear"})
"""Ops with one data input, whose transfer function sees to the others once that one is labelled."""

_SEVERAL_OUTPUTS = frozenset({"Split", "Dropout"})
"""Ops whose further outputs the table understands; others freeze when a second output is asked for."""

_OF_CONSTANTS = frozenset(
    _names("Cast ConstantOfShape DequantizeLinear Expand Flatten Identity Reshape Squeeze Transpose Unsqueeze")
)
"""Ops that models apply to weights before use; a weight is cut through them."""


def walk_labels(graph: Graph) -> Walk:
    """Push labels through every op of ``graph``, in order."""
    walk = Walk(graph, raw={tensor for tensor in graph.inputs if tensor not in graph.weights})
    for op in graph.ops():
        if all(output in graph.weights for output in op.outputs if output):
            continue  # a Constant
        _step(walk, op)
        if op.op_type not in MAKERS and _reads_raw(walk, op):
            walk.raw.update(output for output in op.outputs if output)
    for tensor in graph.outputs:
        producer = graph.producer(tensor)
        if producer is not None:
            walk.freeze_tensor(producer, f"{tensor!r} is an output of the model", tensor)
            freeze_dims(walk, producer, tensor)
    return walk


def _reads_raw(walk: Walk, op: Op) -> bool:
    computed = [tensor for tensor in op.inputs if tensor and not walk.is_constant(tensor)]
    return bool(computed) and all(tensor in walk.raw for tensor in computed)


def _step(walk: Walk, op: Op) -> None:
    for tensor in op.captures:
        walk.freeze_tensor(op, f"a subgraph of {op} reads it", tensor)
        freeze_dims(walk, op, tensor)
    if move_dims(walk, op):
        return
    transfer = TRANSFER.get(op.op_type) if op.domain in ("", "ai.onnx") else None
    further = any(op.outputs[1:]) and op.op_type not in _SEVERAL_OUTPUTS
    if transfer is None or further:
        reason = f"{op} is asked for more than one output" if transfer else f"{op} has no transfer function"
        for tensor in op.inputs:
            walk.freeze_tensor(op, reason, tensor)
    elif all(walk.is_constant(tensor) for tensor in op.inputs if tensor):
        _of_constants(walk, op, transfer)
    elif op.op_type in _OPERANDS:
        if op.op_type in MAKERS or any(tensor in walk.axes for tensor in op.inputs):
            transfer(walk, op)
    else:
        _one_data_input(walk, op, transfer)


def _one_data_input(walk: Walk, op: Op, transfer: Transfer) -> None:
    """An op that works on its first input; the others are parameters, which must not have channels of their own."""
    labelled = op.inputs[0] in walk.axes or (op.op_type == "ConstantOfShape" and op.inputs[0] in walk.dims)
    if not (labelled and op.op_type in _WEIGHTED):
        for tensor in op.inputs[1:]:
            walk.freeze_tensor(op, f"{op} takes it as a parameter", tensor)
    if labelled:
        transfer(walk, op)


def _of_constants(walk: Walk, op: Op, transfer: Transfer) -> None:
    """An op that computes a constant: every axis of the weight it reads is free until an op uses the result."""
    if op.op_type not in _OF_CONSTANTS:
        for tensor in op.inputs:
            walk.freeze_tensor(op, f"{op} computes a constant from it", tensor)
        return
    if op.op_type == "ConstantOfShape":
        transfer(walk, op)
        walk.derived[op.outputs[0]] = ()
        return
    data = op.inputs[0]
    weight = walk.graph.weight(data)
    if weight is not None:
        free: tuple[Labels | None, ...] = tuple(walk.space.fresh(dim) if dim > 1 else None for dim in weight.shape)
        carry: tuple[Role, ...] = ("carry",)
        use = WeightUse(op.key, 0, data, free, carry * len(free), 0.0)
        walk.uses.append(use)
        walk.axes[data] = free
        sources: tuple[WeightUse, ...] = (use,)
    else:
        sources = walk.derived[data]
    transfer(walk, op)
    if weight is not None:
        del walk.axes[data]
    walk.derived[op.outputs[0]] = sources
