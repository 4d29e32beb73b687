"""What several test modules share: the real server as a process, and a plain client for it.

Everything waits for a thing to happen, with ``BOUND`` as the limit; nothing sleeps.
"""

from __future__ import annotations

import json
import os
import selectors
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from rankserver.wire import protocol
from tests.support.tls_peer import Certificates, TlsAddress, TlsSocket

ROOT: Final = Path(__file__).resolve().parent.parent.parent
# Seconds; generous, because a loaded machine is slow and a pass never waits for it. Valgrind is slower still.
BOUND: Final = 10.0 * float(os.environ.get("TEST_SLOWNESS", "1"))
UNDER: Final = shlex.split(
    os.environ.get("TEST_SERVER_UNDER", "")
)  # what the server runs under, such as Valgrind
READ_SIZE: Final = 65_536

Address = tuple[str, int] | TlsAddress | str  # host and port, or the path of a Unix socket


class Server:
    """The real server, from the moment that it accepts until the end of the ``with``.

    Args:
        capacity: how many clients it accepts.
        options: further command-line options, such as ``"--heartbeat", "1"``.
        unix: the path of a Unix socket to listen on as well; it is then the ``address``.
        tls: the certificates that it is to use, if it is to speak TLS; they are part of the ``address``.
        cwd: the directory to run in.
        stderr: the descriptor that is its standard error, if it is not to be the file behind ``log``.
    """

    def __init__(
        self,
        capacity: int,
        *options: str,
        unix: Path | None = None,
        tls: Certificates | None = None,
        cwd: Path = ROOT,
        stderr: int | None = None,
    ) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe that nobody reads would fill up
        command = [*UNDER, sys.executable, "-m", "rankserver", str(capacity), "--port", "0", *options]
        if unix is not None:
            command += ["--unix", str(unix)]
        if tls is not None:
            command += tls.options
        self.unix = unix
        self.tls = tls
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=self._stderr if stderr is None else stderr,
            bufsize=0,
        )
        try:
            line = self.line()
            host, _, port = line.removeprefix("listening on ").rpartition(":")
            assert line.startswith("listening on ") and port.isdecimal(), line  # noqa: PT018
            if unix is not None:
                line = self.line()
                assert line == f"listening on unix:{unix}", line
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
    def address(self) -> Address:
        """Where it listens."""
        if self.tls is not None:
            return TlsAddress(self.host, self.port, self.tls.client)
        return (self.host, self.port) if self.unix is None else str(self.unix)

    @property
    def where(self) -> str:
        """Where it listens, as one tells a client."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.unix is None else f"unix:{self.unix}"

    def line(self) -> str:
        """Return the next line that it writes to stdout."""
        assert self.process.stdout is not None
        line = read_line(self.process.stdout)
        assert line.endswith(b"\n"), f"the server wrote {line!r}\n{self.log()}"
        return line.decode().rstrip("\n")

    def log(self) -> str:
        """Return what it has written to stderr so far."""
        self._stderr.seek(0)
        return self._stderr.read().decode()

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Ask it to stop, wait until it has, and return its exit code; again does no harm."""
        if self.process.returncode is None:
            self.process.send_signal(signum)
        return self.wait()

    def wait(self) -> int:
        """Wait until it has stopped, and return its exit code."""
        try:
            return self.process.wait(BOUND)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hold the server meanwhile, so that it finds all that happens in one turn of its loop."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a goodbye."""
        self.process.kill()
        self.process.wait()


class RawClient:
    """A client that knows nothing but lines; what it receives is checked by the test that uses it.

    Args:
        address: where to connect to.
        bound: seconds that any one read or write may take; ``TimeoutError`` after that.
    """

    def __init__(self, address: Address, *, bound: float = BOUND) -> None:
        self.sock: Any  # a socket, or what speaks TLS on one
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
        self._lines: deque[bytes] = deque()  # complete, and not asked for yet
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
        """Send ``data`` as it is: the caller adds the LF."""
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
        """Return the lines that the server has for this client by the time that it handles a PING."""
        self.send(b"PING settle\n")
        return list(iter(self.line, b"PONG settle"))

    def roster(self) -> list[str]:
        """Return the names of all clients by rank, and forget the lines before."""
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
        """Return the lines until the server closes the connection, which must end with a whole one.

        With TLS, the server must have announced that end, too.
        """
        while self._receive():
            pass
        if isinstance(self.sock, TlsSocket) and not self._was_reset:
            assert self.sock.said_goodbye, "the server closed without a close_notify"
        assert not self._partial, f"the stream ends in the middle of a line: {self._partial!r}"
        lines, self._lines = self._lines, deque()
        return list(lines)

    def eof(self) -> None:
        """Check that the server has closed the connection and nothing is left to read."""
        rest = self.rest()
        assert not rest, rest

    def _receive(self) -> bool:
        try:
            data = self.sock.recv(READ_SIZE)
        except ConnectionResetError:  # an end as well: we had sent what it never read
            self._was_reset = True
            return False
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._lines.extend(lines)
        return bool(data)


def fields_of(line: bytes) -> dict[str, Any]:
    """Return the JSON object behind the verb of a line."""
    fields = json.loads(line.partition(b" ")[2])
    assert isinstance(fields, dict)
    return fields


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
