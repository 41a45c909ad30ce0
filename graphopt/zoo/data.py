"""Which calibration data a model of a zoo gets: its own where there is some, else the set that all share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

from graphopt.errors import MisfitError
from graphopt.results import Options
from graphopt.weights.images import find_images

ARRAYS = (".npz", ".npy")


def own_data(folder: str, model: str) -> Path | None:
    """A model's own set in a folder: ``<name>.npz``, ``<name>.npy`` or a folder of images ``<name>``.

    Args:
        folder: what ``--calibration`` names.
        model: the model's path below the zoo's folder, with forward slashes; its folders may be left out in ``folder``.
    """
    path = PurePosixPath(model)
    for place in dict.fromkeys((Path(folder) / path.parent, Path(folder))):
        for found in (*(place / f"{path.stem}{suffix}" for suffix in ARRAYS), place / path.stem):
            if found.is_file() if found.suffix in ARRAYS else found.is_dir():
                return found
    return None


def options_for(model: str, options: Options) -> tuple[Options, bool]:
    """The options for one model, and whether its calibration data is its own.

    Raises:
        MisfitError: a folder holds neither data of its own for this model nor images for all.
    """
    if options.calibration is None or not Path(options.calibration).is_dir():
        return options, False
    own = own_data(options.calibration, model)
    if own is not None:
        preprocess = options.preprocess if own.is_dir() else None
        return replace(options, calibration=str(own), preprocess=preprocess), True
    if not find_images(Path(options.calibration)):
        stem = PurePosixPath(model).stem
        raise MisfitError(f"has no {stem}.npz, no folder {stem} and no images", file=options.calibration)
    return options, False


def without_data(options: Options) -> Options:
    """The options without calibration data. A drift that must be bounded and cannot be measured stays zero."""
    measured = options.importance in ("energy", "column-subset")
    return replace(
        options,
        calibration=None,
        preprocess=None,
        repair_steps=0,
        importance=None if measured else options.importance,
        allow=options.allow if options.max_drift is None else "exact",
        max_drift=None,
    )
