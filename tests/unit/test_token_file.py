"""The files in which server and clients keep tokens: who may read them, and that no message shows a token."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from client import cli
from rankserver import tokens
from rankserver.token_file import read_token_file
from rankserver.wire.exceptions import ConfigError
from tests.support.tls_peer import write_private

SECRET = "S3cret"  # noqa: S105 - of a test


def test_a_file_of_the_owner_is_read(tmp_path: Path) -> None:
    path = write_private(tmp_path / "token", f"\ufeff{SECRET}\r\n")
    assert read_token_file(str(path)).strip() == SECRET
    path.chmod(0o640)
    assert read_token_file(str(path)).strip() == SECRET


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o666, 0o601])
def test_a_file_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = write_private(tmp_path / "token", SECRET)
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        read_token_file(str(path))
    says = f"the token file {path} is open to others (mode {mode:o}): chmod o= {path}"
    assert str(caught.value) == says


def test_whatever_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path / "fifo", Path(os.devnull)):
        with pytest.raises(ConfigError, match="is not a regular file"):
            read_token_file(str(path))
    with pytest.raises(ConfigError, match="Is a directory"):
        read_token_file(str(tmp_path))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = write_private(tmp_path / "token", SECRET)
    path.write_bytes(b"\xff" + SECRET.encode())
    with pytest.raises(ConfigError) as caught:
        read_token_file(str(path))
    assert str(caught.value) == f"the token file {path} is not UTF-8"


def test_server_and_client_refuse_the_same_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_private(tmp_path / "token", SECRET)
    path.chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        tokens.load(str(path))
    with pytest.raises(SystemExit):
        cli.main(["--token-file", str(path)])
    err = capsys.readouterr().err
    assert str(caught.value) in err
    assert SECRET not in err


@pytest.mark.parametrize("text", ["", "\n", f"{SECRET} {SECRET}\n", f"{SECRET}\n{SECRET}\n"])
def test_a_client_takes_one_token_and_nothing_else(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_private(tmp_path / "token", text)
    with pytest.raises(SystemExit):
        cli.main(["--token-file", str(path)])
    err = capsys.readouterr().err
    assert f"the token file {path} must contain one token and nothing else" in err
    assert SECRET not in err
