"""Which net was measured: a short text from which the same graph can be made again.

``mixed:12`` is the random net of that family and seed, ``named:resnet-18-224`` a well-known net, and
``file:3f2a...`` a model file, by the digest of what it holds. So a journal needs no models.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx

from graphopt.errors import ConfigError, did_you_mean
from graphopt.ir.graph import Graph
from graphopt.measure.nets import FAMILIES, named_nets, random_net
from graphopt.onnx_io.load import load
from graphopt.onnx_io.normalise import normalise

NAMED: Final = "named"
FILE: Final = "file"
_DIGEST_LETTERS: Final = 16


def random_key(family: str, seed: int) -> str:
    """Key of a random net."""
    return f"{family}:{seed}"


def named_keys() -> list[str]:
    """Keys of all well-known nets."""
    return [f"{NAMED}:{name}" for name in named_nets()]


@dataclass(frozen=True, slots=True)
class NetFile:
    """A model file.

    Attributes:
        path: where it is.
        input_shapes: concrete shapes of its open inputs, by name.
    """

    path: Path
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def key(self) -> str:
        """The file's key, the same wherever it lies.

        Raises:
            OSError: when it cannot be read.
        """
        content = self.path.read_bytes() + repr(sorted(self.input_shapes)).encode() * bool(self.input_shapes)
        return f"{FILE}:{hashlib.sha256(content).hexdigest()[:_DIGEST_LETTERS]}"


def make_graph(key: str, files: Mapping[str, NetFile] | None = None) -> Graph:
    """The loaded and normalised graph of a key.

    Args:
        key: see above.
        files: model files by key.

    Raises:
        ConfigError: when there is no such net.
        ModelError: when a model file cannot be read.
    """
    kind, _, name = key.partition(":")
    if kind == FILE:
        if not files or key not in files:
            raise ConfigError(f"the model file of {key!r} is not at hand; pass its path")
        file = files[key]
        return normalise(load(file.path, input_shapes=dict(file.input_shapes))).graph
    if kind == NAMED:
        nets = named_nets()
        if name not in nets:
            raise ConfigError(f"no net is named {name!r}{did_you_mean(name, nets)}")
        return _graph(nets[name](), normalised=True)
    if kind not in FAMILIES or not name.isdecimal():
        raise ConfigError(f"{key!r} names no net; known families: {', '.join(FAMILIES)}")
    return _graph(random_net(int(name), kind))


def _graph(model: onnx.ModelProto, *, normalised: bool = False) -> Graph:
    """Random nets leave nothing to normalise (the tests hold them to it), so they need not start onnxruntime."""
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = Path(folder) / "net.onnx"
        path.write_bytes(model.SerializeToString())
        graph = load(path)
        return normalise(graph).graph if normalised else graph


def fingerprint(graph: Graph) -> str:
    """A short digest of ops and shapes: whether a net made again is the one that was measured."""
    lines = [
        f"{op.domain}:{op.op_type} {op.inputs} {op.outputs} {[graph.static_shape(tensor) for tensor in op.outputs]}"
        for op in graph.ops()
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:_DIGEST_LETTERS]
