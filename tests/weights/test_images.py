"""Pictures as calibration data: real files of many kinds, the numbers that come out, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from graphopt.errors import ConfigError
from graphopt.weights import images as images_module
from graphopt.weights.calibration import open_calibration
from graphopt.weights.images import ImageFormat, image_format, normalised
from graphopt.weights.preprocess import Preprocess, bundled_presets, load_preprocess

F32 = np.dtype(np.float32)
PRESET_TEXT = 'resize = "squash"\nfilter = "nearest"\ndivide_by = 1\nmean = 0\nstd = 1\n'


def input_of(*shape: Any, dtype: Any = np.float32) -> dict[str, Any]:
    return {"image": (shape, np.dtype(dtype))}


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)
    return values[:, :, 0] if channels == 1 else values


def one(folder: Path, preprocess: str = "raw", *shape: Any, dtype: Any = np.float32) -> np.ndarray:
    """The only picture in the folder as the model gets it, without the batch axis."""
    calibration = open_calibration(folder, input_of(*(shape or (None, 3, 6, 8)), dtype=dtype), preprocess=preprocess)
    assert calibration.count == 1
    (row,) = calibration.take(np.arange(1))["image"]
    assert isinstance(row, np.ndarray)
    return row


def write_toml(tmp_path: Path, text: str) -> str:
    (tmp_path / "own.toml").write_text(text)
    return str(tmp_path / "own.toml")


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp"])
def test_a_lossless_picture_of_the_models_size_comes_out_as_it_is(tmp_path: Path, suffix: str) -> None:
    pixels = noise(6, 8)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", lossless=True)
    assert np.array_equal(one(tmp_path), pixels.transpose(2, 0, 1))
    assert np.array_equal(one(tmp_path, "raw", "N", 6, 8, 3), pixels)


def test_jpeg_is_close(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 48, 0).repeat(3, 2)
    Image.fromarray(ramp).save(tmp_path / "a.JPEG", quality=98)
    found = one(tmp_path, "raw", 1, 3, 48, 64)
    assert np.abs(found - ramp.transpose(2, 0, 1)).max() < 4


def _rgba(folder: Path, pixels: np.ndarray) -> None:
    alpha = np.full((*pixels.shape[:2], 1), 128, np.uint8)
    Image.fromarray(np.concatenate([pixels, alpha], 2)).save(folder / "a.png")


def _palette(folder: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(folder / "a.png")


def _upside_down(folder: Path, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to show
    Image.fromarray(np.rot90(pixels).copy()).save(folder / "a.png", exif=exif)


@pytest.mark.parametrize("write", [_rgba, _palette, _upside_down])
def test_other_kinds_of_colour_files(tmp_path: Path, write: Callable[[Path, np.ndarray], None]) -> None:
    pixels = noise(6, 8)
    write(tmp_path, pixels)
    assert np.array_equal(one(tmp_path), pixels.transpose(2, 0, 1))


def test_cmyk(tmp_path: Path) -> None:
    picture = Image.new("CMYK", (8, 6), (0, 255, 255, 0))
    picture.save(tmp_path / "a.jpg", quality=100)
    red = one(tmp_path).mean(axis=(1, 2))
    assert red[0] > 245
    assert red[1] < 10
    assert red[2] < 10


@pytest.mark.parametrize("kind", ["L", "LA", "1", "I;16"])
def test_greys(tmp_path: Path, kind: str) -> None:
    greys = noise(6, 8, 1)
    expected = greys
    if kind == "1":
        greys = expected = ((greys > 100) * 255).astype(np.uint8)
        Image.fromarray(greys).convert("1").save(tmp_path / "a.png")
    elif kind == "I;16":
        Image.fromarray((greys.astype(np.uint16) << 8) + 77).save(tmp_path / "a.png")
    else:
        Image.fromarray(greys).convert(kind).save(tmp_path / "a.png")
    assert np.array_equal(one(tmp_path, "raw", None, 1, 6, 8)[0], expected)
    assert np.array_equal(one(tmp_path)[2], expected)


def test_colours_in_either_order_and_as_grey(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6), (10, 100, 200)).save(tmp_path / "a.png")
    assert one(tmp_path)[:, 0, 0].tolist() == [10, 100, 200]
    bgr = write_toml(tmp_path, PRESET_TEXT + 'colour = "BGR"\n')
    assert one(tmp_path, bgr)[:, 0, 0].tolist() == [200, 100, 10]
    grey = one(tmp_path, "raw", None, 1, 6, 8)
    assert grey[0, 0, 0] == round(0.299 * 10 + 0.587 * 100 + 0.114 * 200)


def test_known_presets_on_a_known_colour(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6), (0, 127, 255)).save(tmp_path / "a.png")
    seen = {name: one(tmp_path, name)[:, 3, 4] for name in bundled_presets()}
    assert set(seen) == {
        "caffe-bgr", "efficientnet-lite", "imagenet-tf", "imagenet-torch", "paddle-ocr-cls", "paddle-ocr-det",
        "paddle-ocr-rec", "raw", "signed-unit", "unit", "yolo",
    }  # fmt: skip
    torch = [(0 - 0.485) / 0.229, (127 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    expected = {
        "caffe-bgr": [255 - 103.939, 127 - 116.779, 0 - 123.68],
        "efficientnet-lite": [-127 / 128, 0.0, 1.0],
        "imagenet-tf": [-1.0, -0.5 / 127.5, 1.0],
        "imagenet-torch": torch,
        "paddle-ocr-det": [(1 - 0.485) / 0.229, torch[1], (0 - 0.406) / 0.225],
        "paddle-ocr-cls": [1.0, 2 * 127 / 255 - 1, -1.0],
        "paddle-ocr-rec": [1.0, 2 * 127 / 255 - 1, -1.0],
        "raw": [0.0, 127.0, 255.0],
        "signed-unit": [-1.0, -0.5 / 127.5, 1.0],
        "unit": [0.0, 127 / 255, 1.0],
        "yolo": [0.0, 127 / 255, 1.0],
    }
    for name, values in expected.items():
        assert seen[name] == pytest.approx(values, abs=1e-5), name


@given(
    divide_by=st.sampled_from([1.0, 255.0, 128.0]),
    mean=st.lists(st.floats(-200, 200, width=32), min_size=3, max_size=3),
    std=st.lists(st.floats(0.125, 200, width=32), min_size=3, max_size=3),
    channels_first=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_arithmetic_is_the_plain_one(
    divide_by: float, mean: list[float], std: list[float], channels_first: bool, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 3, 4, 3)).astype(np.uint8)
    preprocess = Preprocess("p", "squash", "nearest", divide_by, tuple(mean), tuple(std))
    found = normalised(pixels, preprocess, ImageFormat(3, 4, "RGB", channels_first, F32))
    assert found.dtype == F32
    assert found.flags.c_contiguous
    for sample, y, x, c in np.ndindex(*pixels.shape):
        plain = (int(pixels[sample, y, x, c]) / divide_by - mean[c]) / std[c]
        place = (sample, c, y, x) if channels_first else (sample, y, x, c)
        assert found[place] == pytest.approx(plain, rel=1e-4, abs=2e-3)


@pytest.mark.parametrize(("dtype", "expected"), [(np.uint8, [0, 0, 127]), (np.int8, [-128, 0, 127])])
def test_models_with_whole_numbers_get_rounded_and_clipped_ones(dtype: Any, expected: list[int]) -> None:
    pixels = np.array([0, 128, 255], np.uint8).reshape(1, 1, 3, 1)
    preprocess = Preprocess("p", "squash", "nearest", 1.0, (128.0,), (1.0,))
    assert normalised(pixels, preprocess, ImageFormat(1, 3, "GRAY", True, np.dtype(dtype))).ravel().tolist() == expected


def test_whole_numbers_are_rounded_not_cut_off() -> None:
    pixels = np.array([3, 5, 7, 200], np.uint8).reshape(1, 1, 4, 1)
    preprocess = Preprocess("p", "squash", "nearest", 4.0, (0.0,), (1.0,))
    found = normalised(pixels, preprocess, ImageFormat(1, 4, "GRAY", True, np.dtype(np.int32)))
    assert found.ravel().tolist() == [1, 1, 2, 50]


def _columns(folder: Path, height: int, width: int) -> None:
    """A picture whose red is the column and whose green is the row."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, :, 0] = np.arange(width)
    pixels[:, :, 1] = np.arange(height)[:, None]
    Image.fromarray(pixels).save(folder / "a.png")


