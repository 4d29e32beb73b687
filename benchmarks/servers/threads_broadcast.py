"""A broadcast server with a thread for each client, a lock, and a linked list: the traditional design.

Each line that a client sends goes to every other client, after the sender's place in the list.
"""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import suppress
from typing import Final

# Connections that may wait to be accepted.
BACKLOG: Final = 4096

READ_SIZE: Final = 65_536


class LinkedClient:
    """A client, with a link to the next one in the list."""

    __slots__ = ("connection", "next")

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.next: LinkedClient | None = None


class ClientList:
    """The linked list of all clients in rank order, and the lock for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._head: LinkedClient | None = None
        self._tail: LinkedClient | None = None
        self._count = 0

    def add(self, client: LinkedClient) -> None:
        """Append a client, and tell it its rank."""
        with self._lock:
            if self._tail is None:
                self._head = client
            else:
                self._tail.next = client
            self._tail = client
            client.connection.sendall(b"hello %d\n" % self._count)
            self._count += 1

    def remove(self, client: LinkedClient) -> None:
        """Remove a client."""
        with self._lock:
            before, other = None, self._head
            while other is not None and other is not client:
                before, other = other, other.next
            if before is None:
                self._head = client.next
            else:
                before.next = client.next
            if self._tail is client:
                self._tail = before
            self._count -= 1

    def broadcast(self, sender: LinkedClient, line: bytes) -> None:
        """Send a line to all clients but its sender."""
        with self._lock:
            message = b"%d %b\n" % (self._rank(sender), line)
            other = self._head
            while other is not None:
                if other is not sender:
                    # A client that is gone is removed by its own thread.
                    with suppress(OSError):
                        other.connection.sendall(message)
                other = other.next

    def _rank(self, client: LinkedClient) -> int:
        """Return the client's place in the list."""
        rank, other = 0, self._head
        while other is not None and other is not client:
            rank, other = rank + 1, other.next
        return rank


def serve(connection: socket.socket, clients: ClientList) -> None:
    """Add a client to the list, and pass on its lines until it leaves."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client, rest = LinkedClient(connection), b""
    with connection, suppress(ConnectionError):
        clients.add(client)
        while data := connection.recv(READ_SIZE):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                clients.broadcast(client, line)
    clients.remove(client)


def main() -> None:
    """Listen on a port that the system picks, and start a thread for each client."""
    # Ctrl-C ends it silently, as SIGTERM does.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    clients = ClientList()
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    host, port = listener.getsockname()
    print(f"listening on {host}:{port}", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, clients), daemon=True).start()


if __name__ == "__main__":
    main()
