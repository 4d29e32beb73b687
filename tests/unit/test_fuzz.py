"""The fuzzers on a small scale: no input fails, and a failure would be reported."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz import python
from rankserver.wire import grammar
from tests.support.paths import ROOT
from tests.support.waiting import BOUND

INPUTS = 3000


@pytest.mark.parametrize(("name", "fuzz"), [("parser", python.parse), ("session", python.session)])
def test_no_input_fails(name: str, fuzz: python.Fuzzer, capsys: pytest.CaptureFixture[str]) -> None:
    assert python.run(name, fuzz, INPUTS // 3, 1)
    assert f"{name}: {INPUTS // 3} inputs" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_inputs() -> None:
    assert python.session(random.Random("1 2")) == python.session(random.Random("1 2"))
    assert python.parse(random.Random("1 2")) == python.parse(random.Random("1 2"))


def test_an_input_that_fails_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(grammar, "text_problem", lambda _: None)
    assert not python.run("parser", python.parse, INPUTS, 1)
    shown = capsys.readouterr().out
    assert "parser: input " in shown
    assert "input: " in shown


@pytest.mark.timeout(400)  # 18 s on two idle cores
def test_the_core_is_fuzzed_and_a_broken_core_is_found(tmp_path: Path) -> None:
    done = _fuzz(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / "broken"
    for package in ("fuzz", "rankserver", "client"):
        shutil.copytree(ROOT / package, broken / package)
    source = broken / "rankserver" / "_input.c"
    kept = "        kept->len = need;\n"
    assert kept in source.read_text()
    source.write_text(source.read_text().replace(kept, "        kept->len = need > 60 ? 60 : need;\n"))
    done = _fuzz(broken)
    assert done.returncode == 1
    assert "of seed 0, max_line" in done.stdout


def _fuzz(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fuzz", "--inputs", str(INPUTS)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=6 * BOUND, check=False)
