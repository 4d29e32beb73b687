"""A small process that executes one command after another, and leaves nothing of any of them behind.

``supervisor_handle`` starts it as a program, and talks to it over a socket, its standard input.
A request is a line of JSON that says what to execute. One reply follows when the command's process exists,
and another one when the command has ended. Strings are UTF-8 with surrogateescape, so that any bytes pass.
When the socket ends, because the client closed it or died, the command is ended, and then this process.
What the command may read of this process in /proc is none of the client's secrets: it was started without
the client's environment, and hides its memory and descriptors.

Every descendant of a command can be found, because this process is their *subreaper* (prctl(2)): a process
that loses its parent becomes our child. This module imports little, because the first command that a client
executes waits for this process to start, and each command is a fork of it.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import json
import math
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

from client import processes

# The descriptor of the socket to the client.
CLIENT: Final = 0
# The most seconds that a command may take to end after SIGTERM: a person may be waiting for it.
GRACE: Final = 2.0
# The same for processes that a command left behind, in seconds: they should have ended with the command.
LEFTOVER_GRACE: Final = 0.5
# How long killed processes may take to be gone, in seconds. A process that is left by then belongs to another
# user, or hangs in the kernel.
KILL_TIMEOUT: Final = 3.0
# The most rounds of killing in this time: processes that were forked during one need another.
MAX_KILL_ROUNDS: Final = 3
# The longest wait in one select, in seconds: select does not accept numbers of any size.
MAX_WAIT: Final = 3600.0
# The most bytes in one read: the default capacity of a pipe.
MAX_READ_BYTES: Final = 65_536
# The most reads after a command has ended. Together they get 1 MiB, the largest capacity that a
# command can give the pipe (pipe(7)).
MAX_LAST_READS: Final = 16
# The errors of exec(2) for a program that does not exist.
NOT_HERE: Final = (errno.ENOENT, errno.ENOTDIR)
DEFAULT_PATH: Final = b"/usr/bin:/bin"


class NotStartedError(Exception):
    """The command could not be started; ``what`` says which step failed, ``number`` is its errno."""

    def __init__(self, what: str, number: int) -> None:
        super().__init__(what, number)
        self.what = what
        self.number = number


class Command:
    """One command, from its start until nothing of it is left.

    Args:
        request: ``argv``, ``env``, ``cwd``, ``input`` (text, or None for /dev/null), ``limit`` (bytes of
            output), ``cgroups`` (the directories of those in which it runs) and ``max_processes`` (0 for no
            limit).
        max_of_user: its ``RLIMIT_NPROC``; None to leave that as it is.

    Raises:
        NotStartedError: the command cannot be started; nothing ran.

    Attributes:
        cgroups: the directories of its cgroups.
        code: its exit code as shells report it; None until its own process has ended.
        milliseconds: how long it ran.
        pipe: descriptor of its output; None once the output has ended.
    """

    def __init__(self, request: dict[str, Any], max_of_user: int | None) -> None:
        self._limit: int = request["limit"]
        self.cgroups: list[str] = request["cgroups"]
        self._begun = time.monotonic()
        self._kept = bytearray()
        self._truncated = False
        self.code: int | None = None
        self.milliseconds = 0
        self.pipe: int | None = None
        try:
            self.pipe, theirs = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self.pipe, False)
            try:
                self.pid = _start(ProcessImage(request, max_of_user), request["input"], theirs)
            finally:
                os.close(theirs)
        except OSError as error:
            self.close()
            raise NotStartedError("process", error.errno or 0) from None
        except NotStartedError:
            self.close()
            raise

    def ended(self, status: int) -> None:
        """Note that the command's own process has ended, with the ``status`` that wait(2) reports."""
        code = os.waitstatus_to_exitcode(status)
        self.code = code if code >= 0 else 128 - code
        self.milliseconds = round((time.monotonic() - self._begun) * 1000)

    def read(self) -> bool:
        """Read some output, and tell whether there was any; what exceeds the limit is discarded."""
        if self.pipe is None:
            return False
        try:
            data = os.read(self.pipe, MAX_READ_BYTES)
        except BlockingIOError:
            return False
        room = self._limit - len(self._kept)
        self._kept += data[:room]
        self._truncated = self._truncated or len(data) > room
        if not data:
            self.close()
        return bool(data)

    def close(self) -> None:
        """Stop reading the output. May be called again."""
        if self.pipe is not None:
            os.close(self.pipe)
            self.pipe = None

    def result(self) -> dict[str, object]:
        """Return the outcome, as part of a reply."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        # If the output was truncated, a character that was cut in half is left out.
        text = decoder.decode(self._kept, final=not self._truncated)
        return {"code": self.code, "out": text, "ms": self.milliseconds, "truncated": self._truncated}


class Supervisor:
    """Serves one client until it is gone, or a signal tells us to end."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._is_over = False
        self._woken = self._wake_on_signals()
        self._of_user = processes.UserProcesses()

    def serve(self) -> None:
        """Execute what the client asks for, one command at a time; at the end, remove its cgroups."""
        cgroups: list[str] = []
        while (line := self._next_line()) is not None:
            request = json.loads(line)
            cgroups = request["cgroups"]
            reply = self._execute(request)
            if self._is_over:
                break
            self._send(reply)
        for cgroup in cgroups:
            with contextlib.suppress(OSError):
                os.rmdir(cgroup)

    def _next_line(self) -> bytes | None:
        while not self._is_over:
            line, newline, rest = self._received.partition(b"\n")
            if newline:
                self._received = rest
                return bytes(line)
            self._turn(MAX_WAIT, None)
        return None

    def _execute(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            command = Command(request, self._limited(request))
        except NotStartedError as error:
            return {"failed": error.what, "errno": error.number}
        except OSError as error:
            return {"failed": "limit", "errno": error.errno}
        in_time = self._until(lambda: self._has_ended(command) or self._is_over, request["timeout"], command)
        left = self._leave_nothing(command)
        for _ in range(MAX_LAST_READS):
            if not command.read():
                break
        command.close()
        return {**command.result(), "timeout": not in_time, "left": left}

    def _limited(self, request: dict[str, Any]) -> int | None:
        """Set the limit of the command's cgroups; if none of them has one, return its ``RLIMIT_NPROC``.

        Raises:
            OSError: a limit cannot be set.
        """
        most = request["max_processes"]
        files = [f"{cgroup}/pids.max" for cgroup in request["cgroups"]]
        limiting = [file for file in files if os.path.exists(file)]
        for file in limiting:
            processes.write(file, str(most or "max"))
        return None if limiting or not most else self._of_user.limit(most)

    def _leave_nothing(self, command: Command) -> list[int]:
        """End all descendants of ``command``, gently at first; return those that cannot be ended."""
        if not self._reap(command):
            return []
        # Stopping them first frees the CPUs, and misses nothing that is forked meanwhile. A stopped process
        # handles SIGTERM only after SIGCONT.
        processes.tell(processes.stop_descendants(), signal.SIGTERM, signal.SIGCONT)
        grace = GRACE if command.code is None else LEFTOVER_GRACE
        if self._until(lambda: not self._reap(command), grace, command):
            return []
        return self._kill(command)

    def _kill(self, command: Command) -> list[int]:
        """Kill all descendants of ``command``; return those that are left."""
        for _ in range(MAX_KILL_ROUNDS):
            for cgroup in command.cgroups:
                processes.kill_cgroup(cgroup)
            processes.tell(processes.stop_descendants(), signal.SIGKILL)
            if self._until(lambda: not self._reap(command), KILL_TIMEOUT / MAX_KILL_ROUNDS, command):
                return []
        return sorted(processes.descendants())

    def _has_ended(self, command: Command) -> bool:
        self._reap(command)
        return command.code is not None

    def _reap(self, command: Command) -> bool:
        """Reap all processes that have ended; return whether any are left."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == command.pid:
                    command.ended(status)
                elif not pid:
                    return True
        except ChildProcessError:
            return False

    def _until(self, is_done: Callable[[], bool], seconds: float | None, command: Command) -> bool:
        """Handle what happens until ``is_done``, or for ``seconds``; return whether it is done."""
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        while not is_done():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._turn(min(left, MAX_WAIT), command)
        return True

    def _turn(self, timeout: float, command: Command | None) -> None:
        """Wait until something happens, and read what arrived. Ended processes are left to ``_reap``."""
        pipe = command.pipe if command else None
        watched = [self._woken, *([] if self._is_over else [CLIENT]), *([] if pipe is None else [pipe])]
        ready, _, _ = select.select(watched, [], [], timeout)
        if self._woken in ready:
            os.read(self._woken, MAX_READ_BYTES)
        if CLIENT in ready:
            self._receive()
        if command and pipe in ready:
            command.read()

    def _receive(self) -> None:
        try:
            data = os.read(CLIENT, MAX_READ_BYTES)
        except OSError:
            data = b""
        self._received += data
        self._is_over = self._is_over or not data

    def _send(self, reply: dict[str, Any]) -> None:
        rest = json.dumps(reply).encode() + b"\n"
        try:
            while rest:
                rest = rest[os.write(CLIENT, rest) :]
        except OSError:
            self._is_over = True

    def _wake_on_signals(self) -> int:
        """Return a descriptor that becomes readable when a signal comes.

        Ignored signals get a handler that does nothing: a command must start with the default action for all
        signals, but exec(2) resets only signals with a handler.
        """
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in signal.valid_signals():
            if signal.getsignal(number) == signal.SIG_IGN or number == signal.SIGCHLD:
                signal.signal(number, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return woken

    def _end(self, *_: object) -> None:
        self._is_over = True


# --- starting ---------------------------------------------------------------------------------


def _start(image: ProcessImage, text: str | None, output: int) -> int:
    """Start a process that becomes ``image``, and return its process id.

    Args:
        image: the command.
        text: its standard input; None for an empty one.
        output: the descriptor for its output.

    Raises:
        NotStartedError: the command cannot be started; nothing ran.
        OSError: we have no descriptor, process or memory for it.
    """
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        given = _input(text)
        theirs.callback(os.close, given)
        failure, their_failure = os.pipe2(os.O_CLOEXEC)  # ends empty when exec succeeds
        ours.callback(os.close, failure)
        theirs.callback(os.close, their_failure)
        supervisor = os.getpid()
        pid = os.fork()
        if not pid:
            image.become(supervisor, given, output, their_failure)
        theirs.close()
        words = os.read(failure, MAX_READ_BYTES).split()
    if words:
        os.waitpid(pid, 0)
        raise NotStartedError(words[0].decode(), int(words[1]))
    return pid


class ProcessImage:
    """What a process will become, prepared before the fork: a forked process copies each page it modifies."""

    def __init__(self, request: dict[str, Any], max_of_user: int | None) -> None:
        self._cgroups: list[str] = request["cgroups"]
        self._max_of_user = max_of_user
        self._argv = [_bytes(word) for word in request["argv"]]
        self._env = {_bytes(name): _bytes(value) for name, value in request["env"].items()}
        self._cwd = _bytes(request["cwd"])
        name = self._argv[0]
        directories = (self._env.get(b"PATH") or DEFAULT_PATH).split(b":") if name else []
        self._paths = [name] if b"/" in name else [os.path.join(place, name) for place in directories]

    def become(self, supervisor: int, given: int, output: int, failure: int) -> NoReturn:
        """Turn this forked process into the command; if that fails, write why to ``failure`` and exit."""
        step = b"process"
        try:
            os.setsid()  # first: a group of its own, which only its descendants can be in
            processes.prctl(processes.PR_SET_PDEATHSIG, int(signal.SIGKILL))
            if os.getppid() != supervisor:
                os._exit(127)  # the supervisor died before we asked to die with it
            os.write(CLIENT, b'{"pid":%d}\n' % os.getpid())  # before the command can kill the supervisor
            for descriptor, standard in ((given, 0), (output, 1), (output, 2)):
                os.dup2(descriptor, standard)
            step = b"limit"
            self._confine()
            step = b"cwd"
            os.chdir(self._cwd)
            step = b"program"
            self._execute()
        except OSError as error:
            os.write(failure, b"%s %d" % (step, error.errno or 0))
        finally:
            os._exit(127)

    def _confine(self) -> None:
        """Enter the cgroups, and apply the limit, before anything of the command runs."""
        for cgroup in self._cgroups:
            processes.write(f"{cgroup}/cgroup.procs", "0")
        if self._max_of_user is not None:
            resource.setrlimit(resource.RLIMIT_NPROC, (self._max_of_user, self._max_of_user))

    def _execute(self) -> NoReturn:
        """Search PATH as execvp(3) does: a file that we may not execute does not end the search."""
        number = errno.ENOENT
        for path in self._paths:
            try:
                os.execve(path, self._argv, self._env)  # noqa: S606 - no shell is what we want
            except PermissionError:  # noqa: PERF203 - the purpose of the loop
                number = errno.EACCES
            except (FileNotFoundError, NotADirectoryError):
                pass
        raise OSError(number, os.strerror(number))


def _input(text: str | None) -> int:
    """Return a descriptor that holds all of ``text``, so that its reader never waits; None is empty."""
    if text is None:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    given = os.memfd_create("input", os.MFD_CLOEXEC)
    os.write(given, _bytes(text))
    os.lseek(given, 0, os.SEEK_SET)
    return given


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def main() -> None:
    """Serve the client at the other end of standard input."""
    processes.hide()
    processes.prctl(processes.PR_SET_CHILD_SUBREAPER, 1)
    Supervisor().serve()