def test_squash_takes_everything(tmp_path: Path) -> None:
    _columns(tmp_path, 12, 40)
    found = one(tmp_path, write_toml(tmp_path, PRESET_TEXT), None, 3, 6, 8)
    assert found[0, 0].tolist() == [2, 7, 12, 17, 22, 27, 32, 37]
    assert found[1, :, 0].tolist() == [1, 3, 5, 7, 9, 11]


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [
        (16, 40, range(4, 12), range(16, 24)),  # nothing to resize: the centre of the long side
        (40, 16, range(16, 24), range(4, 12)),
        (32, 16, range(12, 20), range(4, 12)),
    ],
)
def test_short_side_cuts_out_the_centre(tmp_path: Path, height: int, width: int, rows: Any, columns: Any) -> None:
    _columns(tmp_path, height, width)
    text = PRESET_TEXT.replace("squash", "short-side") + "crop_fraction = 0.5\n"
    found = one(tmp_path, write_toml(tmp_path, text), None, 3, 8, 8)
    assert found[0, 0].tolist() == list(columns)
    assert found[1, :, 0].tolist() == list(rows)


def test_short_side_of_224_resizes_to_256_like_torchvision(tmp_path: Path) -> None:
    picture = Image.fromarray(noise(300, 411))
    picture.save(tmp_path / "a.png")
    resized = picture.resize((350, 256), Image.Resampling.BILINEAR)  # int(256 * 411 / 300)
    expected = np.asarray(resized.crop((63, 16, 63 + 224, 16 + 224)))
    text = PRESET_TEXT.replace("squash", "short-side").replace("nearest", "bilinear") + "crop_fraction = 0.875\n"
    assert np.array_equal(one(tmp_path, write_toml(tmp_path, text), None, 224, 224, 3), expected)


