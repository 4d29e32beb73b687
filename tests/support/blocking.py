"""Helpers for tests of the client without asyncio: a server that follows a script, and answers to asks."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from rankserver.client.events import Event
from tests.support.rawclient import RawClient
from tests.support.waiting import BOUND

HELLO = b'HELLO {"proto":1}\n'
Later = Callable[..., "Future[Any]"]


@contextmanager
def fake(data: bytes) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Serve ``data`` to one client; yield the address, and a function that returns the client's next line."""
    lines: SimpleQueue[bytes] = SimpleQueue()

    def serve() -> None:
        sock = listener.accept()[0]
        sock.settimeout(BOUND)
        with sock, sock.makefile("rb") as stream:
            sock.sendall(data)
            for line in stream:
                lines.put(line)
                if line == b"BYE\n":
                    break

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(BOUND)
        served = pool.submit(serve)
        yield "{}:{}".format(*listener.getsockname()), lambda: lines.get(timeout=BOUND)
        served.result(BOUND)


def answer(raw: RawClient, status: bytes = b"ok") -> None:
    """Answer the next ASK."""
    line = raw.line()
    while not line.startswith(b"ASK "):
        line = raw.line()
    raw.send(b"RES %s %s\n" % (line.split(b" ")[1], status))


def take(events: Iterator[Event], kind: type[Event]) -> Event:
    return next(event for event in events if isinstance(event, kind))
