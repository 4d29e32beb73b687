"""What executing a command means. ``make`` gives the executor of a kind; ``worker`` gives it the commands.

The real ones leave the processes to ``supervisor``, and what may be executed to ``policy``.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from client import policy, supervisor
from rankserver.client.events import Execute, Outcome
from rankserver.client.worker import Executor
from rankserver.wire import protocol
from rankserver.wire.exceptions import ConfigError

OUTPUT_LIMIT: Final = 32_768  # bytes; an answer is one line, and at most 64 KiB on most servers
ENDING_BOUND: Final = (
    supervisor.GRACE + supervisor.KILL_BOUND + 2.0
)  # seconds until a supervisor must be gone
READ_SIZE: Final = 65_536
NOT_FOUND: Final = 127  # the exit codes that shells have for a program that is not there
NOT_EXECUTABLE: Final = 126  # or cannot be executed
ENVIRONMENT: Final = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR")


class Simulated:
    """Executes nothing, successfully.

    Args:
        delay: seconds that it takes.
    """

    def __init__(self, delay: float) -> None:
        self._delay = delay

    async def execute(self, _command: Execute) -> Outcome:
        """Let the time pass that executing takes, and tell whoever asked that it was no more than that."""
        await asyncio.sleep(self._delay)
        return Outcome("ok", {"reason": "simulated"})

    async def close(self) -> None:
        """Do nothing: nothing was kept."""


# --- real ones --------------------------------------------------------------------------------


class Terms(NamedTuple):
    """On what terms commands are executed.

    Attributes:
        policy: what may be executed; None if nobody said: then it is nothing, or what a handler decides.
        timeout: seconds after which a command is ended, or None.
        output_limit: bytes of output that are kept of each command; the rest is thrown away.
        workdir: the directory that commands run in; None for the current one.
    """

    policy: policy.Policy | None = None
    timeout: float | None = None
    output_limit: int = OUTPUT_LIMIT
    workdir: str | Path | None = None


def make(kind: str, terms: Terms, *, delay: float = 0.0, handler: str | Path | None = None) -> Executor:
    """Make the executor of a kind: ``simulate``, ``program``, ``shell`` or ``handler``.

    Args:
        kind: which.
        terms: for all but ``simulate``.
        delay: for ``simulate``: seconds that a command takes.
        handler: for ``handler``: the program.

    Raises:
        ConfigError: there is no such kind, or something that it needs is not there.
    """
    if kind == "simulate":
        return Simulated(delay)
    if kind == "program":
        return Program(terms)
    if kind == "shell":
        return Shell(terms)
    if kind == "handler" and handler is not None:
        return Handler(handler, terms)
    raise ConfigError(f"executor {kind!r} is not simulate, program, shell, or handler with its program")


class _NotAllowedError(Exception):
    """The policy does not allow it."""


class Supervised(abc.ABC):
    """What all have in common that start processes: each is run by a supervisor, which ends all of it.

    There are as many supervisors as commands were executed at once; who has none waits for the next.

    Raises:
        ConfigError: the working directory of ``terms`` is none.
    """

    def __init__(self, terms: Terms) -> None:
        self._policy = terms.policy or policy.NOTHING
        self._timeout = terms.timeout
        # A command can stop its supervisor, as it can any process of its user.
        self._patience = None if terms.timeout is None else terms.timeout + ENDING_BOUND
        self._output_limit = terms.output_limit
        self._workdir = os.path.abspath(terms.workdir or ".")
        if not os.path.isdir(self._workdir):
            raise ConfigError(f"the working directory {str(terms.workdir)!r} is not a directory")
        self._environment = _environment()
        self._idle: list[Supervisor] = []
        self._turn = asyncio.Lock()  # commands begin one after another, in the order in which they were given

    def rejects(self, command: Execute) -> Outcome | None:
        """Return the outcome of what is no command, or is not allowed; None if it is to be executed."""
        try:
            self._argv(command.text)
        except ValueError as error:
            return Outcome("fail", {"reason": f"{str(error).lower()}: {_short(command.text)}"})
        except _NotAllowedError as error:
            return Outcome("denied", {"reason": str(error)})
        return None

    async def execute(self, command: Execute) -> Outcome:
        """Execute ``command`` and return what became of it; when cancelled, end it first."""
        rejected = self.rejects(command)
        if rejected is not None:
            return rejected
        argv = self._argv(command.text)
        try:
            reply = await self._run(self._request(command, argv))
        except asyncio.TimeoutError:
            return Outcome("timeout", {"reason": "ended, as its supervisor does not answer"})
        except SupervisorError as error:
            return Outcome("fail", {"reason": str(error)})
        return self._outcome(argv, reply)

    async def close(self) -> None:
        """End the supervisors that have nothing to do."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(kept.end() for kept in idle))

    @abc.abstractmethod
    def _argv(self, text: str) -> list[str]:
        """Return what to execute for the command ``text``.

        Raises:
            ValueError: it is no command.
            _NotAllowedError: it is not allowed.
        """

    def _input(self, _text: str) -> str | None:
        """Return what the process reads, None for nothing."""
        return None

    def _request(self, command: Execute, argv: list[str]) -> dict[str, Any]:
        rank = {
            "RANK_SEQ": str(command.seq),
            "RANK_FROM": str(command.rank),
            "RANK_SELF": str(command.own_rank),
            "RANK_NAME": command.own_name,
        }
        return {
            "argv": argv,
            "env": {**self._environment, **rank},
            "cwd": _text(os.fsencode(self._workdir)),
            "input": self._input(command.text),
            "timeout": self._timeout,
            "limit": self._output_limit,
        }

    async def _run(self, request: dict[str, Any]) -> dict[str, Any]:
        chosen: Supervisor | None = None
        try:
            async with self._turn:
                chosen = self._take()
                reply = await self._in_time(chosen.begin(request))
            if "pid" in reply:
                reply = await self._in_time(chosen.result())
        except BaseException:
            if chosen:
                await chosen.end()
            raise
        if reply.get("left"):
            await chosen.end()
        else:
            self._idle.append(chosen)
        return reply

    async def _in_time(self, step: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        """Return what ``step`` of a supervisor returns, unless it takes longer than any should.

        ``wait_for`` would not do: before Python 3.12 it loses a cancellation that comes with the result.
        """
        task = asyncio.create_task(step)
        try:
            done, _ = await asyncio.wait({task}, timeout=self._patience)
        finally:
            task.cancel()
        if not done:
            raise asyncio.TimeoutError
        return task.result()

    def _take(self) -> Supervisor:
        while self._idle:
            kept = self._idle.pop()
            if kept.is_alive:
                return kept
            kept.forget()
        return Supervisor()

    def _outcome(self, argv: list[str], reply: dict[str, Any]) -> Outcome:
        if "failed" in reply:
            return _not_started(reply, argv, self._workdir)
        detail = {field: reply[field] for field in ("code", "out", "ms") if reply[field] is not None}
        if reply["truncated"]:
            detail["truncated"] = True
        if reply["left"]:
            detail["reason"] = f"cannot end process {', '.join(map(str, reply['left']))}"
        if reply["timeout"]:
            return Outcome("timeout", {"reason": f"ended after {self._timeout:g} s", **detail})
        return Outcome("fail" if reply["code"] else "ok", detail)


class Program(Supervised):
    """Splits a command into words as a shell does, and executes them as a program and its arguments."""

    def _argv(self, text: str) -> list[str]:
        argv = _split(text)
        if not self._policy.allows(argv):
            raise _NotAllowedError(f"not allowed here: {_short(text)}")
        return argv


class Shell(Supervised):
    """Gives a command to /bin/sh: all or, as no list of patterns can bound what a shell does, nothing."""

    def _argv(self, text: str) -> list[str]:
        _check(text)
        if not self._policy.allows_all:
            raise _NotAllowedError(f"not allowed here, where not every shell command is: {_short(text)}")
        return ["/bin/sh", "-c", "--", text]


class Handler(Supervised):
    """Gives a command as a line on standard input to a program of the user's, which decides what it means.

    Args:
        path: the program.
        terms: without a policy, all commands are handed over.

    Raises:
        ConfigError: there is no such program, or the working directory is none.
    """

    def __init__(self, path: str | Path, terms: Terms) -> None:
        super().__init__(terms if terms.policy else terms._replace(policy=policy.ALL))
        self._path = os.path.abspath(path)
        if not os.path.isfile(self._path):
            raise ConfigError(f"the handler {str(path)!r} is not a file")
        if not os.access(self._path, os.X_OK):
            raise ConfigError(f"the handler {str(path)!r} is not executable")

    def _argv(self, text: str) -> list[str]:
        _check(text)
        if not self._policy.allows_all and not self._policy.allows(_split(text)):
            raise _NotAllowedError(f"not allowed here: {_short(text)}")
        return [self._path]

    def _input(self, text: str) -> str | None:
        return text + "\n"


def _split(text: str) -> list[str]:
    _check(text)
    argv = shlex.split(text)
    if not argv:
        raise ValueError("no command")
    return argv


def _check(text: str) -> None:
    if "\0" in text:
        raise ValueError("a zero byte cannot be passed to a program")


def _short(text: str) -> str:
    return text if len(text) <= protocol.MAX_SHOWN else text[: protocol.MAX_SHOWN] + "..."


def _not_started(reply: dict[str, Any], argv: list[str], workdir: str) -> Outcome:
    problem = os.strerror(reply["errno"])
    if reply["failed"] == "program" and reply["errno"] in supervisor.NOT_HERE:
        return Outcome("fail", {"code": NOT_FOUND, "reason": f"not found: {_short(argv[0])}"})
    if reply["failed"] == "program":
        reason = f"cannot execute {_short(argv[0])}: {problem}"
        return Outcome("fail", {"code": NOT_EXECUTABLE, "reason": reason})
    what = f"change to {workdir!r}" if reply["failed"] == "cwd" else "start a process"
    return Outcome("fail", {"reason": f"cannot {what}: {problem}"})


def _environment() -> dict[str, str]:
    """Return what commands get of our environment: nothing that only concerns us, such as our token."""
    ours = {_text(name): _text(value) for name, value in os.environb.items()}
    return {name: value for name, value in ours.items() if name in ENVIRONMENT or name.startswith("LC_")}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


# --- the other side of a supervisor -----------------------------------------------------------


class SupervisorError(Exception):
    """A supervisor cannot be started, or ended before its command."""


class Supervisor:
    """A process of ``supervisor``: our end of the conversation with it.

    Raises:
        SupervisorError: it cannot be started.
    """

    def __init__(self) -> None:
        self._received = b""
        self._receiving: asyncio.Task[bytes] | None = None
        self._group: int | None = None  # the process group of the command that it executes
        try:
            self._sock, theirs = socket.socketpair()
            with theirs:
                self._process = self._start(theirs)
        except OSError as error:
            raise SupervisorError(f"cannot start a supervisor: {error.strerror}") from None
        self._sock.setblocking(False)

    def _start(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # noqa: S603 - it is our own program
                [sys.executable, "-I", "-S", supervisor.__file__],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C at our terminal is for us alone
            )
        except OSError:
            self._sock.close()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether it can be given a command."""
        return self._process.poll() is None

    async def begin(self, request: Mapping[str, object]) -> dict[str, Any]:
        """Ask for a command; return ``pid`` when its process is there, or what prevented that.

        Raises:
            SupervisorError: the supervisor ended.
        """
        with contextlib.suppress(OSError):  # it is gone: reading says so
            await asyncio.get_running_loop().sock_sendall(self._sock, json.dumps(request).encode() + b"\n")
        return await self._line()

    async def result(self) -> dict[str, Any]:
        """Return what became of the command that was begun.

        Raises:
            SupervisorError: the supervisor ended.
        """
        return await self._line()

    async def _line(self) -> dict[str, Any]:
        """Return the next line that it says.

        Raises:
            SupervisorError: the supervisor ended.
        """
        while (reply := self._next()) is None:
            if not await self._receive():
                raise SupervisorError("the supervisor of the command ended before it")
        return reply

    def _next(self) -> dict[str, Any] | None:
        """Take the first whole line of what was received; it says what is being executed, if anything."""
        line, end, rest = self._received.partition(b"\n")
        if not end:
            return None
        self._received = rest
        reply: dict[str, Any] = json.loads(line)
        self._group = reply.get("pid")
        return reply

    async def end(self) -> None:
        """End what it executes, and then it; it does both by itself if we are interrupted."""
        with contextlib.suppress(OSError):  # it is gone already
            self._sock.shutdown(socket.SHUT_WR)
        try:
            await asyncio.wait_for(self._until_end(), ENDING_BOUND)
        except asyncio.TimeoutError:
            self._process.kill()
        self.forget()

    def forget(self) -> None:
        """Give back what is kept for it, once it has ended.

        If it did not end by itself, then it has not ended its command either: do what we can from here.
        """
        if self._receiving is not None:
            self._receiving.cancel()
        self._sock.close()
        while self._next() is not None:  # it may have begun when we were told to end it
            pass
        if self._process.wait() and self._group:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._group, signal.SIGKILL)

    async def _until_end(self) -> None:
        while await self._receive():
            pass

    async def _receive(self) -> bytes:
        """Receive once; what arrives while we are cancelled is there for the next call."""
        if self._receiving is None:
            self._receiving = asyncio.create_task(self._recv())
        data = await asyncio.shield(self._receiving)
        self._receiving = None
        return data

    async def _recv(self) -> bytes:
        try:
            data = await asyncio.get_running_loop().sock_recv(self._sock, READ_SIZE)
        except ConnectionResetError:  # it left something unread: an end as well
            return b""
        self._received += data
        return data
