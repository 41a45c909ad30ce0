"""Fused against plain inverted bottlenecks by Arm's compiler: `python -m tests.measure.fused_blocks` prints `VELA`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from graphopt.ir.graph import Graph
from graphopt.measure.backend import Measurement
from graphopt.measure.nets import blocks
from graphopt.measure.nets.blocks import Block
from graphopt.measure.nets.builder import NetBuilder
from graphopt.onnx_io.load import load

BLOCKS: Final = {
    "112x112x16->16 s1": (112, 16, 16, 1),
    "112x112x16->24 s2": (112, 16, 24, 2),
    "56x56x24->24 s1": (56, 24, 24, 1),
    "28x28x32->32 s1": (28, 32, 32, 1),
    "28x28x32->64 s2": (28, 32, 64, 2),
    "14x14x96->96 s1": (14, 96, 96, 1),
    "7x7x160->160 s1": (7, 160, 160, 1),
}
"""Size of the map, channels in and out, stride; six times as many channels inside."""

TARGETS: Final = ("ethos-u55-128", "ethos-u55-256", "ethos-u65-512", "ethos-u85-256")

VELA: Final = {
    "112x112x16->16 s1": (+0.149, +0.136, +0.136, +0.164),
    "112x112x16->24 s2": (-0.419, -0.507, -0.511, -0.426),
    "56x56x24->24 s1": (+1.020, +0.918, +0.917, +0.619),
    "28x28x32->32 s1": (+0.561, +0.524, +0.517, +0.606),
    "28x28x32->64 s2": (-0.191, +0.024, +0.005, -0.238),
    "14x14x96->96 s1": (+2.088, +1.920, +1.460, +2.135),
    "7x7x160->160 s1": (+3.039, +3.305, +3.009, +3.625),
}
"""Change in latency by fusing, for each block and target (ethos-u-vela 5.2.0)."""


def graph(block: str, *, fused: bool) -> Graph:
    """One block behind a 1x1 convolution, so that it finds its input on the chip."""
    size, channels, out, stride = BLOCKS[block]
    b = NetBuilder(0, (channels, size, size))
    x = b.conv("image", channels, act="relu6")
    make = blocks.fused if fused else blocks.inverted
    make(b, x, Block(out, stride=stride, act="relu6", expansion=6.0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "block.onnx"
        path.write_bytes(b.model().SerializeToString())
        return load(path)


def main() -> None:
    """Print what stands in `VELA`."""
    from graphopt.measure.vela import Vela

    graphs = [graph(block, fused=fused) for block in BLOCKS for fused in (False, True)]
    found: dict[str, list[float]] = {block: [] for block in BLOCKS}
    for target in TARGETS:
        answers = iter(Vela(target).measure(graphs))
        for block in BLOCKS:
            plain, fused = next(answers), next(answers)
            assert isinstance(plain, Measurement)
            assert isinstance(fused, Measurement)
            found[block].append(round(_block_us(fused) / _block_us(plain) - 1, 3))
    for block, changes in found.items():
        print(f'    "{block}": ({", ".join(f"{change:+.3f}" for change in changes)}),')


def _block_us(answer: Measurement) -> float:
    """Without the convolution in front."""
    return answer.total_us - sum(row.latency_us for row in answer.rows if "t0" in row.tensors)


if __name__ == "__main__":
    main()
