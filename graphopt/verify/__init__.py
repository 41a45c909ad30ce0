"""Proof that a rewritten model computes what the original does, or by how much it does not."""

from graphopt.verify.compare import OutputComparison, Verdict
from graphopt.verify.proof import Verification, sample_inputs, verify

__all__ = ["OutputComparison", "Verdict", "Verification", "sample_inputs", "verify"]
