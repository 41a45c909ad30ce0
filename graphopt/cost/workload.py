"""What a kernel has to do, in numbers that no chip enters: MACs, elements, pixels.

Everything is plain arithmetic on dimensions, which may be numbers or arrays that broadcast: a kernel is described
under thousands of candidate widths in one call. Structure (depthwise or not) is read off the graph and never off a
dimension that may be an array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from graphopt.cost.categories import BIAS_SLOT, WEIGHT_SLOT, Category
from graphopt.cost.kernels import Kernel
from graphopt.ir.graph import Graph
from graphopt.ir.op import Op
from graphopt.ir.window import window_pads
from graphopt.targets.target import ACTIVATIONS, Target

Count = int | npt.NDArray[np.int64]
"""A number, or one for each candidate."""

ShapeOf = Callable[[str], Sequence[Count]]

Kind = Literal["convolution", "depthwise", "product", "vector"]

Activation = Literal["none", "clamp", "curve", "gate", "hard-gate"]
"""What is fused behind an anchor: nothing, bounds on the output (ReLU and its kin), a function to look up, or x times
a sigmoid of itself: smooth (SiLU) or of straight pieces (hard-swish)."""

_CLAMPS: Final = frozenset({"Relu", "Clip"})

_PASSES: Final = {"normalise": 3}
"""How often an op goes over its elements (a normalisation: twice for the statistics, once to apply them)."""

_RESIZE_TAPS: Final = {"nearest": 1, "linear": 4, "cubic": 16}


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """The work of one kernel; any field of type `Count` may be an array.

    Attributes:
        kind: ``convolution`` (dense or grouped), ``depthwise`` and ``product`` (of matrices) run on MAC units, and
            ``vector`` elsewhere.
        groups: independent products (groups of a convolution, matrices of a batched product).
        pixels: output positions, batch included.
        taps: kernel positions (height x width).
        channels_in: input channels of one group.
        channels_out: output channels of one group.
        vector_ops: elementwise operations of a ``vector`` kernel.
        activation_elements: elements read and written, of the types that the target's precision replaces.
        other_bytes: bytes read and written of all other types (indices, booleans).
        weight_elements: weights read.
        bias_elements: bias values read.
        owns_weights: whether the parameters count here (or at an earlier kernel that shares them).
        category: what kind of work the anchor is; with ``op_type`` and everything below it, what a learned estimator
            looks at beside the numbers above.
        op_type: the anchor's.
        activation: what is fused behind it.
        activation_type: op type of the first op of that, "" for none.
        kernel_height, kernel_width: the window of a convolution or a pooling.
        stride_height, stride_width: its steps.
        pad_height, pad_width: rows and columns of zeros around its input, of both ends together.
        output_height, output_width: the last two axes of an output of four; 1 where there are fewer.
        input_elements: elements of the activation that the anchor reads first; of those that a Concat has to copy.
        second_elements: elements of what the kernel reads beside that (the skip of a residual block, a gate).
        output_elements: elements written.
        joined_parts: where the output is nothing but a part of a Concat along the channels, how many parts there are: a
            device may write it in its place at once, scattered among the others. 0 elsewhere.
    """

    kind: Kind
    groups: Count = 1
    pixels: Count = 0
    taps: Count = 1
    channels_in: Count = 0
    channels_out: Count = 0
    vector_ops: Count = 0
    activation_elements: Count = 0
    other_bytes: Count = 0
    weight_elements: Count = 0
    bias_elements: Count = 0
    owns_weights: bool = True
    category: Category = "other"
    op_type: str = ""
    activation: Activation = "none"
    activation_type: str = ""
    kernel_height: Count = 1
    kernel_width: Count = 1
    stride_height: int = 1
    stride_width: int = 1
    pad_height: int = 0
    pad_width: int = 0
    output_height: Count = 1
    output_width: Count = 1
    input_elements: Count = 0
    second_elements: Count = 0
    output_elements: Count = 0
    joined_parts: int = 0

    @property
    def macs(self) -> Count:
        """Multiply-accumulates, without any padding."""
        return self.groups * self.pixels * self.taps * self.channels_in * self.channels_out

    def activation_bytes(self, target: Target) -> Count:
        """Bytes of everything that the kernel reads and writes, weights apart."""
        return self.activation_elements * target.element_bytes + self.other_bytes

    def weight_bytes(self, target: Target) -> Count:
        """Bytes of the weights and biases that the kernel reads."""
        return self.weight_elements * target.element_bytes + self.bias_elements * target.bias_bytes

    @property
    def parameters(self) -> Count:
        """Number of parameters that count at this kernel."""
        return (self.weight_elements + self.bias_elements) * int(self.owns_weights)

    def parameter_bytes(self, target: Target) -> Count:
        """Bytes of the parameters that count at this kernel."""
        return self.weight_bytes(target) * int(self.owns_weights)


def takes_precision(dtype: np.dtype[Any] | None) -> bool:
    """Whether a target stores tensors of this type in its own precision: floats, bfloat16 and the unknown."""
    return dtype is None or dtype.kind in "fV"


def tensor_bytes(dtype: np.dtype[Any] | None, shape: Sequence[Count], target: Target) -> Count:
    """Bytes of one activation on the target."""
    width = target.element_bytes if dtype is None or takes_precision(dtype) else dtype.itemsize
    return _product(shape) * width


def workload(kernel: Kernel, graph: Graph, shape_of: ShapeOf, around: Graph | None = None) -> Workload:
    """Describe the work of ``kernel``.

    Args:
        kernel: one of `decompose(graph, target)`.
        graph: where it is; types, attributes and structure come from here.
        shape_of: the dimensions of each tensor that the kernel reads or writes and of each weight; ints, or int64
            arrays which broadcast against each other.
        around: the whole model where ``graph`` is a part of it, for what reads the part's outputs.
    """
    anchor = graph.op(kernel.anchor)
    base = _geometry(_traffic(kernel, graph, shape_of), kernel, anchor, graph, shape_of, around)
    if anchor.domain == "" and anchor.op_type in WEIGHT_SLOT:
        return _heavy(base, kernel, anchor, graph, shape_of)
    return replace(
        base,
        vector_ops=_vector_ops(kernel, anchor, shape_of),
        weight_elements=_total(_parameters(kernel.weights, graph) if kernel.category != "resize" else (), shape_of),
    )


def _product(shape: Sequence[Count]) -> Count:
    return math.prod(shape)


def _total(tensors: Sequence[str], shape_of: ShapeOf) -> Count:
    return sum((_product(shape_of(tensor)) for tensor in tensors), start=0)


def _parameters(weights: Sequence[str], graph: Graph) -> list[str]:
    """The constants that are parameters: no shapes or indices, no single numbers such as a Clip's bounds."""
    shapes = ((name, graph.static_shape(name)) for name in weights if takes_precision(graph.dtype(name)))
    return [name for name, shape in shapes if shape and math.prod(shape) > 1]


