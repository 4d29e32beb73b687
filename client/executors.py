"""The ways to execute a command: only simulated, as a program, in a shell, or by a handler of the user's.

``make`` returns an executor of a given kind, and ``rankserver.client.worker`` gives it the commands.
``supervisor`` takes care of processes, and ``policy`` decides what may be executed.
"""

from __future__ import annotations

import abc
import asyncio
import os
import shlex
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, NamedTuple

from client import bounds, policy, supervisor, supervisor_handle
from client.supervisor_handle import SupervisorError, SupervisorHandle
from rankserver.client.events import Execute, Outcome
from rankserver.client.worker import Executor
from rankserver.wire import grammar
from rankserver.wire.exceptions import ConfigError

# The most bytes of output that are kept, unless another limit is given: an answer is one line, which may have
# 64 KiB on most servers.
MAX_OUTPUT_BYTES: Final = 32_768
# The most processes and threads of one command, unless another limit is given: more than a parallel build
# needs, and few enough that a machine with a fork bomb remains usable.
MAX_PROCESSES: Final = 512
# The most processes that a reason names.
MAX_NAMED: Final = 10
# The exit codes of shells for a program that does not exist, and for one that cannot be executed.
NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
# The variables that commands inherit, besides those that begin with LC_.
ENVIRONMENT: Final = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR")


class SimulatedExecutor:
    """Executes nothing, and reports success.

    Args:
        delay: how long each command takes, in seconds.
    """

    def __init__(self, delay: float) -> None:
        self._delay = delay

    async def execute(self, _command: Execute) -> Outcome:
        """Wait for the delay, and say in the answer that the command was only simulated."""
        await asyncio.sleep(self._delay)
        return Outcome("ok", {"reason": "simulated"})

    async def close(self) -> None:
        """Do nothing: nothing is kept."""


# --- executors that start processes -----------------------------------------------------------


class ExecutorOptions(NamedTuple):
    """What may be executed, and within which limits.

    Attributes:
        policy: what may be executed. With None, a handler gets every command, and the other executors execute
            nothing.
        timeout: seconds after which a command is ended; None for never.
        output_limit: the number of bytes of output that are kept of each command; the rest is discarded.
        workdir: the directory in which commands run; None for the current one.
        max_processes: the number of processes and threads that a command may have at once, where the system
            lets us limit it; 0 for no limit.
    """

    policy: policy.Policy | None = None
    timeout: float | None = None
    output_limit: int = MAX_OUTPUT_BYTES
    workdir: str | Path | None = None
    max_processes: int = MAX_PROCESSES


def make(
    kind: str, options: ExecutorOptions, *, delay: float = 0.0, handler: str | Path | None = None
) -> Executor:
    """Return an executor of a given kind.

    Args:
        kind: ``simulate``, ``program``, ``shell`` or ``handler``.
        options: for all but ``simulate``.
        delay: for ``simulate``: seconds that a command takes.
        handler: for ``handler``: the program.

    Raises:
        ConfigError: there is no such kind, or something that it needs is missing.
    """
    if kind == "simulate":
        return SimulatedExecutor(delay)
    if kind == "program":
        return ProgramExecutor(options)
    if kind == "shell":
        return ShellExecutor(options)
    if kind == "handler" and handler is not None:
        return HandlerExecutor(handler, options)
    raise ConfigError(f"executor {kind!r} is not simulate, program, shell, or handler with its program")


class NotAllowedError(Exception):
    """The policy does not allow a command."""


