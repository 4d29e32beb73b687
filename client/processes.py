"""Counting, stopping and killing processes, as the supervisor of a command needs it.

Like ``supervisor``, this module imports little.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Final

# The most passes over /proc to stop all descendants; one that finds no new process is the last. Few suffice,
# because a process that is listed is stopped before it can fork many others.
MAX_STOP_PASSES: Final = 20
# The most processes and threads that any system has: the kernel's limit for pid_max (proc(5)).
PID_MAX_LIMIT: Final = 4_194_304

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_CHILD_SUBREAPER: Final = 36
prctl = ctypes.CDLL(None).prctl


def hide() -> None:
    """Let other processes, even of our user, see neither our environment nor our memory nor our descriptors.

    Root still may look. Programs that we execute are not affected.
    """
    prctl(PR_SET_DUMPABLE, 0)


# --- counting ---------------------------------------------------------------------------------


class UserProcesses:
    """Counts the processes and threads of our user as the kernel does for ``RLIMIT_NPROC``.

    /proc would not do: it shows only those of our process namespace. But a fork fails if and only if with it
    there would be more than the limit, so the limit that just allows one is found by bisection.
    """

    def __init__(self) -> None:
        self._last = 1

    def limit(self, more: int) -> int | None:
        """Return the limit that allows ``more`` processes than there are; None if none applies to us."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        highest = PID_MAX_LIMIT if hard == resource.RLIM_INFINITY else hard
        try:
            self._last = _least(lambda limit: _may_fork(limit, hard), self._last, highest)
        finally:
            resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
        # We exist, so a limit of 1 that applied to us would not allow another process.
        return None if self._last == 1 else min(self._last - 1 + more, highest)


def _least(is_enough: Callable[[int], bool], guess: int, highest: int) -> int:
    """Return the least number from 1 to ``highest`` that is enough, or ``highest`` if none is.

    O(log n) steps, where n is by how much ``guess`` is wrong.
    """
    too_low, enough = 0, highest
    at, step = guess, 1
    while too_low + 1 < enough:
        if not too_low < at < enough:
            at = (too_low + enough) // 2
        if is_enough(at):
            enough = at
            at -= step
        else:
            too_low = at
            at += step
        step *= 2
    return enough


def _may_fork(limit: int, hard: int) -> bool:
    """Tell whether we may fork with this soft limit, by doing so."""
    resource.setrlimit(resource.RLIMIT_NPROC, (limit, hard))
    try:
        pid = os.fork()
    except OSError:
        return False
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return True


# --- ending -----------------------------------------------------------------------------------


def write(path: str, text: str) -> None:
    """Write to one of the kernel's files, in one call."""
    with open(path, "wb", buffering=0) as file:
        file.write(text.encode())


def kill_cgroup(cgroup: str) -> None:
    """Kill all processes of a cgroup: as a whole, or else one by one, when it can have no new ones."""
    with contextlib.suppress(OSError):
        write(f"{cgroup}/cgroup.kill", "1")
        return
    with contextlib.suppress(OSError):
        write(f"{cgroup}/pids.max", "0")
        with open(f"{cgroup}/cgroup.procs", "rb") as members:
            # A process of another process namespace is listed as 0.
            for pid in filter(None, map(int, members)):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)


def descendants() -> dict[int, int]:
    """Return the process ids of all our descendants, each with its process group. O(all processes)."""
    groups: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for pid in _processes():
        with contextlib.suppress(OSError):
            parent, groups[pid] = _parent_and_group(pid)
            children.setdefault(parent, []).append(pid)
    found = list(children.get(os.getpid(), ()))
    for pid in found:
        found += children.get(pid, ())
    return {pid: groups[pid] for pid in found}


def stop_descendants() -> dict[int, int]:
    """Stop all our descendants, so that none of them can fork; return them as ``descendants`` does.

    A signal for those that were found would come too late for those that they have forked since.
    """
    stopped: dict[int, int] = {}
    for _ in range(MAX_STOP_PASSES):
        if not _stop_new(stopped):
            break
    return stopped


def _stop_new(stopped: dict[int, int]) -> bool:
    """Stop descendants that are not in ``stopped``, add them, and return whether there were any.

    Each is stopped as soon as it is seen. Children usually have higher ids than their parents, and /proc is
    in their order, so this pass also sees what a process has forked until then.
    """
    before = len(stopped)
    for pid in _processes():
        if pid not in stopped:
            with contextlib.suppress(OSError):
                parent, group = _parent_and_group(pid)
                if parent == os.getpid() or parent in stopped:
                    stopped[pid] = group
                    tell({pid: group}, signal.SIGSTOP)
    return len(stopped) > before


def _processes() -> Iterator[int]:
    """Iterate over the ids of all processes.

    Without /proc, there are none, and also with the /proc of another process namespace, whose ids belong to
    other processes.
    """
    with contextlib.suppress(OSError):
        if os.readlink("/proc/self") == str(os.getpid()):
            with os.scandir("/proc") as entries:
                yield from (int(entry.name) for entry in entries if entry.name.isdecimal())


def _parent_and_group(pid: int) -> tuple[int, int]:
    """Return the ids of a process's parent and process group.

    Raises:
        OSError: the process has gone.
    """
    with open(f"/proc/{pid}/stat", "rb") as stat:
        _state, parent, group, *_ = stat.read().rpartition(b")")[2].split()  # a name may hold anything
    return int(parent), int(group)


def tell(processes: Mapping[int, int], *numbers: int) -> None:
    """Send signals to the groups of ``processes``: a fork cannot slip out of its group."""
    for group in set(processes.values()):
        for number in numbers:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # ended, or another user's
                os.killpg(group, number)