@pytest.mark.parametrize(("where", "first"), [("both-ends", 2), ("end", 0)])
def test_letterbox_keeps_the_picture_whole(tmp_path: Path, where: str, first: int) -> None:
    _columns(tmp_path, 8, 16)
    text = PRESET_TEXT.replace("squash", "letterbox") + f'pad_value = 99\npad_at = "{where}"\n'
    found = one(tmp_path, write_toml(tmp_path, text), None, 3, 8, 8)
    inside = found[:, first : first + 4]
    assert inside[0, 0].tolist() == [1, 3, 5, 7, 9, 11, 13, 15]
    assert inside[1, :, 0].tolist() == [1, 3, 5, 7]
    assert (np.delete(found, np.s_[first : first + 4], axis=1) == 99).all()


@given(height=st.integers(1, 60), width=st.integers(1, 60), mode=st.sampled_from(["squash", "short-side", "letterbox"]))
def test_every_shape_of_picture_gives_the_models_size(height: int, width: int, mode: str) -> None:
    preprocess = Preprocess("p", mode, "bilinear", 1.0, (0.0,), (1.0,), crop_fraction=0.8)
    wanted = ImageFormat(7, 10, "RGB", True, F32)
    picture = images_module._resized(Image.new("RGB", (width, height), (7, 8, 9)), preprocess, wanted)
    assert picture.size == (10, 7)
    if mode != "letterbox":
        assert np.asarray(picture).reshape(-1, 3).tolist() == [[7, 8, 9]] * 70


def test_folders_are_sorted_and_searched_and_other_files_left_alone(tmp_path: Path) -> None:
    for place, grey in {"b/2.png": 1, "a/10.PNG": 2, "a/2.jpg": 3, "c.bmp": 4, "a/.hidden.png": 5}.items():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 6), 50 * grey).save(tmp_path / place)
    (tmp_path / "labels.txt").write_text("x")
    calibration = open_calibration(tmp_path, input_of(2, 1, 6, 8), preprocess="raw")
    assert (calibration.count, calibration.batch) == (4, 2)
    seen = [batch["image"][:, 0, 0, 0] for batch in calibration.batches(np.arange(4), 99)]
    assert np.concatenate(seen) == pytest.approx([100, 150, 50, 200], abs=1)


def test_pixels_are_kept_up_to_the_bound_and_equal_either_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        Image.fromarray(noise(9, 9, seed=number)).save(tmp_path / f"{number}.png")
    decoded: list[str] = []
    read = images_module.read_pixels
    monkeypatch.setattr(
        images_module, "read_pixels", lambda path, *rest: decoded.append(path.name) or read(path, *rest)
    )
    monkeypatch.setattr(images_module, "CACHE_BYTES", 2 * 6 * 8 * 3)
    calibration = open_calibration(tmp_path, input_of(None, 3, 6, 8), preprocess="unit")
    first = calibration.take(np.arange(5))["image"]
    again = calibration.take(np.arange(5))["image"]
    assert np.array_equal(first, again)
    assert decoded == ["0.png", "1.png", "2.png", "3.png", "4.png", "2.png", "3.png", "4.png"]


