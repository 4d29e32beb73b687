"""A broadcast server with a thread for each client, a lock, and a linked list: how this was done before.

A client sends lines, and each goes to every other client with the sender's place in the list in front.
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


class Client:
    """A client, and the one behind it in the list."""

    __slots__ = ("connection", "next")

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.next: Client | None = None


class Clients:
    """The linked list of all clients in rank order, and the lock for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._head: Client | None = None
        self._tail: Client | None = None
        self._count = 0

    def add(self, client: Client) -> None:
        """Put a client at the end, and tell it its rank."""
        with self._lock:
            if self._tail is None:
                self._head = client
            else:
                self._tail.next = client
            self._tail = client
            client.connection.sendall(b"hello %d\n" % self._count)
            self._count += 1

    def remove(self, client: Client) -> None:
        """Take a client out."""
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

    def broadcast(self, sender: Client, line: bytes) -> None:
        """Send a line to all but its sender."""
        with self._lock:
            message = b"%d %b\n" % (self._rank(sender), line)
            other = self._head
            while other is not None:
                if other is not sender:
                    with suppress(OSError):  # it is gone: its own thread takes it out
                        other.connection.sendall(message)
                other = other.next

    def _rank(self, client: Client) -> int:
        """Return the client's place in the list."""
        rank, other = 0, self._head
        while other is not None and other is not client:
            rank, other = rank + 1, other.next
        return rank


def serve(connection: socket.socket, clients: Clients) -> None:
    """Take a client into the list, and pass on its lines until it leaves."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client, rest = Client(connection), b""
    with connection, suppress(ConnectionError):
        clients.add(client)
        while data := connection.recv(READ_SIZE):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                clients.broadcast(client, line)
    clients.remove(client)


def main() -> None:
    """Listen on a port that the system picks, and give each client a thread."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends it without a word, as SIGTERM does
    clients = Clients()
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    host, port = listener.getsockname()
    print(f"listening on {host}:{port}", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, clients), daemon=True).start()


if __name__ == "__main__":
    main()
