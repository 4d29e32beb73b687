from __future__ import annotations

import os
import pty
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import cli
from client.cli import main
from tests.support.tls_peer import write_private


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANKSERVER", raising=False)


@pytest.fixture
def keyboard() -> Iterator[None]:
    """Replace standard input by a terminal."""
    ours, theirs = pty.openpty()
    kept = os.dup(0)
    os.dup2(theirs, 0)
    yield
    os.dup2(kept, 0)
    for descriptor in (ours, theirs, kept):
        os.close(descriptor)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the message about bad usage, which must be a single line."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    start, hint = "rankserver-client: ", " (see rankserver-client --help)\n"
    assert err.startswith(start)
    assert err.endswith(hint)
    assert err.count("\n") == 1
    return err.removeprefix(start).removesuffix(hint)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a:b"], "address 'a:b' is not HOST, HOST:PORT, [IPV6]:PORT or unix:PATH"),
        (["a", "b"], "unrecognized arguments: b"),
        (["--name", "a b"], "argument --name: 'a b' is not 1 to 64 characters of A-Z a-z 0-9 . _ : @ -"),
        (["-c"], "argument -c/--command: expected one argument"),
        (["--wait-for", "-1"], "argument --wait-for: '-1' is not a whole number of at least 0"),
        (["--wait-for", "all"], "argument --wait-for: 'all' is not a whole number of at least 0"),
        (
            ["--answer-timeout", "-1"],
            "argument --answer-timeout: '-1' is not a number of seconds of at least 0",
        ),
        (["--jobs", "0"], "argument --jobs: '0' is not a whole number from 1 to 1000"),
        (["--jobs", "1001"], "argument --jobs: '1001' is not a whole number from 1 to 1000"),
        (["--delay", "-1"], "argument --delay: '-1' is not a number of seconds of at least 0"),
        (["--delay", "soon"], "argument --delay: 'soon' is not a number of seconds of at least 0"),
        (["--delay", "inf"], "argument --delay: 'inf' is not a number of seconds of at least 0"),
        (["--timeout", "nan"], "argument --timeout: 'nan' is not a number of seconds of at least 0"),
        (["--output-limit", "-1"], "argument --output-limit: '-1' is not a whole number of at least 0"),
        (
            ["--max-processes", "-1"],
            "argument --max-processes: '-1' is not a whole number from 0 to 4194304",
        ),
        (["--exec", "perl"], "argument --exec: 'perl' is not simulate, program, shell or handler PATH"),
        (["--exec", "handler"], "argument --exec: 'handler' is not simulate, program, shell or handler PATH"),
        (["--exec", "shell x"], "argument --exec: 'shell x' is not simulate, program, shell or handler PATH"),
        (["--exec", "handler", "/no"], "the handler '/no' is not a file"),
        (["--exec", "handler", "/etc/passwd"], "the handler '/etc/passwd' is not executable"),
        (["--exec", "shell", "--workdir", "/no"], "the working directory '/no' is not a directory"),
        (
            ["--exec", "program", "--allow", "/no"],
            "cannot read the allow file '/no': No such file or directory",
        ),
    ],
)
def test_a_bad_value_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert complaint(capsys, *arguments) == words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *(
            (option.split(), f"{option.split()[0]} needs --exec program, --exec shell or --exec handler PATH")
            for option in (
                "--allow-all",
                "--timeout 0",
                "--output-limit 0",
                "--workdir .",
                "--max-processes 0",
            )
        ),
        (["--allow", "f"], "--allow needs --exec program or --exec handler PATH"),
        (["--exec", "shell", "--delay", "0"], "--delay needs --exec simulate"),
        (
            ["--exec", "program", "--allow", "f", "--allow-all"],
            "argument --allow-all: not allowed with argument --allow",
        ),
        (
            ["--exec", "shell", "--allow", "f"],
            "--exec shell needs --allow-all: patterns cannot restrict what a shell does",
        ),
        (["--json", "-b"], "-b and --diff do not work with --json, which prints each answer as it comes"),
        (["--json", "--diff"], "-b and --diff do not work with --json, which prints each answer as it comes"),
    ],
)
def test_contradictory_or_useless_options_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert complaint(capsys, *arguments) == words


