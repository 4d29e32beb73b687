"""One connection's place in the log: what it receives, and what it is sent.

See ``core`` for what calls of the C core have in common.
"""

from __future__ import annotations

import enum
import os
from typing import Any, Final

from rankserver._clist_cffi import ffi, lib
from rankserver.core import Core, check, failure
from rankserver.wire import codes
from rankserver.wire.exceptions import RemoteProtocolError

# The most pieces that ``peek`` returns.
MAX_PEEK_SPANS: Final = 16


class Flushed(enum.IntEnum):
    """How a flush ended."""

    DONE = lib.CL_OK
    # Flush again when the socket is writable.
    BLOCKED = lib.CL_BLOCKED
    # The connection can no longer be written; it may still be readable.
    BROKEN = lib.CL_BROKEN


# Looked up here, since calling an enum is two calls in Python.
_FLUSHED: Final = {int(status): status for status in Flushed}


class Cursor:
    """One connection's place in the log, its input and its private frames.

    Made by ``Log.open`` and ``Log.retain``. Using it after the log was closed raises TypeError.

    Args:
        core: the structures of its log.
        handle: the core's cursor.
    """

    __slots__ = ("_core", "_handle")

    def __init__(self, core: Core, handle: Any) -> None:
        self._core = core
        self._handle: Any = handle

    # --- its place in the log ---

    def attach(self, member: int | None, seq: int | None = None) -> None:
        """Send the cursor the frames after ``seq``, and treat its input as the member's.

        O(1) for the end of the log, else O(bytes of a block).

        Args:
            member: the member that it belongs to; None to follow the log without a rank.
            seq: the frame that it continues after; None for the last one in the log.

        Raises:
            ValueError: the cursor was attached before, there is no such member, the member has a cursor, or
                there is no such frame yet.
            LookupError: the frames after ``seq`` are no longer kept.
        """
        handle = ffi.NULL if member is None else self._core.member(member)
        last: int = lib.cl_seq(self._core.log) if seq is None else seq
        check(lib.cl_attach(self._core.log, self._handle, handle, last))

    def detach(self) -> None:
        """Send the cursor nothing that is logged from now on; what is logged so far is still sent. O(1).

        The member keeps its rank, and may be given another cursor.

        Raises:
            ValueError: it is not attached.
        """
        check(lib.cl_detach(self._core.log, self._handle))

    def cut(self) -> None:
        """Detach the cursor, and drop its output except for the rest of a frame that was sent in part."""
        lib.cl_cut(self._core.log, self._handle)

    def mute(self) -> None:
        """Send nothing more to the cursor, whose connection cannot be written. Its input still counts."""
        lib.cl_mute(self._core.log, self._handle)

    def discard(self) -> None:
        """Free the cursor, attached or not. The caller closes its socket."""
        lib.cl_close(self._core.log, self._handle)
        self._handle = None
        self._core.discarded()

    # --- what it receives ---

    def read(self, size: int) -> int:
        """Receive once, at most ``size`` bytes, for ``next_line`` and ``collect``.

        Returns:
            How many bytes were received; 0 at the end of the stream.

        Raises:
            BlockingIOError: there is nothing to receive, or earlier input is not used up: ``next_line`` has
                not returned None since the last read.
            OSError: the connection is lost; with ENOMEM, there is no memory to keep another cursor's input.
        """
        count: int = lib.cl_read(self._core.log, self._handle, size)
        if count < 0:
            raise OSError(-count, os.strerror(-count))
        return count

    def take(self, data: bytes | bytearray | memoryview) -> None:
        """Do the same as ``read`` with bytes that the caller has received, at most ``read_bytes``.

        Raises:
            ValueError: there are more bytes than that, or earlier input is not used up.
            MemoryError: there is no memory to keep another cursor's input.
        """
        check(lib.cl_take(self._core.log, self._handle, ffi.from_buffer(data), len(data)))

    def next_line(self, *, logs: bool) -> bytes | None:
        """Process the cursor's input up to the next line for the caller. O(bytes).

        Args:
            logs: log the valid CMD lines of an attached member; if False, return them like other lines.

        Returns:
            The first line that is neither logged nor empty, without its CR and LF; the next call continues
            after it. None at the end of the input; an incomplete line is kept for the next read.

        Raises:
            RemoteProtocolError: ``too-long``; everything before that line was processed.
            MemoryError: everything before the current line was processed; the call may be repeated.
        """
        line = self._core.span
        status = lib.cl_line(self._core.log, self._handle, logs, line)
        if status == lib.CL_OK:
            return None
        if status == lib.CL_LINE:
            return bytes(ffi.buffer(line.data, line.len))
        if status == lib.CL_LONG:
            longest = lib.cl_longest_line(self._core.log, self._handle)
            raise RemoteProtocolError(codes.TOO_LONG, f"a line is longer than {longest} bytes")
        raise failure(status)

    def unread(self) -> None:
        """Put back the line that ``next_line`` returned last for this cursor. O(1).

        Calls for other cursors in between make no difference. After this cursor's next ``next_line`` or
        ``collect``, the line can no longer be put back.
        """
        lib.cl_unread(self._core.log, self._handle)

    def keep(self) -> None:
        """Move the rest of the cursor's input into its own memory. O(bytes).

        It would move anyway when another cursor needs the buffer. If there is no memory, this cursor now
        fails instead of the other one.

        Raises:
            MemoryError: nothing was moved.
        """
        check(lib.cl_keep(self._core.log, self._handle))

    def collect(self) -> bytes:
        """Take the valid CMD lines at the front of the cursor's input without logging them. O(bytes).

        Returns:
            The lines with their ends, for ``apply``. Empty if the next line is not a valid CMD, if there is
            no complete line, or if the cursor has no member; then ``next_line`` continues.

        Raises:
            MemoryError: nothing was taken.
        """
        batch = self._core.span
        check(lib.cl_collect(self._core.log, self._handle, batch))
        return bytes(ffi.buffer(batch.data, batch.len))

    def ignore(self) -> None:
        """Discard the cursor's input, and all that it receives from now on. O(1)."""
        lib.cl_ignore(self._core.log, self._handle)

    # --- what it is sent ---

    def private(self, frame: bytes) -> int:
        """Queue a frame, LF included, for this cursor alone, to be sent after what is logged so far.

        Returns:
            How many bytes of private frames are now queued for the cursor.

        Raises:
            ValueError: the frame is empty.
            MemoryError: it was not queued.
        """
        queued: int = lib.cl_private(self._core.log, self._handle, frame, len(frame))
        check(queued)
        return queued

    def flush(self) -> Flushed:
        """Send the cursor its pending output, in a bounded number of system calls."""
        return _FLUSHED[lib.cl_flush(self._core.log, self._handle)]

    def peek(self) -> list[memoryview]:
        """Return the output to send next, for a transport that C cannot write to.

        The memory is valid until the next call of any method.
        """
        spans = ffi.new("cl_span[]", MAX_PEEK_SPANS)
        count = lib.cl_peek(self._core.log, self._handle, spans, MAX_PEEK_SPANS)
        return [memoryview(ffi.buffer(span.data, span.len)) for span in spans[0:count]]

    def advance(self, sent: int) -> None:
        """Count the first ``sent`` bytes of what ``peek`` returned as sent."""
        lib.cl_advance(self._core.log, self._handle, sent)

    # --- questions ---

    def lag(self) -> int:
        """Return how many bytes wait to be sent to the cursor, published or not."""
        lag: int = lib.cl_lag(self._core.log, self._handle)
        return lag

    def sent(self) -> int:
        """Return how many bytes the cursor was sent, plus the position in the log where it was attached.

        Raises:
            TypeError: the log is closed.
        """
        self._core.check_open()
        sent: int = lib.cl_sent(self._handle)
        return sent

    def in_flight(self) -> int:
        """Return how many sent bytes the peer's system has not acknowledged; 0 if our system cannot tell.

        Raises:
            TypeError: the log is closed.
        """
        self._core.check_open()
        in_flight: int = lib.cl_in_flight(self._handle)
        return in_flight

    def queued(self) -> int:
        """Return how many bytes of private frames are queued for the cursor."""
        self._core.check_open()
        queued: int = lib.cl_queued(self._handle)
        return queued

    def is_blocked(self) -> bool:
        """Tell whether the last flush could not send everything that was due."""
        self._core.check_open()
        return bool(lib.cl_is_blocked(self._handle))