def _traffic(kernel: Kernel, graph: Graph, shape_of: ShapeOf) -> Workload:
    elements: Count = 0
    other: Count = 0
    for tensor in (*kernel.reads, *kernel.writes):
        dtype = graph.dtype(tensor)
        if dtype is None or takes_precision(dtype):
            elements = elements + _product(shape_of(tensor))
        else:
            other = other + _product(shape_of(tensor)) * dtype.itemsize
    return Workload("vector", activation_elements=elements, other_bytes=other, owns_weights=kernel.owns_weights)


def _geometry(
    base: Workload, kernel: Kernel, anchor: Op, graph: Graph, shape_of: ShapeOf, around: Graph | None
) -> Workload:
    """Add what the kernel looks like: operands, windows, the activation behind it."""
    first = next((tensor for tensor in anchor.inputs if tensor in kernel.reads), None)
    # a residual block of one convolution reads its input twice
    behind = {name for key in kernel.ops if key != kernel.anchor for name in graph.op(key).inputs}
    others = [tensor for tensor in kernel.reads if tensor != first or tensor in behind]
    firsts = [first] if first is not None else []
    if anchor.op_type == "Concat":  # what nobody else reads can be written in its place at once, the rest is copied
        firsts = [tensor for tensor in kernel.reads if graph.only_use(tensor) is None]
        others = [tensor for tensor in kernel.reads if tensor not in firsts]
    window = _window(anchor, kernel, shape_of)
    strides = anchor.attribute("strides", ())
    pads = _pads(anchor, kernel, graph)
    made = _plane(shape_of(kernel.writes[-1])) if kernel.writes else (1, 1)
    return replace(
        base,
        category=kernel.category,
        op_type=anchor.op_type,
        activation=_activation(kernel, graph),
        activation_type=next((op_type for op_type in _followers(kernel, graph) if op_type in ACTIVATIONS), ""),
        kernel_height=window[0],
        kernel_width=window[1],
        stride_height=int(_plane((1, 1, *strides))[0]),
        stride_width=int(_plane((1, 1, *strides))[1]),
        pad_height=sum(pads[:-1]),
        pad_width=sum(pads[-1:]),
        output_height=made[0],
        output_width=made[1],
        input_elements=_total(firsts, shape_of),
        second_elements=_total(others, shape_of),
        output_elements=_total(kernel.writes, shape_of),
        joined_parts=_joined_parts(kernel.writes[-1], graph, around) if kernel.writes else 0,
    )


