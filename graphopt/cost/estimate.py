"""Estimate a whole model on a target: the sum of its kernels, and the memory that its activations need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.cost.categories import Category
from graphopt.cost.kernels import Kernel, decompose
from graphopt.cost.memory import peak_activation_bytes
from graphopt.cost.price import learned_of, price_all
from graphopt.cost.roofline import BOUNDS, Bound
from graphopt.cost.workload import workload
from graphopt.errors import ModelError
from graphopt.ir.graph import Graph
from graphopt.targets.target import Target


@dataclass(frozen=True, slots=True)
class KernelEstimate:
    """Estimated cost of one kernel. Nothing here was measured.

    Attributes:
        key: output tensor of the anchor op.
        category: what kind of work it is.
        op_types: types of its ops, in file order.
        inputs: shapes of the activations that it reads.
        outputs: shapes of the activations that it writes.
        latency_us: microseconds.
        macs: multiply-accumulates.
        parameter_bytes: bytes of its parameters (0 where an earlier kernel has the same).
        dram_bytes: bytes to and from DRAM.
        bound: what most of the latency is, as the measuring tool told it; as the roofline sees it where none did.
        uncertainty: of the latency, relative, one sigma; ``None`` on a target that learned nothing from measurements.
        extrapolates: whether the kernel lies outside of what was measured; ``False`` on such a target.
    """

    key: str
    category: Category
    op_types: tuple[str, ...]
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    latency_us: float
    macs: int
    parameter_bytes: int
    dram_bytes: int
    bound: Bound
    uncertainty: float | None = None
    extrapolates: bool = False


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated cost of a model on a target. Nothing here was measured.

    Attributes:
        target: name of the target.
        latency_us: microseconds of one run.
        macs: multiply-accumulates.
        parameters: number of weights and biases, BatchNormalization folded where the target folds it.
        parameter_bytes: their bytes in the target's precision.
        peak_activation_bytes: arena for the activations, greedy by size.
        dram_bytes: bytes to and from DRAM.
        kernels: the kernels, in running order.
        uncertainty: of the latency, relative, one sigma; ``None`` on a target that learned nothing from measurements.
        energy_uj: microjoules of work and DRAM traffic; ``None`` on a target that does not say what they take.
    """

    target: str
    latency_us: float
    macs: int
    parameters: int
    parameter_bytes: int
    peak_activation_bytes: int
    dram_bytes: int
    kernels: tuple[KernelEstimate, ...]
    uncertainty: float | None = None
    energy_uj: float | None = None

    @property
    def memory_bytes(self) -> int:
        """Parameters and peak activations together."""
        return self.parameter_bytes + self.peak_activation_bytes

    @property
    def amounts(self) -> Mapping[str, float]:
        """What can be minimised or bound, by the names that objectives have."""
        return {
            "latency": self.latency_us,
            "peak-memory": self.peak_activation_bytes,
            "parameters": self.parameter_bytes,
            "memory": self.memory_bytes,
            "macs": self.macs,
            "energy": self.energy_uj or 0.0,
        }

    @property
    def extrapolating(self) -> int:
        """How many kernels lie outside of what was measured."""
        return sum(kernel.extrapolates for kernel in self.kernels)


def estimate(graph: Graph, target: Target) -> Estimate:
    """Estimate what one run of ``graph`` costs on ``target``.

    Raises:
        ModelError: when a tensor that a kernel touches has no static shape.
    """
    kernels = decompose(graph, target)

    def shape_of(tensor: str) -> Sequence[int]:
        shape = graph.static_shape(tensor)
        if shape is None:
            raise ModelError(f"tensor {tensor!r} has no static shape; fix the inputs' shapes (--input-shape)")
        return shape

    loads = [workload(kernel, graph, shape_of) for kernel in kernels]
    costs = price_all(loads, target)
    found = []
    for kernel, load, cost in zip(kernels, loads, costs, strict=True):
        found.append(
            KernelEstimate(
                key=kernel.key,
                category=kernel.category,
                op_types=_op_types(kernel, graph),
                inputs=tuple(tuple(shape_of(tensor)) for tensor in kernel.reads),
                outputs=tuple(tuple(shape_of(tensor)) for tensor in kernel.writes),
                latency_us=float(cost.latency_us),
                macs=int(cost.macs),
                parameter_bytes=int(load.parameter_bytes(target)),
                dram_bytes=int(cost.dram_bytes),
                bound=BOUNDS[int(cost.bound)],
                uncertainty=None if cost.uncertainty is None else float(cost.uncertainty),
                extrapolates=cost.extrapolates is not None and bool(cost.extrapolates),
            )
        )
    macs, dram_bytes = (sum(getattr(kernel, name) for kernel in found) for name in ("macs", "dram_bytes"))
    return Estimate(
        target=target.name,
        latency_us=sum(kernel.latency_us for kernel in found),
        macs=macs,
        parameters=sum(int(load.parameters) for load in loads),
        parameter_bytes=sum(kernel.parameter_bytes for kernel in found),
        peak_activation_bytes=peak_activation_bytes(graph, kernels, target),
        dram_bytes=dram_bytes,
        kernels=tuple(found),
        uncertainty=_uncertainty(found, target),
        energy_uj=target.energy_uj(float(macs), float(dram_bytes)) if target.tells_energy else None,
    )


def _uncertainty(kernels: Sequence[KernelEstimate], target: Target) -> float | None:
    learned = learned_of(target)
    if learned is None:
        return None
    latency = np.array([kernel.latency_us for kernel in kernels])
    return learned.total_uncertainty(latency, np.array([kernel.uncertainty for kernel in kernels], np.float64))


def _op_types(kernel: Kernel, graph: Graph) -> tuple[str, ...]:
    return tuple(graph.op(key).op_type for key in kernel.ops)