class ProcessExecutor(abc.ABC):
    """Base of the executors that start processes: a supervisor runs each command, and ends all of it.

    A supervisor is started when a command finds none idle, and is then kept for later commands.

    Raises:
        ConfigError: the working directory in ``options`` is not a directory.
    """

    def __init__(self, options: ExecutorOptions) -> None:
        self._policy = options.policy or policy.NOTHING
        self._options = options
        self._workdir = os.path.abspath(options.workdir or ".")
        if not os.path.isdir(self._workdir):
            raise ConfigError(f"the working directory {str(options.workdir)!r} is not a directory")
        self._environment = _environment()
        self._means = bounds.find()
        self._idle: list[SupervisorHandle] = []
        # Held while a command is started, so that commands start in the order in which they were added.
        self._starting = asyncio.Lock()

    @property
    def lacks_limit(self) -> bool:
        """Whether the number of processes should be limited, but cannot be."""
        return self._options.max_processes > 0 and not self._means.can_limit

    def rejects(self, command: Execute) -> Outcome | None:
        """Return the outcome of a command that cannot be parsed or is not allowed; None for any other."""
        try:
            self._argv(command.text)
        except ValueError as error:
            return Outcome("fail", {"reason": f"{str(error).lower()}: {_short(command.text)}"})
        except NotAllowedError as error:
            return Outcome("denied", {"reason": str(error)})
        return None

    async def execute(self, command: Execute) -> Outcome:
        """Execute ``command`` and return its outcome. When cancelled, end the command first."""
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
        """End the idle supervisors."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(kept.end() for kept in idle))

    @abc.abstractmethod
    def _argv(self, text: str) -> list[str]:
        """Return what to execute for the command ``text``.

        Raises:
            ValueError: it cannot be parsed.
            NotAllowedError: it is not allowed.
        """

    def _input(self, _text: str) -> str | None:
        """Return the standard input of the process; None for an empty one."""
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
            "timeout": self._options.timeout,
            "limit": self._options.output_limit,
            "max_processes": self._options.max_processes,
        }

    async def _run(self, request: dict[str, Any]) -> dict[str, Any]:
        chosen: SupervisorHandle | None = None
        try:
            async with self._starting:
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
        """Return the result of ``step``, unless it takes longer than a step of a supervisor should.

        The bound is needed because a command can stop its supervisor, like any process of its user.
        ``wait_for`` would not do: before Python 3.12, it loses a cancellation that comes together with the
        result.

        Raises:
            asyncio.TimeoutError: the step takes too long.
        """
        limit = (
            None if self._options.timeout is None else self._options.timeout + supervisor_handle.END_TIMEOUT
        )
        task = asyncio.create_task(step)
        try:
            done, _ = await asyncio.wait({task}, timeout=limit)
        finally:
            task.cancel()
        if not done:
            raise asyncio.TimeoutError
        return task.result()

    def _take(self) -> SupervisorHandle:
        while self._idle:
            kept = self._idle.pop()
            if kept.is_alive:
                return kept
            kept.forget()
        return SupervisorHandle(self._means.parents)

    def _outcome(self, argv: list[str], reply: dict[str, Any]) -> Outcome:
        if "failed" in reply:
            return _not_started(reply, argv, self._workdir)
        detail = {field: reply[field] for field in ("code", "out", "ms") if reply[field] is not None}
        if reply["truncated"]:
            detail["truncated"] = True
        if reply["left"]:
            detail["reason"] = _left(reply["left"])
        if reply["timeout"]:
            return Outcome("timeout", {"reason": f"ended after {self._options.timeout:g} s", **detail})
        return Outcome("fail" if reply["code"] else "ok", detail)


class ProgramExecutor(ProcessExecutor):
    """Splits a command into words as a shell does, and runs it as a program with arguments."""

    def _argv(self, text: str) -> list[str]:
        argv = _split(text)
        if not self._policy.allows(argv):
            raise NotAllowedError(f"not allowed here: {_short(text)}")
        return argv


class ShellExecutor(ProcessExecutor):
    """Gives all commands to /bin/sh, or none: no list of patterns can bound what a shell does."""

    def _argv(self, text: str) -> list[str]:
        _check(text)
        if not self._policy.allows_all:
            raise NotAllowedError(f"this client allows no shell commands: {_short(text)}")
        return ["/bin/sh", "-c", "--", text]


class HandlerExecutor(ProcessExecutor):
    """Gives each command, as a line on standard input, to the user's program, which decides what it means.

    Args:
        path: the program.
        options: without a policy, the program gets all commands.

    Raises:
        ConfigError: there is no such program, or the working directory is not a directory.
    """

    def __init__(self, path: str | Path, options: ExecutorOptions) -> None:
        super().__init__(options if options.policy else options._replace(policy=policy.ALL))
        self._path = os.path.abspath(path)
        if not os.path.isfile(self._path):
            raise ConfigError(f"the handler {str(path)!r} is not a file")
        if not os.access(self._path, os.X_OK):
            raise ConfigError(f"the handler {str(path)!r} is not executable")

    def _argv(self, text: str) -> list[str]:
        _check(text)
        if not self._policy.allows_all and not self._policy.allows(_split(text)):
            raise NotAllowedError(f"not allowed here: {_short(text)}")
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
    return text if len(text) <= grammar.MAX_SHOWN else text[: grammar.MAX_SHOWN] + "..."


def _left(pids: list[int]) -> str:
    more = f" and {len(pids) - MAX_NAMED} more" if len(pids) > MAX_NAMED else ""
    return f"cannot end process {', '.join(map(str, pids[:MAX_NAMED]))}{more}"


def _not_started(reply: dict[str, Any], argv: list[str], workdir: str) -> Outcome:
    problem = os.strerror(reply["errno"])
    if reply["failed"] == "program" and reply["errno"] in supervisor.NOT_HERE:
        return Outcome("fail", {"code": NOT_FOUND, "reason": f"not found: {_short(argv[0])}"})
    if reply["failed"] == "program":
        reason = f"cannot execute {_short(argv[0])}: {problem}"
        return Outcome("fail", {"code": NOT_EXECUTABLE, "reason": reason})
    steps = {"cwd": f"change to {workdir!r}", "limit": "limit the command's processes"}
    what = steps.get(reply["failed"], "start a process")
    return Outcome("fail", {"reason": f"cannot {what}: {problem}"})


def _environment() -> dict[str, str]:
    """Return the part of our environment that commands inherit, without anything private to us."""
    ours = {_text(name): _text(value) for name, value in os.environb.items()}
    return {name: value for name, value in ours.items() if name in ENVIRONMENT or name.startswith("LC_")}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
