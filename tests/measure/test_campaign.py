from __future__ import annotations

import json
import sys
import tomllib
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner

from graphopt.cli.app import app
from graphopt.errors import ConfigError, ModelError
from graphopt.measure import campaign as c
from graphopt.measure import choice
from graphopt.measure.backend import Measurement, Refusal, Row
from graphopt.measure.choice import Choice
from graphopt.measure.data import LAYER_WEIGHT, PART_WEIGHT, measured_kernels, measured_nets
from graphopt.measure.examine import KINDS
from graphopt.measure.journal import Entry, Header, Journal, digest, read_header
from graphopt.measure.runner import DIED, measure_nets
from graphopt.measure.spec import fingerprint, make_graph
from graphopt.measure.target_file import source_path, write_target
from graphopt.targets.target import load_target
from tests.measure.fake_device import NAME, FakeDevice

TARGET = load_target("npu-32")
MEASURABLE = 1
"""Seed of a net that the fake device does not refuse."""


def plan(**changes: object) -> c.Campaign:
    made = c.Campaign(Choice(NAME, "npu-32"), TARGET, nets=24, validation=5, adaptive=False)
    return replace(made, **changes)  # type: ignore[arg-type]


def filled(folder: Path, keys: list[str]) -> Journal:
    """A journal as the workers would write it, without starting any."""
    journal = Journal(folder, Header(NAME, "fake 1.0 npu-32", "npu-32", 0))
    device = FakeDevice()
    for key in keys:
        graph = make_graph(key)
        journal.append(Entry(key, fingerprint(graph), device.measure([graph])[0]))
    return journal


def test_what_fitting_needs_is_looked_for_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for missing, command in (
        ("LightGBM", ["run", "--backend", "vela", "--config", "ethos-u55-128", "-o", str(tmp_path / "t.toml")]),
        ("scikit-learn", ["evaluate", "ethos-u55-128"]),
    ):
        monkeypatch.setattr(choice, "find_spec", lambda _: None)
        done = CliRunner().invoke(app, ["measure", *command, "--journal", str(tmp_path / "journal")])
        assert done.exit_code == 2
        assert f"{missing} is needed" in done.stderr
    assert not (tmp_path / "journal").exists()


def test_a_process_that_dies_costs_one_net(tmp_path: Path) -> None:
    keys = [f"mixed:{seed}" for seed in range(4)]
    deadly = len(make_graph(keys[1]))
    found: dict[str, Entry] = {}
    measure_nets(keys, Choice(NAME, f"npu-32!{deadly}"), jobs=2, done=lambda entry: found.update({entry.key: entry}))
    assert sorted(found) == keys
    assert found[keys[1]].answer == Refusal(make_graph(keys[1]).outputs[0], DIED)
    assert all(getattr(found[key].answer, "reason", "") != DIED for key in keys if key != keys[1])


def test_only_what_is_missing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [f"mixed:{seed}" for seed in range(4)]
    journal = filled(tmp_path, keys[:3])
    asked: list[str] = []

    def fake(missing: list[str], choice: Choice, **values: object) -> None:
        asked.extend(missing)
        entry = journal.get(keys[0])
        assert entry is not None
        values["done"](replace(entry, key=missing[0]))  # type: ignore[operator]

    monkeypatch.setattr(c, "measure_nets", fake)
    seen: list[tuple[int, int, str]] = []
    entries = c.collect(journal, keys, plan(), progress=lambda *state: seen.append(state))
    assert asked == keys[3:]
    assert [entry.key for entry in entries] == keys
    assert seen == [(3, 4, ""), (4, 4, keys[3])]


def test_another_net_of_the_same_name_is_refused(tmp_path: Path) -> None:
    (entry,) = filled(tmp_path, [f"mixed:{MEASURABLE}"])
    with pytest.raises(ModelError, match="not the net that was measured"):
        measured_nets([replace(entry, fingerprint="0" * 16)], TARGET)


