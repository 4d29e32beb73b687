"""Signals: recorded when they arrive, and acted on in the loop, so that none interrupts a turn.

Theory of operation. The interpreter runs the Python handler of a signal between any two steps of the program,
so the handlers only record which signals have arrived. To wake the loop, the interpreter writes a byte to a
socket that the loop watches. If thousands of signals arrive during one turn, that socket is full, and further
bytes are lost. So its bytes wake the loop, and mean nothing else.

A byte may also be read before the handler of its signal has run. So the handler writes one as well, after it
has recorded the signal: every record is followed by a byte, unless the socket is full and wakes the loop
anyway.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Final

# The most bytes that are read from the socket at once. If it holds more, the loop wakes again.
MAX_WAKE_BYTES: Final = 4096


@contextlib.contextmanager
def in_loop(
    watch: Callable[[socket.socket, Callable[[], None]], None],
    actions: Mapping[int, Callable[[int], None]],
) -> Iterator[None]:
    """Act on signals from within the loop.

    On leaving the context the signals are blocked, because one that arrives while the interpreter shuts down
    must not change the exit code.

    Args:
        watch: lets the loop call a function when a socket is readable.
        actions: what each signal does. An action is called once in a turn, with the number of times that its
            signal has arrived.
    """
    reader, writer = socket.socketpair()
    # Only ``record`` changes the first and only ``act`` the second, because ``record`` may interrupt ``act``.
    arrived = dict.fromkeys(actions, 0)
    handled = dict.fromkeys(actions, 0)

    def record(number: int, _: FrameType | None) -> None:
        arrived[number] += 1
        with contextlib.suppress(BlockingIOError):
            writer.send(b"\0")

    def act() -> None:
        with contextlib.suppress(BlockingIOError):
            reader.recv(MAX_WAKE_BYTES)
        for number, action in actions.items():
            if times := arrived[number] - handled[number]:
                handled[number] += times
                action(times)

    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        watch(reader, act)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in actions:
            signal.signal(number, record)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            signal.pthread_sigmask(signal.SIG_BLOCK, actions)
