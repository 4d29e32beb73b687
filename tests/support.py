"""What several test modules share: the real server as a process, and a plain client for it.

Everything waits for a thing to happen, with ``BOUND`` as the limit; nothing sleeps.
"""

from __future__ import annotations

import json
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any, Final

from rankserver import protocol

ROOT: Final = Path(__file__).resolve().parent.parent
BOUND: Final = 10.0  # seconds; generous, because a loaded machine is slow and a pass never waits for it
READ_SIZE: Final = 65_536

Address = tuple[str, int] | str  # host and port, or the path of a Unix socket


class Server:
    """The real server, from the moment that it accepts until the end of the ``with``.

    Args:
        capacity: how many clients it accepts.
        options: further command-line options, such as ``"--heartbeat", "1"``.
    """

    def __init__(self, capacity: int, *options: str) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe that nobody reads would fill up
        command = [sys.executable, "-m", "rankserver", str(capacity), "--port", "0", *options]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=self._stderr, bufsize=0
        )
        try:
            line = self._first_line()
            host, _, port = line.removeprefix("listening on ").rpartition(":")
            assert line.startswith("listening on ") and port.isdecimal(), line  # noqa: PT018
        except BaseException:
            self.kill()
            raise
        self.host = host.strip("[]")
        self.port = int(port)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self.host, self.port

    def log(self) -> str:
        """Return what it has written to stderr so far."""
        self._stderr.seek(0)
        return self._stderr.read().decode()

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Ask it to stop, wait until it has, and return its exit code; again does no harm."""
        if self.process.returncode is None:
            self.process.send_signal(signum)
            try:
                self.process.wait(BOUND)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        return self.process.returncode

    def kill(self) -> None:
        """End it without a goodbye."""
        self.process.kill()
        self.process.wait()

    def _first_line(self) -> str:
        assert self.process.stdout is not None
        line = read_line(self.process.stdout)
        assert line.endswith(b"\n"), f"the server did not start: {line!r}\n{self.log()}"
        return line.decode().rstrip("\n")


class RawClient:
    """A client that knows nothing but lines; what it receives is checked by the test that uses it.

    Args:
        address: where to connect to.
        bound: seconds that any one read or write may take; ``TimeoutError`` after that.
    """

    def __init__(self, address: Address, *, bound: float = BOUND) -> None:
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(bound)
            self.sock.connect(address)
        else:
            self.sock = socket.create_connection(address, bound)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection without a BYE."""
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send ``data`` as it is: the caller adds the LF."""
        self.sock.sendall(data)

    def line(self) -> bytes:
        """Return the next line without its LF."""
        while b"\n" not in self._received:
            data = self.sock.recv(READ_SIZE)
            assert data, f"the connection was closed; what came last: {self._received!r}"
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line

    def lines(self, count: int) -> list[bytes]:
        """Return the next ``count`` lines without their LF."""
        return [self.line() for _ in range(count)]

    def expect(self, prefix: bytes) -> bytes:
        """Return the next line, which must start with ``prefix``."""
        line = self.line()
        assert line.startswith(prefix), f"expected {prefix!r}, got {line!r}"
        return line

    def hello(self, name: str | None = None) -> dict[str, Any]:
        """Join, and return the fields of WELCOME; the banner may have been read before."""
        self.send(protocol.hello(name=name))
        line = self.line()
        if line.startswith(b"INFO "):
            line = self.line()
        assert line.startswith(b"WELCOME "), line
        fields = json.loads(line.removeprefix(b"WELCOME "))
        assert isinstance(fields, dict)
        return fields

    def eof(self) -> None:
        """Check that the server has closed the connection and nothing is left to read."""
        try:
            rest = self._received + self.sock.recv(READ_SIZE)
        except ConnectionResetError:  # an end as well: we had sent what it never read
            rest = self._received
        assert not rest, rest


def read_line(stream: IO[bytes], bound: float = BOUND) -> bytes:
    """Return the next line of an unbuffered pipe, LF included, or what came before its end or ``bound``."""
    deadline = time.monotonic() + bound
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while not line.endswith(b"\n") and selector.select(max(0.0, deadline - time.monotonic())):
            byte = stream.read(1)
            if not byte:
                break
            line += byte
    return line
