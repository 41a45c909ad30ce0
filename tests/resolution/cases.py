"""Small models as functions of their size: what is derived from one size must compute what is built at another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Build = Callable[[int, int], onnx.ModelProto]


class Net:
    """Collects nodes and constants; the weights are the same at every size."""

    def __init__(self, height: int, width: int, channels: int = 3) -> None:
        self.height, self.width = height, width
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.input = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, height, width])

    def constant(self, values: np.ndarray | Sequence[int]) -> str:
        name = f"c{len(self.constants)}"
        array = np.asarray(values)
        self.constants.append(
            numpy_helper.from_array(array if array.dtype != np.int_ else array.astype(np.int64), name)
        )
        return name

    def op(self, op_type: str, *inputs: str, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], **attributes))
        return name

    def conv(self, x: str, cin: int, cout: int, kernel: int = 3, stride: int = 1, pad: int | None = None) -> str:
        weight = self.rng.standard_normal((cout, cin, kernel, kernel)).astype(np.float32) / kernel
        pads = [kernel // 2 if pad is None else pad] * 4
        return self.op("Conv", x, self.constant(weight), kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)

    def model(self, *outputs: str) -> onnx.ModelProto:
        declared = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", [self.input], declared, self.constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        made.ir_version = 8
        return onnx.shape_inference.infer_shapes(made, data_prop=True)


def _down(n: int) -> int:
    return (n + 1) // 2


def resize_to_sizes(h: int, w: int) -> onnx.ModelProto:
    """A decoder whose Resize is told the size of the skip, odd maps included, and of the image at the end."""
    net = Net(h, w)
    skip = net.conv("x", 3, 4, stride=2)
    deep = net.conv(skip, 4, 6, stride=2)
    sizes = net.constant([1, 6, _down(h), _down(w)])
    up = net.op("Resize", deep, "", "", sizes, mode="nearest")
    joined = net.conv(net.op("Concat", up, skip, axis=1), 10, 2)
    whole = net.constant([1, 2, h, w])
    return net.model(net.op("Resize", joined, "", "", whole, mode="linear"))


def transposed_to_shape(h: int, w: int) -> onnx.ModelProto:
    """A transposed convolution that is told how large its output is."""
    net = Net(h, w)
    deep = net.conv("x", 3, 4, stride=2)
    weight = net.constant(np.ones((4, 2, 3, 3), np.float32))
    up = net.op("ConvTranspose", deep, weight, kernel_shape=[3, 3], strides=[2, 2], output_shape=[h, w])
    return net.model(net.op("Concat", up, "x", axis=1))


def resize_by_chain(h: int, w: int) -> onnx.ModelProto:
    """As PyTorch's older exports write `interpolate(size=...)`: batch and channels from Shape, the size a constant."""
    net = Net(h, w)
    deep = net.conv("x", 3, 4, stride=2)
    shape = net.op("Shape", deep)
    front = net.op("Slice", shape, net.constant([0]), net.constant([2]), net.constant([0]))
    told = net.op("Concat", front, net.constant([h, w]), axis=0)
    return net.model(net.op("Resize", deep, "", "", told, mode="linear"))


def view_by_chain(h: int, w: int) -> onnx.ModelProto:
    """`view(n, c, h * w)` with everything computed, from Shape and from constants: follows by itself."""
    net = Net(h, w)
    deep = net.conv("x", 3, 4, stride=2)
    shape = net.op("Shape", deep)
    places = [net.op("Sub", net.constant([i + 1]), net.constant([1])) for i in range(4)]
    parts = [net.op("Gather", shape, place) for place in places]
    product = net.op("Mul", parts[2], parts[3])
    target = net.op("Concat", parts[0], parts[1], product, axis=0)
    return net.model(net.op("Softmax", net.op("Reshape", deep, target), axis=2))


def cropped_by_chain(h: int, w: int) -> onnx.ModelProto:
    """A crop to two thirds whose bounds are computed from Shape, and windows split by a computed Reshape."""
    net = Net(h, w)
    deep = net.conv("x", 3, 4, stride=2)
    shape = net.op("Shape", deep)
    sides = net.op("Slice", shape, net.constant([2]), net.constant([4]), net.constant([0]))
    two, three = net.constant([2]), net.constant([3])
    ends = net.op("Div", net.op("Mul", sides, two), three)
    cut = net.op("Slice", deep, net.constant([0, 0]), ends, net.constant([2, 3]))
    whole = net.op("Concat", net.constant([1, 2, 2]), sides, axis=0)
    return net.model(cut, net.op("Reshape", deep, whole))


def whole_pool(h: int, w: int) -> onnx.ModelProto:
    """A pool over the whole map, as TensorFlow's converters write a global one."""
    net = Net(h, w)
    deep = net.conv("x", 3, 4, stride=2)
    sides = [_down(h), _down(w)]
    pooled = net.op("AveragePool", deep, kernel_shape=sides, strides=[1, 1])
    return net.model(net.op("Flatten", pooled, axis=1))


