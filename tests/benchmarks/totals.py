"""Kernels solved for from totals alone, with Arm's compiler as the black box: it is asked for one number a model.

    graphopt measure run --backend totals --config tests.benchmarks.totals:vela_us --target ethos-u55-256 \
        --family mobilenet --nets 200 --validation 100 --no-adaptive --journal FOLDER -o FOLDER/solved.toml

prints how well 200 totals estimate 100 held-out nets of the same family (about 10 minutes of one core).
"""

from __future__ import annotations

from functools import cache

from graphopt.measure.backend import Refusal
from graphopt.measure.vela import Vela
from graphopt.onnx_io.load import load


@cache
def _vela() -> Vela:
    return Vela("ethos-u55-256")


def vela_us(model: str) -> float:
    """Microseconds of one run of the ONNX file ``model``."""
    (found,) = _vela().measure([load(model)])
    if isinstance(found, Refusal):
        raise ValueError(f"{found.place}: {found.reason}")
    return found.total_us
