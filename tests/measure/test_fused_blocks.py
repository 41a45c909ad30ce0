"""Whether fusing an inverted bottleneck pays: the learned Ethos targets agree with Arm's compiler, block by block."""

from __future__ import annotations

import pytest

from graphopt.cost.estimate import estimate
from graphopt.targets.target import load_target
from tests.measure.fused_blocks import BLOCKS, TARGETS, VELA, graph

DRAW = 0.03
"""Where the compiler's own two figures lie no farther apart than this, there is no sign to get right."""


@pytest.mark.parametrize("name", TARGETS)
def test_fusing_has_the_compilers_sign_on_every_block(name: str) -> None:
    target = load_target(name)
    for block in BLOCKS:
        plain, fused = (
            sum(kernel.latency_us for kernel in estimate(graph(block, fused=fused), target).kernels[1:])
            for fused in (False, True)
        )
        change, vela = fused / plain - 1, VELA[block][TARGETS.index(name)]
        if abs(vela) > DRAW:
            assert (change > 0) == (vela > 0), block
        assert (1 + change) / (1 + vela) == pytest.approx(1, abs=0.2), block
