"""The command line of the program, as far as it needs no server."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

from client.cli import main
from rankserver import __version__


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"rankserver-client {__version__}\n"


def test_the_installed_command_is_this_program() -> None:
    (script,) = entry_points(group="console_scripts", name="rankserver-client")
    assert script.load() is main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--timeout", "1"], "--timeout needs --exec program, --exec shell or --exec handler PATH"),
        (["--allow", "f"], "--allow needs --exec program or --exec handler PATH"),
        (["--exec", "shell", "--allow-all", "--delay", "1"], "--delay needs --exec simulate"),
        (["--json", "-b"], "-b and --diff do not work with --json, which prints each answer as it comes"),
        (["--tls-key", "k"], "--tls-ca, --tls-cert and --tls-key need --tls"),
        (["--exec", "magic"], "'magic' is not simulate, program, shell or handler PATH"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
