"""Clients for rows: they connect, join, read lines, and check what they get. One thread reads many of them.

They share only the rules for ranks with the server's code, and nothing with the real client.
"""

from __future__ import annotations

import json
import os
import resource
import select
import selectors
import socket
import ssl
import struct
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from harness import BenchmarkError

from rankserver.wire import grammar, protocol, ranking
from tests.abuse import subjects
from tests.abuse.subjects import RANK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from harness import HostPort, ServerProgram
    from typing_extensions import Self

    from tests.abuse.subjects import Subject

# Seconds that anything that is not measured may take; this is generous because a loaded machine is slow.
MAX_WAIT: Final = 60.0

# The bytes of one read.
MAX_READ: Final = 262_144

# Clients that connect before the crowd waits for them to have joined.
BATCH: Final = 250

# Seconds between two checks whether all is done.
ROUND: Final = 0.05

# Seconds between two looks at the server's descriptors: if their number is the same, it has settled.
SETTLE: Final = 0.2

# What a socket that does not block raises if it cannot send or receive now.
NOT_NOW: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

# The value of SO_LINGER that makes closing send an RST.
RESET: Final = struct.pack("ii", 1, 0)

# The bytes of a segment. A sender's buffer grows with the segment size; on the loopback it would reach 2 MiB.
SMALL_SEGMENT: Final = 536

# Approximate bytes that the system buffers for a client that does not read.
SMALL_BUFFER: Final = 4096


class LineClient:
    """A client of a server that keeps the texts of the commands it gets.

    Args:
        subject: the kind of server.
        address: where it listens: a host and port, or the path of a Unix socket.
        hello: the first bytes to send; by default those that make it receive commands.
        receive_buffer: bytes of its receive buffer, 0 for the default. If set, the server's buffer for it is
            small, too.
        tls: the context, if it uses TLS.

    Attributes:
        texts: the texts of the commands that it got.
        ended: whether the connection is over.
    """

    def __init__(
        self,
        subject: Subject,
        address: HostPort | str,
        *,
        hello: bytes | None = None,
        receive_buffer: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.subject = subject
        self.hello = subject.joining if hello is None else hello
        self.sock = connected(address, receive_buffer)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock)
        self.texts: list[bytes] = []
        self.ended = False
        self.joined = False
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def join(self) -> None:
        """Say hello and wait until it has joined."""
        self.send(self.hello)
        self.until(lambda: self.joined, "join")

    def send(self, data: bytes) -> None:
        """Send all of ``data``."""
        self.sock.sendall(data)

    def command(self, text: bytes) -> None:
        """Send a command."""
        self.send(self.subject.command(text))

    def abort(self) -> None:
        """Close the connection with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.close()

    def close(self) -> None:
        """Close the connection without a BYE. Further calls do nothing."""
        self.ended = True
        self.sock.close()

    def read(self, most: int = MAX_READ) -> bool:
        """Read once, and handle what came; return whether there may be more."""
        try:
            data = self.sock.recv(most)
        except NOT_NOW:
            return True
        except OSError:
            data = b""
        if not data:
            self.ended = True
            return False
        *lines, self._rest = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n")
        if not self.joined:
            self.joined = any(self.subject.has_joined(line) for line in lines)
        if b"PING" in lines:
            self.send(b"PONG\r\n")
        self.take(lines)
        return True

    def take(self, lines: list[bytes]) -> None:
        """Handle complete lines."""
        self.texts += self.subject.texts(lines)

    def until(self, done: Callable[[], bool], what: str) -> None:
        """Read until ``done()`` is true.

        Raises:
            BenchmarkError: if the connection ends before, or ``MAX_WAIT`` seconds pass.
        """
        deadline = time.monotonic() + MAX_WAIT
        while not done():
            if not self.read() or time.monotonic() > deadline:
                raise BenchmarkError(f"a client could not {what}")


class Checker(LineClient):
    """A client that compares each command with the next expected one.

    Attributes:
        expected: all expected commands; set after joining.
        got: the number of commands that have come.
        wrong: whether any text differed.
    """

    expected: list[bytes] = []  # noqa: RUF012 - never changed
    got = 0
    wrong = False

    def take(self, lines: list[bytes]) -> None:
        texts = self.subject.texts(lines)
        self.wrong = self.wrong or texts != self.expected[self.got : self.got + len(texts)]
        self.got += len(texts)


class Follower(LineClient):
    """A client of rankserver that reads the log by docs/protocol.md, and records all violations.

    Attributes:
        me: its rank.
        clients: the number of clients.
        seq: the number of the last log frame.
        commands: seq, rank and text of each CMD and ASK.
        private: its private lines, except PINGs.
        wrong: descriptions of the violations.
    """

    def __init__(self, address: HostPort, name: str = "", **options: Any) -> None:
        hello = protocol.hello(name=name) if name else b"HELLO\n"
        super().__init__(RANK, address, hello=options.pop("hello", hello), **options)
        self.name = name
        self.me = self.clients = self.seq = 0
        self.commands: list[tuple[int, int, bytes]] = []
        self.private: list[bytes] = []
        self.wrong: list[str] = []

    def take(self, lines: list[bytes]) -> None:
        for line in lines:
            verb, _, rest = line.partition(b" ")
            if verb in (b"CMD", b"ASK"):
                seq, rank, text = rest.split(b" ", 2)
                self._count(int(seq), line)
                self.commands.append((int(seq), int(rank), text))
            elif verb in (b"JOIN", b"LEFT"):
                seq, ranks = rest.split(b" ")
                self._count(int(seq), line)
                change = ranking.joined if verb == b"JOIN" else ranking.left
                self.me, self.clients = change(self.me, self.clients, grammar.parse_ranks(ranks.decode()))
            elif verb == b"WELCOME":
                fields = json.loads(rest)
                self.me, self.clients, self.seq = fields["rank"], fields["clients"], fields["seq"]
            elif verb == b"PING" and rest:
                self.send(b"PONG " + rest + b"\n")
            elif verb != b"PING":
                self.private.append(line)

    def ping(self) -> None:
        """Wait until the server has answered a PING, and so has taken at least one more turn."""
        self.private.clear()
        self.send(b"PING turn\n")
        self.until(lambda: b"PONG turn" in self.private, "get a PONG")

    def roster(self) -> list[str]:
        """Return all names by rank, from the server's roster; handle other lines that come first."""
        self.private.clear()
        self.send(b"WHO\nPING roster\n")
        self.until(lambda: b"PONG roster" in self.private, "get the roster")
        parts = [json.loads(line[7:]) for line in self.private if line.startswith(b"ROSTER ")]
        return [member["name"] for part in parts for member in part["clients"]]

    def _count(self, seq: int, line: bytes) -> None:
        if seq != self.seq + 1:
            self.wrong.append(f"{line[:60]!r} came after {self.seq}")
        self.seq = seq


