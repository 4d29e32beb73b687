"""The typed wrapper of the C core: ranked members, the shared log, and the cursors of connections.

See ``core`` for what calls of the C core have in common.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final

from rankserver._clist_cffi import ffi, lib
from rankserver.core import Core, check, made
from rankserver.cursor import Cursor

# The number of bytes in a block of the log: what the core sends in one system call.
BLOCK_BYTES: Final = 1024 * 1024

# The most bytes that one read returns. Logged as frames of 64 bytes, they fit into one block.
MAX_READ_BYTES: Final = 800 * 1024

# The published position that lets everything be sent at once.
EVERYTHING: Final = 2**64 - 1


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
        check(min(seq, 0))
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
