"""Keep a hot standby: one of the running copies of this program works, and the next in rank is its successor.

    python -m rankserver 100 --heartbeat 1
    python examples/hot_standby.py work.log        # as many copies as you like, on any machines

The work is to append lines ``FENCE NUMBER NAME`` to a shared file, each with the next number. FENCE is a
fencing token, which never decreases. A copy that finds a higher FENCE than its own in the file no longer
leads, even if it does not know that yet, and writes nothing. docs/hot-standby.md says what that guarantees.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from rankserver.client import Client, DisconnectedError, connect
from rankserver.client.events import Connected, Disconnected, RankChanged

# How long the server may take to confirm that we are still connected, in seconds.
CONFIRM_TIMEOUT = 1.0
# The pause before we try again to lock the file, in seconds.
LOCK_RETRY = 0.01
# The number of bytes at the end of the file that contain its last line: a name has at most 64 characters.
TAIL_BYTES = 256


class FencedError(Exception):
    """Another copy works, although the server says that we lead."""


@contextlib.asynccontextmanager
async def locked(path: Path) -> AsyncIterator[BinaryIO]:
    """Open and lock the file. While we wait for the lock, the server's PINGs are answered."""
    with path.open("ab+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(LOCK_RETRY)
        yield file


def last_line(file: BinaryIO) -> tuple[int, int]:
    """Return the fence and the number of the last line; 0 and 0 if there is none.

    A line without LF does not count, and is cut off: its writer was killed while it held the lock.
    """
    start = file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
    lines = file.read()
    lines = lines[: lines.rfind(b"\n") + 1]
    file.truncate(start + len(lines))
    fence, number, _ = lines.splitlines()[-1].split() if lines else (0, 0, "")
    return int(fence), int(number)


async def still_leads(client: Client) -> None:
    """Return if the server still knows us. Otherwise we are cancelled here, or this raises an exception."""
    await asyncio.wait_for(client.who(), CONFIRM_TIMEOUT)


async def work(client: Client, path: Path, seq: int, every: float) -> None:
    """Work until another copy does; ``seq`` is the number of the log frame that made us lead."""
    fence = 0
    while True:
        async with locked(path) as file:
            last, number = last_line(file)
            if not fence:
                # We hold the lock while we ask, and any later leader needs it before it can write.
                await still_leads(client)
                fence = max(seq, last + 1)  # a restarted server counts from 1 again
            if last > fence:
                break
            file.write(f"{fence} {number + 1} {client.name}\n".encode())
        print(f"worked: {fence} {number + 1}", flush=True)
        await asyncio.sleep(every)
    print(f"fenced: {last} is in the file, {fence} is ours", flush=True)
    await still_leads(client)
    raise FencedError(f"{path} has the fence {last}, from a copy that our server does not know")


async def stand_by(address: str, name: str, path: Path, every: float) -> None:
    """Work while we are rank 0, and print what happens."""
    async with connect(address, name=name, reconnect=True) as client:

        @client.on_lead
        async def lead(seq: int) -> None:
            await work(client, path, seq, every)

        async for event in client:
            match event:
                case Connected(rank=rank) | RankChanged(rank=rank):
                    print(f"{name}: rank {rank}, {'standing by' if rank else 'leading'}", flush=True)
                case Disconnected():
                    print(f"{name}: disconnected", flush=True)


def main() -> None:
    """Stand by until we are interrupted, or cannot do the work."""
    parser = argparse.ArgumentParser(description="Keep a hot standby.")
    parser.add_argument("file", type=Path, help="the file to which all copies write")
    parser.add_argument("--server", default="127.0.0.1:5050", metavar="HOST:PORT")
    parser.add_argument("--name", default=f"{socket.gethostname()}:{os.getpid()}")
    parser.add_argument("--every", type=float, default=1.0, metavar="S", help="seconds between two lines")
    options = parser.parse_args()
    try:
        asyncio.run(stand_by(options.server, options.name, options.file, options.every))
    except DisconnectedError as error:
        sys.exit(f"{options.name}: {error}")
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
