from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from graphopt.errors import ConfigError
from graphopt.measure.backend import Measurement, Refusal, Row
from graphopt.measure.journal import FILE_NAME, Entry, Header, Journal, digest, read_header

HEADER = Header("fake", "fake 1.0", "small", 0)
ENTRIES = [
    Entry("mixed:0", "aa", Measurement(12.5, (Row(("t0", "t1"), 10.0), Row(("t2",), 2.5)), 0.01, 3.5)),
    Entry("mixed:2", "ab", Measurement(3.0, (Row(("t0",), 3.0, (("compute", 3.0), ("off-chip", 0.5))),), 0.0)),
    Entry("mixed:1", "bb", Refusal("t7", "no such op here")),
    Entry("named:resnet-8-32", "cc", Measurement(0.1, (), 0.0)),
]


def filled(folder: Path) -> Journal:
    journal = Journal(folder, HEADER)
    for entry in ENTRIES:
        journal.append(entry)
    return journal


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    filled(tmp_path / "j")
    again = Journal(tmp_path / "j", HEADER)
    assert list(again) == ENTRIES
    assert "mixed:1" in again
    assert again.get("mixed:0") == ENTRIES[0]
    assert read_header(tmp_path / "j") == HEADER


def test_a_kill_anywhere_in_a_line_costs_that_line_alone(tmp_path: Path) -> None:
    filled(tmp_path)
    content = (tmp_path / FILE_NAME).read_bytes()
    lines = content.splitlines(keepends=True)
    last = len(lines[-1])
    for lost in (1, 2, last // 2, last - 1):
        (tmp_path / FILE_NAME).write_bytes(content[:-lost])
        journal = Journal(tmp_path, HEADER)
        assert list(journal) == ENTRIES[:-1]
        journal.append(ENTRIES[-1])
        assert (tmp_path / FILE_NAME).read_bytes() == content


def test_the_first_of_two_entries_stays(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    journal.append(replace(ENTRIES[0], answer=Measurement(99.0, (), 0.0)))
    assert list(Journal(tmp_path, HEADER)) == ENTRIES


@pytest.mark.parametrize(
    "change", [{"backend": "other"}, {"tool": "fake 1.1"}, {"config": "large"}, {"seed": 1}], ids=str
)
def test_measurements_of_different_kinds_are_not_mixed(tmp_path: Path, change: dict[str, object]) -> None:
    filled(tmp_path)
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(ConfigError, match=f"{next(iter(change))}.*another folder"):
        Journal(tmp_path, replace(HEADER, **change))  # type: ignore[arg-type]
    assert (tmp_path / FILE_NAME).read_bytes() == before


@pytest.mark.parametrize("text", ["not json\n", "[]\n", '{"graphopt":2}\n', '{"x":1}\n', "\x00\n", "half"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=FILE_NAME):
        Journal(tmp_path, HEADER)
    assert (tmp_path / FILE_NAME).read_text("utf-8") == text


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    filled(tmp_path)
    lines = (tmp_path / FILE_NAME).read_text("utf-8").splitlines()
    lines[2] = lines[2][:-9]
    (tmp_path / FILE_NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="damaged"):
        Journal(tmp_path, HEADER)


def test_a_unit_that_nobody_knows_is_an_error(tmp_path: Path) -> None:
    filled(tmp_path)
    file = tmp_path / FILE_NAME
    file.write_text(file.read_text("utf-8").replace("off-chip", "tape"), encoding="utf-8")
    with pytest.raises(ConfigError, match="no unit 'tape'; known: whole, compute"):
        Journal(tmp_path, HEADER)


def test_two_runs_do_not_fill_one_journal_at_once(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    with (
        journal.being_filled(),
        pytest.raises(ConfigError, match=r"another run is measuring.*another folder") as caught,
        Journal(tmp_path, HEADER).being_filled(),
    ):
        pass
    assert "\n" not in str(caught.value)
    with Journal(tmp_path, HEADER).being_filled():  # the other one has ended
        pass


def test_no_journal_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="measure run"):
        read_header(tmp_path)


def test_the_digest_depends_on_the_data_and_not_on_their_order() -> None:
    assert digest(ENTRIES) == digest(ENTRIES[::-1])
    assert digest(ENTRIES) != digest(ENTRIES[:2])
    assert digest(ENTRIES) != digest([replace(ENTRIES[0], fingerprint="ab"), *ENTRIES[1:]])
