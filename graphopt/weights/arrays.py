"""Calibration samples from arrays: `.npz` and `.npy` files, or arrays in memory.

Memory: arrays of an uncompressed `.npz` and of an `.npy` stay in the file and are mapped (pages that the
system may drop whenever memory is short). A compressed `.npz` is unpacked into memory up to :data:`UNPACKED_BYTES` for
each array, and into a temporary file (mapped, gone with the object) above that. Checking a file takes one pass over it
in pieces of :data:`PIECE_BYTES`. Measured: 420 MB of samples cost 23 MB of memory of our own.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from graphopt.errors import ConfigError, MisfitError, did_you_mean
from graphopt.ir.op import Array, Shape

InputTypes = Mapping[str, tuple[Shape | None, np.dtype[Any] | None]]
"""What a model wants: for each input its declared shape (no numbers where it is open) and element type."""

Indices = npt.NDArray[np.intp]
"""Numbers of samples, from 0."""

UNPACKED_BYTES: Final = 256 << 20
PIECE_BYTES: Final = 16 << 20

_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")
"""Of a zip member: signature, length of its name, length of the extra field."""


_DAMAGE: Final = (
    OSError, ValueError, EOFError, OverflowError, MemoryError, NotImplementedError, RuntimeError, struct.error,
    zlib.error, zipfile.BadZipFile,
)  # fmt: skip
"""What numpy and zipfile raise on files that are damaged, encrypted or packed in an unknown way."""


@dataclass(frozen=True, slots=True, eq=False)
class ArraySource:
    """Samples that are rows of arrays.

    Attributes:
        count: number of samples.
        samples: for each input with a sample axis its array ``(count, ...)``, in the file's element type.
        constants: inputs that are the same for every sample, fed as they are.
        dtypes: element types that the model wants.
        ignored: names of arrays that are no inputs, sorted.
        digest: SHA-256 of names, types, shapes and values of the inputs.
    """

    count: int
    samples: Mapping[str, Array]
    constants: Mapping[str, Array]
    dtypes: Mapping[str, np.dtype[Any]]
    ignored: tuple[str, ...]
    digest: str

    @property
    def sample_bytes(self) -> int:
        """Memory that one sample takes as the model wants it."""
        return sum(values[0].size * self.dtypes[name].itemsize for name, values in self.samples.items())

    def rows(self, indices: Indices) -> dict[str, Array]:
        """Return a copy of the samples ``indices`` by input name, and the constants."""
        taken = {name: np.asarray(values[indices], self.dtypes[name]) for name, values in self.samples.items()}
        return {name: taken[name] if name in taken else self.constants[name] for name in self.dtypes}


def read_arrays(path: Path, inputs: InputTypes) -> ArraySource:
    """Open an `.npz` or `.npy` file.

    Raises:
        ConfigError: when the file cannot be read or does not hold what the model wants.
    """
    try:
        if path.suffix.lower() == ".npy":
            return check_arrays({_only(inputs, path): np.load(path, mmap_mode="r")}, inputs, file=str(path))
        return check_arrays(_open_npz(path), inputs, file=str(path))
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"cannot read the arrays: {reason}", file=str(path)) from error


def _only(inputs: InputTypes, path: Path) -> str:
    if len(inputs) != 1:
        names = ", ".join(inputs) or "none"
        raise MisfitError(f"an .npy file serves one input, and the model has {names}; use an .npz", file=str(path))
    return next(iter(inputs))


def _open_npz(path: Path) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    with zipfile.ZipFile(path) as file:
        for member in file.infolist():
            if member.filename.endswith(".npy"):
                arrays[member.filename.removesuffix(".npy")] = _open_member(path, file, member)
    return arrays


def _open_member(path: Path, file: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    if member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1:
        with path.open("rb") as raw:
            raw.seek(member.header_offset)
            _, name_length, extra_length = _LOCAL_HEADER.unpack(raw.read(_LOCAL_HEADER.size))
            raw.seek(member.header_offset + _LOCAL_HEADER.size + name_length + extra_length)
            return _map(raw)
    with file.open(member) as packed:
        if member.file_size <= UNPACKED_BYTES:
            loaded: Array = np.load(io.BytesIO(packed.read()), allow_pickle=False)
            return loaded
        with tempfile.TemporaryFile(prefix="graphopt-") as unpacked:
            shutil.copyfileobj(packed, unpacked, PIECE_BYTES)
            unpacked.seek(0)
            return _map(unpacked)


def _map(raw: IO[bytes]) -> Array:
    """Map the `.npy` that begins at the file's position."""
    version = np.lib.format.read_magic(raw)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(
        version
    )
    if read_header is None:
        raise ValueError(f"unknown version {version} of the .npy format")
    shape, fortran_order, dtype = read_header(raw)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, and only numbers are read")
    if 0 in shape or not shape:
        raw_bytes = raw.read(dtype.itemsize if not shape else 0)
        return np.frombuffer(raw_bytes, dtype).reshape(shape) if raw_bytes else np.empty(shape, dtype)
    return np.memmap(raw, dtype, "r", raw.tell(), shape, "F" if fortran_order else "C")


