"""The typed face of the C core: the ranked members, the shared log, what goes into it and what goes out.

The only module that touches the core; what each call does, costs and guarantees stands above its function in
the ``_*.c`` files. Codes become exceptions here, in one place. A closed log or cursor is a TypeError at its
next use.
"""

from __future__ import annotations

import enum
import os
from types import TracebackType
from typing import Any, Final

from rankserver._clist_cffi import ffi, lib
from rankserver.wire import protocol
from rankserver.wire.exceptions import RemoteProtocolError

# Bytes in a block of the log: as many as the core sends in one system call.
BLOCK_BYTES: Final = 1024 * 1024

# The most bytes that one read brings. As frames of 64 bytes they fit into one block.
READ_BYTES: Final = 800 * 1024

# The most pieces that ``peek`` returns.
PEEK_SPANS: Final = 16

# The published position that lets everything be sent at once.
EVERYTHING: Final = 2**64 - 1

# Cursors that there is room to name from the start; the room doubles when there are more.
FIRST_FDS: Final = 64


class Flushed(enum.IntEnum):
    """How a flush ended."""

    DONE = lib.CL_OK
    BLOCKED = lib.CL_BLOCKED  # flush again when the socket is writable
    BROKEN = lib.CL_BROKEN  # gone for writing; may still be readable