@pytest.mark.usefixtures("keyboard")
def test_wait_for_is_refused_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--wait-for needs -c, or commands from a pipe or a file"
    assert complaint(capsys, "--wait-for", "1") == words


def test_a_bad_address_in_the_environment_is_bad_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANKSERVER", "a:b")
    assert complaint(capsys).startswith("address 'a:b' is not ")


def test_help_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("usage: rankserver-client [options] [HOST[:PORT] | unix:PATH]\n")
    for option in ("-c", "--wait-for N", "--answer-timeout S", "-b", "--diff", "--json", "--reconnect"):
        assert f"\n  {option}" in out
    for option in (
        "--token-file FILE",
        "--tls",
        "--insecure",
        "--stay",
        "--exec KIND",
        "--allow FILE",
        "--allow-all",
        "--timeout S",
        "--jobs N",
    ):
        assert f"\n  {option}" in out


@pytest.mark.parametrize(
    ("argv", "joined"),
    [
        (["-c", "-x"], ["--command=-x"]),
        (["--command", "--json"], ["--command=--json"]),
        (["-c", "-c", "x"], ["--command=-c", "x"]),
        (["-c", "a", "-c", "b", "here"], ["--command=a", "--command=b", "here"]),
        (["-c", "--exec", "handler", "x"], ["--command=--exec", "handler", "x"]),
        (["-c", ""], ["--command="]),
        (["-c", "--"], ["--command=--"]),
        (["-c"], ["-c"]),
        (["--exec", "handler", "a b", "here"], ["--exec=handler a b", "here"]),
        (["--exec", "handler", "-x"], ["--exec=handler -x"]),
        (["--exec", "handler"], ["--exec", "handler"]),
        (["--exec", "shell", "here"], ["--exec", "shell", "here"]),
        (["--", "-c", "x"], ["--", "-c", "x"]),
        ([], []),
    ],
)
def test_an_option_and_its_value_are_joined(argv: list[str], joined: list[str]) -> None:
    assert cli._unambiguous(argv) == joined


@pytest.mark.parametrize("command", ["--", "-", "-c", "---", "", "-- x", "="])
def test_any_text_may_be_a_command(command: str) -> None:
    options = cli._parser().parse_args(cli._unambiguous(["-c", command, "-c", "x", "here"]))
    assert (options.commands, options.address) == ([command, "x"], "here")


def test_two_dashes_are_a_value_like_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._parser().parse_args(["--workdir=--"]).workdir == "--"
    assert complaint(capsys, "--jobs=--") == "argument --jobs: '--' is not a whole number from 1 to 1000"


def test_a_byte_order_mark_is_not_part_of_a_token(tmp_path: Path) -> None:
    write_private(tmp_path / "token", "\ufeffsecret\n")
    assert cli._token(cli._parser().parse_args(["--token-file", str(tmp_path / "token")])) == "secret"


def test_an_executor_is_made_of_the_options(tmp_path: Path) -> None:
    handler = tmp_path / "a handler"
    handler.write_text("#!/bin/sh\n")
    handler.chmod(0o700)
    arguments = ["--exec", "handler", str(handler), "--workdir", str(tmp_path), "--timeout", "5"]
    for given, limit, processes in (
        ([], 32_768, 512),
        (["--output-limit", "0", "--max-processes", "0"], 0, 0),
    ):
        options = cli._parser().parse_args(cli._unambiguous([*arguments, *given]))
        cli._check(options)
        executor = vars(cli._executor(options))
        assert executor["_path"] == str(handler)
        terms = executor["_options"]
        assert (terms.workdir, terms.timeout, terms.output_limit) == (str(tmp_path), 5, limit)
        assert terms.max_processes == processes
    assert vars(cli._executor(cli._parser().parse_args([])))["_delay"] == 1
    assert vars(cli._executor(cli._parser().parse_args(["--delay", "0"])))["_delay"] == 0
