"""Write and read a learned estimator: an `.npz` of plain arrays, never a pickle. Nothing in it is taken on trust.

Arrays of all categories stand in one member each, conditions that recur are stored once, and leaves are multiples of
`LEAF_STEP`: a tree takes some 40 bytes. The file names its inputs and terms, and they are found by name: a stored
estimator outlives features that are added or change places. A term that it does not have costs nothing, a size that it
does not have is never beyond what it knows.
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
from graphopt.cost.learned import UNITS, CategoryModel, Learned, Unit, UnitModel
from graphopt.cost.trees import LEAF_STEP, LEAVES, NO_NODE, Trees
from graphopt.errors import ConfigError

MAX_BYTES: Final = 200_000
"""Size of a file at most."""

_MAX_UNPACKED: Final = 4_000_000
_ANY: Final = float(np.finfo(np.float32).max)
_NAMES: Final = ("categories", "units", "inputs", "terms")
_RANGES: Final = ("low", "high")
_ROOFLINES: Final = ("tiles", "coefficients")
_TREES: Final = ("base", "count", "split_feature", "split_at", "node", "mask", "value")
_ARRAYS: Final = (*_RANGES, "owner", *_ROOFLINES, *_TREES)
"""`_RANGES` have a row for each category; ``units``, ``owner`` (the place of its category, ascending) and `_ROOFLINES`
one for each unit. ``base`` and ``count`` (of trees) have an entry for each forest: the units' in order, then the
spread of each category. ``node``, ``mask`` and ``value`` have a row for each tree, in the same order; ``split_*`` are
the conditions of all of them."""

Places = npt.NDArray[np.int64]
"""Positions in our own list of names."""


def packed(learned: Learned) -> bytes:
    """Return the content of the file: the same estimator always makes the same bytes.

    Raises:
        ConfigError: when it would be larger than `MAX_BYTES`.
    """
    categories = dict(sorted(learned.categories.items()))
    models = list(categories.values())
    units = [(place, name, unit) for place, model in enumerate(models) for name, unit in model.units.items()]
    forests = [*(unit.trees for *_, unit in units), *(model.spread for model in models)]
    conditions, node = _conditions(forests)
    mask = np.concatenate([np.zeros((0, LEAVES - 1), np.uint16), *(forest.mask for forest in forests)])
    value = np.concatenate([np.zeros((0, LEAVES), np.float32), *(forest.value for forest in forests)])
    steps = value / LEAF_STEP
    whole = (steps == np.round(steps)).all() and (np.abs(steps) < 1 << 15).all()
    arrays: dict[str, npt.NDArray[Any]] = {
        "categories": np.array(list(categories)),
        "units": np.array([name for _, name, _ in units]),
        "inputs": np.array(INPUTS),
        "terms": np.array(TERMS),
        "correlation": np.array([learned.correlation]),
        **{name: np.array([getattr(model, name) for model in models]) for name in _RANGES},
        "owner": np.array([place for place, *_ in units], np.int64),
        **{name: np.array([getattr(unit, name) for *_, unit in units]) for name in _ROOFLINES},
        "base": np.array([forest.base[0] for forest in forests], np.float32),
        "count": np.array([len(forest.node) for forest in forests], np.int64),
        "split_feature": np.array([feature for feature, _ in conditions], np.uint8),
        "split_at": np.array([threshold for _, threshold in conditions], np.float32),
        "node": node,
        "mask": mask,
        "value": steps.astype(np.int16) if whole else value,
    }
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


def _conditions(forests: Sequence[Trees]) -> tuple[list[tuple[int, float]], npt.NDArray[np.uint16]]:
    """The distinct conditions of all nodes, in order, and each node's; 0 where there is no node."""
    own = [list(zip(trees.split_feature.tolist(), trees.split_at.tolist(), strict=True)) for trees in forests]
    real = [trees.mask != NO_NODE for trees in forests]
    used = {
        splits[number]
        for splits, trees, there in zip(own, forests, real, strict=True)
        for number in np.unique(trees.node[there]).tolist()
    }
    conditions = sorted(used)
    if len(conditions) > 1 << 16:
        raise ConfigError(f"the estimator has {len(conditions)} distinct conditions; fit fewer trees")
    place = {condition: number for number, condition in enumerate(conditions)}
    nodes = [np.zeros((0, LEAVES - 1), np.uint16)]
    for splits, trees, there in zip(own, forests, real, strict=True):
        table = np.array([place.get(split, 0) for split in splits] or [0], np.uint16)
        nodes.append(np.where(there, table[trees.node], np.uint16(0)))
    return conditions, np.concatenate(nodes)


