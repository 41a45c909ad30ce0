"""The file behind a graph: what the IR does not carry, kept as it was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from graphopt.ir.op import Op, TensorInfo


@dataclass(frozen=True, slots=True, eq=False)
class ModelFile:
    """An ONNX model as it was read (`Graph.model`).

    Attributes:
        path: the file that was loaded. External data lies in its folder.
        proto: the model; never changed. External data stays outside of it.
        digest: sha256 (hex) of the file's bytes; external files count with their name and size only.
        ops: the ops as they were loaded. One that is still the same is written back byte by byte.
        tensors: shapes and types as they were loaded. A change against them goes into the saved value info.
        input_shapes: the concrete input shapes that were chosen, for pricing only, by input name.
        external: whether any tensor of the file is kept outside of it.
    """

    path: Path
    proto: onnx.ModelProto = field(repr=False)
    digest: str
    ops: tuple[Op, ...] = field(repr=False, default=())
    tensors: Mapping[str, TensorInfo] = field(repr=False, default_factory=dict)
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    external: bool = False