def tall_pool(h: int, w: int) -> onnx.ModelProto:
    """A pool over the whole height alone (text recognisers)."""
    net = Net(h, w)
    deep = net.conv("x", 3, 4, stride=2)
    return net.model(net.op("AveragePool", deep, kernel_shape=[_down(h), 1], strides=[_down(h), 2]))


def pixel_shuffle(h: int, w: int) -> onnx.ModelProto:
    """Reshape, Transpose, Reshape with constant targets."""
    net = Net(h, w)
    deep = net.conv("x", 3, 8, stride=2)
    a, b = _down(h), _down(w)
    split = net.op("Reshape", deep, net.constant([1, 2, 2, 2, a, b]))
    turned = net.op("Transpose", split, perm=[0, 3, 4, 1, 5, 2])
    return net.model(net.op("Reshape", turned, net.constant([1, 2, 2 * a, 2 * b])))


def detector_rows(h: int, w: int) -> onnx.ModelProto:
    """Anchors' rows, channels last: 18 channels are 3 anchors of 6 numbers."""
    net = Net(h, w)
    rows = []
    x = "x"
    for cin in (3, 18):
        x = net.conv(x, cin, 18, stride=2)
        last = net.op("Transpose", x, perm=[0, 2, 3, 1])
        h, w = _down(h), _down(w)
        rows.append(net.op("Reshape", last, net.constant([1, h * w * 3, 6])))
    return net.model(net.op("Concat", *rows, axis=1))


def wide_rows(h: int, w: int) -> onnx.ModelProto:
    """Fewer rows than columns: 80 channels of a small map are 2 anchors of 40 numbers."""
    net = Net(h, w)
    x = net.conv(net.conv(net.conv("x", 3, 4, stride=2), 4, 4, stride=2), 4, 80, stride=2)
    rows = _down(_down(_down(h))) * _down(_down(_down(w))) * 2
    return net.model(net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 3, 1]), net.constant([1, rows, 40])))


def cell_grid(h: int, w: int) -> onnx.ModelProto:
    """A head that adds the number of the cell (YOLO)."""
    net = Net(h, w)
    deep = net.conv("x", 3, 2, stride=2)
    ys, xs = np.meshgrid(np.arange(_down(h)), np.arange(_down(w)), indexing="ij")
    grid = net.constant(np.stack([xs, ys]).astype(np.float32)[None])
    return net.model(net.op("Mul", net.op("Add", deep, grid), net.constant(np.float32(2.0))))


def anchor_list(h: int, w: int) -> onnx.ModelProto:
    """Two levels as one list, columns last: centres and strides of all cells are constants (YOLOX, YOLOv8)."""
    net = Net(h, w)
    x, cells, centres, strides = "x", [], [], []
    for cin, stride in ((3, 2), (4, 4)):
        x = net.conv(x, cin, 4, stride=2)
        h, w = _down(h), _down(w)
        cells.append(net.op("Reshape", x, net.constant([1, 4, h * w])))
        ys, xs = np.meshgrid(np.arange(h) + 0.5, np.arange(w) + 0.5, indexing="ij")
        centres.append(np.stack([xs, ys], -1).reshape(-1, 2))
        strides.append(np.full(h * w, stride))
    joined = net.op("Concat", *cells, axis=2)
    near = net.op("Slice", joined, net.constant([0]), net.constant([2]), net.constant([1]))
    far = net.op("Slice", joined, net.constant([2]), net.constant([4]), net.constant([1]))
    points = net.constant(np.concatenate(centres).T[None].astype(np.float32))
    box = net.op("Concat", net.op("Sub", points, near), net.op("Add", points, far), axis=1)
    return net.model(net.op("Mul", box, net.constant(np.concatenate(strides)[None].astype(np.float32))))


def prior_list(h: int, w: int) -> onnx.ModelProto:
    """Three anchors a cell, centres from 0 to 1 and sides of their own (SSD)."""
    net = Net(h, w)
    x = net.conv(net.conv("x", 3, 4, stride=2), 4, 12, stride=2)
    h, w = _down(_down(h)), _down(_down(w))
    rows = net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 3, 1]), net.constant([1, h * w * 3, 4]))
    ys, xs, _ = np.meshgrid((np.arange(h) + 0.5) / h, (np.arange(w) + 0.5) / w, np.arange(3), indexing="ij")
    sides = np.broadcast_to([0.1, 0.2, 0.4], ys.shape)
    priors = np.stack([xs, ys, sides, sides], -1).reshape(1, -1, 4)
    return net.model(net.op("Add", rows, net.constant(priors.astype(np.float32))))


