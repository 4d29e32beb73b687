"""A process that only connects: it opens connections as fast as it can, and never sends a byte.

As a program, it takes a host, a port, and the most connections to keep open. It goes on until its standard
input ends or has a line, and then prints how many connections it has opened, as one line of JSON.
"""

from __future__ import annotations

import errno
import json
import select
import socket
import sys
from collections import deque
from contextlib import suppress
from typing import Final

# Connections that are begun between two looks at standard input.
BURST: Final = 32


def main() -> int:
    """Connect until told to end."""
    address, most = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3])
    connections: deque[socket.socket] = deque()
    count = 0
    print(json.dumps({"event": "ready"}), flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(BURST):
            if len(connections) == most:
                connections.popleft().close()
            count += _connect(address, connections)
    print(json.dumps({"event": "end", "connections": count}), flush=True)
    return 0


def _connect(address: tuple[str, int], connections: deque[socket.socket]) -> bool:
    """Begin to connect once more; return False if the system has no room for it now."""
    sock = socket.socket()
    sock.setblocking(False)
    connections.append(sock)
    with suppress(OSError):
        return sock.connect_ex(address) == errno.EINPROGRESS
    return False


if __name__ == "__main__":
    sys.exit(main())
