"""Which backend measures, as text: a name and a configuration. It can be sent to another process."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Final

from graphopt.errors import ConfigError, did_you_mean
from graphopt.measure.backend import Backend
from graphopt.measure.own import OwnBackend

BUNDLED: Final = ("onnxruntime", "totals", "vela")
"""Backends that come with graphopt; any other is written MODULE:CLASS."""

_COMPUTES: Final = frozenset({"vela"})
"""Backends whose answer does not depend on what else the machine does."""

FITTING: Final[Mapping[str, str]] = {"lightgbm": "LightGBM", "scipy": "SciPy"}
"""Modules that fitting needs, and their packages."""

BASELINES: Final[Mapping[str, str]] = {"sklearn": "scikit-learn"}
"""What the baselines of an evaluation need beside them."""

_NOMINAL: Final = re.compile(r"reference (\d+(?:\.\d+)?) us")


def check_installed(packages: Mapping[str, str]) -> None:
    """Make sure, before hours of measuring, that what is needed afterwards is there.

    Args:
        packages: `FITTING` or `BASELINES`.

    Raises:
        ConfigError: when one is not.
    """
    for module, package in packages.items():
        if find_spec(module) is None:
            raise ConfigError(f"{package} is needed and not installed: pip install 'graphopt[measure]'")


@dataclass(frozen=True, slots=True)
class Choice:
    """A backend to be made.

    Attributes:
        name: one of `BUNDLED`, or ``module:class`` of your own, called with ``config`` where that is not empty.
        config: device or configuration: an accelerator (vela), an execution provider (onnxruntime), a command
            with ``{model}`` or a ``module:function`` (totals).
        nominal_us: of onnxruntime's reference; measured when it is ``None``.
    """

    name: str
    config: str = ""
    nominal_us: float | None = None

    @property
    def runs_side_by_side(self) -> bool:
        """Whether several processes may measure at once; timing wants a processor that does nothing else."""
        return self.name in _COMPUTES

    def make(self) -> Backend:
        """Make the backend.

        Raises:
            ConfigError: when there is none of this name or configuration, or it needs a package that is not installed.
        """
        arguments = (self.config,) if self.config else ()
        try:
            if self.name == "vela":
                from graphopt.measure.vela import Vela

                return Vela(*(arguments or ("ethos-u55-256",)))
            if self.name == "onnxruntime":
                from graphopt.measure.onnxruntime_backend import OnnxRuntime

                return OnnxRuntime(*arguments, nominal_us=self.nominal_us)
            if self.name == "totals":
                from graphopt.measure.totals import Totals

                return Totals(self.config)
            if ":" not in self.name:
                raise ConfigError(
                    f"no backend {self.name!r}{did_you_mean(self.name, BUNDLED)}; known: {', '.join(BUNDLED)}, or your "
                    "own as MODULE:CLASS"
                )
            return OwnBackend(self.name, arguments)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"the backend {self.name!r} needs the module {error.name!r}; for those that come with graphopt: "
                "pip install 'graphopt[measure]'"
            ) from error

    def as_before(self, tool: str) -> Choice:
        """The same choice with the reference that earlier measurements had, by the line that they gave as tool."""
        found = _NOMINAL.search(tool)
        return replace(self, nominal_us=float(found[1])) if found else self
