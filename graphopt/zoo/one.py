"""The process that optimises one model of a zoo: reads a job, leaves a result. Started by :mod:`graphopt.zoo.run`."""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from graphopt.errors import GraphoptError, MisfitError
from graphopt.onnx_io.shapes import LIKELY
from graphopt.outputs import write_text
from graphopt.pipeline import optimize
from graphopt.results import OptimizeResult, Options
from graphopt.verification.interface import read_interface
from graphopt.zoo.data import options_for, without_data

JOB, RESULT = "job.pickle", "result.pickle"
WITHOUT_DATA = "without calibration"


@dataclass(frozen=True, slots=True)
class Job:
    """One model: its path below the zoo's folder, where it is, where model and plan go, and how."""

    name: str
    model: Path
    output: Path
    plan: Path
    options: Options


def do(job: Job) -> OptimizeResult | str:
    """Optimise one model; the reason where that is not possible. Input shapes for other models' inputs are left out."""
    try:
        shapes = dict(job.options.input_shapes)
        if shapes:
            known = read_interface(job.model).inputs
            shapes = {name: shape for name, shape in shapes.items() if name in known or name == LIKELY}
        result = _optimize(job, replace(job.options, input_shapes=shapes))
        if result.output is not None:
            write_text(job.plan, result.plan_text)
        return result
    except GraphoptError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or job.model}: {error.strerror or error}"
    except MemoryError:
        return "out of memory"
    except Exception as error:
        return f"internal error: {type(error).__name__}: {error}"


def _optimize(job: Job, options: Options) -> OptimizeResult:
    """Optimise with the model's own calibration data, which must fit, or with the set that all share where it fits.

    The result's reason says where it does not.
    """
    own = False
    try:
        options, own = options_for(job.name, options)
        return optimize(job.model, job.output, options)
    except MisfitError as error:
        if own or options.calibration is None:
            raise
        result = optimize(job.model, job.output, without_data(options))
        return replace(result, reason="; ".join(filter(None, (result.reason, f"{WITHOUT_DATA}: {error}"))))


def main(folder: str) -> None:
    """Do the job that lies in ``folder``, and leave its result there by rename. The starter wrote the job itself."""
    place = Path(folder)
    answer = do(pickle.loads((place / JOB).read_bytes()))
    (place / "result.part").write_bytes(pickle.dumps(answer))
    (place / "result.part").replace(place / RESULT)


if __name__ == "__main__":
    # As `__main__` this module's Job would not be the one that was pickled.
    from graphopt.zoo.one import main as run

    run(sys.argv[1])
