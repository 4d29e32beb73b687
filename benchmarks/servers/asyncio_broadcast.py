"""A broadcast server with asyncio streams, as one would usually write it; --uvloop runs it on uvloop.

Each line that a client sends goes to every other client, after the sender's place in the list. The server
never calls ``drain``: waiting for writers would cost time without making any of them faster. Data that a
client has not taken yet is kept in memory, without a bound.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import signal
from contextlib import suppress
from typing import Final

# Connections that may wait to be accepted.
BACKLOG: Final = 4096

# The most bytes of a line.
MAX_LINE: Final = 1 << 20

clients: list[asyncio.StreamWriter] = []


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Add a client to the list, and pass on its lines until it leaves."""
    writer.write(b"hello %d\n" % len(clients))
    clients.append(writer)
    with suppress(ConnectionError):
        while (line := await reader.readline()).endswith(b"\n"):
            message = b"%d %b" % (clients.index(writer), line)
            for other in clients:
                if other is writer:
                    continue
                try:
                    other.write(message)
                # uvloop raises this for a connection that has just been lost.
                except RuntimeError:
                    continue
    clients.remove(writer)
    writer.close()


async def main() -> None:
    """Listen on a port that the system picks, and serve until the process is ended."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=BACKLOG, limit=MAX_LINE)
    host, port = server.sockets[0].getsockname()
    print(f"listening on {host}:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop")
    # Ctrl-C ends it silently, as SIGTERM does.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if parser.parse_args().uvloop:
        importlib.import_module("uvloop").run(main())
    else:
        asyncio.run(main())
