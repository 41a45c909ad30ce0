"""The guide of the room: its backend is run, against a stand-in for the vendor's toolkit; its commands are known."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import onnx
import pytest

import graphopt.measure
from graphopt.cli.commands.estimate import command
from graphopt.ir.graph import Graph
from graphopt.measure.backend import Measurement, Refusal, Row
from graphopt.measure.choice import Choice
from graphopt.onnx_io.load import load

README = (Path(graphopt.measure.__file__).parent / "README.md").read_text("utf-8")

RKNN = '''
class RKNN:
    """Answers like the toolkit: 0 for success, and a report as text."""

    def __init__(self, verbose): self.released = False
    def config(self, target_platform): assert target_platform == "rk3566"
    def load_onnx(self, model): self.model = open(model, "rb").read(); return 0
    def build(self, do_quantization): return BUILD
    def init_runtime(self, target, perf_debug): assert target == "rk3566" and perf_debug; return 0
    def release(self): RELEASED.append(1)
    def eval_perf(self, is_print, fix_freq):
        return """
---------------------------------------------------------------------------
                    Network Layer Information Table
---------------------------------------------------------------------------
ID   OpType         DataType Target InputShape      OutputShape     Time(us)  WorkLoad(0/1/2)      FullName
---------------------------------------------------------------------------
1    InputOperator  FLOAT16  CPU  \\\\               (1,3,32,32)    5         0.0%/0.0% - Up:0.0%  InputOperator:image
2    ConvRelu       FLOAT16  NPU    (1,3,32,32)     (1,16,16,16)    40        100/0.0% - Up:0.0%   Conv:first
3    ConvRelu       FLOAT16  NPU    (1,16,16,16)    (1,96,16,16)    70        100/0.0% - Up:0.0%   Conv:second
Total Operator Elapsed Per Frame Time(us): 115
Total Memory Read/Write Per Frame Size(KB): 24.2
"""

BUILD = 0
RELEASED = []
'''


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The backend of the guide, importable, and the stand-in beside it."""
    (found,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "rknn_backend.py").write_text(found)
    (tmp_path / "rknn").mkdir()
    (tmp_path / "rknn" / "__init__.py").touch()
    (tmp_path / "rknn" / "api.py").write_text(RKNN)
    info = tmp_path / "rknn_toolkit2-2.3.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rknn-toolkit2\nVersion: 2.3.2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return str(found)


@pytest.fixture
def graph(small_model: Path) -> Graph:
    """The small net, its first two convolutions named."""
    model = onnx.load(small_model)
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    convs[0].name, convs[1].name = "first", "second"
    onnx.save(model, small_model)
    return load(small_model)


def test_the_backend_of_the_guide_works(code: str, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(code.splitlines()) < 60
    backend = Choice("rknn_backend:Rknn", "rk3566").make()
    assert backend.name == "rknn"
    assert backend.version() == "rknn-toolkit2 2.3.2 rk3566"
    assert backend.measure([graph]) == [Measurement(115.0, (Row(("s",), 40.0), Row(("e",), 70.0)), 0.0)]
    api = importlib.import_module("rknn.api")
    assert api.RELEASED == [1]
    monkeypatch.setattr(api, "BUILD", -1)
    (refused,) = backend.measure([graph])
    assert isinstance(refused, Refusal)
    assert api.RELEASED == [1, 1]


def test_the_commands_of_the_guide_are_known() -> None:
    lines = [line.strip("` ") for line in re.findall(r"graphopt estimate [^`\n]+", README)]
    assert len(lines) >= 3
    known = {option for parameter in command.params for option in parameter.opts}
    for line in lines:
        words = shlex.split(line)
        assert {word for word in words if word.startswith("--")} - {"--runs"} <= known, line
