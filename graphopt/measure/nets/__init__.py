"""Nets to measure: random ones, and the well-known ones by name."""

from graphopt.measure.nets.named import named_nets
from graphopt.measure.nets.random_nets import FAMILIES, random_net

__all__ = ["FAMILIES", "named_nets", "random_net"]