C = TypeVar("C", bound=LineClient)


def connected(address: HostPort | str, receive_buffer: int = 0) -> socket.socket:
    """Return a socket that is connected to a host and port, or to the Unix socket with this path."""
    is_unix = isinstance(address, str)
    sock = socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET)
    sock.settimeout(MAX_WAIT)
    if receive_buffer and not is_unix:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SMALL_SEGMENT)
    sock.connect(address)
    if not is_unix:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def raise_descriptor_limit() -> None:
    """Let this process open as many sockets as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def crowd(count: int, make: Callable[[int], C]) -> Iterator[list[C]]:
    """Let ``count`` clients join, made by ``make(number)``; they are closed at the end of the block."""
    clients: list[C] = []
    try:
        while len(clients) < count:
            some = [make(number) for number in range(len(clients), min(count, len(clients) + BATCH))]
            clients += some
            for client in some:
                client.send(client.hello)
            for client in some:
                client.until(lambda client=client: client.joined, "join")  # type: ignore[misc]
        yield clients
    finally:
        for client in clients:
            client.close()


def read_all(clients: Iterable[LineClient], done: Callable[[], bool], seconds: float = MAX_WAIT) -> bool:
    """Read from clients until ``done()`` or until all have ended; return whether it was done in time."""
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for client in clients:
            if not client.ended:
                selector.register(client.sock, selectors.EVENT_READ, client)
        while not done():
            if time.monotonic() > deadline or not selector.get_map():
                return done()
            for key, _ in selector.select(ROUND):
                client = key.data
                if not client.read():
                    selector.unregister(client.sock)
    return True


def pass_time(server: ServerProgram, seconds: float) -> None:
    """Wait for some seconds while the server runs.

    Raises:
        BenchmarkError: if the server ends.
    """
    with os.fdopen(os.pidfd_open(server.pid), "rb", buffering=0) as process:
        ended, _, _ = select.select([process], [], [], seconds)
    if ended:
        raise BenchmarkError(f"{server.name} ended meanwhile, with exit code {server.wait()}")


def settled_descriptors(server: ServerProgram) -> int:
    """Wait until the number of the server's open descriptors no longer changes; return it."""
    last = -1
    while (now := subjects.descriptors(server.pid)) != last:
        last = now
        pass_time(server, SETTLE)
    return now
