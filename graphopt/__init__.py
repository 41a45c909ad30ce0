"""graphopt reshapes an ONNX model for its chip, and says for every change what it gains and what it costs.

    import graphopt

    result = graphopt.optimize("model.onnx", "out.onnx", graphopt.Options(target="npu-32"))
    print(result.outcome, result.before.latency_us, result.after.latency_us, result.verification.verdict)

Names are imported when they are first used: ``import graphopt`` itself loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from graphopt.errors import ConfigError, GraphoptError, ModelError, PlanError, VerificationError
from graphopt.version import __version__

if TYPE_CHECKING:
    from graphopt.cost.estimate import Estimate
    from graphopt.ir.graph import Graph
    from graphopt.onnx_io.load import load
    from graphopt.onnx_io.save import save
    from graphopt.pipeline import apply_plan, estimate, optimize, scan
    from graphopt.plan import Plan, read_plan
    from graphopt.results import OptimizeResult, Options, ScanResult, ZooRow
    from graphopt.search.objective import Constraints
    from graphopt.verification import Verification, verify
    from graphopt.zoo import optimize_zoo

_HOMES = {
    "Constraints": "graphopt.search.objective",
    "Estimate": "graphopt.cost.estimate",
    "Graph": "graphopt.ir.graph",
    "OptimizeResult": "graphopt.results",
    "Options": "graphopt.results",
    "Plan": "graphopt.plan",
    "ScanResult": "graphopt.results",
    "Verification": "graphopt.verification",
    "ZooRow": "graphopt.results",
    "apply_plan": "graphopt.pipeline",
    "estimate": "graphopt.pipeline",
    "load": "graphopt.onnx_io.load",
    "optimize": "graphopt.pipeline",
    "optimize_zoo": "graphopt.zoo",
    "read_plan": "graphopt.plan",
    "save": "graphopt.onnx_io.save",
    "scan": "graphopt.pipeline",
    "verify": "graphopt.verification",
}
"""Where each lazy name lives."""

__all__ = [
    "ConfigError",
    "Constraints",
    "Estimate",
    "Graph",
    "GraphoptError",
    "ModelError",
    "OptimizeResult",
    "Options",
    "Plan",
    "PlanError",
    "ScanResult",
    "Verification",
    "VerificationError",
    "ZooRow",
    "__version__",
    "apply_plan",
    "estimate",
    "load",
    "optimize",
    "optimize_zoo",
    "read_plan",
    "save",
    "scan",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name on its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'graphopt' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
