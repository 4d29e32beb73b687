"""The memory reserve: memory that strangers cannot use up, so that members are served whatever strangers do.

Theory of operation. Running out of memory cannot be handled where it happens: any step of Python may need
some, and ``ssl`` crashes when OpenSSL gets none. So the server asks beforehand, while strangers are there:
could ``MEMORY_RESERVE`` bytes still be allocated? If not, memory is low: newcomers are refused, and all
strangers are closed. Whatever the members then need, they have at least the reserve.

A block of the same size is held in addition, and given back when memory is low or a client departs for lack
of it. So members have that much even if a limit suddenly leaves nothing. The block is never touched, so it
takes only address space.

This notices limits that make an allocation fail: RLIMIT_AS, RLIMIT_DATA, and a system without overcommitment.
It does not notice the limit of a cgroup, where allocating succeeds, and using the memory ends the process.
"""

from __future__ import annotations

import mmap
from typing import Final

# Bytes that must be left. Strangers can take about a mebibyte between two checks, and the lines of a turn add
# at most a few mebibytes to the log.
MEMORY_RESERVE: Final = 8 * 1024 * 1024
# The most questions that are answered with the result of one check, which costs two system calls. After each,
# strangers can take some 100 KiB at most: a TLS handshake takes about half of that.
MAX_ANSWERS: Final = 16
# The most seconds for which the result of a check counts: within them, members hardly use much memory.
MAX_AGE: Final = 0.005
# The sizes in which the reserve is allocated if it cannot be mapped as one block: memory that strangers have
# used does not always return to the system, and what the allocator has free counts as well. There are two for
# blocks of the log, and many for what is kept for connections.
PIECES: Final = (*[1024 * 1024] * 2, *[64 * 1024] * 96)


class Reserve:
    """Tells whether there is memory for strangers."""

    def __init__(self) -> None:
        self._block = _mapped(MEMORY_RESERVE)
        self._answers_left = 0
        self._valid_until = 0.0

    def is_intact(self, now: float) -> bool:
        """Tell whether the reserve could be allocated at ``now``, or a moment ago."""
        if self._answers_left and now < self._valid_until:
            self._answers_left -= 1
            return True
        if not self._check():
            self.release()
            return False
        self._answers_left = MAX_ANSWERS - 1
        self._valid_until = now + MAX_AGE
        return True

    def release(self) -> None:
        """Give back the block that is held. A check takes it again once there is twice as much."""
        self._answers_left = 0
        if self._block is not None:
            self._block.close()
            self._block = None

    def _check(self) -> bool:
        block = _mapped(MEMORY_RESERVE)
        if block is None:
            return _is_free()
        if self._block is None:
            self._block = _mapped(MEMORY_RESERVE)
        block.close()
        return True


def _mapped(size: int) -> mmap.mmap | None:
    """Map a block of memory without touching it; return None if that is impossible."""
    try:
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, MemoryError):
        return None


def _is_free() -> bool:
    """Tell whether the reserve can be allocated in ``PIECES``."""
    try:
        return bool([bytes(size) for size in PIECES])
    except MemoryError:
        return False