def test_a_layer_or_two_is_no_net(tmp_path: Path) -> None:
    first, second = measured_nets(filled(tmp_path, ["mixed:1", "mixed:56"]), TARGET)
    assert (first.is_isolated, second.is_isolated) == (False, True)
    assert len(second.loads) <= 2
    assert {kernel.weight for kernel in measured_kernels([second])} == {LAYER_WEIGHT}


def test_kernels_of_a_group_are_not_learned_from(tmp_path: Path) -> None:
    (entry,) = filled(tmp_path, [f"mixed:{MEASURABLE}"])
    assert isinstance(entry.answer, Measurement)
    first, second, *rest = entry.answer.rows
    merged = Row(first.tensors + second.tensors, first.latency_us + second.latency_us)
    (net,) = measured_nets([replace(entry, answer=replace(entry.answer, rows=(merged, *rest)))], TARGET)
    assert len(measured_kernels([net])) == len(net.loads) - 2
    assert sum(group.latency_us for group in net.groups) == pytest.approx(net.total_us)


def test_later_nets_are_those_with_the_largest_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = filled(tmp_path, [f"mixed:{seed}" for seed in (0, 1, 5)])
    monkeypatch.setattr(c, "learn", lambda nets, target: None)
    monkeypatch.setattr(c, "make_graph", lambda key: key)
    monkeypatch.setattr(c, "_doubt", lambda key, learned, target: int(key.partition(":")[2]) % 7)
    known = c.training_entries(journal, "mixed")
    assert [entry.key for entry in known] == ["mixed:0", "mixed:1", "mixed:5"]
    chosen = c._chosen(known, 4, plan(adaptive=True))
    # twelve candidates, 6 to 17: two in order, two of the others with the largest remainders
    assert chosen == ["mixed:6", "mixed:7", "mixed:12", "mixed:13"]
    assert c._chosen(known, 2, plan()) == ["mixed:6", "mixed:7"]


def test_test_and_validation_nets_are_never_trained_on(tmp_path: Path) -> None:
    keys = ["mixed:0", f"mixed:{c.VALIDATION}", f"mixed:{c.TEST}", "named:resnet-8-32"]
    journal = filled(tmp_path, keys)
    assert [entry.key for entry in c.training_entries(journal, "mixed")] == ["mixed:0"]
    assert not set(plan().validation_keys) & {keys[0], keys[2]}


def test_parts_supplement_the_nets_at_low_weight(tmp_path: Path) -> None:
    campaign = plan(parts=6)
    others = ["parts-padding:0", "parts-padding:1", "parts-padding:2", "parts-stem:0", "single:0", "single:1"]
    assert campaign.part_keys == [*(f"parts:{seed}" for seed in range(6)), *others]
    journal = filled(tmp_path, [*(f"mixed:{seed}" for seed in range(4)), *campaign.part_keys])
    assert len(c.training_entries(journal, "mixed")) == 4
    kernels = measured_kernels(measured_nets(journal, TARGET))
    weights = {kernel.net: kernel.weight for kernel in kernels if kernel.load.category == "conv-1x1"}
    assert weights["mixed:1"] > 10 * weights["parts-padding:0"] > 0
    (kernel,) = measured_kernels(measured_nets(filled(tmp_path / "one", ["single:1"]), TARGET))
    assert kernel.weight == LAYER_WEIGHT  # as in a net of the mixed family that is a layer
    assert {kernel.weight for kernel in kernels if kernel.load.op_type == "Pad"} == {PART_WEIGHT}


def test_a_campaign_learns_a_device_and_writes_a_target(tmp_path: Path) -> None:
    campaign = plan()
    keys = [f"mixed:{seed}" for seed in range(24)]
    journal = filled(tmp_path / "j", [*keys, *campaign.validation_keys])
    outcome = c.run(journal, campaign)
    refused = [key for key in keys if isinstance(journal.get(key).answer, Refusal)]  # type: ignore[union-attr]
    assert [key for key, _ in outcome.refused] == refused
    assert len(outcome.training) == 24 - len(refused)
    assert outcome.error < 0.2 < c.net_score(c.judge([one.net for one in outcome.validation], _price)).mape
    assert outcome.error_with_twice <= outcome.error

    made = tmp_path / "mine.toml"
    write_target(source_path("npu-32"), outcome, journal.header, date(2026, 11, 21), made)
    target = load_target(str(made))
    assert target.name == "mine"
    assert target.fusion == TARGET.fusion
    assert target.estimator is not None
    assert (target.estimator.backend, target.estimator.measured) == ("fakedevice", "2026-11-21")
    assert (target.estimator.data_sha256, target.estimator.nets) == (digest(list(journal)), len(outcome.training))
    again = tmp_path / "again.toml"  # from a target that is learned already
    write_target(made, outcome, journal.header, date(2026, 11, 21), again)
    assert tomllib.loads(again.read_text("utf-8"))["estimator"]["file"] == "again.npz"
    _evaluate(tmp_path, made)


