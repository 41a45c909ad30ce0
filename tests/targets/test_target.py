"""Target files: what ships loads, and every kind of mistake is named with file and key."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from graphopt.errors import ConfigError
from graphopt.resources import targets_dir
from graphopt.targets.target import bundled_targets, load_target
from tests.cost.learner import learned, target_file
from tests.targets.energy import telling

NPU = (targets_dir() / "npu-32.toml").read_text("utf-8")


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "mine.toml"
    file.write_text(text, "utf-8")
    return file


def test_the_promised_targets_are_bundled() -> None:
    promised = {"cpu-x86-64", "npu-16", "npu-32", "npu-32-no-depthwise", "npu-64", "onnxruntime-cpu"}
    assert promised <= set(bundled_targets())


@pytest.mark.parametrize("name", bundled_targets())
def test_bundled_target_loads_is_named_after_its_file_and_is_a_value(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target == load_target(name)
    assert hash(target) == hash(load_target(name))
    assert pickle.loads(pickle.dumps(target)) == target
    assert target.properties["parallelism"] == target.parallelism > 0
    assert target.properties["fuse_limit"] == target.fuse_limit > 0


@pytest.mark.parametrize("name", ["npu-16", "npu-32", "npu-64"])
def test_npu_arrays_are_as_wide_as_the_name_says(name: str) -> None:
    target = load_target(name)
    side = int(name.removeprefix("npu-"))
    assert (target.array_rows, target.array_columns, target.parallelism) == (side, side, side)
    assert target.depthwise == "block-diagonal"


def test_no_depthwise_differs_from_npu_32_in_that_alone() -> None:
    plain, without = load_target("npu-32"), load_target("npu-32-no-depthwise")
    assert (plain.depthwise, without.depthwise) == ("block-diagonal", "per-channel")
    same = ("clock_mhz", "array_rows", "array_columns", "on_chip_bytes", "dram_bandwidth_gb_per_s", "fusion")
    assert all(getattr(plain, key) == getattr(without, key) for key in same)


def test_a_copied_file_loads_by_path_and_its_digest_follows_its_content(tmp_path: Path) -> None:
    copy = written(tmp_path, NPU)
    assert load_target(copy) == load_target("npu-32")
    copy.write_text(NPU.replace("clock_mhz = 1000", "clock_mhz = 800"), "utf-8")
    edited = load_target(str(copy))
    assert edited.clock_mhz == 800
    assert edited.digest != load_target("npu-32").digest


def test_unknown_name_gets_the_nearest_names_and_the_command_that_lists_them() -> None:
    with pytest.raises(ConfigError, match=r"unknown target 'npu32' \(nearest: npu-32.*targets list.*\.toml"):
        load_target("npu32")


def test_missing_file_and_no_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read"):
        load_target(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match=r"mine\.toml: is no valid TOML"):
        load_target(written(tmp_path, "name = "))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_target(binary)
    with pytest.raises(ConfigError, match="is no valid TOML"):
        load_target(written(tmp_path, "x = " + "[" * 5000))
    with pytest.raises(ConfigError, match="is larger than"):
        load_target(written(tmp_path, "# long\n" * 200_000))


@pytest.mark.parametrize(
    ("line", "becomes", "field", "message"),
    [
        (r'name = "npu-32"\n', "", "name", "missing"),
        (r'name = "npu-32"', 'name = " "', "name", "not empty"),
        (r'precision = "int8"', 'precision = "int7"', "precision", "int8, float16, float32"),
        (r'precision = "int8"', "precision = [8]", "precision", "int8, float16, float32"),
        (r'depthwise = "block-diagonal"', 'depthwise = "fast"', "depthwise", "block-diagonal, per-channel, vector"),
        (r"clock_mhz = 1000\n", "", "clock_mhz", "missing"),
        (r"clock_mhz = 1000", 'clock_mhz = "1000"', "clock_mhz", "without quotes"),
        (r"clock_mhz = 1000", "clock_mhz = true", "clock_mhz", "must be a number"),
        (r"clock_mhz = 1000", "clock_mhz = 0", "clock_mhz", "greater than 0"),
        (r"clock_mhz = 1000", "clock_mhz = nan", "clock_mhz", "finite"),
        (r"clock_mhz = 1000", "clock_mhz = inf", "clock_mhz", "finite"),
        (r"clock_mhz = 1000", "clock_mhz = 1000\nclock_ghz = 1", "clock_ghz", "unknown key .nearest: clock_mhz"),
        (r"parallelism_channels = 32", "parallelism_channels = 32.5", "parallelism_channels", "whole number"),
        (r"array_rows = 32", "array_rows = -32", "array_rows", "greater than 0"),
        (r"array_rows = 32\n", "", "array_rows", "missing"),
        (r"array_rows = 32", "array_rows = 32\ndense_macs_per_cycle = 9", "dense_macs_per_cycle", "dense = 'vector'"),
        (r"kernel_overhead_us = [\d.]+", "kernel_overhead_us = -1", "kernel_overhead_us", "greater than 0"),
        (r"clock_mhz = 1000", 'clock_mhz = 1000\nleft_to_cpu = "Pad"', "left_to_cpu", "list of ONNX op types"),
        (r"clock_mhz = 1000", "clock_mhz = 1000\nenergy_pj_per_mac = 1", "energy_pj_per_dram_byte", "missing"),
        (r"residual_add = true\n", "", "fusion.residual_add", "missing"),
        (r"residual_add = true", 'residual_add = "yes"', "fusion.residual_add", "true or false"),
        (r"residual_add = true", "residual_adds = true", "fusion.residual_adds", "nearest: residual_add"),
        (r'"Clip", ', '"Clipp", ', "fusion.activations", "'Clipp' is no activation op type .nearest: Clip"),
        (r'"Clip", ', "6, ", "fusion.activations", "list of ONNX op types"),
        (r"\[sources\]\n", '[sources]\nclock_ghz = "x"\n', "sources.clock_ghz", "unknown key"),
        (r"\n\[sources\]\n(.|\n)*", "\n", "sources", "missing"),
        (r'\nclock_mhz = ".*"', '\nclock_mhz = ""', "sources.clock_mhz", "where the number comes from"),
        (r"\[fusion\](.|\n)*", "fusion = 3\n", "fusion", r"\[fusion\]"),
    ],
)
def test_each_mistake_names_file_and_key(tmp_path: Path, line: str, becomes: str, field: str, message: str) -> None:
    text, changes = re.subn(line, lambda _: becomes, NPU, count=1)
    assert changes == 1
    with pytest.raises(ConfigError, match=message) as caught:
        load_target(written(tmp_path, text))
    assert caught.value.field == field
    assert caught.value.file is not None
    assert caught.value.file.endswith("mine.toml")
    assert "\n" not in str(caught.value)


def test_overhead_may_be_zero(tmp_path: Path) -> None:
    text = re.sub(r"kernel_overhead_us = [\d.]+", "kernel_overhead_us = 0", NPU)
    assert load_target(written(tmp_path, text)).kernel_overhead_us == 0


def test_energies_are_told_with_their_sources(tmp_path: Path) -> None:
    target = load_target(telling(tmp_path, per_mac=0.5, per_byte=20.0))
    assert target.tells_energy
    assert target.energy_uj(4e6, 1e6) == pytest.approx(2.0 + 20.0)
    assert "energy_pj_per_mac" in dict(target.sources)
    assert not load_target("npu-32").tells_energy


def test_the_guide_explains_every_key() -> None:
    guide = (targets_dir() / "README.md").read_text("utf-8")
    for key in ("energy_pj_per_mac", "energy_pj_per_dram_byte"):
        assert f"`{key}`" in guide
    for name in bundled_targets():
        keys = re.findall(r"^(\w+) =", (targets_dir() / f"{name}.toml").read_text("utf-8"), re.MULTILINE)
        assert [key for key in keys if f"`{key}`" not in guide] == []


def test_an_estimator_is_named_with_what_it_was_learned_from(tmp_path: Path) -> None:
    target = load_target(target_file(tmp_path, learned()))
    found = target.estimator
    assert found is not None
    assert found.path == str(tmp_path / "mine.npz")
    assert (found.backend, found.measured, found.nets, found.kernels) == ("vela", "2026-11-21", 3, 90)
    other = load_target(target_file(tmp_path, learned("reduce")))
    assert other.digest != target.digest
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    assert load_target(target_file(moved, learned("reduce"))) == other  # where it lies is no part of what it is


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("file", "../mine.npz", "name of an .npz file beside this one"),
        ("file", "/tmp/mine.npz", "name of an .npz file beside this one"),
        ("file", "a\\\\mine.npz", "name of an .npz file beside this one"),
        ("file", "mine.pkl", "name of an .npz file beside this one"),
        ("sha256", "abc", "64 hexadecimal digits"),
        ("data_sha256", None, "64 hexadecimal digits"),
        ("backend", "", "name of the backend"),
        ("tool", "two\\nlines", "one line"),
        ("measured", "12", "a day without quotes"),
        ("measured", "2026-11-21T10:00:00", "a day without quotes"),
        ("nets", 0, "whole number greater than 0"),
        ("kernels", True, "whole number greater than 0"),
        ("colour", "red", "unknown key"),
    ],
)
def test_each_mistake_about_the_estimator_is_named(tmp_path: Path, key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"mine\.toml: estimator\.{key}: .*{re.escape(message)}"):
        load_target(target_file(tmp_path, learned(), **{key: value}))
