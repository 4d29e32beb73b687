"""Helpers for tests of the client: sessions without a server, and servers that follow a script."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final

from rankserver.client.aio import Client
from rankserver.client.events import Event
from rankserver.client.session import Session
from rankserver.client.stream import EventStream
from rankserver.wire import frames, protocol
from tests.support.waiting import BOUND

BANNER: Final = protocol.info(frames.InfoFrame(1, "fake", 65_536, auth=False, capacity=8))
SHORT_BANNER: Final = BANNER.replace(b"65536", b"1000")
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


# --- sessions ---


def welcome(rank: int, clients: int, seq: int = 0, heartbeat: float = 30) -> bytes:
    """Return the WELCOME of a client called ``me``."""
    return protocol.welcome(frames.WelcomeFrame(rank, clients, seq, "me", "s", heartbeat))


def joined(rank: int, clients: int, seq: int = 0) -> Session:
    """Return a session that has joined and may send lines of 1,000 bytes."""
    session = Session()
    session.hello(name="me")
    session.receive_data(SHORT_BANNER + welcome(rank, clients, seq))
    session.data_to_send()
    return session


def bytewise(session: Session, data: bytes) -> list[Event]:
    """Let the session receive ``data`` byte by byte, and return all events."""
    return [event for byte in data for event in session.receive_data(bytes([byte]))]


# --- clients ---


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine within the bound; it must leave no task, descriptor or unhandled exception."""
    lost: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
        before = descriptors()
        await asyncio.wait_for(work, BOUND)
        left = [task for task in asyncio.all_tasks() if "/rankserver/client/" in repr(task)]
        assert not left, left
        while descriptors() - before:  # noqa: ASYNC110 - those of a script's server need a turn or two
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(main(), 2 * BOUND))
    assert not lost, lost


def descriptors() -> set[str]:
    """Return the names of the sockets that this process has open."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return {name for name in found if name.startswith("socket:")}


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


@contextlib.asynccontextmanager
async def fake(script: Script) -> AsyncIterator[str]:
    """Serve ``script`` to each client, and yield the address."""
    server = await asyncio.start_server(script, "127.0.0.1", 0)
    async with server:
        yield "{}:{}".format(*server.sockets[0].getsockname())


async def take(source: Client | EventStream, kind: type[Event]) -> Event:
    """Return the next event of ``kind``."""
    async for event in source:
        if isinstance(event, kind):
            return event
    raise AssertionError(f"the events ended before a {kind}")


async def taken(events: EventStream, *kinds: type) -> list[object]:
    """Return the next events of these kinds, which must come in this order."""
    return [await take(events, kind) for kind in kinds]