def _joined_parts(tensor: str, graph: Graph, around: Graph | None) -> int:
    """How many parts the Concat along the channels has that alone reads a tensor; 0 where there is no such."""
    whole = around if around is not None and graph.is_output(tensor) else graph
    use = whole.only_use(tensor)
    if use is None or use.op.op_type != "Concat" or _channels(use.op.outputs[0], whole) <= _channels(tensor, whole):
        return 0
    return len(use.op.inputs)


def _channels(tensor: str, graph: Graph) -> int:
    """Channels of a map; 0 of anything else."""
    shape = graph.static_shape(tensor) or ()
    return shape[1] if len(shape) == 4 else 0


def _plane(shape: Sequence[Count]) -> tuple[Count, Count]:
    """Height and width of a shape with batch and channels first; depth counts as height."""
    *rows, columns = shape[2:] or (1,)
    return _product(rows), columns


def _window(anchor: Op, kernel: Kernel, shape_of: ShapeOf) -> tuple[Count, Count]:
    if kernel.category == "pool":
        return _plane((1, 1, *anchor.attribute("kernel_shape", ())))
    if anchor.op_type.startswith("Global") and kernel.reads:
        return _plane(shape_of(kernel.reads[0]))
    if "Conv" in anchor.op_type and anchor.op_type in WEIGHT_SLOT:
        return _plane(shape_of(anchor.inputs[WEIGHT_SLOT[anchor.op_type]]))
    return 1, 1


def _pads(anchor: Op, kernel: Kernel, graph: Graph) -> tuple[int, ...]:
    """Zeros along each spatial axis; none around the input of a transposed convolution, whose pads crop its output."""
    source = graph.static_shape(anchor.inputs[0]) if anchor.inputs else None
    window: Sequence[int] | None = None
    if kernel.category == "pool":
        window = anchor.attribute("kernel_shape", None)
    elif anchor.op_type in ("Conv", "ConvInteger") and anchor.domain == "":
        window = (graph.static_shape(anchor.inputs[WEIGHT_SLOT[anchor.op_type]]) or ())[2:]
    if not window or source is None or len(source) != len(window) + 2:
        return ()
    return tuple(before + after for before, after in window_pads(anchor, window, source[2:]))


def _followers(kernel: Kernel, graph: Graph) -> list[str]:
    return [graph.op(key).op_type for key in kernel.ops if key != kernel.anchor]


def _activation(kernel: Kernel, graph: Graph) -> Activation:
    followers = [graph.op(key) for key in kernel.ops if key != kernel.anchor]
    types = {op.op_type for op in followers} & ACTIVATIONS
    # spelled-out gates (hard-swish, SiLU) multiply two tensors of the kernel's own
    gated = any(op.op_type == "Mul" and not {*op.inputs} & {*kernel.reads, *kernel.weights} for op in followers)
    if not types:
        return "none"
    if gated:
        return "gate" if "Sigmoid" in types else "hard-gate"
    return "clamp" if types <= _CLAMPS else "curve"


