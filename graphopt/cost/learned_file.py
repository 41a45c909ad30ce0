"""Write and read a learned estimator: an `.npz` of plain arrays, never a pickle. Nothing in it is taken on trust.

The file names its inputs and terms, and they are found by name: a stored estimator outlives features that are added or
change places. A term that it does not have costs nothing, a size that it does not have is never beyond what it knows.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import numpy.typing as npt

from graphopt.cost.categories import Category
from graphopt.cost.features import INPUTS, SIZES, TERMS
from graphopt.cost.learned import CategoryModel, Learned
from graphopt.cost.trees import Trees
from graphopt.errors import ConfigError

MAX_BYTES: Final = 200_000
"""Size of a file at most."""

_MAX_UNPACKED: Final = 4_000_000
_NUMBERS: Final = ("tiles", "coefficients", "low", "high")
_FOREST: Final = ("base", "split_feature", "split_at", "node", "mask", "value")
_FORESTS: Final = ("trees", "spread")
_MEMBERS: Final = (*_NUMBERS, *(f"{forest}.{name}" for forest in _FORESTS for name in _FOREST))
_ANY: Final = float(np.finfo(np.float32).max)

Places = npt.NDArray[np.int64]
"""Positions in our own list of names."""


def packed(learned: Learned) -> bytes:
    """Return the content of the file: the same estimator always makes the same bytes.

    Raises:
        ConfigError: when it would be larger than `MAX_BYTES`.
    """
    arrays: dict[str, npt.NDArray[Any]] = {
        "inputs": np.array(INPUTS),
        "terms": np.array(TERMS),
        "correlation": np.array([learned.correlation]),
    }
    for category, model in sorted(learned.categories.items()):
        for member in _MEMBERS:
            part: Any = model
            for name in member.split("."):
                part = getattr(part, name)
            arrays[f"{category}.{member}"] = part
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for name, array in arrays.items():
            member_bytes = io.BytesIO()
            np.lib.format.write_array(member_bytes, array, allow_pickle=False)
            # ZipInfo's own date is 1980: no clock in the bytes
            info = zipfile.ZipInfo(f"{name}.npy")
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, member_bytes.getvalue())
    content = buffer.getvalue()
    if len(content) > MAX_BYTES:
        raise ConfigError(f"the estimator takes {len(content)} bytes of at most {MAX_BYTES}; fit fewer trees")
    return content


def unpacked(content: bytes, file: str) -> Learned:
    """Read what :func:`packed` made.

    Args:
        content: bytes of the `.npz`.
        file: its name, for messages.

    Raises:
        ConfigError: when anything in it is not as it has to be.
    """
    arrays = _arrays(content, file)
    inputs, terms = (_places(arrays, name, own, file) for name, own in (("inputs", INPUTS), ("terms", TERMS)))
    correlation = arrays.pop("correlation", np.zeros(0))
    if correlation.shape != (1,) or correlation.dtype != np.float64 or not 0 <= correlation[0] <= 1:
        raise ConfigError("must be one number from 0 to 1", file=file, field="correlation")
    categories: dict[str, CategoryModel] = {}
    for category in sorted({name.partition(".")[0] for name in arrays}):
        if category.partition(":")[0] not in get_args(Category):
            raise ConfigError("no category of work", file=file, field=category)
        categories[category] = _model(arrays, category, inputs, terms, file)
    return Learned(categories, float(correlation[0]))


def _places(arrays: dict[str, npt.NDArray[Any]], field: str, own: Sequence[str], file: str) -> Places:
    """Where the file's names stand in our own list."""
    names = arrays.pop(field, np.zeros(0)).tolist()
    known = {name: place for place, name in enumerate(own)}
    if not names or len(set(names)) < len(names) or not known.keys() >= set(names):
        raise ConfigError("made by another version of graphopt; fit it anew", file=file, field=field)
    return np.array([known[name] for name in names])


def _model(
    arrays: dict[str, npt.NDArray[Any]], category: str, inputs: Places, terms: Places, file: str
) -> CategoryModel:
    own = {name.partition(".")[2]: array for name, array in arrays.items() if name.partition(".")[0] == category}
    if wrong := sorted(own.keys() ^ set(_MEMBERS)):
        raise ConfigError(f"missing or unknown: {', '.join(wrong)}", file=file, field=category)
    try:
        for forest in _FORESTS:
            split = f"{forest}.split_feature"
            if own[split].dtype != np.uint8:
                raise ValueError(f"{split} is {own[split].dtype}")
            own[split] = inputs[own[split]].astype(np.uint8)
        own["coefficients"] = _placed(own["coefficients"], terms, len(TERMS), 0.0)
        sizes = inputs[: own["low"].size]
        for name, unknown in (("low", -_ANY), ("high", _ANY)):
            own[name] = _placed(own[name], sizes, len(INPUTS), unknown)[:SIZES]
    except (IndexError, ValueError) as error:
        raise ConfigError(f"the arrays do not fit the names: {error}", file=file, field=category) from error
    trees, spread = (Trees(*(own[f"{forest}.{name}"] for name in _FOREST)) for forest in _FORESTS)
    model = CategoryModel(own["tiles"], own["coefficients"], own["low"], own["high"], trees, spread)
    if fault := model.fault():
        raise ConfigError(fault, file=file, field=category)
    return model


def _placed(values: npt.NDArray[Any], places: Places, size: int, missing: float) -> npt.NDArray[Any]:
    """One value for each of our names; ``missing`` where the file has none."""
    if values.shape != places.shape or values.dtype.kind != "f":
        raise ValueError(f"{values.dtype}{list(values.shape)} for {len(places)} names")
    found = np.full(size, missing, values.dtype)
    found[places] = values
    return found


def _arrays(content: bytes, file: str) -> dict[str, npt.NDArray[Any]]:
    """The members by name. Sizes are checked before anything is unpacked."""
    if len(content) > MAX_BYTES:
        raise ConfigError(f"has {len(content)} bytes; an estimator has at most {MAX_BYTES}", file=file)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > _MAX_UNPACKED:
                raise ConfigError(f"unpacks to more than {_MAX_UNPACKED} bytes", file=file)
            return {member.filename.removesuffix(".npy"): _array(archive.read(member)) for member in members}
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise ConfigError(f"not an .npz file of plain arrays: {error}", file=file) from error


def _array(content: bytes) -> npt.NDArray[Any]:
    """One `.npy` whose header promises exactly the bytes that are there."""
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array is of another .npy version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    rest = content[stream.tell() :]
    if fortran or dtype.hasobject or dtype.kind not in "iufU" or dtype.itemsize * math.prod(shape) != len(rest):
        raise ValueError("an array is not as its header says")
    return np.frombuffer(rest, dtype).reshape(shape)


def read_learned(path: str, sha256: str) -> Learned:
    """Read the estimator of a target file.

    Raises:
        ConfigError: when it cannot be read, is not the file that the target names, or is damaged.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the estimator: {error.strerror or error}", file=path) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ConfigError("is not the file whose SHA-256 the target names", file=path, field="estimator.sha256")
    return unpacked(content, path)
