"""Damaged and hostile files: one line that names the file and the cause."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from graphopt.errors import ModelError
from graphopt.onnx_io import check
from graphopt.onnx_io.load import load
from graphopt.onnx_io.save import save
from tests.onnx_io.build import conv_model, model, weight, write

pytestmark = pytest.mark.faults


def _refusal(path: Path) -> str:
    with pytest.raises(ModelError) as error:
        load(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "not an ONNX file"),
        (b"not a model at all", "not an ONNX file"),
        (conv_model().SerializeToString()[:300], "truncated or damaged"),
        (b"\x08\x08", "holds no graph"),
    ],
)
def test_no_model(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert says in _refusal(tmp_path / "m.onnx")


def test_no_file(tmp_path: Path) -> None:
    assert _refusal(tmp_path / "none.onnx") == "there is no such file"
    assert _refusal(tmp_path) == "not a file"
    os.mkfifo(tmp_path / "pipe.onnx")
    assert _refusal(tmp_path / "pipe.onnx") == "not a file"


def test_the_checker_is_heard(tmp_path: Path) -> None:
    proto = conv_model()
    proto.graph.node[1].input[0] = "no\nsuch tensor"
    assert "no such tensor" in _refusal(write(proto, tmp_path / "m.onnx"))
    proto = conv_model()
    proto.graph.node[1].op_type = "Rellu"
    assert "Rellu" in _refusal(write(proto, tmp_path / "m.onnx"))


def test_onnxruntime_has_the_last_word(tmp_path: Path) -> None:
    proto = conv_model()
    proto.graph.name = ""  # the checker wants a name
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(proto)
    assert len(load(write(proto, tmp_path / "m.onnx"))) == 2


def test_custom_domains_and_missing_output_shapes_are_no_faults(tmp_path: Path) -> None:
    node = helper.make_node("Odd", ["x"], ["y"], domain="acme")
    path = write(model([node], {"x": [1]}, {"y": None}, opsets={"acme": 1}), tmp_path / "m.onnx")
    save(load(path), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == path.read_bytes()


def test_versions_beyond_the_runtime(tmp_path: Path) -> None:
    proto = conv_model()
    proto.ir_version = 99
    assert "IR version 99 is newer than onnxruntime can load" in _refusal(write(proto, tmp_path / "m.onnx"))
    proto = conv_model(opset=99)
    assert "opset 99 of domain ai.onnx is newer" in _refusal(write(proto, tmp_path / "m.onnx"))


def test_the_installed_runtime_decides_not_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "RUNTIME_OPSETS", {"": 3})
    assert len(load(write(conv_model(), tmp_path / "m.onnx"))) == 2


def test_names_that_are_no_text(tmp_path: Path) -> None:
    content = conv_model().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content.replace(b"\x12\x01W", b"\x12\x01\xff"))
    assert "holds no UTF-8 text" in _refusal(tmp_path / "m.onnx")


def test_values_that_are_not_there(tmp_path: Path) -> None:
    proto = conv_model()
    proto.graph.initializer[0].raw_data = b"1234"
    assert _refusal(write(proto, tmp_path / "m.onnx")) == "tensor 'w' holds 4 bytes where its shape needs 864"
    proto.graph.initializer[0].dims[:] = [1 << 40, 1 << 40, 3, 3]
    assert "holds 4 bytes" in _refusal(write(proto, tmp_path / "m.onnx"))
    proto.graph.initializer[0].dims[:] = [-1, -4]
    assert "impossible shape" in _refusal(write(proto, tmp_path / "m.onnx"))
    proto = conv_model()
    proto.graph.initializer[0].data_type = 99
    _refusal(write(proto, tmp_path / "m.onnx"))


def test_huge_dimensions_of_activations_cost_nothing(tmp_path: Path) -> None:
    huge = helper.make_node("ConstantOfShape", ["s"], ["h"])
    sizes = onnx.numpy_helper.from_array(np.array([1 << 40, 1 << 20]), "s")
    proto = model(
        [huge, helper.make_node("Relu", ["h"], ["y"]), helper.make_node("Conv", ["x", "w"], ["z"])],
        {"x": [1 << 20, 2, 1 << 10, 1 << 10]},
        {"y": None, "z": None},
        [sizes, weight("w", 2, 2, 1, 1)],
    )
    graph = load(write(proto, tmp_path / "m.onnx"))
    assert graph.static_shape("y") == (1 << 40, 1 << 20)


@pytest.mark.parametrize("name", ["a\nb", "a:b", "", "\u202e", "x" * 5000, "'; rm -rf /"])
def test_odd_names_come_back(tmp_path: Path, name: str) -> None:
    proto = conv_model()
    proto.graph.node[0].name = name
    if name:
        proto.graph.node[0].output[0] = proto.graph.node[1].input[0] = name
    path = write(proto, tmp_path / "m.onnx")
    save(load(path), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == path.read_bytes()


# -- external data --------------------------------------------------------------------------------------------------


def _external(folder: Path, location: str, **entries: str) -> Path:
    proto = conv_model()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return write(proto, folder / "m.onnx")


def _absolute(folder: Path) -> str:
    return str(folder / "secret")


def _parent(folder: Path) -> str:
    return "../secret"


def _hidden_parent(folder: Path) -> str:
    return "sub/../../secret"


def _windows(folder: Path) -> str:
    return "..\\secret"


def _link(folder: Path) -> str:
    (folder / "in" / "link").symlink_to(folder / "secret")
    return "link"


def _linked_folder(folder: Path) -> str:
    (folder / "in" / "sub").symlink_to(folder)
    return "sub/secret"


def _device(folder: Path) -> str:
    (folder / "in" / "zero").symlink_to("/dev/zero")
    return "zero"


@pytest.mark.parametrize(
    "place", [_absolute, _parent, _hidden_parent, _windows, _link, _linked_folder, _device, lambda folder: ""]
)
def test_nothing_is_read_from_outside_the_folder(tmp_path: Path, place: Callable[[Path], str]) -> None:
    (tmp_path / "secret").write_bytes(bytes(6 * 4 * 9 * 4))
    (tmp_path / "in").mkdir()
    assert "is not a file inside the model's folder" in _refusal(_external(tmp_path / "in", place(tmp_path)))


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({}, "is missing"),
        ({"offset": "x"}, "no number"),
        ({"offset": "1"}, "too short"),
        ({"offset": "-8"}, "too short"),
        ({"length": "8"}, "too short"),
    ],
)
def test_external_data_that_is_not_there(tmp_path: Path, entries: dict[str, str], says: str) -> None:
    if entries:
        (tmp_path / "data").write_bytes(bytes(864))
    assert says in _refusal(_external(tmp_path, "data", **entries))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_loaded_or_refused_in_one_line(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(conv_model().SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "m.onnx").write_bytes(content)
    refusal = ""
    try:
        load(tmp_path / "m.onnx")
    except ModelError as error:
        refusal = str(error)
    assert "\n" not in refusal
