"""A ZeroMQ forwarder: subscribers at the first address get the messages published at the second.

Neither side has a high-water mark, so nothing is dropped.
"""

from __future__ import annotations

import signal
from typing import Final

import zmq

# Connections that may wait to be accepted.
BACKLOG: Final = 4096

# High-water marks of 0 set no limit to the messages that wait.
NO_MARK: Final = 0


def listen(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
    """Return a socket of this kind on a port that the system picks."""
    listener = context.socket(kind)
    listener.set_hwm(NO_MARK)
    listener.setsockopt(zmq.BACKLOG, BACKLOG)
    listener.bind("tcp://127.0.0.1:*")
    return listener


def address(listener: zmq.Socket[bytes]) -> str:
    """Return the socket's address as HOST:PORT."""
    endpoint: str = listener.getsockopt_string(zmq.LAST_ENDPOINT)
    return endpoint.removeprefix("tcp://")


def main() -> None:
    """Listen for both sides, and forward messages until the process is ended."""
    # Ctrl-C ends it silently, as SIGTERM does.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    context = zmq.Context()
    publishers, subscribers = listen(context, zmq.XSUB), listen(context, zmq.XPUB)
    print(f"listening on {address(subscribers)} {address(publishers)}", flush=True)
    zmq.proxy(publishers, subscribers)


if __name__ == "__main__":
    main()
