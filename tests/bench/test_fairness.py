"""Commands during a flood: that the benchmark runs, and fails if they take too long."""

from __future__ import annotations

import json

import fairness
import pytest


def test_commands_are_timed_under_each_flood(capsys: pytest.CaptureFixture[str]) -> None:
    assert fairness.main(["--clients", "1", "--commands", "10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"idle", *fairness.FLOODS}


def test_it_fails_when_commands_take_too_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fairness, "_milliseconds", lambda *_: [5.0])
    assert fairness.main(["--clients", "1", "--require", "4"]) == 1
    assert "5.0 ms under ping, 4 are allowed" in capsys.readouterr().err
