"""Row: a process that only connects, while clients with a slow network begin their TLS handshakes."""

from __future__ import annotations

import socket
import ssl
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from harness import Program

from tests.abuse import connector
from tests.abuse.clients import MAX_READ, MAX_WAIT, pass_time
from tests.abuse.outcome import RowOutcome, latency
from tests.abuse.probe import trusting
from tests.abuse.transports import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness import ServerProgram

    from tests.abuse.subjects import Subject

# The most connections that the process keeps open; to open another one, it closes the oldest.
MAX_OPEN: Final = 2000

# Where clients connect from: the address of the flood, as behind a NAT, and another one.
SOURCES: Final = ("127.0.0.1", "127.0.0.2")


def tls_flood(
    _subject: Subject, clients: int = 20, delay: float = 0.1, options: Sequence[str] = ()
) -> RowOutcome:
    """Let clients join over a network with ``delay`` seconds of delay, while a process only connects."""
    outcome = RowOutcome()
    with serving("tls", 64, options) as endpoint, endpoint.probing() as probe:
        server = endpoint.server
        arguments = [server.address.host, str(server.address.port), str(MAX_OPEN)]
        with Program("the connector", [sys.executable, connector.__file__, *arguments]) as flood:
            flood.event()
            joined = {
                source: sum(_joins(server, source, delay) for _ in range(clients)) for source in SOURCES
            }
            opened = flood.ask("end")["connections"]
    for source, count in joined.items():
        outcome.check(count == clients, f"{clients - count} of {clients} clients at {source} could not join")
    outcome.figure = (
        f"{opened:,} connections; "
        + ", ".join(f"{count} of {clients} from {source} joined" for source, count in joined.items())
        + f"; others' {latency(probe.steady_times)}"
    )
    return outcome


def _joins(server: ServerProgram, source: str, delay: float) -> bool:
    """Let a client join that sends each of its answers ``delay`` seconds late; return whether it does.

    Its first bytes follow the connection at once, as they do on a slow network: the delay is on the way.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting().wrap_bio(incoming, outgoing)
    _try(tls.do_handshake)
    with socket.socket() as sock, suppress(OSError):
        sock.settimeout(MAX_WAIT)
        sock.bind((source, 0))
        sock.connect(server.address)
        sock.sendall(outgoing.read())
        is_secure = False
        received = b""
        while b"WELCOME " not in received:
            data = sock.recv(MAX_READ)
            if not data:
                return False
            incoming.write(data)
            if not is_secure and _try(tls.do_handshake):
                is_secure = True
                tls.write(b"HELLO\n")
            elif is_secure:
                received += _decrypted(tls)
            if outgoing.pending:
                pass_time(server, delay)
                sock.sendall(outgoing.read())
        return True
    return False


def _try(step: Callable[[], object]) -> bool:
    """Take a step of a handshake; return False if it needs more from the server."""
    try:
        step()
    except ssl.SSLWantReadError:
        return False
    return True


def _decrypted(tls: ssl.SSLObject) -> bytes:
    """Return what has arrived."""
    data = b""
    with suppress(ssl.SSLWantReadError):
        while part := tls.read(MAX_READ):
            data += part
    return data
