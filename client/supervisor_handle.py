"""The client's end of the conversation with a process of ``supervisor``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from client import bounds, processes, supervisor
from rankserver.wire.lines import LineBuffer

# How long a supervisor may take to end its command and itself before it is killed, in seconds: its own
# timeouts, and a margin for a machine that a fork bomb keeps busy. Processes may stay if this is too short.
END_TIMEOUT: Final = supervisor.GRACE + supervisor.KILL_TIMEOUT + 10.0
# The supervisor's program. Its argument is the directory of our package, which an isolated Python does not
# search.
PROGRAM: Final = "import sys; sys.path.append(sys.argv[1]); from client import supervisor; supervisor.main()"
PLACE: Final = Path(__file__).resolve().parent.parent
# The variables that Python itself may need to start.
ENVIRONMENT: Final = ("LD_LIBRARY_PATH",)
# The most bytes received at once. A longer reply takes several calls.
MAX_READ_BYTES: Final = 65_536


class SupervisorError(Exception):
    """A supervisor cannot be started, or ended before its command."""


class SupervisorHandle:
    """Starts a supervisor, and gives it one command after another.

    Args:
        parents: the cgroups in which one is made for its commands.

    Raises:
        SupervisorError: the supervisor cannot be started.
    """

    def __init__(self, parents: tuple[str, ...] = ()) -> None:
        self._lines = LineBuffer(sys.maxsize)
        self._replies: deque[dict[str, Any]] = deque()
        self._receiving: asyncio.Task[bytes] | None = None
        # The process group of the command that the supervisor is executing.
        self._group: int | None = None
        # The directories of the cgroups in which its commands run.
        self._cgroups: list[str] = []
        self._sock, theirs = socket.socketpair()
        try:
            with theirs:
                self._cgroups = bounds.make(parents)
                self._process = _start(theirs)
        except OSError as error:
            self._sock.close()
            bounds.remove(self._cgroups)
            raise SupervisorError(f"cannot start a supervisor: {error.strerror}") from None
        self._sock.setblocking(False)

    @property
    def is_alive(self) -> bool:
        """Whether the supervisor is running."""
        return self._process.poll() is None

    async def begin(self, request: Mapping[str, object]) -> dict[str, Any]:
        """Request a command; return a reply with its ``pid`` once it is started, or with what prevented that.

        Raises:
            SupervisorError: the supervisor ended.
        """
        line = json.dumps({**request, "cgroups": self._cgroups}).encode() + b"\n"
        with contextlib.suppress(OSError):  # the supervisor is gone, which reading will show
            await asyncio.get_running_loop().sock_sendall(self._sock, line)
        return await self._reply()

    async def result(self) -> dict[str, Any]:
        """Return the outcome of the command that was started.

        Raises:
            SupervisorError: the supervisor ended.
        """
        return await self._reply()

    async def _reply(self) -> dict[str, Any]:
        """Return the supervisor's next reply.

        Raises:
            SupervisorError: the supervisor ended.
        """
        while not self._replies:
            if not await self._receive():
                raise SupervisorError("the command's supervisor ended before the command")
        return self._replies.popleft()

    async def end(self) -> None:
        """Let the supervisor end its command and itself. It does so even if this call is cancelled."""
        with contextlib.suppress(OSError):  # the supervisor is gone already
            self._sock.shutdown(socket.SHUT_WR)
        try:
            await asyncio.wait_for(self._until_end(), END_TIMEOUT)
        except asyncio.TimeoutError:
            self._process.kill()
        self.forget()

    def forget(self) -> None:
        """Release the resources of a supervisor that has ended.

        If it did not exit normally, it has not ended its command either, so we kill the command here.
        """
        if self._receiving is not None:
            self._receiving.cancel()
        self._sock.close()
        if self._process.wait():
            for cgroup in self._cgroups:
                processes.kill_cgroup(cgroup)
            if self._group:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._group, signal.SIGKILL)
        bounds.remove(self._cgroups)

    async def _until_end(self) -> None:
        while await self._receive():
            pass

    async def _receive(self) -> bytes:
        """Receive once. If this is cancelled, what arrives meanwhile is kept for the next call."""
        if self._receiving is None:
            self._receiving = asyncio.create_task(self._recv())
        data = await asyncio.shield(self._receiving)
        self._receiving = None
        return data

    async def _recv(self) -> bytes:
        try:
            data = await asyncio.get_running_loop().sock_recv(self._sock, MAX_READ_BYTES)
        except ConnectionResetError:  # the supervisor ended with something unread
            return b""
        for line in self._lines.feed(data):
            reply = json.loads(line)
            self._replies.append(reply)
            self._group = reply.get("pid")
        return data


def _start(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Start a supervisor at the other end of our socket, without our environment: commands could read it."""
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-I", "-S", "-c", PROGRAM, str(PLACE)],
        env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C at our terminal is only for us
    )
