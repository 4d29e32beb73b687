"""What limits the number of processes of a command, and ends all of them at once.

Linux has two means. A *cgroup* (cgroups(7)) counts the processes and threads of one command, whichever user
they belong to, and can be killed as a whole. We can make one where our own cgroup may be changed: as root, or
in a subtree that the service manager has delegated. Elsewhere there is only ``RLIMIT_NPROC`` (getrlimit(2)):
it counts all processes and threads of our user, and does not apply to root.

Each supervisor gets cgroups of its own, in which its commands run: usually one, of version 2, and a second
one where the controller ``pids`` is still in version 1.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

# The beginning of the names of the cgroups that we make. The id of the process that made one follows.
PREFIX: Final = "rankserver-"
# The controller that limits the number of processes.
PIDS: Final = "pids"
# The cgroup into which the agent moves where it has one to itself: only leaves may contain processes.
OWN_LEAF: Final = "agent"
# The capabilities to which RLIMIT_NPROC does not apply: CAP_SYS_ADMIN and CAP_SYS_RESOURCE.
EXEMPT: Final = 1 << 21 | 1 << 24
# The uid_map of the first user namespace, the only one in which capabilities exempt from RLIMIT_NPROC.
FIRST_NAMESPACE: Final = [0, 0, 2**32 - 1]

# The cgroups that could not be removed yet.
_unremoved: set[str] = set()


class Means(NamedTuple):
    """The means that this system has.

    Attributes:
        parents: the cgroups in which cgroups for commands can be made.
        counts: whether one of those limits the number of processes.
        has_rlimit: whether ``RLIMIT_NPROC`` applies to us.
    """

    parents: tuple[str, ...]
    counts: bool
    has_rlimit: bool

    @property
    def can_limit(self) -> bool:
        """Whether the number of processes can be limited."""
        return self.counts or self.has_rlimit


@functools.cache
def find() -> Means:
    """Find out which means there are. This may move the calling process into a cgroup below its own."""
    try:
        own = own_cgroups(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
        has_rlimit = _has_rlimit()
    except OSError:  # there is no /proc
        return Means((), counts=False, has_rlimit=os.getuid() != 0)
    if "cgroup2" in own:
        _delegate(own["cgroup2"])
    files = {parent: _files_below(parent) for parent in own.values()}
    parents = tuple(parent for parent in files if files[parent] & {"cgroup.kill", "pids.max"})
    for parent in parents:
        remove(_abandoned(parent))
    return Means(parents, any("pids.max" in files[parent] for parent in parents), has_rlimit)


def own_cgroups(memberships: str, mounts: str) -> dict[str, str]:
    """Return the directories of our own cgroups, by the type of their file system.

    ``cgroup2`` is version 2, and ``cgroup`` the controller ``pids`` of version 1.

    Args:
        memberships: the content of ``/proc/self/cgroup``.
        mounts: the content of ``/proc/self/mountinfo``.
    """
    own: dict[str, str] = {}
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        kind = "cgroup" if controllers else "cgroup2"
        for mount in mounts.splitlines():
            mounted, _, file_system = mount.partition(" - ")
            root, point = mounted.split()[3:5]
            fs_type, _, options = file_system.split()[:3]
            has_pids = PIDS in controllers.split(",") and PIDS in options.split(",")
            is_below = f"{path}/".startswith(f"{root.rstrip('/')}/")
            if fs_type == kind and is_below and (has_pids or not controllers):
                own[kind] = f"{point}/{os.path.relpath(path, root)}".removesuffix("/.")
    return own


def make(parents: Iterable[str]) -> list[str]:
    """Make a cgroup in each of ``parents``; return their directories.

    Raises:
        OSError: one of them cannot be made; then none is left.
    """
    remove(())
    made: list[str] = []
    try:
        made.extend(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent) for parent in parents)
    except OSError:
        remove(made)
        raise
    return made


def remove(cgroups: Iterable[str]) -> None:
    """Remove cgroups. Those in which killed processes are still ending are removed later, or when we exit."""
    _unremoved.update(cgroups)
    for cgroup in tuple(_unremoved):
        try:
            os.rmdir(cgroup)
        except OSError as error:
            if error.errno == errno.EBUSY:
                continue
        _unremoved.discard(cgroup)


def _delegate(own: str) -> None:
    """Let cgroups below ``own`` limit processes, if that is possible and no other process is in it."""
    with contextlib.suppress(OSError):
        if PIDS not in _read(f"{own}/cgroup.controllers") or PIDS in _read(f"{own}/cgroup.subtree_control"):
            return
        # Only the root of all cgroups has no type, and may contain processes beside other cgroups.
        if os.path.exists(f"{own}/cgroup.type") and not _moved(own, f"{own}/{OWN_LEAF}"):
            return
        Path(own, "cgroup.subtree_control").write_text(f"+{PIDS}")


def _moved(own: str, leaf: str) -> bool:
    """Move ourselves from ``own`` into ``leaf``, unless others remain in ``own``; return whether we did."""
    os.makedirs(leaf, exist_ok=True)
    try:
        Path(leaf, "cgroup.procs").write_text("0")
        if not _read(f"{own}/cgroup.procs"):
            return True
        Path(own, "cgroup.procs").write_text("0")
    finally:
        with contextlib.suppress(OSError):  # we are in it
            os.rmdir(leaf)
    return False


def _abandoned(parent: str) -> list[str]:
    """Return the cgroups in ``parent`` whose makers have gone, and may have been killed."""
    makers = (
        (place, place.name.removeprefix(PREFIX).partition("-")[0])
        for place in Path(parent).glob(f"{PREFIX}*")
    )
    return [str(place) for place, maker in makers if not os.path.exists(f"/proc/{maker}")]


def _files_below(parent: str) -> set[str]:
    """Return the names of the files of a cgroup in ``parent``; none if no process could be moved there."""
    try:
        (made,) = make((parent,))
    except OSError:
        return set()
    try:
        is_domain = not os.path.exists(f"{made}/cgroup.type") or _read(f"{made}/cgroup.type") == ["domain"]
        may_move = all(os.access(f"{place}/cgroup.procs", os.W_OK) for place in (parent, made))
        return set(os.listdir(made)) if is_domain and may_move else set()
    finally:
        os.rmdir(made)


def _read(path: str) -> list[str]:
    return Path(path).read_text().split()


def _has_rlimit() -> bool:
    """Tell whether ``RLIMIT_NPROC`` applies to us; see ``copy_process`` in the kernel's ``fork.c``."""
    ids = [int(word) for word in _read("/proc/self/uid_map")]
    if ids != FIRST_NAMESPACE:
        return _outside(os.getuid(), ids) != 0
    status = _read("/proc/self/status")
    capabilities = int(status[status.index("CapEff:") + 1], 16)
    return os.getuid() != 0 and not capabilities & EXEMPT


def _outside(uid: int, uid_map: list[int]) -> int:
    """Return what our user is called outside our user namespace."""
    for inside, outside, length in zip(uid_map[::3], uid_map[1::3], uid_map[2::3], strict=True):
        if inside <= uid < inside + length:
            return outside + uid - inside
    return uid


atexit.register(remove, ())
