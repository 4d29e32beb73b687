"""A scripted server for the load generator, and faults in the data that it sends.

It lets the generator join, and when the commands of a burst have come, it sends what the test specifies.
"""

from __future__ import annotations

import random
import selectors
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Final, NamedTuple

import harness
from harness import Event, Generator, HostPort, Places

from tests.support.waiting import BOUND

# The bytes of a text.
SIZE: Final = 20

# Enough commands that the numbers of log frames, from 1 on, get longer twice.
COMMANDS: Final = 120

RECEIVERS: Final = 3
WELCOME: Final = b'INFO {"proto":1}\nWELCOME {"rank":0,"clients":1,"seq":0}\n'

# Breaks the item with this index.
Fault = Callable[[list[bytes], int], None]
# Yields a stream's index and the next bytes to send on it, in the order of sending.
Cut = Callable[[Sequence[bytes]], Iterator[tuple[int, bytes]]]


# --- streams ----------------------------------------------------------------------------------


def texts(commands: int = COMMANDS, sender: int = 0) -> list[bytes]:
    """Return all texts of a sender."""
    return [(b"@%04d:%08d" % (sender, index)).ljust(SIZE, b"x") for index in range(commands)]


def in_log(items: Iterable[bytes], first: int = 1) -> list[bytes]:
    """Return log frames: each item is a text, or a frame with ``%d`` in the place of its number."""
    frames = (item if b"%d" in item else b"CMD %%d 5 %b\n" % item for item in items)
    return [frame % number for number, frame in enumerate(frames, first)]


def in_lines(items: Iterable[bytes]) -> list[bytes]:
    """Return the lines that others get from one sender."""
    return [b"5 %b\n" % item for item in items]


FRAMES: Final = {"rank": in_log, "plain": in_lines}


