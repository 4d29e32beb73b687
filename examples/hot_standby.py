"""Keep a hot standby: of all copies of this program that run, one works, and the next in rank is its heir.

    python -m rankserver 100 --heartbeat 1
    python examples/hot_standby.py work.log        # as often as you like, on as many machines as you like

The work is to append lines ``FENCE NUMBER NAME`` to a file that all share, the number one more than the last.
FENCE is a fencing token: it only rises. A copy that finds a higher one in the file than its own has lost its
place, even if it does not know that yet, and writes nothing. docs/hot-standby.md says what that guarantees.
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

PATIENCE = 1.0  # seconds for the server to say that we are still there
RETRY = 0.01  # seconds until we try to lock the file again
TAIL = 256  # bytes; no line is longer, as a name has 64 at most


class FencedError(Exception):
    """Somebody else works, although the server says that we lead."""


@contextlib.asynccontextmanager
async def locked(path: Path) -> AsyncIterator[BinaryIO]:
    """Open the file for us alone; the server's PINGs are answered while we wait for it."""
    with path.open("ab+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(RETRY)
        yield file


def last_line(file: BinaryIO) -> tuple[int, int]:
    """Return the fence and the number of the last line, 0 and 0 if there is none.

    Without an LF it is none: its writer, who had the file locked as we have now, was ended. It is cut off.
    """
    start = file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
    lines = file.read()
    lines = lines[: lines.rfind(b"\n") + 1]
    file.truncate(start + len(lines))
    fence, number, _ = lines.splitlines()[-1].split() if lines else (0, 0, "")
    return int(fence), int(number)


async def still_leads(client: Client) -> None:
    """Return if the server still has us: if it has not, we are cancelled here, or fail."""
    await asyncio.wait_for(client.who(), PATIENCE)


async def work(client: Client, path: Path, seq: int, every: float) -> None:
    """Work for as long as nobody else does; ``seq`` is the number of the log frame that made us lead."""
    fence = 0
    while True:
        async with locked(path) as file:
            last, number = last_line(file)
            if not fence:
                # Asked with the lock in our hands: whoever leads after us needs it before they can write.
                await still_leads(client)
                fence = max(seq, last + 1)  # a restarted server counts from 1 again
            if last > fence:
                break
            file.write(f"{fence} {number + 1} {client.name}\n".encode())
        print(f"worked: {fence} {number + 1}", flush=True)
        await asyncio.sleep(every)
    print(f"fenced: {last} is in the file, {fence} is ours", flush=True)
    await still_leads(client)
    raise FencedError(f"{path} holds the fence {last}, of somebody that our server does not know")


async def stand_by(address: str, name: str, path: Path, every: float) -> None:
    """Work while we are rank 0, and say what happens."""
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
    """Stand by until we are ended, or cannot do the work."""
    parser = argparse.ArgumentParser(description="Keep a hot standby.")
    parser.add_argument("file", type=Path, help="what all copies write to")
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