def _heavy(base: Workload, kernel: Kernel, anchor: Op, graph: Graph, shape_of: ShapeOf) -> Workload:
    """Add the work on MAC units, the weights and the biases."""
    weight = anchor.inputs[WEIGHT_SLOT[anchor.op_type]]
    outputs = _product(shape_of(kernel.writes[-1]))  # fused ops keep the number of elements
    if anchor.op_type == "ConvTranspose":
        work = _transposed(base, anchor, weight, graph, shape_of)
        channels = shape_of(weight)[1] * work.groups
    elif "Conv" in anchor.op_type:
        work = _convolution(base, kernel, anchor, weight, outputs, shape_of)
        channels = shape_of(weight)[0]
    else:
        work = _matmul(base, anchor, weight, outputs, shape_of)
        channels = work.channels_out
    followers = [graph.op(key) for key in kernel.ops if key != kernel.anchor]
    folded = [op for op in followers if op.op_type in ("BatchNormalization", "Add", "Sub", "Mul", "Div")]
    vectors = [name for op in folded for name in _parameters([t for t in op.inputs if t in kernel.weights], graph)]
    has_bias = bool(vectors) or anchor.input(BIAS_SLOT.get(anchor.op_type, len(anchor.inputs))) != ""
    others = [t for op in followers if op not in folded for t in op.inputs if t in kernel.weights]
    weights = [weight] if weight in kernel.weights else []
    return replace(
        work,
        weight_elements=_total([*weights, *_parameters(others, graph)], shape_of),
        bias_elements=channels if has_bias else 0,
    )


def _convolution(
    base: Workload, kernel: Kernel, anchor: Op, weight: str, outputs: Count, shape_of: ShapeOf
) -> Workload:
    """Weight: (channels out, channels in / groups, kernel...)."""
    out, per_group, *kernel_shape = shape_of(weight)
    # as many groups as the widths make; at least one, even where a table prices widths that nobody takes
    groups = np.maximum(shape_of(anchor.inputs[0])[1] // per_group, 1)
    return replace(
        base,
        kind="depthwise" if kernel.category == "depthwise" else "convolution",
        groups=groups,
        pixels=outputs // out,
        taps=_product(kernel_shape),
        channels_in=per_group,
        channels_out=out // groups,
    )


def _transposed(base: Workload, anchor: Op, weight: str, graph: Graph, shape_of: ShapeOf) -> Workload:
    """A matrix product at each *input* position whose columns (channels x taps) are then summed where they overlap."""
    channels, per_group, *kernel_shape = shape_of(weight)
    groups: Count = int(anchor.attribute("group", 1))
    if (graph.static_shape(weight) or (0,))[0] == groups > 1:  # one channel a group: as many groups as channels
        groups = channels
    return replace(
        base,
        kind="convolution",
        groups=groups,
        pixels=_product(shape_of(anchor.inputs[0])) // channels,
        channels_in=channels // groups,
        channels_out=per_group * _product(kernel_shape),
    )


def _matmul(base: Workload, anchor: Op, weight: str, outputs: Count, shape_of: ShapeOf) -> Workload:
    """Rows x inner times inner x columns; a second operand with batch dimensions is one product for each of them."""
    shape = list(shape_of(weight))
    if len(shape) == 1:
        shape.append(1)
    *batch, inner, columns = shape
    if anchor.op_type == "Gemm" and anchor.attribute("transB", 0):
        inner, columns = columns, inner
    groups = _product(batch)
    return replace(
        base,
        kind="product",
        groups=groups,
        pixels=outputs // (groups * columns),
        channels_in=inner,
        channels_out=columns,
    )


def _vector_ops(kernel: Kernel, anchor: Op, shape_of: ShapeOf) -> Count:
    """Elementwise operations; what is fused behind the anchor costs nothing."""
    made = _total(kernel.writes, shape_of)
    read = _total(kernel.reads, shape_of)
    match kernel.category:
        case "pool":
            return _product(shape_of(kernel.writes[-1])) * _product(anchor.attribute("kernel_shape", ()))
        case "reduce":
            return read
        case "resize":
            mode = anchor.attribute("mode", "nearest")
            return made * _RESIZE_TAPS.get(mode.decode() if isinstance(mode, bytes) else mode, 1)
        case "other":
            return made + read
        case _:
            return made * _PASSES.get(kernel.category, 1)
