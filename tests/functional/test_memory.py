"""Little memory: strangers are refused and closed, members are served, and the server never ends."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.rawclient import RawClient
from tests.support.servers import ServerProcess
from tests.support.tls_peer import Certificates, SlowHandshake
from tests.support.waiting import BOUND

Join = Callable[..., list[RawClient]]
Serve = Callable[..., ServerProcess]

MIB = 1024 * 1024
STRANGERS = 100
# The part of a HELLO that each stranger sends, which the server has to keep.
PART = b'HELLO {"more":"%s' % (b"x" * 60_000)


def leave(server: ServerProcess, count: int) -> None:
    """Let the server allocate only so many bytes more than it has."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + count
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def relieve(server: ServerProcess) -> None:
    """Let the server allocate as much as it likes."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, unlimited)


@pytest.mark.parametrize("left", [0, 2 * MIB, 12 * MIB])
@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_with_little_memory_members_are_served_and_strangers_refused(
    serve: Serve, join: Join, certificates: Certificates, transport: str, left: int
) -> None:
    server = serve(2 * STRANGERS, tls=certificates if transport == "tls" else None)
    sender, other = join(server, "a", "b")
    leave(server, left)
    with contextlib.ExitStack() as stack:
        for number in range(STRANGERS):
            sock = stack.enter_context(socket.create_connection((server.host, server.port), BOUND))
            with contextlib.suppress(OSError):
                if transport == "tls":
                    sock.sendall(SlowHandshake(sock, certificates.client).hello)
                else:
                    sock.sendall(PART)
            sender.send(b"CMD %d\n" % number)
            assert other.line().endswith(b" 0 %d" % number)
    assert "memory is low" in server.log()
    relieve(server)
    (late,) = join(server, "late")
    assert other.line().startswith(b"JOIN ")
    late.send(b"BYE\n")
    assert server.process.poll() is None
