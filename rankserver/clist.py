"""The typed face of the C core: the ranked list, the shared log, what goes into it and what goes out.

The only module that touches ``_clist.c``; what each call does, costs and guarantees is said there.
Codes become exceptions here, in one place. A closed log or client is a TypeError at the next use.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final

from rankserver._clist_cffi import ffi, lib
from rankserver.wire import protocol
from rankserver.wire.exceptions import RemoteProtocolError

BLOCK_BYTES: Final = 1024 * 1024  # of the log: as much as the core sends in one system call
READ_BYTES: Final = 800 * 1024  # in one read, at most: as frames of 64 bytes they fit into one block
PEEK_SPANS: Final = 16


class Flushed(enum.IntEnum):
    """How a flush ended."""

    DONE = lib.CL_OK
    BLOCKED = lib.CL_BLOCKED  # flush again when the socket is writable
    BROKEN = lib.CL_BROKEN  # gone for writing; may still be readable


class Client:
    """One connection's place in the ranks and in the log. Made by ``Log.open``."""

    __slots__ = ("_handle",)

    def __init__(self, handle: Any) -> None:
        self._handle: Any = handle


class Log:
    """The shared log and the ranked list of the clients that it is broadcast to.

    Args:
        max_line: bytes that a line from a client may have, LF included.
        block_bytes: size of one block of the log.
        read_bytes: what one read may bring, at most.
    """

    def __init__(self, max_line: int, block_bytes: int = BLOCK_BYTES, read_bytes: int = READ_BYTES) -> None:
        self._log: Any = _made(lib.cl_new(block_bytes, max_line, read_bytes))
        self._line: Any = ffi.new("cl_span *")
        self._fds: Any = ffi.new("int[]", 64)  # room for the descriptors of all ranked clients

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the log and all its clients. Closing twice is allowed."""
        if self._log is not None:
            lib.cl_free(self._log)
            self._log = None

    # --- clients ---

    def open(self, fd: int, *, external: bool = False) -> Client:
        """Return a new client, not ranked yet, that is sent to through socket ``fd``. O(1).

        Args:
            fd: its socket.
            external: the caller reads and writes, and uses ``take``, ``peek`` and ``advance``.
        """
        return Client(_made(lib.cl_open(self._log, fd, external)))

    def join(self, client: Client, rank_class: int = 0) -> None:
        """Give the client the lowest rank in its class; what is logged from now on is sent to it.

        O(clients in classes that rank below, those with higher numbers).

        Raises:
            ValueError: it has joined before.
        """
        if self.clients == len(self._fds):
            self._fds = ffi.new("int[]", 2 * self.clients)
        _check(lib.cl_join(self._log, client._handle, rank_class))

    def retire(self, client: Client) -> None:
        """Take the client out of the ranks; it is still sent what is logged so far. O(1).

        Raises:
            ValueError: it is not ranked.
        """
        _check(lib.cl_retire(self._log, client._handle))

    def cut(self, client: Client) -> None:
        """Take the client out of the ranks; it is sent no more than the frame that it has begun to get.

        Raises:
            ValueError: it is not ranked.
        """
        _check(lib.cl_cut(self._log, client._handle))

    def mute(self, client: Client) -> None:
        """Send no more to the client, whose connection is gone for writing; what it has sent still counts."""
        lib.cl_mute(self._log, client._handle)

    def discard(self, client: Client) -> None:
        """Free the client, ranked or not. The caller closes its socket."""
        lib.cl_close(self._log, client._handle)
        client._handle = None

    # --- what clients send ---

    def read(self, client: Client, most: int) -> int:
        """Receive once, at most ``most`` bytes, for ``next_line`` to go through.

        Returns:
            How many bytes came, 0 at the end of the stream.

        Raises:
            BlockingIOError: there is nothing to receive, or something is set aside.
            OSError: the connection is lost.
        """
        count: int = lib.cl_read(self._log, client._handle, most)
        if count < 0:
            raise OSError(-count, os.strerror(-count))
        return count

    def take(self, client: Client, data: bytes | bytearray | memoryview) -> None:
        """Do as ``read`` for bytes that the caller has received, at most ``read_bytes``.

        Raises:
            ValueError: it is more than that, or something is set aside.
        """
        _check(lib.cl_take(self._log, client._handle, ffi.from_buffer(data), len(data)))

    def next_line(self, client: Client) -> bytes | None:
        """Go through what the client that was read last has sent, up to the next line for the caller.

        The valid CMD lines of a ranked client are logged; empty lines are skipped. O(bytes).

        Returns:
            The first other line, without its CR and LF; the next call goes on behind it. None at the end:
            the beginning of a line is kept for the next read.

        Raises:
            RemoteProtocolError: ``too-long``; all before that line is handled.
            MemoryError: all before that line is handled; the same call may be tried again.
        """
        line = self._line
        status = lib.cl_line(self._log, client._handle, line)
        if status == lib.CL_OK:
            return None
        if status == lib.CL_LINE:
            return bytes(ffi.buffer(line.data, line.len))
        if status == lib.CL_LONG:
            most = lib.cl_longest_line(self._log, client._handle)
            raise RemoteProtocolError(protocol.TOO_LONG, f"a line is longer than {most} bytes")
        raise _error(status)

    def unread(self) -> None:
        """Let the line that ``next_line`` has just returned be the next again. O(1)."""
        lib.cl_unread(self._log)

    def set_aside(self, client: Client) -> None:
        """Keep what ``next_line`` has not come to, until ``resume``. O(bytes)."""
        _check(lib.cl_set_aside(self._log, client._handle))

    def resume(self, client: Client) -> None:
        """Let ``next_line`` go on with what was set aside. O(bytes)."""
        lib.cl_resume(self._log, client._handle)

    def ignore(self, client: Client) -> None:
        """Throw away what the client has sent, and all that it sends from now on. O(1)."""
        lib.cl_ignore(self._log, client._handle)

    # --- into the log ---

    def hold(self, *, on_hold: bool) -> None:
        """Let ``next_line`` return commands rather than log them, or log them again. O(1)."""
        lib.cl_hold(self._log, on_hold)

    def reserve(self, size: int) -> None:
        """Make sure that the next ``append`` of at most ``size`` bytes does not fail. O(1).

        Raises:
            MemoryError: there is no room for it.
        """
        _check(lib.cl_reserve(self._log, size))

    def append(self, verb: bytes, text: bytes) -> int:
        """Log ``<verb> <seq> <text>`` and return its seq.

        Raises:
            MemoryError: nothing was logged.
        """
        seq: int = lib.cl_append(self._log, verb, text, len(text))
        _check(min(seq, 0))
        return seq

    def private(self, client: Client, frame: bytes) -> int:
        """Queue a frame for this client alone, LF included, behind what is logged so far.

        Returns:
            How many bytes of private frames wait to be sent to the client now.

        Raises:
            ValueError: the frame is empty.
            MemoryError: it was not queued.
        """
        queued: int = lib.cl_private(self._log, client._handle, frame, len(frame))
        _check(queued)
        return queued

    # --- out to the sockets ---

    def flush(self, client: Client) -> Flushed:
        """Send to one client what waits for it, in a bounded number of system calls."""
        return Flushed(lib.cl_flush(self._log, client._handle))

    def flush_all(self) -> tuple[list[int], list[int]]:
        """Send to every ranked client that is not blocked all that waits for it.

        Returns:
            The descriptors that are blocked from now on, and those that are gone for writing.
        """
        count = lib.cl_flush_all(self._log, self._fds, len(self._fds))
        if not count:
            return [], []
        named = ffi.unpack(self._fds, count)
        return [fd for fd in named if fd >= 0], [~fd for fd in named if fd < 0]

    def peek(self, client: Client) -> list[memoryview]:
        """Return what is to be sent next, for a transport that C cannot write to.

        The memory is valid until the next call of any method.
        """
        spans = ffi.new("cl_span[]", PEEK_SPANS)
        count = lib.cl_peek(self._log, client._handle, spans, PEEK_SPANS)
        return [memoryview(ffi.buffer(span.data, span.len)) for span in spans[0:count]]

    def advance(self, client: Client, sent: int) -> None:
        """Count ``sent`` bytes of what ``peek`` returned as sent."""
        lib.cl_advance(self._log, client._handle, sent)

    # --- questions ---

    @property
    def seq(self) -> int:
        """The seq of the last frame, 0 before the first."""
        seq: int = lib.cl_seq(self._log)
        return seq

    @property
    def unflushed(self) -> int:
        """How many frames were logged since ``flush_all``."""
        unflushed: int = lib.cl_unflushed(self._log)
        return unflushed

    @property
    def held(self) -> int:
        """Bytes of the log that are kept for the slowest client."""
        held: int = lib.cl_held(self._log)
        return held

    @property
    def clients(self) -> int:
        """How many clients are ranked."""
        clients: int = lib.cl_clients(self._log)
        return clients

    def rank(self, client: Client) -> int:
        """Return the client's rank, -1 if it has none. O(n) after a leave, else O(1)."""
        rank: int = lib.cl_rank(self._log, client._handle)
        return rank

    def lag(self, client: Client) -> int:
        """Return how many bytes wait to be sent to the client."""
        lag: int = lib.cl_lag(self._log, client._handle)
        return lag

    def sent(self, client: Client) -> int:
        """Return how many bytes the client was sent, and what was logged before it joined.

        Raises:
            TypeError: the log is closed.
        """
        self._check_open()
        sent: int = lib.cl_sent(client._handle)
        return sent

    def in_flight(self, client: Client) -> int:
        """Return how many bytes of those sent the client's system has not acknowledged, if ours can tell.

        Raises:
            TypeError: the log is closed.
        """
        self._check_open()
        in_flight: int = lib.cl_in_flight(client._handle)
        return in_flight

    def queued(self, client: Client) -> int:
        """Return how many bytes of private frames wait to be sent to the client."""
        self._check_open()
        queued: int = lib.cl_queued(client._handle)
        return queued

    def is_blocked(self, client: Client) -> bool:
        """Tell whether the last flush could not send all."""
        self._check_open()
        return bool(lib.cl_is_blocked(client._handle))

    def _check_open(self) -> None:
        """Refuse a closed log, where C does not see that it is, and would read a client that is freed."""
        if self._log is None:
            raise TypeError("the log is closed")

    def behind(self, most: int) -> list[int]:
        """Return the descriptors of the clients for whom more than ``most`` bytes of the log are kept.

        Those who have left and are still sent what they are owed count, and come last. O(n), for all clients.
        """
        return list(ffi.unpack(self._fds, lib.cl_behind(self._log, most, self._fds, len(self._fds))))

    def ranked_fds(self) -> Sequence[int]:
        """Return the descriptors of the ranked clients, by rank. O(n)."""
        return list(ffi.unpack(self._fds, lib.cl_fds(self._log, self._fds, len(self._fds))))

    def check(self) -> None:
        """Walk every invariant of the core, for tests.

        Raises:
            AssertionError: with the number of the broken one in ``_clist.h``.
        """
        broken = lib.cl_check(self._log)
        if broken:
            raise AssertionError(f"invariant {broken} of _clist.h is broken")


def text_ok(data: bytes) -> bool:
    """Tell whether the bytes keep the text rule (docs/protocol.md, "Lines")."""
    return bool(lib.cl_text_ok(data, len(data)))


def _made(pointer: Any) -> Any:
    if pointer == ffi.NULL:
        raise MemoryError
    return pointer


def _check(status: int) -> None:
    if status < 0:
        raise _error(status)


def _error(status: int) -> Exception:
    if status == lib.CL_MISUSE:
        return ValueError("the client or the frame is not one for this call")
    return MemoryError()
