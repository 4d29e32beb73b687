"""The fuzzers on a small scale: no input fails, and a failure would be reported."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz import python
from fuzz.session import session
from rankserver.wire import grammar
from tests.support.paths import ROOT
from tests.support.waiting import BOUND

INPUTS = 3000


@pytest.mark.parametrize(("name", "fuzz"), [("parser", python.parse), ("session", session)])
def test_no_input_fails(name: str, fuzz: python.Fuzzer, capsys: pytest.CaptureFixture[str]) -> None:
    assert python.run(name, fuzz, INPUTS // 3, 1)
    assert f"{name}: {INPUTS // 3} inputs" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_inputs() -> None:
    assert session(random.Random("1 2")) == session(random.Random("1 2"))
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
def test_no_input_of_the_core_fails() -> None:
    done = _fuzz(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


# What is broken, its file, and the text that is replaced.
BROKEN = {
    "a line that comes in pieces": ("_input.c", "kept->len = need;", "kept->len = need > 60 ? 60 : need;"),
    "the text rule": ("_text.c", "low = 0xA0; /* no C1 control; nothing overlong */", ";"),
    "a frame that was begun is cut": (
        "_clist.c",
        "if (rest && make_rest_private",
        "if (0 && make_rest_private",
    ),
    "a cursor that belongs to nobody": (
        "_core.h",
        "end > log->published && !cursor->retains",
        "end > log->published",
    ),
}


@pytest.mark.timeout(400)  # 18 s on two idle cores
@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_core_is_found(what: str, tmp_path: Path) -> None:
    file, old, new = BROKEN[what]
    for package in ("fuzz", "rankserver", "client"):
        shutil.copytree(ROOT / package, tmp_path / package)
    source = tmp_path / "rankserver" / file
    assert source.read_text().count(old) == 1
    source.write_text(source.read_text().replace(old, new))
    done = _fuzz(tmp_path)
    assert done.returncode == 1
    assert re.search(r"the core: input \d+ of seed 0 fails", done.stdout)


def _fuzz(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fuzz", "--inputs", str(INPUTS)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=6 * BOUND, check=False)
