"""Bad input gets one line that names the file and the cause, exit code 2, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.external_data_helper
import onnx.parser
import pytest

Case = Callable[[Path], tuple[list[object], list[str]]]
"""Prepares a folder (with a good ``small.onnx`` in it); returns the arguments and what the line must hold."""


def model_case(name: str, words: list[str], make: Callable[[Path, onnx.ModelProto], None]) -> Case:
    def prepare(folder: Path) -> tuple[list[object], list[str]]:
        make(folder / name, onnx.load(folder / "small.onnx"))
        return ["optimize", folder / name, "-o", folder / "out.onnx"], [name, *words]

    return prepare


def command_case(words: list[str], *arguments: str) -> Case:
    """``{}`` in an argument is the folder."""

    def prepare(folder: Path) -> tuple[list[object], list[str]]:
        return [argument.replace("{}", str(folder)) for argument in arguments], words

    return prepare


def text_file(path: Path, _: onnx.ModelProto) -> None:
    path.write_text("this is no model\n")


def truncated(path: Path, model: onnx.ModelProto) -> None:
    path.write_bytes(model.SerializeToString()[:-500])


def fails_checker(path: Path, model: onnx.ModelProto) -> None:
    model.graph.node[0].input[1] = "no_such_tensor"
    path.write_bytes(model.SerializeToString())


def far_opset(path: Path, model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 999
    path.write_bytes(model.SerializeToString())


def far_ir_version(path: Path, model: onnx.ModelProto) -> None:
    model.ir_version = 99
    path.write_bytes(model.SerializeToString())


def external(path: Path, model: onnx.ModelProto) -> None:
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)


def missing_data(path: Path, model: onnx.ModelProto) -> None:
    external(path, model)
    (path.parent / "weights.bin").unlink()


def outside_data(path: Path, model: onnx.ModelProto) -> None:
    external(path, model)
    (path.parent.parent / "outside.bin").write_bytes((path.parent / "weights.bin").read_bytes())
    (path.parent / "weights.bin").unlink()
    found = onnx.load(path, load_external_data=False)
    for tensor in found.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../outside.bin"
    path.write_bytes(found.SerializeToString())


def other_plan(folder: Path) -> tuple[list[object], list[str]]:
    model = onnx.load(folder / "small.onnx")
    model.doc_string = "another file"
    onnx.save(model, folder / "other.onnx")
    return plan_of(folder, lambda text: text, model="other.onnx"), ["plan.toml", "model.digest", "small.onnx"]


def bad_choice(folder: Path) -> tuple[list[object], list[str]]:
    return plan_of(folder, lambda text: text.replace('"keep"', '"kep"', 1)), ["plan.toml", "kep"]


def bad_width(folder: Path) -> tuple[list[object], list[str]]:
    return plan_of(folder, lambda text: text.replace("width = 16", "width = -3", 1)), ["plan.toml", "width", "-3"]


def bad_toml(folder: Path) -> tuple[list[object], list[str]]:
    return plan_of(folder, lambda text: text.replace("format = 1", "format ===")), ["plan.toml"]


def unknown_key(folder: Path) -> tuple[list[object], list[str]]:
    return plan_of(folder, lambda text: text + "\n[extra]\nx = 1\n"), ["plan.toml", "extra", "unknown key"]


def plan_of(folder: Path, edit: Callable[[str], str], model: str = "small.onnx") -> list[object]:
    from graphopt import Options, scan

    plan = folder / "plan.toml"
    text = scan(folder / "small.onnx", Options(allow="retrain")).plan_text
    plan.write_text(edit(text))
    assert edit(text) != text or model != "small.onnx"
    return ["apply", folder / model, plan, "-o", folder / "out.onnx"]


def bad_card(folder: Path) -> tuple[list[object], list[str]]:
    (folder / "cards" / "mine").mkdir(parents=True)
    (folder / "cards" / "mine" / "my-rule.toml").write_text('summary = "x"\nrewrite = "round-chanels"\n')
    words = ["my-rule.toml", "rewrite", "round-channels"]
    return ["optimize", folder / "small.onnx", "-o", folder / "out.onnx", "--rule-dir", folder / "cards"], words


def no_image_inputs(folder: Path) -> tuple[list[object], list[str]]:
    np.savez(folder / "data.npz", pictures=np.zeros((4, 3, 32, 32), np.float32))
    arguments = ["optimize", folder / "small.onnx", "-o", folder / "out.onnx", "-t", "npu-32-no-depthwise"]
    return [*arguments, "--calibration", folder / "data.npz"], ["image", "pictures"]


def dynamic(path: Path, model: onnx.ModelProto) -> None:
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"size{axis}"
    path.write_bytes(model.SerializeToString())


OPTIMIZE = ("optimize", "{}/small.onnx", "-o", "{}/out.onnx")

CASES: dict[str, Case] = {
    "no such file": command_case(["nothing.onnx"], "optimize", "{}/nothing.onnx", "-o", "{}/out.onnx"),
    "a folder": command_case([], "optimize", "{}", "-o", "{}/out.onnx"),
    "not an ONNX file": model_case("text.onnx", ["not an ONNX"], text_file),
    "truncated": model_case("cut.onnx", ["truncated"], truncated),
    "fails the checker": model_case("wrong.onnx", ["no_such_tensor"], fails_checker),
    "opset of the future": model_case("far.onnx", ["999"], far_opset),
    "IR version of the future": model_case("far.onnx", ["99"], far_ir_version),
    "missing external data": model_case("split.onnx", ["weights.bin"], missing_data),
    "external data outside": model_case("split.onnx", ["outside.bin"], outside_data),
    "dynamic shapes": model_case("dynamic.onnx", ["--input-shape image:1,3,"], dynamic),
    "unknown target": command_case(["npu-23", "npu-32"], *OPTIMIZE, "--target", "npu-23"),
    "unknown rule": command_case(["round-chanels", "round-channels"], *OPTIMIZE, "--rule", "round-chanels"),
    "unknown rule left out": command_case(["fuse-inverted", "fuse-inverted-bottleneck"], *OPTIMIZE,
                                          "--no-rule", "fuse-inverted"),
    "unknown rule to explain": command_case(["fuse-it"], "explain", "{}/small.onnx", "--rule", "fuse-it"),
    "unknown pack": command_case(["defualt", "default"], *OPTIMIZE, "--pack", "defualt"),
    "unknown input": command_case(["imag", "image"], *OPTIMIZE, "--input-shape", "imag:1,3,32,32"),
    "contradicting shape": command_case(["image", "contradicts"], *OPTIMIZE, "--input-shape", "image:1,4,32,32"),
    "no rule folder": command_case(["nowhere"], *OPTIMIZE, "--rule-dir", "{}/nowhere"),
    "bad card": bad_card,
    "protecting nothing": command_case(["no_such_op"], *OPTIMIZE, "--protect", "no_such_op"),
    "plan for another model": other_plan,
    "plan with an unknown option": bad_choice,
    "plan with an impossible width": bad_width,
    "plan that is no TOML": bad_toml,
    "plan with an unknown key": unknown_key,
    "no such plan": command_case(["no.toml"], "apply", "{}/small.onnx", "{}/no.toml", "-o", "{}/out.onnx"),
    "output in no folder": command_case(["nowhere"], "optimize", "{}/small.onnx", "-o", "{}/nowhere/out.onnx"),
    "output is the model": command_case(["small.onnx"], "optimize", "{}/small.onnx", "-o", "{}/small.onnx", "--force"),
    "output is a folder": command_case(["folder"], "optimize", "{}/small.onnx", "-o", "{}", "--force"),
    "plan would replace the model": command_case(["small.onnx"], *OPTIMIZE, "--plan-out", "{}/small.onnx", "--force"),
    "calibration without the input": no_image_inputs,
    "calibration missing": command_case(["no.npz"], *OPTIMIZE, "--calibration", "{}/no.npz", "-t",
                                        "npu-32-no-depthwise"),
    "verify with nothing": command_case(["no.onnx"], "verify", "{}/small.onnx", "{}/no.onnx"),
    "zoo without a folder": command_case(["nowhere"], "zoo", "{}/nowhere", "-o", "{}/zoo"),
    "unknown option": command_case(["--targte", "--help"], *OPTIMIZE, "--targte", "npu-32"),
    "unknown command": command_case(["optimise", "optimize"], "optimise", "{}/small.onnx"),
    "missing argument": command_case(["MODEL"], "optimize"),
    "bad multiplier": command_case(["0.75"], *OPTIMIZE, "--depth-multiplier", "zero"),
    "multiplier without leave": command_case(["retrain"], *OPTIMIZE, "--depth-multiplier", "0.75"),
    "bad amount": command_case(["256KB"], *OPTIMIZE, "--max-peak-bytes", "many"),
    "unknown target to show": command_case(["npu-23", "npu-32"], "targets", "show", "npu-23"),
    "unknown rule to show": command_case(["round", "round-channels"], "rules", "show", "round"),
}  # fmt: skip


@pytest.mark.faults
@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
def test_one_line_exit_code_two_and_nothing_written(run, small_model: Path, case: Case) -> None:
    folder = small_model.parent
    arguments, words = case(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = run(*arguments)
    assert done.exit_code == 2, (done.stdout, done.stderr, done.exception)
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("graphopt: error: ")
    for word in words:
        assert word in lines[0]
    assert done.stdout == ""
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not any(path.name.startswith(".graphopt-") for path in folder.iterdir())


PLAIN = '<ir_version: 8, opset_import: ["": 17]> m (float[2,8] x) => (float[2,8] y) { y = Tanh(x) }'


@pytest.mark.faults
def test_a_model_without_a_convolution_is_unchanged_with_a_reason(run, tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(PLAIN), tmp_path / "plain.onnx")
    done = run("optimize", tmp_path / "plain.onnx", "-o", tmp_path / "out.onnx")
    assert done.exit_code == 0, done.stderr
    assert "unchanged" in done.stdout
    assert "convolution" in done.stdout


@pytest.mark.faults
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rule", "round-chanels"), ["round-chanels", "round-channels"]),
        (("--no-rule", "round-chanels"), ["round-chanels"]),
        (("--pack", "defualt"), ["defualt", "default"]),
        (("--rule-dir", "{}/nowhere"), ["nowhere"]),
        (("--depth-multiplier", "0.5"), ["--allow retrain"]),
        (("--max-drift", "0.1"), ["--calibration"]),
        (("--protect", "no_such_op"), ["no_such_op"]),
        (("--calibration", "{}/no.npz"), ["no.npz"]),
        (("--evaluate", "{}/no.npz"), ["no.npz"]),
    ],
)
def test_a_model_without_a_convolution_excuses_no_option(
    run, tmp_path: Path, arguments: tuple[str, ...], words: list[str]
) -> None:
    onnx.save(onnx.parser.parse_model(PLAIN), tmp_path / "plain.onnx")
    given = [text.replace("{}", str(tmp_path)) for text in arguments]
    done = run("optimize", tmp_path / "plain.onnx", "-o", tmp_path / "out.onnx", *given)
    assert done.exit_code == 2, (done.stdout, done.stderr, done.exception)
    (line,) = done.stderr.splitlines()
    for word in words:
        assert word in line
    assert [path.name for path in tmp_path.iterdir()] == ["plain.onnx"]
