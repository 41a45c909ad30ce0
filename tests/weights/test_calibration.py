"""Calibration data from arrays: what comes out of a file, what is refused, and with which words."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import ConfigError
from graphopt.resources import sample_models_dir
from graphopt.weights import arrays as arrays_module
from graphopt.weights.calibration import Calibration, calibration_from_arrays, open_calibration

F32 = np.dtype(np.float32)
IMAGE = {"image": (("N", 3, 4, 5), F32)}


def images(count: int = 10, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, (count, 3, 4, 5)).astype(dtype)


def save(tmp_path: Path, **arrays: Any) -> Path:
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


def joined(calibration: Calibration, indices: np.ndarray, size: int, name: str = "image") -> np.ndarray:
    return np.concatenate([batch[name] for batch in calibration.batches(indices, size)])


def test_the_sample_models_own_data() -> None:
    path = sample_models_dir() / "fashion_test.npz"
    calibration = open_calibration(path, {"image": (("N", 1, 28, 28), F32)})
    assert (calibration.count, calibration.ignored, calibration.batch) == (2000, ("label",), None)
    whole = np.load(path)["image"]
    indices = np.array([7, 3, 1999, 0, 12])
    assert np.array_equal(joined(calibration, indices, 2), whole[indices])
    assert [len(batch["image"]) for batch in calibration.batches(indices, 2)] == [2, 2, 1]


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_way_to_store_an_array(tmp_path: Path, writer: Any, order: Any) -> None:
    values = np.asarray(images(), order=order)
    writer(tmp_path / "data.npz", image=values)
    assert np.array_equal(open_calibration(tmp_path / "data.npz", IMAGE).take(np.arange(10))["image"], values)


def test_a_large_packed_array_goes_to_a_mapped_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays_module, "UNPACKED_BYTES", 100)
    np.savez_compressed(tmp_path / "data.npz", image=images())
    calibration = open_calibration(tmp_path / "data.npz", IMAGE)
    assert isinstance(calibration.source.samples["image"], np.memmap)  # type: ignore[attr-defined]
    assert np.array_equal(calibration.take(np.arange(10))["image"], images())


def test_a_stored_array_stays_in_the_file(tmp_path: Path) -> None:
    calibration = open_calibration(save(tmp_path, image=images()), IMAGE)
    assert isinstance(calibration.source.samples["image"], np.memmap)  # type: ignore[attr-defined]


def test_one_array_for_one_input(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", images())
    calibration = open_calibration(tmp_path / "data.npy", IMAGE)
    assert np.array_equal(calibration.take(np.array([9, 1]))["image"], images()[[9, 1]])
    with pytest.raises(ConfigError, match="serves one input, and the model has image, mask; use an"):
        open_calibration(tmp_path / "data.npy", {**IMAGE, "mask": ((None, 2), F32)})


def test_bytes_become_the_models_type_and_changing_a_batch_changes_nothing(tmp_path: Path) -> None:
    calibration = open_calibration(save(tmp_path, image=images(dtype=np.uint8)), IMAGE)
    batch = calibration.take(np.arange(3))["image"]
    assert batch.dtype == F32
    batch += 1
    assert np.array_equal(calibration.take(np.arange(3))["image"], images()[:3])


def test_several_inputs_constants_and_labels() -> None:
    inputs = {"x": (("N", 2), F32), "scale": ((), F32), "sizes": ((2,), np.dtype(np.int64)), "ids": ((None,), F32)}
    arrays = {
        "x": np.ones((6, 2)),
        "scale": np.array(3.0),
        "sizes": np.array([4, 5]),
        "ids": np.arange(6.0),
        "y": np.ones(6),
    }
    calibration = calibration_from_arrays(arrays, inputs)
    first, second = calibration.batches(np.arange(6), 4)
    assert {name: values.shape for name, values in first.items()} == {
        "x": (4, 2),
        "scale": (),
        "sizes": (2,),
        "ids": (4,),
    }
    assert second["sizes"].tolist() == [4, 5]
    assert second["ids"].tolist() == [4, 5]
    assert float(second["scale"]) == 3.0
    assert calibration.ignored == ("y",)


def test_a_model_with_a_fixed_batch_gets_batches_of_that_size() -> None:
    calibration = calibration_from_arrays({"image": images(11)}, {"image": ((4, 3, 4, 5), F32)})
    batches = list(calibration.batches(np.arange(11), 100))
    assert [batch["image"].shape[0] for batch in batches] == [4, 4]
    solve, held_out = calibration.split(0.2, 0)
    assert (len(solve), len(held_out)) == (7, 4)
    with pytest.raises(ConfigError, match="batches of 4 samples, and there are only 3"):
        next(calibration.batches(np.arange(3), 1))
    two = {"a": ((4, 2), F32), "b": ((3, 2), F32)}
    with pytest.raises(ConfigError, match="batches of different sizes: 'a' 4, 'b' 3"):
        calibration_from_arrays({"a": np.ones((8, 2)), "b": np.ones((8, 2))}, two)


@given(count=st.integers(2, 300), share=st.floats(0, 1), seed=st.integers(0, 5), batch=st.sampled_from([None, 1, 2, 5]))
def test_a_split_is_a_split(count: int, share: float, seed: int, batch: int | None) -> None:
    calibration = calibration_from_arrays({"x": np.zeros((count, 1))}, {"x": ((batch, 1), F32)})
    size = batch or 1
    if count < 2 * size:
        with pytest.raises(ConfigError, match=f"at least {2 * size} would do"):
            calibration.split(share, seed)
        return
    solve, held_out = calibration.split(share, seed)
    assert sorted([*solve, *held_out]) == list(range(count))
    assert len(solve) >= size
    assert len(held_out) >= size
    assert len(held_out) % size == 0
    assert next(len(chunk) for chunk in calibration.chunks(range(count), size)) == size
    assert len(held_out) >= min(8, count // 2, count - size) // size * size
    again = calibration.split(share, seed)
    assert np.array_equal(solve, again[0])
    assert np.array_equal(held_out, again[1])


def test_the_seed_decides_what_is_held_out() -> None:
    calibration = calibration_from_arrays({"x": np.zeros((100, 1))}, {"x": ((None, 1), F32)})
    assert len(calibration.split(0.25, 0)[1]) == 25
    assert not np.array_equal(calibration.split(0.25, 0)[1], calibration.split(0.25, 1)[1])


def test_a_batch_keeps_within_its_bytes() -> None:
    types = {"x": ((None, 100), F32), "scale": ((), F32)}
    calibration = calibration_from_arrays({"x": np.zeros((9, 100), np.uint8), "scale": np.ones(())}, types)
    assert [calibration.batch_size(limit) for limit in (1, 800, 1199, 1 << 30)] == [1, 2, 2, 64]
    assert calibration_from_arrays({"x": np.zeros((9, 2))}, {"x": ((3, 2), F32)}).batch_size(1) == 3


def test_too_few() -> None:
    calibration = calibration_from_arrays({"x": np.zeros((12, 1))}, {"x": ((None, 1), F32)})
    assert calibration.too_few(12) == ""
    assert calibration.too_few(64) == "12 calibration samples are few; 64 would do"


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    base = open_calibration(save(tmp_path, image=images()), IMAGE).digest
    assert open_calibration(save(tmp_path, image=images(), label=np.arange(10)), IMAGE).digest == base
    np.savez_compressed(tmp_path / "packed.npz", image=np.asfortranarray(images()))
    assert open_calibration(tmp_path / "packed.npz", IMAGE).digest == base
    assert calibration_from_arrays({"image": images()}, IMAGE).digest == base
    other = images()
    other[9, 2, 3, 4] += 1
    assert calibration_from_arrays({"image": other}, IMAGE).digest != base


def test_pieces_cover_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = calibration_from_arrays({"image": images()}, IMAGE).digest
    monkeypatch.setattr(arrays_module, "PIECE_BYTES", 700)
    assert calibration_from_arrays({"image": images()}, IMAGE).digest == whole
    broken = images()
    broken[7, 0, 0, 0] = np.nan
    with pytest.raises(ConfigError, match="input 'image': a value of sample 7 is NaN or infinite"):
        calibration_from_arrays({"image": broken}, IMAGE)


@pytest.mark.parametrize(
    ("arrays", "inputs", "message"),
    [
        ({"imag": images()}, IMAGE, r"lacks the model's input 'image' \(nearest: imag\); it holds imag"),
        ({}, IMAGE, "lacks the model's input 'image'; it holds nothing"),
        ({"image": images()[0]}, IMAGE, r"must have shape \(samples, 3, 4, 5\), and the array has \(3, 4, 5\)"),
        ({"image": images()[:, :1]}, IMAGE, r"must have shape \(samples, 3, 4, 5\)"),
        ({"image": images()[:0]}, IMAGE, "holds no samples"),
        ({"image": images().astype(str)}, IMAGE, "must be float32, and the array is <U"),
        ({"image": images() + 1j}, IMAGE, "must be float32, and the array is complex"),
        ({"x": np.ones((2, 1))}, {"x": ((None, 1), np.dtype(np.int64))}, "must be int64, and the array is float64"),
        ({"x": np.array([[1], [300]])}, {"x": ((None, 1), np.dtype(np.int8))}, "sample 1 does not fit as int8"),
        ({"x": np.array([[1], [1e9]])}, {"x": ((None, 1), np.dtype(np.float16))}, "sample 1 is too large as float16"),
        ({"x": np.array([[np.inf]])}, {"x": ((None, 1), F32)}, "sample 0 is NaN or infinite"),
        ({"x": np.ones((2, 1)), "s": np.array(np.nan)}, {"x": ((None, 1), F32), "s": ((), F32)}, "input 's' is NaN"),
        ({"x": np.ones((2, 1)), "y": np.ones((3, 1))}, {"x": ((None, 1), F32), "y": ((None, 1), F32)},
         "input 'x' has 2 samples where 'y' has 3"),
        ({"x": np.ones(2)}, {"x": ((None,), None)}, "is no tensor in the model, which cannot be fed here"),
        ({"x": np.ones(2)}, {}, "no inputs to calibrate with"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(arrays: Any, inputs: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_calibration(save(tmp_path, **arrays), inputs)
    assert str(caught.value).startswith(str(tmp_path / "data.npz"))
    assert "\n" not in str(caught.value)


@pytest.mark.faults
def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    good = save(tmp_path, image=images()).read_bytes()
    np.savez_compressed(tmp_path / "packed.npz", image=images())
    packed = (tmp_path / "packed.npz").read_bytes()
    bad = tmp_path / "bad.npz"
    rng = np.random.default_rng(0)
    messages = []
    for content in (good, packed):
        for _ in range(150):
            broken = bytearray(content)
            if rng.integers(2):
                broken = broken[: int(rng.integers(len(broken)))]
            for place in rng.integers(0, max(1, len(broken)), 6):
                broken[place : place + 1] = bytes([int(rng.integers(256))])
            bad.write_bytes(broken)
            try:
                open_calibration(bad, IMAGE)
            except ConfigError as error:
                messages.append(str(error))
    assert len(messages) > 150
    assert all(str(bad) in message and "\n" not in message for message in messages)


def test_other_files_and_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        open_calibration(tmp_path / "missing.npz", IMAGE)
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(ConfigError, match=r"is an \.npz, an \.npy or a folder of images"):
        open_calibration(tmp_path / "data.csv", IMAGE)
    with pytest.raises(ConfigError, match="Python objects"):
        open_calibration(save(tmp_path, image=np.array([{}, None], dtype=object)), IMAGE)
    with zipfile.ZipFile(tmp_path / "empty.npz", "w"):
        pass
    with pytest.raises(ConfigError, match="holds nothing"):
        open_calibration(tmp_path / "empty.npz", IMAGE)
