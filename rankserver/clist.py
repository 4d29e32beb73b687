"""The typed wrapper of the C core: ranked members, the shared log, and the cursors of connections.

See ``core`` for what calls of the C core have in common.
"""

from __future__ import annotations

import enum
import os
from types import TracebackType
from typing import Any, Final

from rankserver._clist_cffi import ffi, lib
from rankserver.core import Core, check, failure, made
from rankserver.wire import codes
from rankserver.wire.exceptions import RemoteProtocolError

# The number of bytes in a block of the log: what the core sends in one system call.
BLOCK_BYTES: Final = 1024 * 1024

# The most bytes that one read returns. Logged as frames of 64 bytes, they fit into one block.
MAX_READ_BYTES: Final = 800 * 1024

# The published position that lets everything be sent at once.
EVERYTHING: Final = 2**64 - 1

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
        """Put back the line that this cursor's last ``next_line`` returned. O(1).

        It can be put back until the cursor's next ``next_line`` or ``collect``.
        """
        lib.cl_unread(self._core.log, self._handle)

    def keep(self) -> None:
        """Move the rest of the cursor's input into its own memory. O(bytes).

        It would move anyway when another cursor needs the buffer; then that one would fail without memory.

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
        if queued < 0:
            raise failure(queued)
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


class Log:
    """The shared log, the ranked members, and the cursors of connections.

    Using it after it was closed raises TypeError.

    Args:
        max_line: bytes in the longest line from a client, LF included.
        block_bytes: bytes in a block of the log.
        read_bytes: the most bytes that one read returns.
    """

    def __init__(
        self, max_line: int, block_bytes: int = BLOCK_BYTES, read_bytes: int = MAX_READ_BYTES
    ) -> None:
        self._core = Core(made(lib.cl_new(block_bytes, max_line, read_bytes)))

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the log with all its members and cursors. Closing twice is allowed."""
        self._core.free()

    # --- members ---

    def join(self, member: int, rank_class: int = 0) -> None:
        """Add a member with the lowest rank in its class, and without a cursor.

        O(members in lower-ranking classes, which have higher numbers).

        Args:
            member: the caller's id for it, from 0 to 2**64 - 1.
            rank_class: its class; lower numbers rank above higher ones.

        Raises:
            ValueError: it is a member already.
            MemoryError: it was not added.
        """
        if member in self._core.members:
            raise ValueError(f"member {member} already exists")
        self._core.members[member] = made(lib.cl_join(self._core.log, member, rank_class))

    def leave(self, member: int) -> None:
        """Remove the member from the ranks, and detach its cursor, if it has one. O(1).

        Raises:
            ValueError: it is no member.
        """
        lib.cl_leave(self._core.log, self._core.member(member))
        del self._core.members[member]

    def rank(self, member: int) -> int:
        """Return the member's rank, 0 for the highest.

        O(n) after a change in the middle of the list, else O(1).

        Raises:
            ValueError: it is no member.
        """
        core = self._core
        try:
            rank: int = lib.cl_rank(core.log, core.members[member])
        except KeyError:
            raise ValueError(f"there is no member {member}") from None
        return rank

    def members(self) -> list[int]:
        """Return all members, by rank. O(n)."""
        ids = ffi.new("uint64_t[]", self.count)
        return list(ffi.unpack(ids, lib.cl_members(self._core.log, ids, len(ids))))

    @property
    def count(self) -> int:
        """How many members there are."""
        count: int = lib.cl_count(self._core.log)
        return count

    # --- cursors ---

    def open(self, fd: int, *, external: bool = False) -> Cursor:
        """Return a new cursor that reads and writes socket ``fd``. O(1).

        Until it is attached, it is sent private frames alone.

        Args:
            fd: its socket.
            external: the caller reads and writes, and uses ``take``, ``peek`` and ``advance``.

        Raises:
            MemoryError: there is no memory.
        """
        self._core.make_room()
        return self._counted(lib.cl_open(self._core.log, fd, external))

    def retain(self) -> Cursor:
        """Return a new cursor that belongs to no client and keeps the log from its current end on. O(1).

        It is read with ``peek`` and ``advance``. It sees frames that are not published yet, and ``behind``
        never returns it.

        Raises:
            MemoryError: there is no memory.
        """
        self._core.make_room()
        return self._counted(lib.cl_retain(self._core.log))

    def _counted(self, handle: Any) -> Cursor:
        cursor = Cursor(self._core, made(handle))
        self._core.opened()
        return cursor

    # --- into the log ---

    def reserve(self, size: int) -> None:
        """Make sure that the next ``append`` of at most ``size`` bytes does not fail. O(1).

        Raises:
            MemoryError: there is no room for it.
        """
        check(lib.cl_reserve(self._core.log, size))

    def append(self, verb: bytes, text: bytes) -> int:
        """Log ``<verb> <seq> <text>`` and return its seq.

        Raises:
            MemoryError: nothing was logged.
        """
        seq: int = lib.cl_append(self._core.log, verb, text, len(text))
        if seq < 0:
            raise failure(seq)
        return seq

    def apply(self, member: int, batch: bytes) -> None:
        """Log what ``collect`` returned, for a member with or without a cursor. O(bytes).

        The log becomes the same as if ``next_line`` had logged the lines.

        Raises:
            ValueError: there is no such member, or a line is not a valid command or has no end; nothing was
                logged.
            MemoryError: nothing was logged.
        """
        check(lib.cl_apply(self._core.log, self._core.member(member), batch, len(batch)))

    def publish(self, position: int | None) -> None:
        """Let the log be sent up to ``position``, the end of a frame, and no further. O(1).

        Private frames wait until their place is published. None publishes each frame as soon as it is
        logged, as in a new log. What was sent already stays sent.
        """
        lib.cl_publish(self._core.log, EVERYTHING if position is None else position)

    # --- out to the sockets ---

    def flush_all(self) -> tuple[list[int], list[int]]:
        """Send every attached cursor that is not blocked its pending output, by rank.

        Returns:
            The descriptors that have become blocked, and those that can no longer be written.
        """
        descriptors = self._core.descriptors
        count = lib.cl_flush_all(self._core.log, descriptors, len(descriptors))
        if not count:
            return [], []
        named = ffi.unpack(descriptors, count)
        return [fd for fd in named if fd >= 0], [~fd for fd in named if fd < 0]

    # --- questions ---

    @property
    def seq(self) -> int:
        """The seq of the last frame, 0 before the first."""
        seq: int = lib.cl_seq(self._core.log)
        return seq

    @property
    def end(self) -> int:
        """The position after the last frame."""
        end: int = lib.cl_end(self._core.log)
        return end

    def find(self, seq: int) -> int:
        """Return the position right after frame ``seq``. O(1) for the last frame, else O(bytes of a block).

        Raises:
            ValueError: there is no such frame yet.
            LookupError: the frames after it are no longer kept.
        """
        position = ffi.new("uint64_t *")
        check(lib.cl_find(self._core.log, seq, position))
        found: int = position[0]
        return found

    @property
    def unflushed(self) -> int:
        """How many frames were logged since the last ``flush_all``."""
        unflushed: int = lib.cl_unflushed(self._core.log)
        return unflushed

    @property
    def held(self) -> int:
        """Bytes of the log that are kept for the slowest cursor."""
        held: int = lib.cl_held(self._core.log)
        return held

    def behind(self, size: int) -> list[int]:
        """Return the descriptors of the cursors for which more than ``size`` bytes of the log are kept.

        Cursors of members come first, by rank, then those that follow the log without a rank, then detached
        ones that still have a part of it to get. O(cursors).
        """
        return list(
            ffi.unpack(
                self._core.descriptors,
                lib.cl_behind(self._core.log, size, self._core.descriptors, len(self._core.descriptors)),
            )
        )

    def check(self) -> None:
        """Check every invariant of the core, for tests.

        Raises:
            AssertionError: an invariant is broken; the message has its number in ``_core.h``.
        """
        broken = lib.cl_check(self._core.log)
        if broken:
            raise AssertionError(f"invariant {broken} of _core.h is broken")


def text_ok(data: bytes) -> bool:
    """Tell whether the bytes follow the text rule (docs/protocol.md, "Lines")."""
    return bool(lib.cl_text_ok(data, len(data)))