class Cursor:
    """One connection's place in the log, its input and its private frames.

    Made by ``Log.open`` and ``Log.retain``.
    """

    __slots__ = ("_handle", "_log")

    def __init__(self, log: Log, handle: Any) -> None:
        self._log = log
        self._handle: Any = handle

    # --- its place in the log ---

    def attach(self, member: int | None, seq: int | None = None) -> None:
        """Send the cursor the frames after ``seq``, and let what it sends be the member's.

        O(1) for the end of the log, else O(bytes of a block).

        Args:
            member: None lets it follow the log without a rank.
            seq: None is the end of the log.

        Raises:
            ValueError: the cursor was attached before, there is no such member, the member has a cursor, or
                there is no such frame yet.
            LookupError: the frames after ``seq`` are not kept any more.
        """
        handle = ffi.NULL if member is None else self._log._member(member)
        last: int = lib.cl_seq(self._log._core) if seq is None else seq
        _check(lib.cl_attach(self._log._core, self._handle, handle, last))

    def detach(self) -> None:
        """End the cursor's part of the log at the end of the log; it is still sent what it is owed. O(1).

        The member keeps its rank, and may be given another cursor.

        Raises:
            ValueError: it is not attached.
        """
        _check(lib.cl_detach(self._log._core, self._handle))

    def cut(self) -> None:
        """Owe the cursor no more than the frame that it has begun to get, and detach it if it is attached."""
        lib.cl_cut(self._log._core, self._handle)

    def mute(self) -> None:
        """Send no more to the cursor, whose connection is gone for writing; what it has sent still counts."""
        lib.cl_mute(self._log._core, self._handle)

    def discard(self) -> None:
        """Free the cursor, attached or not. The caller closes its socket."""
        lib.cl_close(self._log._core, self._handle)
        self._handle = None
        self._log._cursors -= 1

    # --- what it sends ---

    def read(self, size: int) -> int:
        """Receive once, at most ``size`` bytes, for ``next_line`` and ``collect`` to go through.

        Returns:
            How many bytes came, 0 at the end of the stream.

        Raises:
            BlockingIOError: there is nothing to receive, or there is input that was not gone through:
                ``next_line`` has not returned None since the last read.
            OSError: the connection is lost; with ENOMEM, the input of another cursor could not be kept.
        """
        count: int = lib.cl_read(self._log._core, self._handle, size)
        if count < 0:
            raise OSError(-count, os.strerror(-count))
        return count

    def take(self, data: bytes | bytearray | memoryview) -> None:
        """Do as ``read`` for bytes that the caller has received, at most ``read_bytes``.

        Raises:
            ValueError: there are more than that, or input that was not gone through.
            MemoryError: the input of another cursor could not be kept.
        """
        _check(lib.cl_take(self._log._core, self._handle, ffi.from_buffer(data), len(data)))

    def next_line(self, *, logs: bool) -> bytes | None:
        """Go through the cursor's input up to the next line for the caller. O(bytes).

        Args:
            logs: log the valid CMD lines of an attached member; otherwise they are lines as any other.

        Returns:
            The first other line that is not empty, without its CR and LF; the next call goes on behind it.
            None at the end: the beginning of a line is kept for the next read.

        Raises:
            RemoteProtocolError: ``too-long``; all before that line is handled.
            MemoryError: all before that line is handled; the same call may be tried again.
        """
        line = self._log._span
        status = lib.cl_line(self._log._core, self._handle, logs, line)
        if status == lib.CL_OK:
            return None
        if status == lib.CL_LINE:
            return bytes(ffi.buffer(line.data, line.len))
        if status == lib.CL_LONG:
            longest = lib.cl_longest_line(self._log._core, self._handle)
            raise RemoteProtocolError(protocol.TOO_LONG, f"a line is longer than {longest} bytes")
        raise _error(status)

    def unread(self) -> None:
        """Let the line that ``next_line`` returned last for this cursor be the next again. O(1).

        It does not matter what happened to other cursors in between. The line is taken for good by this
        cursor's next ``next_line`` or ``collect``.
        """
        lib.cl_unread(self._log._core, self._handle)

    def keep(self) -> None:
        """Move the rest of the cursor's input into its own memory. O(bytes).

        That happens anyway when another cursor needs the buffer. Now it is this one that fails for lack
        of memory.

        Raises:
            MemoryError: it is where it was.
        """
        _check(lib.cl_keep(self._log._core, self._handle))

    def collect(self) -> bytes:
        """Take the valid CMD lines at the front of the cursor's input without logging them. O(bytes).

        Returns:
            The lines with their ends, for ``apply``. Nothing if the next line is another, if there is none,
            or if the cursor has no member; then ``next_line`` goes on.

        Raises:
            MemoryError: nothing was taken.
        """
        batch = self._log._span
        _check(lib.cl_collect(self._log._core, self._handle, batch))
        return bytes(ffi.buffer(batch.data, batch.len))

    def ignore(self) -> None:
        """Throw away the cursor's input, and all that comes from now on. O(1)."""
        lib.cl_ignore(self._log._core, self._handle)

    # --- what it is sent ---

    def private(self, frame: bytes) -> int:
        """Queue a frame for this cursor alone, LF included, behind what is logged so far.

        Returns:
            How many bytes of private frames wait to be sent to the cursor now.

        Raises:
            ValueError: the frame is empty.
            MemoryError: it was not queued.
        """
        queued: int = lib.cl_private(self._log._core, self._handle, frame, len(frame))
        _check(queued)
        return queued

    def flush(self) -> Flushed:
        """Send to one cursor what waits for it, in a bounded number of system calls."""
        return Flushed(lib.cl_flush(self._log._core, self._handle))

    def peek(self) -> list[memoryview]:
        """Return what is to be sent next, for a transport that C cannot write to.

        The memory is valid until the next call of any method.
        """
        spans = ffi.new("cl_span[]", PEEK_SPANS)
        count = lib.cl_peek(self._log._core, self._handle, spans, PEEK_SPANS)
        return [memoryview(ffi.buffer(span.data, span.len)) for span in spans[0:count]]

    def advance(self, sent: int) -> None:
        """Count ``sent`` bytes of what ``peek`` returned as sent."""
        lib.cl_advance(self._log._core, self._handle, sent)

    # --- questions ---

    def lag(self) -> int:
        """Return how many bytes wait to be sent to the cursor, published or not."""
        lag: int = lib.cl_lag(self._log._core, self._handle)
        return lag

    def sent(self) -> int:
        """Return how many bytes the cursor was sent, and those of the log before the place of its attachment.

        Raises:
            TypeError: the log is closed.
        """
        self._log._check_open()
        sent: int = lib.cl_sent(self._handle)
        return sent

    def in_flight(self) -> int:
        """Return how many bytes of those sent the client's system has not acknowledged, if ours can tell.

        Raises:
            TypeError: the log is closed.
        """
        self._log._check_open()
        in_flight: int = lib.cl_in_flight(self._handle)
        return in_flight

    def queued(self) -> int:
        """Return how many bytes of private frames wait to be sent to the cursor."""
        self._log._check_open()
        queued: int = lib.cl_queued(self._handle)
        return queued

    def is_blocked(self) -> bool:
        """Tell whether the last flush could not send all that was due."""
        self._log._check_open()
        return bool(lib.cl_is_blocked(self._handle))