def _price(loads: object) -> object:
    return c.estimator_of(c.Learned({}), TARGET)(loads)  # type: ignore[arg-type]


def _evaluate(folder: Path, target: Path) -> None:
    """The command line judges that target on nets that it has not seen; what is missing is measured."""
    journal = Journal(folder / "j", read_header(folder / "j"))
    args = ["measure", "evaluate", str(target), "--journal", str(folder / "j"), "--no-named", "--nets", "3", "--json"]
    done = CliRunner().invoke(app, [*args, "--backend", NAME, "--scatter", str(folder / "plot.svg")])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert len(found["nets"]) + len(found["refused"]) == 3
    assert {line["estimator"] for line in found["scores"]} == {
        "target", "MACs alone", "roofline alone", "random forest",
    }  # fmt: skip
    assert {line["nets"] for line in found["scores"]} == {net["kind"] for net in found["nets"]} <= {*KINDS}
    assert (folder / "plot.svg").read_text("utf-8").count("<circle") == len(found["nets"])
    assert len(Journal(folder / "j", read_header(folder / "j"))) == len(journal) + 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.toml"], "--backend"),
        (["-b", "velo", "-t", "npu-32", "-o", "x.toml"], "vela"),
        (["-b", "vela", "-c", "ethos-u99", "-o", "x.toml"], "--target"),
        (["-b", "vela", "-c", "ethos-u55-256", "-o", "x.txt"], ".toml"),
    ],
)
def test_wrong_options_are_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["measure", "run", "--journal", str(tmp_path / "j"), *arguments])
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "j").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return [Measurement(1.0, (Row(('y',), 1.0, (('gpu', 1.0),)),), 0.0) for _ in graphs]",
            "no unit 'gpu'; known",
        ),
        ("return []", "gives 0 answers for"),
        ("raise OSError('no board')", "OSError: no board"),
    ],
)
def test_what_goes_wrong_in_a_users_backend_is_one_line_about_it(
    body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_board.py").write_text(
        "from graphopt.measure.backend import Measurement, Row\n\n\nclass Board:\n    name = 'board'\n\n"
        "    def version(self):\n        return '1'\n\n"
        f"    def measure(self, graphs):\n        {body}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path), *sys.path])
    sys.modules.pop("my_board", None)
    backend = Choice("my_board:Board").make()
    assert (backend.name, backend.version()) == ("board", "1")
    with pytest.raises(ConfigError, match=message) as caught:
        backend.measure([make_graph("mixed:1")])
    assert str(caught.value).startswith("my_board:Board")
    assert "\n" not in str(caught.value)


def test_a_missing_extra_is_named_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.measure import choice

    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    args = [
        "measure",
        "run",
        "-b",
        NAME,
        "-t",
        "npu-32",
        "--journal",
        str(tmp_path / "j"),
        "-o",
        str(tmp_path / "o.toml"),
    ]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 2
    assert "pip install 'graphopt[measure]'" in done.stderr
    assert not (tmp_path / "j").exists()


def test_the_reference_of_earlier_measurements_is_kept() -> None:
    choice = Choice("onnxruntime", "CPUExecutionProvider")
    assert choice.as_before("onnxruntime 1.31 CPU, 1 thread, X, reference 103.4 us").nominal_us == 103.4
    assert choice.as_before("something else") == choice
    with pytest.raises(ConfigError, match="MODULE:CLASS"):
        Choice("rknn").make()
