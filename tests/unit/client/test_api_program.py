"""The API's types: a program that uses all of it runs, and mypy reports exactly its errors."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import rankserver.client
from rankserver.client import aio, ask
from tests.support.paths import ROOT
from tests.support.servers import ServerProcess
from tests.support.waiting import BOUND
from tests.unit.client.test_sync import INTERNAL, members

PROGRAM = ROOT / "tests" / "support" / "api_program.py"
IGNORE = re.compile(r"  # type: ignore\[([a-z-]+)\]")


def strictly(program: Path, cache: Path, python: str = "3.10") -> tuple[int, str]:
    """Run ``mypy --strict`` as a user would; return its exit code and output."""
    options = ["--config-file=", "--strict", "--python-version", python, "--cache-dir", str(cache)]
    command = [sys.executable, "-m", "mypy", *options, str(program)]
    # In this folder mypy sees the packages' sources; installed ones it sees because of their py.typed.
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_the_program_runs(server: ServerProcess) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.support.api_program", server.where]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BOUND, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_program_uses_all_public_names() -> None:
    words = re.findall(r"\w+", PROGRAM.read_text())
    assert (members(ask.Ask).keys() - INTERNAL) | set(rankserver.client.__all__) <= set(words)
    # Each name is used in both flavours.
    assert all(words.count(name) >= 2 for name in members(aio.Client))


@pytest.mark.parametrize("python", ["3.13", "3.10"])
def test_mypy_knows_the_type_of_all(cache: Path, python: str) -> None:
    assert strictly(PROGRAM, cache, python) == (0, "Success: no issues found in 1 source file\n")


def test_mypy_rejects_each_misuse(tmp_path: Path, cache: Path) -> None:
    misused = tmp_path / "misused.py"
    text = PROGRAM.read_text()
    misused.write_text(IGNORE.sub("", text))
    expected = {
        (number, match[1])
        for number, line in enumerate(text.splitlines(), 1)
        if (match := IGNORE.search(line))
    }
    code, said = strictly(misused, cache)
    errors = re.findall(r"^.*misused\.py:(\d+): error: .*\[([a-z-]+)\]$", said, re.MULTILINE)
    assert code == 1
    assert {(int(number), kind) for number, kind in errors} == expected


def test_the_types_are_shipped() -> None:
    assert (ROOT / "rankserver" / "py.typed").exists()
    assert '\nclient = ["py.typed"]\n' in (ROOT / "pyproject.toml").read_text()