def test_nothing_is_decoded_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        Image.fromarray(noise(9, 9, seed=number)).save(tmp_path / f"{number}.png")
    calibration = open_calibration(tmp_path, input_of(None, 3, 6, 8), preprocess="unit")
    decoded: list[str] = []
    read = images_module.read_pixels
    monkeypatch.setattr(
        images_module, "read_pixels", lambda path, *rest: decoded.append(path.name) or read(path, *rest)
    )
    batches = calibration.batches(np.array([3, 0, 1]), 2)
    assert decoded == []
    next(batches)
    assert decoded == ["3.png", "0.png"]


def test_the_digest_is_of_the_pictures_and_their_preparation(tmp_path: Path) -> None:
    Image.fromarray(noise(9, 9)).save(tmp_path / "a.png")

    def digest(preset: str, *shape: Any) -> str:
        return open_calibration(tmp_path, input_of(*shape), preprocess=preset).digest

    base = digest("unit", None, 3, 6, 8)
    assert base == digest("unit", None, 3, 6, 8)
    assert len({base, digest("raw", None, 3, 6, 8), digest("unit", None, 3, 6, 9)}) == 3
    Image.fromarray(noise(9, 9, seed=1)).save(tmp_path / "a.png")
    assert digest("unit", None, 3, 6, 8) != base


def pick(*shape: Any, dtype: Any = np.float32, **changes: Any) -> ImageFormat:
    values: dict[str, Any] = {"divide_by": 1.0, "mean": (0.0,), "std": (1.0,), **changes}
    return image_format("image", shape, np.dtype(dtype), Preprocess("own.toml", "squash", "nearest", **values))


def test_layout_size_and_colour_are_taken_from_the_model_where_that_is_clear() -> None:
    assert pick(None, 3, 6, 8) == ImageFormat(6, 8, "RGB", True, F32)
    assert pick(1, 6, 8, 1) == ImageFormat(6, 8, "GRAY", False, F32)
    assert pick(1, 3, 32, 3, layout="NHWC") == ImageFormat(3, 32, "RGB", False, F32)
    assert pick(1, 3, 32, 1, colour="RGB") == ImageFormat(32, 1, "RGB", True, F32)
    assert pick("N", 3, "H", "W", size=(48, 64)) == ImageFormat(48, 64, "RGB", True, F32)
    assert pick("N", 3, 6, "W", size=(48, 64)) == ImageFormat(6, 64, "RGB", True, F32)
    assert pick(None, None, None, None, size=(4, 5), layout="NHWC", colour="GRAY").channels == 1
    assert pick(1, 3, 6, 8, mean=(1.0, 2.0, 3.0)).colour == "RGB"


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((1, 3, 32, 3), {}, r"own.toml: input 'image' is \(1, 3, 32, 3\), so a preprocess file must say layout ="),
        ((1, None, 32, None), {}, "must say layout"),
        ((1, 3, None, 8), {}, r"is \(1, 3, \?, 8\), so a preprocess file must say size = \[height, width\]"),
        ((1, 4, 6, 8), {}, r"makes 1 or 3 channels, and input 'image' is \(1, 4, 6, 8\)"),
        ((1, 3, 6, 8), {"colour": "GRAY"}, "makes 1 channels"),
        ((1, 1, 6, 8), {"mean": (1.0, 2.0, 3.0)}, "makes 3 channels"),
        ((1, 3, 6, 8), {"layout": "NHWC"}, "makes 1 or 3 channels"),
        ((1, 100), {}, r"input 'image' \(float32, \(1, 100\)\) is no batch of images; use an \.npz"),
        ((1, 3, 6, 8), {"dtype": np.bool_}, "is no batch of images"),
    ],
)
def test_what_the_model_leaves_open_must_be_said(shape: Any, changes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pick(*shape, **changes)


def test_what_a_folder_cannot_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"images need --preprocess with a \.toml file or a preset: caffe-bgr, "):
        open_calibration(tmp_path, input_of(1, 3, 6, 8))
    with pytest.raises(ConfigError, match=r"holds no images \(\.png, "):
        open_calibration(tmp_path, input_of(1, 3, 6, 8), preprocess="unit")
    with pytest.raises(ConfigError, match=r"serve a model with one input, and it has image, mask; use an \.npz"):
        open_calibration(tmp_path, {**input_of(1, 3, 6, 8), "mask": ((1,), F32)}, preprocess="unit")
    np.savez(tmp_path / "a.npz", image=np.ones((2, 3, 6, 8)))
    with pytest.raises(ConfigError, match="--preprocess is for a folder of images"):
        open_calibration(tmp_path / "a.npz", input_of(None, 3, 6, 8), preprocess="unit")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigError, match=r"pip install 'graphopt\[images\]'"):
        open_calibration(tmp_path, input_of(1, 3, 6, 8), preprocess="unit")


