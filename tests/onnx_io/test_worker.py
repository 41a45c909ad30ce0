from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from graphopt.onnx_io import worker
from graphopt.onnx_io.worker import Answer, Failure, Task, work
from tests.onnx_io.build import conv_model, model, run, write

X = {"x": np.random.default_rng(0).random((1, 4, 8, 8), np.float32)}


def _crashing(folder: Path) -> Path:
    """onnxruntime 1.31 segfaults where an output of Split is left out."""
    node = helper.make_node("Split", ["x"], ["y", ""], axis=0, num_outputs=2)
    return write(model([node], {"x": [4]}, {"y": [2]}, opset=18), folder / "crash.onnx")


def test_runs_shapes_and_errors(tmp_path: Path) -> None:
    path = write(conv_model(), tmp_path / "m.onnx")
    answers = work(
        [
            Task("run", path, inputs=(X, X)),
            Task("shapes", path, inputs=(X,), outputs=("y",)),
            Task("run", path, inputs=({},)),
            Task("open", tmp_path / "none.onnx"),
        ]
    )
    ran, shapes, unfed, missing = answers
    assert isinstance(ran, Answer)
    assert np.allclose(ran.runs[1]["y"], run(path, X)[0], atol=1e-5)
    assert shapes == Answer(({"y": ["float32", [1, 6, 8, 8]]},))
    assert isinstance(unfed, Failure)
    assert "x" in unfed.reason
    assert isinstance(missing, Failure)
    assert not missing.crashed
    assert "\n" not in missing.reason
    assert work([]) == ()


def test_a_crash_costs_one_task(tmp_path: Path) -> None:
    good = write(conv_model(), tmp_path / "m.onnx")
    crash = Task("run", _crashing(tmp_path), inputs=({"x": np.zeros(4, np.float32)},))
    first, second, third = work([Task("open", good), crash, Task("open", good)])
    assert first == Answer()
    if isinstance(second, Answer):
        pytest.skip("this onnxruntime does not crash here any more")
    assert second == Failure("onnxruntime crashed (SIGSEGV)", crashed=True)
    assert isinstance(third, Failure)
    assert third.reason.startswith("not tried")


def test_a_hang_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "hang.py"
    script.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(worker, "_SCRIPT", script)
    (answer,) = work([Task("open", tmp_path / "m.onnx")], timeout_s=0.2)
    assert answer == Failure("onnxruntime was stopped after 0.2 s", crashed=True)


def test_a_broken_installation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "broken.py"
    script.write_text("import onnxruntime_that_is_not_there")
    monkeypatch.setattr(worker, "_SCRIPT", script)
    (answer,) = work([Task("open", tmp_path / "m.onnx")])
    assert isinstance(answer, Failure)
    assert "No module named 'onnxruntime_that_is_not_there'" in answer.reason


def test_values_that_are_no_tensors(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "x"], ["s"]),
        helper.make_node("Optional", [], ["o"], type=helper.make_tensor_type_proto(TensorProto.FLOAT, [2])),
        helper.make_node("StringNormalizer", ["t"], ["u"], case_change_action="UPPER"),
    ]
    proto = model(nodes, {"x": [2]}, {})
    proto.graph.input.append(helper.make_tensor_value_info("t", TensorProto.STRING, [2]))
    proto.graph.output.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, [2]))
    proto.graph.output.append(helper.make_tensor_value_info("u", TensorProto.STRING, [2]))
    del proto.graph.node[1]
    path = write(proto, tmp_path / "m.onnx")
    feed = {"x": np.ones(2, np.float32), "t": np.array(["a", "b"], object)}
    (answer,) = work([Task("run", path, inputs=(feed,))])
    if isinstance(answer, Failure):
        assert "locale" in answer.reason
        return
    assert [item.tolist() for item in answer.runs[0]["s"]] == [[1, 1], [1, 1]]
    assert answer.runs[0]["u"].tolist() == ["A", "B"]


def test_the_process_is_kept_and_one_that_died_is_replaced(tmp_path: Path) -> None:
    good = write(conv_model(), tmp_path / "m.onnx")
    assert work([Task("open", good)]) == (Answer(),)
    kept = worker._running
    assert work([Task("open", good)]) == (Answer(),)
    assert worker._running is kept
    assert kept is not None
    kept._child.kill()
    kept._child.wait()
    assert work([Task("open", good)]) == (Answer(),)
    assert worker._running is not kept


def test_a_process_killed_while_it_works_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = write(conv_model(), tmp_path / "m.onnx")
    script = tmp_path / "dies.py"
    script.write_text("import os, sys; sys.stdin.readline(); os.kill(os.getpid(), 9)")
    with monkeypatch.context() as patch:
        patch.setattr(worker, "_SCRIPT", script)
        (answer,) = work([Task("open", good)])
        assert answer == Failure("onnxruntime crashed (SIGKILL)", crashed=True)
    assert work([Task("open", good)]) == (Answer(),)
