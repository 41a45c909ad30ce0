from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.errors import ConfigError, ModelError
from graphopt.onnx_io import external
from graphopt.onnx_io import save as save_module
from graphopt.onnx_io.load import load
from graphopt.onnx_io.normalise import normalise
from graphopt.onnx_io.save import save
from tests.onnx_io.build import FLOAT, conv_model, model, run, write

X = {"x": np.random.default_rng(0).random((1, 4, 8, 8), np.float32)}


def _external(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "in.onnx"
    onnx.save(conv_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_external_data_is_read_when_asked_and_written_again(tmp_path: Path) -> None:
    path = _external(tmp_path / "a")
    graph = load(path)
    expected = run(path, X)
    (tmp_path / "b").mkdir()
    save(graph, tmp_path / "b" / "out.onnx")
    assert sorted(os.listdir(tmp_path / "b")) == ["out.onnx", "out.onnx.data"]
    assert np.array_equal(run(tmp_path / "b" / "out.onnx", X)[0], expected[0])
    assert np.array_equal(load(tmp_path / "b" / "out.onnx").weights["w"].array(), graph.weights["w"].array())


def test_external_data_is_not_read_before(tmp_path: Path) -> None:
    path = _external(tmp_path)
    graph = load(path)
    (tmp_path / "weights.bin").write_bytes(bytes(864))
    assert not graph.weights["w"].array().any()
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match="is missing"):
        graph.weights["w"].array()


def test_constants_of_ops_move_along(tmp_path: Path) -> None:
    values = np.arange(300, dtype=np.float32)
    (tmp_path / "k.bin").write_bytes(values.tobytes())
    tensor = TensorProto(name="k", data_type=FLOAT, dims=[300], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="k.bin")
    nodes = [helper.make_node("Constant", [], ["k"], value=tensor), helper.make_node("Add", ["x", "k"], ["y"])]
    path = write(model(nodes, {"x": [300]}, {"y": [300]}), tmp_path / "in.onnx")
    (tmp_path / "b").mkdir()
    save(load(path), tmp_path / "b" / "out.onnx")
    assert np.array_equal(load(tmp_path / "b" / "out.onnx").weights["k"].array(), values)


def test_sparse_initializers_move_along(tmp_path: Path) -> None:
    (tmp_path / "s.bin").write_bytes(np.array([5, 7], np.float32).tobytes())
    values = TensorProto(name="s", data_type=FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    values.external_data.add(key="location", value="s.bin")
    indices = helper.make_tensor("i", TensorProto.INT64, [2], [1, 3])
    proto = model(
        [helper.make_node("Add", ["x", "s"], ["y"])],
        {"x": [4]},
        {"y": [4]},
        ir_version=10,
        sparse_initializer=[helper.make_sparse_tensor(values, indices, [4])],
    )
    path = write(proto, tmp_path / "in.onnx")
    (tmp_path / "b").mkdir()
    save(load(path), tmp_path / "b" / "out.onnx")
    assert load(tmp_path / "b" / "out.onnx").weights["s"].array().tolist() == [0, 5, 0, 7]


def test_the_digest_sees_another_data_file(tmp_path: Path) -> None:
    path = _external(tmp_path / "a")
    before = load(path).model.digest
    with (path.parent / "weights.bin").open("ab") as file:
        file.write(b"more")
    assert load(path).model.digest != before


def test_normalising_keeps_the_data_outside(tmp_path: Path) -> None:
    path = _external(tmp_path / "a")
    done = normalise(load(path))
    assert done.reason == ""
    save(done.graph, tmp_path / "out.onnx")
    assert np.allclose(run(tmp_path / "out.onnx", X)[0], run(path, X)[0])


@pytest.mark.faults
def test_the_data_that_is_read_is_not_written_over(tmp_path: Path) -> None:
    path = _external(tmp_path)
    (tmp_path / "weights.bin").rename(tmp_path / "out.onnx.da")
    path.write_bytes(path.read_bytes().replace(b"weights.bin", b"out.onnx.da"))
    graph = load(path)
    with pytest.raises(ConfigError, match="data of the model that is read"):
        save(graph, tmp_path / "out.onnx.da")
    (tmp_path / "out.onnx.da").rename(tmp_path / "b.onnx.data")
    path.write_bytes(path.read_bytes().replace(b"out.onnx.da", b"b.onnx.data"))
    graph = load(path)
    with pytest.raises(ConfigError, match="data of the model that is read"):
        save(graph, tmp_path / "b.onnx")


def test_a_model_too_big_for_one_file_gets_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save_module, "_INLINE_LIMIT", 500)
    monkeypatch.setattr(external, "_WORTH_MOVING", 500)
    path = write(conv_model(), tmp_path / "in.onnx")
    save(load(path), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").stat().st_size == 864
    assert np.array_equal(run(tmp_path / "out.onnx", X)[0], run(path, X)[0])


@pytest.mark.slow
def test_over_2_gb(tmp_path: Path) -> None:
    rows = 540_000_000
    with (tmp_path / "in.data").open("wb") as file:
        file.truncate(rows * 4)
        file.seek((rows - 1) * 4)
        file.write(np.float32(7).tobytes())
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[rows], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="in.data")
    index = onnx.numpy_helper.from_array(np.array([rows - 1]), "i")
    node = helper.make_node("Gather", ["w", "i"], ["g"])
    nodes = [node, helper.make_node("Add", ["x", "g"], ["y"])]
    path = write(model(nodes, {"x": [1]}, {"y": [1]}, [tensor, index]), tmp_path / "in.onnx")
    graph = load(path)
    assert graph.static_shape("w") == (rows,)
    save(graph, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").stat().st_size < 10_000
    assert run(tmp_path / "out.onnx", {"x": np.zeros(1, np.float32)})[0].tolist() == [7.0]
    assert "1.5 GB" in normalise(graph).reason
