"""graphopt reshapes an ONNX model for the chip it will run on, and says for every change what it gains and costs."""

from graphopt.version import __version__

__all__ = ["__version__"]