def check_arrays(arrays: Mapping[str, Array], inputs: InputTypes, *, file: str | None = None) -> ArraySource:
    """Check arrays by input name against what the model wants.

    Args:
        arrays: the first axis runs over samples. An input whose array has exactly its declared, fixed shape while
            others have more samples is a constant, fed to every batch as it is. Arrays that are no inputs are ignored.
        inputs: what the model wants.
        file: for messages.

    Raises:
        ConfigError: on a missing input, wrong shape, type, NaN or infinity, or where there are no samples.
    """
    if not inputs:
        raise MisfitError("the model has no inputs to calibrate with", file=file)
    for name in inputs:
        if name not in arrays:
            near = did_you_mean(name, arrays)
            held = ", ".join(sorted(arrays)) or "nothing"
            raise MisfitError(f"lacks the model's input {name!r}{near}; it holds {held}", file=file)
    dtypes = {name: _checked_dtype(name, arrays[name], dtype, file) for name, (_, dtype) in inputs.items()}
    for name, (shape, _) in inputs.items():
        _check_shape(name, arrays[name], shape, file)
    samples, constants = _split_constants(arrays, inputs, file)
    digest = hashlib.sha256()
    for name in sorted(inputs):
        digest.update(f"{name}|{dtypes[name].str}|{arrays[name].shape}\n".encode())
        _check_values(name, arrays[name], dtypes[name], file, digest)
    count = len(next(iter(samples.values())))
    fixed = {name: np.asarray(values, dtypes[name]) for name, values in constants.items()}
    return ArraySource(count, samples, fixed, dtypes, tuple(sorted(set(arrays) - set(inputs))), digest.hexdigest())


def _checked_dtype(name: str, array: Array, dtype: np.dtype[Any] | None, file: str | None) -> np.dtype[Any]:
    if dtype is None or dtype.kind not in "fiub":
        raise MisfitError(f"input {name!r} is {dtype or 'no tensor'} in the model, which cannot be fed here", file=file)
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise MisfitError(f"input {name!r} must be {dtype}, and the array is {array.dtype}", file=file)
    return dtype


def _check_shape(name: str, array: Array, shape: Shape | None, file: str | None) -> None:
    declared: Shape = shape if shape is not None else (None,) * array.ndim
    fits = array.ndim == len(declared) and all(
        axis == 0 or not isinstance(dim, int) or dim == size
        for axis, (dim, size) in enumerate(zip(declared, array.shape, strict=True))
    )
    if not fits:
        wanted = ", ".join(str(dim or "?") for dim in (("samples", *declared[1:]) if declared else ()))
        raise MisfitError(f"input {name!r} must have shape ({wanted}), and the array has {array.shape}", file=file)


def _split_constants(
    arrays: Mapping[str, Array], inputs: InputTypes, file: str | None
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Tell inputs with a sample axis from those that are the same for all samples."""
    sizes = {name: arrays[name].shape[0] for name in inputs if arrays[name].ndim}
    count = max(sizes.values(), default=0)
    if not count:
        raise ConfigError("holds no samples", file=file)
    samples, constants = {}, {}
    for name, (shape, _) in inputs.items():
        if sizes.get(name) == count:
            samples[name] = arrays[name]
        elif arrays[name].shape == shape:
            constants[name] = arrays[name]
        else:
            other = next(other for other in sizes if sizes[other] == count)
            raise ConfigError(f"input {name!r} has {sizes[name]} samples where {other!r} has {count}", file=file)
    return samples, constants


def _check_values(name: str, array: Array, dtype: np.dtype[Any], file: str | None, digest: hashlib._Hash) -> None:
    """Find values that are not finite, or that the model's type cannot hold; feed the digest on the way."""
    for start, values in _pieces(array):
        with np.errstate(over="ignore", invalid="ignore"):
            cast = np.ascontiguousarray(values.astype(dtype))
        digest.update(cast.data)
        if dtype.kind == "f":
            bad = ~np.isfinite(cast)
            trouble = (
                "is NaN or infinite" if values.dtype.kind != "f" or not np.isfinite(values).all() else "is too large"
            )
        else:
            bad = cast != values
            trouble = "does not fit"
        if bad.any():
            if array.ndim == 0:
                raise ConfigError(f"input {name!r} {trouble} as {dtype}", file=file)
            first = start + int(np.argmax(bad.reshape(len(values), -1).any(axis=1)))
            raise ConfigError(f"input {name!r}: a value of sample {first} {trouble} as {dtype}", file=file)


def _pieces(array: Array) -> Iterator[tuple[int, Array]]:
    """Cut an array along its first axis; yield first index and values."""
    if array.ndim == 0 or not array.size:
        yield 0, np.asarray(array)
        return
    step = max(1, PIECE_BYTES * len(array) // array.nbytes)
    for start in range(0, len(array), step):
        yield start, np.asarray(array[start : start + step])
