"""Fixtures that several test modules use."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.support.on_screen import TerminalClient, terminal_environment
from tests.support.rawclient import RawClient
from tests.support.servers import ServerProcess
from tests.support.tls_peer import Certificates
from tests.support.waiting import BOUND

# The functional test modules whose tests run on every transport.
CONFORMANCE = ("log", "asks", "handshake", "limits")

# How long an example takes says nothing about the code: the machine may be busy.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_xdist_auto_num_workers() -> int:
    """Run two tests per core at once, because tests spend half of their time waiting."""
    return 2 * len(os.sched_getaffinity(0))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the protocol tests over TLS as well."""
    conforms = metafunc.module.__name__.removeprefix("tests.functional.test_") in CONFORMANCE
    tls = ["tls"] if conforms else []
    if "anywhere" in metafunc.fixturenames:
        metafunc.parametrize("anywhere", ["ipv4", "ipv6", "unix", *tls], indirect=True)
    if conforms and "server" in metafunc.fixturenames:
        metafunc.parametrize("server", ["tcp", "tls"], indirect=True)
    if conforms and "long_running" in metafunc.fixturenames:
        metafunc.parametrize("long_running", ["tcp", "tls"], indirect=True, scope="session")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Make certificates that tests share and do not change."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """Start a server for eight clients."""
    with ServerProcess(8, tls=_tls(request)) as running:
        yield running


@pytest.fixture(scope="session")
def long_running(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """Start the server behind ``shared``."""
    with ServerProcess(64, tls=_tls(request)) as running:
        yield running


def _tls(request: pytest.FixtureRequest) -> Certificates | None:
    """Return the certificates if the fixture's parameter asks for TLS."""
    if getattr(request, "param", "") != "tls":
        return None
    certificates: Certificates = request.getfixturevalue("certificates")
    return certificates


@pytest.fixture
def shared(long_running: ServerProcess) -> Iterator[ServerProcess]:
    """Return a server that many tests use in turn: each finds it without clients, but its log continues."""
    yield long_running
    with RawClient(long_running.address) as last:
        last.hello("last")
        deadline = time.monotonic() + BOUND
        while last.roster() != ["last"]:
            assert time.monotonic() < deadline, "somebody does not leave"
        last.send(b"BYE\n")
        last.eof()


@pytest.fixture
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    """Start a server for eight clients, with each kind of address in turn."""
    host = "::1" if request.param == "ipv6" else "127.0.0.1"
    unix = tmp_path / "socket" if request.param == "unix" else None
    with ServerProcess(8, "--host", host, unix=unix, tls=_tls(request)) as running:
        yield running


@pytest.fixture
def serve() -> Iterator[Callable[..., ServerProcess]]:
    """Return a function that starts servers, as ``ServerProcess`` does; they are stopped at the end."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(ServerProcess(*arguments, **options))


@pytest.fixture
def connect(serve: Callable[..., ServerProcess]) -> Iterator[Callable[[ServerProcess], RawClient]]:  # noqa: ARG001 - goes first
    """Return a function that connects to a server; connections still open at the end are closed."""
    clients: list[RawClient] = []

    def connect_to(server: ServerProcess) -> RawClient:
        clients.append(RawClient(server.address))
        return clients[-1]

    yield connect_to
    for client in clients:
        client.close()


@pytest.fixture
def join(connect: Callable[[ServerProcess], RawClient]) -> Callable[..., list[RawClient]]:
    """Return a function that joins clients with these names in turn, and waits until each knows of all."""

    def join_all(server: ServerProcess, *names: str) -> list[RawClient]:
        clients: list[RawClient] = []
        for name in names:
            client = connect(server)
            client.hello(name)
            for other in clients:
                other.expect(b"JOIN ")
            clients.append(client)
        return clients

    return join_all


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., TerminalClient]]:
    """Return a function that starts a console on a terminal with these arguments.

    ``changes`` are made to its environment; other arguments are those of ``TerminalClient``.
    """
    environment = terminal_environment(tmp_path / "state")
    with ExitStack() as stack:

        def start_one(
            *arguments: str, changes: Mapping[str, str] | None = None, **options: Any
        ) -> TerminalClient:
            return stack.enter_context(
                TerminalClient(*arguments, env=environment | dict(changes or {}), **options)
            )

        yield start_one


@pytest.fixture
def console(server: ServerProcess, start: Callable[..., TerminalClient]) -> TerminalClient:
    """Start a console that joins first and executes without delay."""
    started = start(server.where, "--name", "me", "--delay", "0")
    started.see(f"connected to {server.where} as me: rank 0 of 1", "0/1>")
    return started


@pytest.fixture
def closed() -> str:
    """Return an address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return "{}:{}".format(*listener.getsockname())