def whole(streams: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
    """Send each stream at once, one after the other."""
    yield from enumerate(streams)


def pieces(streams: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
    """Send a few bytes of each stream in turn, so that the one furthest ahead varies."""
    chance = random.Random(1)
    at = [0] * len(streams)
    while any(at[rank] < len(stream) for rank, stream in enumerate(streams)):
        for rank, stream in enumerate(streams):
            size = chance.randint(1, 9)
            yield rank, stream[at[rank] : at[rank] + size]
            at[rank] += size


class Burst(NamedTuple):
    """The streams, in order of joining, that are sent once this many commands have come."""

    streams: Sequence[bytes]
    cut: Cut = whole
    commands: int = COMMANDS
    # The index of a connection that is then closed.
    closed: int | None = None


def burst(
    proto: str, frames: Sequence[bytes], cut: Cut = whole, last: Sequence[bytes] | None = None
) -> Burst:
    """Return a burst of one sender; all get ``frames``, but the last receiver gets ``last`` if given."""
    streams = [b"".join(frames)] * RECEIVERS
    if last is not None:
        streams[-1] = b"".join(last)
    # Here the sender receives its own commands.
    if proto == "rank":
        streams.append(streams[0])
    return Burst(streams, cut)


# --- the server -------------------------------------------------------------------------------


class FakeServer:
    """Lets the generator join, passes its markers on, and then plays bursts regardless of the commands."""

    def __init__(self, proto: str, receivers: int, senders: int, bursts: Sequence[Burst]) -> None:
        # Received commands, without their LF.
        self.heard: list[bytes] = []
        self._proto = proto
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(BOUND)
        self.address = HostPort(*self._listener.getsockname())
        self._clients: list[socket.socket] = []
        self._rest = [b""] * (receivers + senders)
        self._thread = ThreadPoolExecutor(1)
        self._served: Future[None] = self._thread.submit(self._serve, bursts)

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *_exc: object) -> None:
        try:
            self._served.result(2 * BOUND)
        finally:
            for sock in (self._listener, *self._clients):
                sock.close()
            self._thread.shutdown()

    def _serve(self, bursts: Sequence[Burst]) -> None:
        with suppress(ConnectionError):  # The generator exits when it finds a fault.
            for _ in self._rest:
                self._accept()
            for burst in bursts:
                self._hear(burst.commands)
                for rank, data in burst.cut(burst.streams):
                    self._clients[rank].sendall(data)
                if burst.closed is not None:
                    self._clients[burst.closed].close()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self._clients.append(client)
        client.settimeout(BOUND)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._proto == "rank":
            assert client.recv(64) == b"HELLO\n"
            client.sendall(WELCOME)
        else:
            client.sendall(b"hello %d\n" % (len(self._clients) - 1))

    def _hear(self, commands: int) -> None:
        """Pass markers on until ``commands`` commands have come."""
        target = len(self.heard) + commands
        with selectors.DefaultSelector() as selector:
            for rank, client in enumerate(self._clients):
                selector.register(client, selectors.EVENT_READ, rank)
            while len(self.heard) < target:
                ready = selector.select(BOUND)
                assert ready, "the generator is silent"
                for key, _ in ready:
                    self._read(key.data)

    def _read(self, rank: int) -> None:
        data = self._clients[rank].recv(65_536)
        if not data:
            raise ConnectionResetError
        *lines, self._rest[rank] = (self._rest[rank] + data).split(b"\n")
        for line in lines:
            if b"@mark:" in line:
                self._pass_on(rank, line)
            else:
                self.heard.append(line)

    def _pass_on(self, sender: int, line: bytes) -> None:
        frame = b"CMD 1 5 %b\n" % line[4:] if self._proto == "rank" else b"5 %b\n" % line
        for rank, client in enumerate(self._clients):
            if rank != sender or self._proto == "rank":
                client.sendall(frame)


def play(proto: str, receivers: int, senders: int, *bursts: Burst, ask: str = "burst {}") -> list[Event]:
    """Return the generator's reports on these bursts.

    Raises:
        BenchmarkError: if the generator finds a fault, which the message names.
    """
    harness.build()
    with (
        FakeServer(proto, receivers, senders, bursts) as server,
        Generator(
            server.address,
            proto=proto,
            receivers=receivers,
            senders=senders,
            size=SIZE,
            pid=0,
            places=Places(None, None),
        ) as generator,
    ):
        events = [generator.ask(ask.format(burst.commands)) for burst in bursts]
    prefix = b"CMD " if proto == "rank" else b""
    for sender in range(senders):
        sent = [line for line in server.heard if line.startswith(prefix + b"@%04d:" % sender)]
        shares = [len(range(sender, burst.commands, senders)) for burst in bursts]
        assert sent == [prefix + text for share in shares for text in texts(share, sender)]
    return events


def one(proto: str, *bursts: Burst, ask: str = "burst {}") -> list[Event]:
    """Play bursts of one sender."""
    return play(proto, RECEIVERS, 1, *bursts, ask=ask)


# --- faults -----------------------------------------------------------------------------------


def lost(items: list[bytes], at: int) -> None:
    del items[at]


def doubled(items: list[bytes], at: int) -> None:
    items.insert(at, items[at])


def swapped(items: list[bytes], at: int, step: int = 1) -> None:
    items[at], items[at + step] = items[at + step], items[at]


def byte(place: int, value: bytes) -> Fault:
    """Return a fault that changes one byte of an item."""

    def change(items: list[bytes], at: int) -> None:
        changed = bytearray(items[at])
        changed[place : place + 1 or None] = value
        assert changed != items[at]
        items[at] = bytes(changed)

    return change


def behind(extra: bytes) -> Fault:
    """Return a fault that adds bytes behind an item."""

    def add(items: list[bytes], at: int) -> None:
        items[at] += extra

    return add


def front(old: bytes, new: bytes) -> Fault:
    """Return a fault that changes the beginning of an item."""

    def change(items: list[bytes], at: int) -> None:
        assert items[at].startswith(old)
        items[at] = new + items[at].removeprefix(old)

    return change


def broken(items: Sequence[bytes], fault: Fault, at: int) -> list[bytes]:
    """Return a copy with the fault."""
    copy = list(items)
    fault(copy, at)
    return copy


# --- members ----------------------------------------------------------------------------------


def tell_three(listener: socket.socket, wrong: str) -> None:
    """Let three clients join and one leave; ``wrong`` says at which of the two a rank is wrong, if any."""
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        clients: list[socket.socket] = []
        for rank in range(3):
            client = stack.enter_context(listener.accept()[0])
            client.settimeout(BOUND)
            assert client.recv(1_024).startswith(b"HELLO ")
            client.sendall(
                b'WELCOME {"rank":%d,"clients":%d}\n' % (0 if wrong == "joined" else rank, rank + 1)
            )
            for other in clients:
                other.sendall(b"JOIN %d %d\n" % (rank, rank))
            clients.append(client)
            selector.register(client, selectors.EVENT_READ, rank)
        gone = selector.select(BOUND)[0][0].data
        with suppress(ConnectionError):  # The generator exits when it finds a fault.
            for rank in {0, 1, 2} - {gone}:
                left = (0 if gone == 2 and rank else 9) if wrong == "left" else gone
                clients[rank].sendall(b"LEFT 3 %d\n" % left)
            for client in clients:
                client.recv(1)