@pytest.mark.faults
def test_a_file_that_is_no_picture_is_named_when_the_folder_is_opened(tmp_path: Path) -> None:
    Image.fromarray(noise(9, 9)).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_text("hello")
    with pytest.raises(ConfigError, match=r"b\.jpg: cannot read the image: cannot identify image file it"):
        open_calibration(tmp_path, input_of(None, 3, 6, 8), preprocess="unit")


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
def test_damaged_pictures_are_named(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    path = folder / f"a.{suffix}"
    Image.fromarray(noise(40, 40)).save(path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(60):
        broken = bytearray(good)
        if rng.integers(2):
            broken = broken[: int(rng.integers(1, len(broken)))]
        for place in rng.integers(0, min(len(broken), 200), 3):
            broken[int(place)] = int(rng.integers(256))
        path.write_bytes(broken)
        try:
            values = one(folder)
        except ConfigError as error:
            messages.append(str(error))
        else:
            assert values.shape == (3, 6, 8)
    assert len(messages) > 10
    assert all(f"a.{suffix}: cannot read the image: " in message and "\n" not in message for message in messages)


@pytest.mark.faults
def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (2, 60000)).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"a\.png: cannot read the image: 2 x 60000 pixels are too narrow"):
        one(tmp_path, "imagenet-torch", None, 3, 224, 224)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ConfigError, match="could be decompression bomb"):
        one(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resize = 1", "missing"),
        (PRESET_TEXT + "color = 1", r"color: unknown key \(nearest: colour\)"),
        (
            PRESET_TEXT.replace("squash", "stretch"),
            "resize: 'stretch' is none of squash, short-side, letterbox",
        ),
        (PRESET_TEXT + "crop_fraction = 0.5", 'crop_fraction: only goes with resize = "short-side"'),
        (PRESET_TEXT + "pad_value = 3", 'pad_value: only goes with resize = "letterbox"'),
        (PRESET_TEXT.replace("squash", "letterbox") + "pad_value = 256", "pad_value: is 256; must be a whole number"),
        (PRESET_TEXT.replace("squash", "short-side") + "crop_fraction = 2", "crop_fraction: is 2.0; must be from 0.1"),
        (PRESET_TEXT.replace("std = 1", "std = 0"), "std: is 0; must be finite and greater than 0"),
        (PRESET_TEXT.replace("std = 1", "std = nan"), "std: is nan; must be finite"),
        (PRESET_TEXT.replace("std = 1", f"std = 1{'0' * 400}"), "must be finite"),
        (
            PRESET_TEXT.replace("mean = 0", "mean = [1, 2]"),
            "mean: has 2 numbers; must be one number, or a list of 1 or 3",
        ),
        (PRESET_TEXT.replace("mean = 0", 'mean = ["x"]'), "mean: is 'x'; must be a number without quotes"),
        (PRESET_TEXT + 'colour = "GRAY"\nsummary = 3', "summary: must be a text, not 3"),
        (PRESET_TEXT + "size = [3]", r"size: is \[3\]; must be \[height, width\]"),
        (PRESET_TEXT + "size = [3, true]", "size: is"),
        (PRESET_TEXT + "colour = []", r"colour: must be a text, not \[\]"),
        (PRESET_TEXT.replace("divide_by = 1", "divide_by = true"), "divide_by: is True; must be a number"),
        ("= 3", "is no valid TOML"),
    ],
)
def test_a_preprocess_file_is_checked_strictly(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_preprocess(write_toml(tmp_path, text))
    assert str(caught.value).startswith(str(tmp_path / "own.toml"))
    assert "\n" not in str(caught.value)


def test_unknown_presets_and_files() -> None:
    with pytest.raises(ConfigError, match=r"unknown preset 'imagenet' \(nearest: imagenet-"):
        load_preprocess("imagenet")
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read: No such file"):
        load_preprocess("nowhere.toml")
