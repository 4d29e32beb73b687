"""What a log and its cursors share of the C core, and how the core's results become exceptions.

This module and ``clist`` are the only ones that call the core. What each call does, costs and
guarantees is described above its function in the ``_*.c`` files.
"""

from __future__ import annotations

from typing import Any, Final

from rankserver._clist_cffi import ffi, lib

# The first size of the array in which the core returns descriptors. It doubles when there are more cursors.
FIRST_DESCRIPTORS: Final = 64


class Core:
    """The core's structures that belong to one log.

    Args:
        log: the core's log.

    Attributes:
        log: the core's log, or None once it is closed: C calls raise TypeError then.
        members: the core's members, by id.
        span: where the core tells which piece of memory it means.
        descriptors: where the core returns descriptors; it has room for those of all cursors.
    """

    __slots__ = ("_cursors", "descriptors", "log", "members", "span")

    def __init__(self, log: Any) -> None:
        self.log: Any = log
        self.members: dict[int, Any] = {}
        self.span: Any = ffi.new("cl_span *")
        self.descriptors: Any = ffi.new("int[]", FIRST_DESCRIPTORS)
        self._cursors = 0

    def free(self) -> None:
        """Free the log with all its members and cursors. Calling this twice is allowed."""
        if self.log is not None:
            lib.cl_free(self.log)
            self.log = None
            self.members.clear()

    def check_open(self) -> None:
        """Raise TypeError if the log is closed, for calls in which C would read a cursor that was freed."""
        if self.log is None:
            raise TypeError("the log is closed")

    def member(self, member: int) -> Any:
        """Return the core's member with this id.

        Raises:
            ValueError: it is no member.
        """
        try:
            return self.members[member]
        except KeyError:
            raise ValueError(f"there is no member {member}") from None

    def make_room(self) -> None:
        """Make room for the descriptor of one more cursor."""
        if self._cursors == len(self.descriptors):
            self.descriptors = ffi.new("int[]", 2 * self._cursors)

    def opened(self) -> None:
        """Count a cursor that was made."""
        self._cursors += 1

    def discarded(self) -> None:
        """Count a cursor as gone."""
        self._cursors -= 1


def made(pointer: Any) -> Any:
    """Return what the core has made.

    Raises:
        MemoryError: it is NULL.
    """
    if pointer == ffi.NULL:
        raise MemoryError
    return pointer


def check(status: int) -> None:
    """Raise the exception of a status, if it is a failure."""
    if status < 0:
        raise failure(status)


def failure(status: int) -> Exception:
    """Return the exception that stands for a status."""
    if status == lib.CL_MISUSE:
        return ValueError("this member or cursor does not allow the call, or the data is invalid")
    if status == lib.CL_GONE:
        return LookupError("the frames are no longer kept")
    return MemoryError()
