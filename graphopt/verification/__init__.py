"""Proof that a rewritten model computes what the original does, or by how much it does not."""

from graphopt.verification.compare import OutputComparison, Verdict
from graphopt.verification.proof import Verification, sample_inputs, verify

__all__ = ["OutputComparison", "Verdict", "Verification", "sample_inputs", "verify"]