def grid_by_range(h: int, w: int) -> onnx.ModelProto:
    """Anchor points counted out by Range up to sides read from Shape (YOLOv8 exported with open sizes)."""
    net = Net(h, w)
    deep = net.conv("x", 3, 2, stride=2)
    shape, half = net.op("Shape", deep), net.constant(np.float32(0.5))
    zero, one = net.constant(np.float32(0)), net.constant(np.float32(1))
    ys, xs = (
        net.op("Add", net.op("Range", zero, net.op("Cast", side, to=TensorProto.FLOAT), one), half)
        for side in (net.op("Gather", shape, net.constant(np.int64(axis))) for axis in (2, 3))
    )
    whole = net.op("Concat", net.op("Shape", ys), net.op("Shape", xs), axis=0)
    grids = [
        net.op("Expand", net.op("Reshape", line, net.constant(np.array(view))), whole)
        for line, view in ((ys, [-1, 1]), (xs, [1, -1]))
    ]
    rows = net.op("Concat", *(net.op("Unsqueeze", grid, net.constant([-1])) for grid in grids), axis=-1)
    points = net.op("Transpose", net.op("Reshape", rows, net.constant([-1, 2])), perm=[1, 0])
    return net.model(net.op("Sub", points, net.op("Reshape", deep, net.constant([1, 2, -1]))))


def pixel_grid(h: int, w: int) -> onnx.ModelProto:
    """Centres of cells in pixels of the image, on one axis."""
    net = Net(h, w)
    deep = net.conv("x", 3, 2, stride=2)
    return net.model(net.op("Add", deep, net.constant((2 * np.arange(_down(w)) + 1).astype(np.float32))))


def grid_by_ops(h: int, w: int) -> onnx.ModelProto:
    """Coordinates from -1 to 1, end to end, that ops make of constants (an export without constant folding)."""
    net = Net(h, w)
    row = net.constant(np.linspace(-1, 1, w).astype(np.float32))
    shape = net.op("Concat", net.constant([1, 1]), net.constant([1, w]), axis=0)
    across = net.op("Mul", net.op("Reshape", row, shape), net.constant(np.ones((1, 1, h, 1), np.float32)))
    return net.model(net.conv(net.op("Concat", "x", across, axis=1), 4, 4))


def unit_grid(h: int, w: int) -> onnx.ModelProto:
    """Coordinates from 0 to 1 beside the map (CoordConv)."""
    net = Net(h, w)
    deep = net.conv("x", 3, 2, stride=2)
    a, b = _down(h), _down(w)
    ys, xs = np.meshgrid((np.arange(a) + 0.5) / a, (np.arange(b) + 0.5) / b, indexing="ij")
    grid = net.constant(np.stack([xs, ys]).astype(np.float32)[None])
    return net.model(net.op("Concat", deep, grid, axis=1))


def zeros_beside(h: int, w: int) -> onnx.ModelProto:
    """Channels padded with zeros that ConstantOfShape makes (BlazeFace)."""
    net = Net(h, w)
    deep = net.conv("x", 3, 2, stride=2)
    zeros = net.op("ConstantOfShape", net.constant([1, 3, _down(h), _down(w)]))
    return net.model(net.op("Concat", deep, zeros, axis=1))


def gate_expanded(h: int, w: int) -> onnx.ModelProto:
    """A gate that is expanded to the map before it is used."""
    net = Net(h, w)
    deep = net.conv("x", 3, 4, stride=2)
    gate = net.op("Sigmoid", net.conv(net.op("GlobalAveragePool", deep), 4, 4, 1))
    wide = net.op("Expand", gate, net.constant([1, 4, _down(h), _down(w)]))
    return net.model(net.op("Mul", deep, wide))


def focus(h: int, w: int) -> onnx.ModelProto:
    """Every second row and column (YOLOv5's first layer), the bounds written out."""
    net = Net(h, w)
    ends, axes, steps = net.constant([h, w]), net.constant([2, 3]), net.constant([2, 2])
    parts = [net.op("Slice", "x", net.constant([i, j]), ends, axes, steps) for j in (0, 1) for i in (0, 1)]
    return net.model(net.conv(net.op("Concat", *parts, axis=1), 12, 4))


def attention(h: int, w: int) -> onnx.ModelProto:
    """Tokens of a map attend to each other in two heads."""
    net = Net(h, w)
    deep = net.conv("x", 3, 8, stride=2)
    tokens = _down(h) * _down(w)
    flat = net.op("Transpose", net.op("Reshape", deep, net.constant([1, 8, tokens])), perm=[0, 2, 1])
    heads = net.op("Transpose", net.op("Reshape", flat, net.constant([1, tokens, 2, 4])), perm=[0, 2, 1, 3])
    weights = net.op("Softmax", net.op("MatMul", heads, net.op("Transpose", heads, perm=[0, 1, 3, 2])), axis=3)
    mixed = net.op("Transpose", net.op("MatMul", weights, heads), perm=[0, 2, 1, 3])
    back = net.op("Transpose", net.op("Reshape", mixed, net.constant([1, tokens, 8])), perm=[0, 2, 1])
    return net.model(net.op("Reshape", back, net.constant([1, 8, _down(h), _down(w)])))


FOLLOWING: tuple[Build, ...] = (
    resize_to_sizes, transposed_to_shape, cropped_by_chain, resize_by_chain, view_by_chain, whole_pool, tall_pool,
    pixel_shuffle, detector_rows, wide_rows, anchor_list, prior_list, cell_grid, pixel_grid, grid_by_ops, grid_by_range,
    unit_grid, zeros_beside, gate_expanded, focus, attention,
)  # fmt: skip
