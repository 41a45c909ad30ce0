"""A model in onnxruntime inside this process: one thread, every optimisation, the same numbers each time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime

from graphopt.errors import VerificationError
from graphopt.ir.op import Array
from graphopt.verification.interface import one_line

Model = str | Path | bytes
"""A model's file, or its serialised content (without external data)."""

_SILENT = 4


class Session:
    """A loaded model.

    Attributes:
        name: what messages call it.
        outputs: names of its outputs, in the order of the file.
    """

    def __init__(self, model: Model, name: str = "") -> None:
        """Load ``model``. Raises `VerificationError` when onnxruntime refuses it."""
        self.name = name or ("the model" if isinstance(model, bytes) else str(model))
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = _SILENT
        content = model if isinstance(model, bytes) else str(model)
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise VerificationError(f"{self.name}: does not load in onnxruntime: {one_line(error)}") from error
        self.outputs: tuple[str, ...] = tuple(output.name for output in self._session.get_outputs())

    def run(self, feed: Mapping[str, Array]) -> dict[str, Any]:
        """Return the outputs by name. Raises `VerificationError` when the model does not run on ``feed``."""
        try:
            return dict(zip(self.outputs, self._session.run(None, dict(feed)), strict=True))
        except Exception as error:
            raise VerificationError(f"{self.name}: does not run: {one_line(error)}") from error