class Log:
    """The shared log, the ranked members and the cursors that it is sent to.

    Args:
        max_line: the most bytes of a line from a client, LF included.
        block_bytes: size of one block of the log.
        read_bytes: the most bytes that one read brings.
    """

    def __init__(self, max_line: int, block_bytes: int = BLOCK_BYTES, read_bytes: int = READ_BYTES) -> None:
        self._core: Any = _made(lib.cl_new(block_bytes, max_line, read_bytes))
        self._members: dict[int, Any] = {}
        self._cursors = 0
        self._span: Any = ffi.new("cl_span *")
        self._fds: Any = ffi.new("int[]", FIRST_FDS)  # room for the descriptors of all cursors

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the log with all its members and cursors. Closing twice is allowed."""
        if self._core is not None:
            lib.cl_free(self._core)
            self._core = None
            self._members.clear()

    # --- members ---

    def join(self, member: int, rank_class: int = 0) -> None:
        """Make a member with the lowest rank in its class, and without a cursor.

        O(members in classes that rank below, those with higher numbers).

        Args:
            member: the caller's name for it, from 0 to 2**64 - 1.
            rank_class: its class; lower numbers rank above higher ones.

        Raises:
            ValueError: it is a member already.
            MemoryError: it has not joined.
        """
        if member in self._members:
            raise ValueError(f"{member} is a member already")
        self._members[member] = _made(lib.cl_join(self._core, member, rank_class))

    def leave(self, member: int) -> None:
        """Take the member out of the ranks; its cursor is detached, if it has one. O(1).

        Raises:
            ValueError: it is no member.
        """
        lib.cl_leave(self._core, self._member(member))
        del self._members[member]

    def rank(self, member: int) -> int:
        """Return the member's rank, 0 for the highest.

        O(n) after a change in the middle of the list, else O(1).

        Raises:
            ValueError: it is no member.
        """
        rank: int = lib.cl_rank(self._core, self._member(member))
        return rank

    def members(self) -> list[int]:
        """Return all members, by rank. O(n)."""
        ids = ffi.new("uint64_t[]", self.count)
        return list(ffi.unpack(ids, lib.cl_members(self._core, ids, len(ids))))

    @property
    def count(self) -> int:
        """How many members there are."""
        count: int = lib.cl_count(self._core)
        return count

    def _member(self, member: int) -> Any:
        try:
            return self._members[member]
        except KeyError:
            raise ValueError(f"{member} is no member") from None

    # --- cursors ---

    def open(self, fd: int, *, external: bool = False) -> Cursor:
        """Return a new cursor that reads and writes socket ``fd``. O(1).

        Until it is attached, it is sent private frames alone.

        Args:
            fd: its socket.
            external: the caller reads and writes, and uses ``take``, ``peek`` and ``advance``.

        Raises:
            MemoryError: there is none.
        """
        self._make_room()
        return self._counted(lib.cl_open(self._core, fd, external))

    def retain(self) -> Cursor:
        """Return a new cursor of nobody's that keeps the log from its end on. O(1).

        It is read with ``peek`` and ``advance``, sees what is not published yet, and is never among those
        ``behind``.

        Raises:
            MemoryError: there is none.
        """
        self._make_room()
        return self._counted(lib.cl_retain(self._core))

    def _make_room(self) -> None:
        """Make room for the descriptor of one cursor more."""
        if self._cursors == len(self._fds):
            self._fds = ffi.new("int[]", 2 * self._cursors)

    def _counted(self, handle: Any) -> Cursor:
        cursor = Cursor(self, _made(handle))
        self._cursors += 1
        return cursor

    # --- into the log ---

    def reserve(self, size: int) -> None:
        """Make sure that the next ``append`` of at most ``size`` bytes does not fail. O(1).

        Raises:
            MemoryError: there is no room for it.
        """
        _check(lib.cl_reserve(self._core, size))

    def append(self, verb: bytes, text: bytes) -> int:
        """Log ``<verb> <seq> <text>`` and return its seq.

        Raises:
            MemoryError: nothing was logged.
        """
        seq: int = lib.cl_append(self._core, verb, text, len(text))
        _check(min(seq, 0))
        return seq

    def apply(self, member: int, batch: bytes) -> None:
        """Log what ``collect`` returned, for a member with or without a cursor. O(bytes).

        The log becomes what it would be if ``next_line`` had logged it.

        Raises:
            ValueError: it is no member, or a line is no valid command or has no end; nothing was logged.
            MemoryError: nothing was logged.
        """
        _check(lib.cl_apply(self._core, self._member(member), batch, len(batch)))

    def publish(self, position: int | None) -> None:
        """Let the log be sent up to ``position``, the end of a frame, and no further. O(1).

        Private frames wait for their place to be published. None publishes everything at once, as in a
        new log. What was sent already stays sent.
        """
        lib.cl_publish(self._core, EVERYTHING if position is None else position)

    # --- out to the sockets ---

    def flush_all(self) -> tuple[list[int], list[int]]:
        """Send to every attached cursor that is not blocked all that waits for it, by rank.

        Returns:
            The descriptors that are blocked from now on, and those that are gone for writing.
        """
        count = lib.cl_flush_all(self._core, self._fds, len(self._fds))
        if not count:
            return [], []
        named = ffi.unpack(self._fds, count)
        return [fd for fd in named if fd >= 0], [~fd for fd in named if fd < 0]

    # --- questions ---

    @property
    def seq(self) -> int:
        """The seq of the last frame, 0 before the first."""
        seq: int = lib.cl_seq(self._core)
        return seq

    @property
    def end(self) -> int:
        """The position behind the last frame."""
        end: int = lib.cl_end(self._core)
        return end

    def find(self, seq: int) -> int:
        """Return the position right behind frame ``seq``. O(1) for the last frame, else O(bytes of a block).

        Raises:
            ValueError: there is no such frame yet.
            LookupError: the frames after it are not kept any more.
        """
        position = ffi.new("uint64_t *")
        _check(lib.cl_find(self._core, seq, position))
        found: int = position[0]
        return found

    @property
    def unflushed(self) -> int:
        """How many frames were logged since ``flush_all``."""
        unflushed: int = lib.cl_unflushed(self._core)
        return unflushed

    @property
    def held(self) -> int:
        """Bytes of the log that are kept for the slowest cursor."""
        held: int = lib.cl_held(self._core)
        return held

    def _check_open(self) -> None:
        """Refuse a closed log, where C does not see that it is, and would read a cursor that is freed."""
        if self._core is None:
            raise TypeError("the log is closed")

    def behind(self, size: int) -> list[int]:
        """Return the descriptors of the cursors for which more than ``size`` bytes of the log are kept.

        Those of members come first, by rank, then those that follow the log, and last those that are detached
        and still owed something. O(n), for all cursors.
        """
        return list(ffi.unpack(self._fds, lib.cl_behind(self._core, size, self._fds, len(self._fds))))

    def check(self) -> None:
        """Walk every invariant of the core, for tests.

        Raises:
            AssertionError: with the number of the broken one in ``_core.h``.
        """
        broken = lib.cl_check(self._core)
        if broken:
            raise AssertionError(f"invariant {broken} of _core.h is broken")


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
        return ValueError("not a call for this member, cursor or data")
    if status == lib.CL_GONE:
        return LookupError("the frames are not kept any more")
    return MemoryError()
