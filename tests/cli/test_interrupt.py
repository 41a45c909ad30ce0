"""Ctrl-C ends a job with its own exit code, whatever it hits."""

from __future__ import annotations

import pytest

from graphopt.cli import app


def test_what_an_interrupt_leaves_behind_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr("graphopt.prepare.open_subject", stopped)
    with pytest.raises(SystemExit) as stop:
        app.main(["estimate", "model.onnx"])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "graphopt: interrupted\n"
