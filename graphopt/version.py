"""graphopt's version: the only place that states it. The build reads it, and models that graphopt writes carry it."""

__version__ = "0.1.0"
