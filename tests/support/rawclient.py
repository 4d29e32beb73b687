"""A client that sends and receives lines without interpreting them."""

from __future__ import annotations

import json
import socket
import struct
from collections import deque
from typing import Any, Final

from rankserver.wire import protocol
from tests.support.tls_peer import TlsAddress, TlsSocket
from tests.support.waiting import BOUND

# The most bytes that one call receives.
READ_SIZE: Final = 65_536

# Host and port, or the path of a Unix socket.
Address = tuple[str, int] | TlsAddress | str


class RawClient:
    """A client that only knows lines; tests check the lines that it receives.

    Args:
        address: the address to connect to.
        bound: the most seconds of a read or write; after that it raises ``TimeoutError``.
    """

    def __init__(self, address: Address, *, bound: float = BOUND) -> None:
        # A socket, or a TlsSocket.
        self.sock: Any
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(bound)
            self.sock.connect(address)
        else:
            self.sock = socket.create_connection(address[:2], bound)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if isinstance(address, TlsAddress):
            self.sock = TlsSocket(self.sock, address.context)
            self.sock.handshake()
        # Complete lines that were not returned yet.
        self._lines: deque[bytes] = deque()
        self._partial = b""
        self._was_reset = False

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection without a BYE."""
        self.sock.close()

    def abort(self) -> None:
        """Close the connection so that the server gets a reset (on TCP)."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send ``data`` unchanged; the caller adds the LF."""
        self.sock.sendall(data)

    def line(self) -> bytes:
        """Return the next line without its LF."""
        while not self._lines:
            assert self._receive(), f"the connection was closed; what came last: {self._partial!r}"
        return self._lines.popleft()

    def lines(self, count: int) -> list[bytes]:
        """Return the next ``count`` lines without their LF."""
        return [self.line() for _ in range(count)]

    def expect(self, prefix: bytes) -> bytes:
        """Return the next line, which must start with ``prefix``."""
        line = self.line()
        assert line.startswith(prefix), f"expected {prefix!r}, got {line!r}"
        return line

    def hello(self, name: str | None = None, *, token: str | None = None) -> dict[str, Any]:
        """Join, and return the fields of WELCOME; the banner may have been read before."""
        self.send(protocol.hello(name=name, token=token))
        line = self.line()
        if line.startswith(b"INFO "):
            line = self.line()
        assert line.startswith(b"WELCOME "), line
        fields = json.loads(line.removeprefix(b"WELCOME "))
        assert isinstance(fields, dict)
        return fields

    def settle(self) -> list[bytes]:
        """Send a PING, and return the lines that come before its answer."""
        self.send(b"PING settle\n")
        return list(iter(self.line, b"PONG settle"))

    def roster(self) -> list[str]:
        """Return the names of all clients by rank; discard lines before the roster."""
        self.settle()
        self.send(protocol.who())
        names: list[str] = []
        line = next(line for line in iter(self.line, None) if line.startswith(b"ROSTER "))
        while True:
            fields = fields_of(line)
            assert fields["from"] == len(names)
            assert [member["rank"] for member in fields["clients"]] == list(
                range(len(names), len(names) + len(fields["clients"]))
            )
            names += [member["name"] for member in fields["clients"]]
            if len(names) == fields["total"]:
                return names
            line = self.expect(b"ROSTER ")

    def rest(self) -> list[bytes]:
        """Return the lines until the server closes the connection; the last must be complete.

        With TLS, the server must also have announced the end.
        """
        while self._receive():
            pass
        if isinstance(self.sock, TlsSocket) and not self._was_reset:
            assert self.sock.said_goodbye, "the server closed without a close_notify"
        assert not self._partial, f"the stream ends in the middle of a line: {self._partial!r}"
        lines, self._lines = self._lines, deque()
        return list(lines)

    def eof(self) -> None:
        """Check that the server has closed the connection and that nothing is left to read."""
        rest = self.rest()
        assert not rest, rest

    def _receive(self) -> bool:
        try:
            data = self.sock.recv(READ_SIZE)
        # This is an end as well, if the server did not read all that we sent.
        except ConnectionResetError:
            self._was_reset = True
            return False
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._lines.extend(lines)
        return bool(data)


def fields_of(line: bytes) -> dict[str, Any]:
    """Return the JSON object after the verb of a line."""
    fields = json.loads(line.partition(b" ")[2])
    assert isinstance(fields, dict)
    return fields
