"""A broadcast server with asyncio streams, as people write one; with --uvloop it runs on uvloop.

A client sends lines, and each goes to every other client with the sender's place in the list in front.
Nothing drains: waiting for writers costs time and cannot make any of them faster. What a client does not
take yet is kept in memory, without a bound.
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

# The bytes of a line.
MAX_LINE: Final = 1 << 20

clients: list[asyncio.StreamWriter] = []


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a client into the list, and pass on its lines until it leaves."""
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
                except RuntimeError:  # uvloop's word for a connection that is just lost
                    continue
    clients.remove(writer)
    writer.close()


async def main() -> None:
    """Listen on a port that the system picks, and serve forever."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=BACKLOG, limit=MAX_LINE)
    host, port = server.sockets[0].getsockname()
    print(f"listening on {host}:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends it without a word, as SIGTERM does
    if parser.parse_args().uvloop:
        importlib.import_module("uvloop").run(main())
    else:
        asyncio.run(main())
