"""Many models in one go."""

from graphopt.zoo.run import optimize_zoo

__all__ = ["optimize_zoo"]