def unpacked(content: bytes, file: str) -> Learned:
    """Read what :func:`packed` made.

    Args:
        content: bytes of the `.npz`.
        file: its name, for messages.

    Raises:
        ConfigError: when anything in it is not as it has to be.
    """
    arrays = _arrays(content, file)
    if wrong := sorted(arrays.keys() ^ {*_NAMES, "correlation", *_ARRAYS}):
        raise ConfigError(f"missing or unknown: {', '.join(wrong)}", file=file)
    names, units, inputs, terms = (arrays[name].ravel().tolist() for name in _NAMES)
    correlation = arrays["correlation"]
    if correlation.shape != (1,) or correlation.dtype != np.float64 or not 0 <= correlation[0] <= 1:
        raise ConfigError("must be one number from 0 to 1", file=file, field="correlation")
    for name in names:
        if str(name).partition(":")[0] not in get_args(Category) or names.count(name) > 1:
            raise ConfigError("no category of work", file=file, field=str(name))
    for name in units:
        if name not in UNITS:
            raise ConfigError(f"no unit; known: {', '.join(UNITS)}", file=file, field=str(name))
    places = _places(inputs, INPUTS, file, "inputs"), _places(terms, TERMS, file, "terms")
    try:
        models = _models(arrays, len(names), units, *places)
    except (IndexError, ValueError) as error:
        raise ConfigError(f"the arrays do not fit together: {error}", file=file) from error
    for name, model in zip(names, models, strict=True):
        if fault := model.fault():
            raise ConfigError(fault, file=file, field=name)
    return Learned(dict(zip(names, models, strict=True)), float(correlation[0]))


def _places(names: Sequence[Any], own: Sequence[str], file: str, field: str) -> Places:
    """Where the file's names stand in our own list."""
    known = {name: place for place, name in enumerate(own)}
    if not names or len(set(names)) < len(names) or not known.keys() >= set(names):
        raise ConfigError("made by another version of graphopt; fit it anew", file=file, field=field)
    return np.array([known[name] for name in names])


def _models(
    arrays: dict[str, npt.NDArray[Any]], categories: int, units: Sequence[Unit], inputs: Places, terms: Places
) -> list[CategoryModel]:
    count, owner = arrays["count"], arrays["owner"]
    trees, forests = len(arrays["node"]), len(units) + categories
    if count.dtype.kind != "i" or (count < 0).any() or count.sum() != trees:
        raise ValueError(f"count does not add up to the {trees} trees")
    for name, shape, dtypes in (
        *((name, (categories,), None) for name in _RANGES),
        *((name, (len(units),), None) for name in _ROOFLINES),
        ("owner", (len(units),), (np.int64,)),
        ("base", (forests,), (np.float32,)),
        ("count", (forests,), (np.int64,)),
        ("split_feature", arrays["split_at"].shape, (np.uint8,)),
        ("node", (trees, LEAVES - 1), (np.uint16,)),
        ("mask", (trees, LEAVES - 1), (np.uint16,)),
        ("value", (trees, LEAVES), (np.int16, np.float32)),
    ):
        array = arrays[name]
        if array.shape[: len(shape)] != shape or (dtypes and (array.shape != shape or array.dtype not in dtypes)):
            raise ValueError(f"{name} is {array.dtype}{list(array.shape)}")
    if owner.tolist() != sorted(owner) or set(owner.tolist()) != set(range(categories)):
        raise ValueError("owner does not give each category its units in order")
    if len({*zip(owner.tolist(), units, strict=True)}) < len(units):
        raise ValueError("a category has the same unit twice")
    value = arrays["value"]
    whole = {
        "split_feature": inputs[arrays["split_feature"]].astype(np.uint8),
        "split_at": arrays["split_at"],
        "node": arrays["node"],
        "mask": arrays["mask"],
        "value": value.astype(np.float32) * np.float32(LEAF_STEP) if value.dtype == np.int16 else value,
    }
    ends = np.cumsum(count)
    forest = [_trees(whole, arrays["base"][at : at + 1], ends[at] - count[at], ends[at]) for at in range(forests)]
    busy = [
        UnitModel(arrays["tiles"][at], _placed(arrays["coefficients"][at], terms, len(TERMS), 0.0), forest[at])
        for at in range(len(units))
    ]
    sizes = inputs[: arrays["low"].shape[1]]
    return [
        CategoryModel(
            {unit: model for unit, model, own in zip(units, busy, owner, strict=True) if own == number},
            _placed(arrays["low"][number], sizes, len(INPUTS), -_ANY)[:SIZES],
            _placed(arrays["high"][number], sizes, len(INPUTS), _ANY)[:SIZES],
            forest[len(units) + number],
        )
        for number in range(categories)
    ]


def _trees(whole: dict[str, npt.NDArray[Any]], base: npt.NDArray[Any], start: int, end: int) -> Trees:
    """One forest of the file, with the conditions that it uses."""
    used, node = np.unique(whole["node"][start:end], return_inverse=True)
    return Trees(
        base=base,
        split_feature=whole["split_feature"][used],
        split_at=whole["split_at"][used],
        node=node.reshape(-1, LEAVES - 1).astype(np.uint16),
        mask=whole["mask"][start:end],
        value=whole["value"][start:end],
    )


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
