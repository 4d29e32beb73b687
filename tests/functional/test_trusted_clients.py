"""The client program and library with tokens and TLS: admission, and an operator that joins late."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rankserver import tokens
from rankserver.client import ConnectError, DisconnectedError, connect, tls
from rankserver.reception import TOKEN_PENALTY
from tests.support.paths import ROOT
from tests.support.program import ClientProgram, run
from tests.support.servers import ServerProcess
from tests.support.tls_peer import Certificates, write_private
from tests.support.waiting import BOUND


class Trusted:
    """A server that requires a token and TLS, and the files that clients need for it."""

    def __init__(self, serve: Callable[..., ServerProcess], path: Path) -> None:
        self.certificates = Certificates(path)
        self.tokens: dict[str, str] = {}
        lines = []
        for holder in ("op", "web:5"):
            token, line = tokens.new(holder)
            name = holder.partition(":")[0]
            self.tokens[name] = token
            write_private(path / name, token + "\n")
            lines.append(line)
        write_private(path / "tokens", "\n".join(lines))
        self._path = path
        self.server = serve(8, "--token-file", str(path / "tokens"), *self.certificates.options)
        self.where = self.server.where

    def options(self, name: str) -> list[str]:
        """Return the options of a client program with the token of this holder."""
        return ["--tls", "--tls-ca", str(self.certificates.ca), "--token-file", str(self._path / name)]


@pytest.fixture
def trusted(serve: Callable[..., ServerProcess], tmp_path: Path) -> Trusted:
    return Trusted(serve, tmp_path)


def test_an_operator_that_comes_last_commands_higher_classes(trusted: Trusted) -> None:
    with ClientProgram(trusted.where, *trusted.options("web"), "--name", "web-1", "--delay", "0") as agent:
        assert agent.line() == f"connected to {trusted.where} as web-1: rank 0 of 1"
        for _ in range(2):
            code, lines, err = run(trusted.where, *trusted.options("op"), "--name", "op", "-c", "uptime")
            assert (code, lines[-1].partition(" ")[2]) == (0, "executed by 1 of 1")
            assert "as op: rank 0 of 2" in err
        assert agent.line() == "rank is now 1 of 2"


def test_the_environment_names_the_token_file(trusted: Trusted) -> None:
    *options, _, path = trusted.options("op")
    code, lines, _ = run(trusted.where, *options, env=os.environ | {"RANKSERVER_TOKEN_FILE": path})
    assert (code, len(lines)) == (0, 1)


@pytest.mark.parametrize("reconnect", [(), ("--reconnect",)])
def test_a_wrong_token_ends_it_for_good_after_the_penalty(
    trusted: Trusted, tmp_path: Path, reconnect: tuple[str, ...]
) -> None:
    write_private(tmp_path / "wrong", "guessed\n")
    begin = time.monotonic()
    code, lines, err = run(trusted.where, *trusted.options("wrong"), *reconnect, "-c", "x")
    assert (code, lines) == (4, [])
    assert err.startswith("disconnected: auth ")
    assert time.monotonic() - begin >= TOKEN_PENALTY


# The client program on a machine whose loopback is taken for a network.
ON_A_NETWORK = """
import sys
from client import cli
from rankserver.client import connection
connection.is_loopback_address = lambda address: False
sys.exit(cli.main())
"""


@pytest.mark.parametrize("reconnect", [(), ("--reconnect",)])
def test_a_token_is_not_sent_without_tls_unless_insecure(
    serve: Callable[..., ServerProcess], tmp_path: Path, reconnect: tuple[str, ...]
) -> None:
    path = write_private(tmp_path / "token", "secret\n")
    server = serve(2, "--token-file", str(path), "--log-level", "debug")
    command = [sys.executable, "-c", ON_A_NETWORK, server.where, "--token-file", str(path), *reconnect]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BOUND, check=False)
    assert (ended.returncode, ended.stdout) == (3, "")
    says = f"cannot connect to {server.where}: the token would be sent to 127.0.0.1 without TLS"
    assert ended.stderr.startswith(says)
    assert "secret" not in ended.stderr
    command.append("--insecure")
    ended = subprocess.run(
        command, cwd=ROOT, input="", capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"connected to {server.where} as ")


def test_a_server_without_a_valid_certificate_is_rejected(trusted: Trusted, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Certificates(tmp_path / "other")
    code, lines, err = run(trusted.where, "--tls", "--tls-ca", str(other.ca))
    assert (code, lines) == (3, [])
    assert err.startswith(f"cannot connect to {trusted.where}: the server's certificate is not accepted: ")


def test_a_tls_mismatch_is_explained(trusted: Trusted, server: ServerProcess) -> None:
    assert run(trusted.where)[0] == 4
    code, _, err = run(server.where, "--tls", "--tls-ca", str(trusted.certificates.ca))
    assert code == 3
    assert err.startswith(f"cannot connect to {server.where}: TLS: ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tls-ca", "x"], "--tls-ca, --tls-cert and --tls-key need --tls"),
        (["--tls", "--tls-key", "x"], "--tls-key needs --tls-cert"),
        (["--tls", "--tls-ca", "none"], "cannot use the certificates in none: No such file or directory"),
        (["--token-file", "none"], "cannot read the token file none: No such file or directory"),
        (["--token-file", os.devnull], f"the token file {os.devnull} is not a regular file"),
    ],
)
def test_unusable_files_are_named(options: list[str], words: str) -> None:
    expected = f"rankserver-client: {words} (see rankserver-client --help)\n"
    assert run(*options) == (2, [], expected)


def test_the_api_takes_a_token_and_a_context(trusted: Trusted) -> None:
    async def main() -> None:
        context = tls.context(str(trusted.certificates.ca))
        op, web = (
            connect(trusted.where, name=name, token=trusted.tokens[name], tls=context)
            for name in ("op", "web")
        )
        web.executes(lambda command: command.text.upper())
        async with web, op:
            assert [(member.name, member.rank_class) for member in await web.who()] == [("op", 0), ("web", 5)]
            asked = await op.ask("x" * 60_000)
            assert asked.ok
            assert asked.by_rank[1].out == "X" * len(asked.by_rank[1].out) != ""
            for _ in range(3):
                await asyncio.gather(*(op.cmd(f"command {number}") for number in range(1_000)))
        with pytest.raises(DisconnectedError, match=r"^auth "):
            async with connect(trusted.where, tls=context):
                pass
        with pytest.raises(ConnectError, match="certificate"):
            async with connect(trusted.where, token=trusted.tokens["op"], tls=tls.context()):
                pass

    asyncio.run(asyncio.wait_for(main(), 2 * BOUND))


def test_the_end_of_a_server_reaches_a_client_through_tls(trusted: Trusted) -> None:
    async def main() -> None:
        context = tls.context(str(trusted.certificates.ca))
        async with connect(trusted.where, token=trusted.tokens["op"], tls=context) as client:
            events = aiter(client)
            trusted.server.process.terminate()
            with pytest.raises(DisconnectedError, match=r"^shutdown "):
                async for _ in events:
                    pass

    asyncio.run(asyncio.wait_for(main(), BOUND))
