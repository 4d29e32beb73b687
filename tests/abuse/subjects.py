"""The servers under test, with their defaults, and what a client sends to each.

Each has its default settings except those that a row names. All of them speak in lines, so rows need to know
only how a command is sent and how it arrives. Commands begin with ``#``, so that they can be found in any
protocol.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
from abc import ABC, abstractmethod
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import peers
from harness import BenchmarkError, HostPort, ServerProgram

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Seconds in which a server must listen.
MAX_START_SECONDS: Final = 30.0

# The kernel's ticks per second for CPU time.
TICKS: Final = os.sysconf("SC_CLK_TCK")

REDIS: Final = 'bind HOST\nport PORT\nsave ""\nmaxclients CLIENTS\n'
NATS: Final = 'listen: "HOST:PORT"\n'


# --- the system's data on a process -----------------------------------------------------------


def descriptors(pid: int) -> int:
    """Return the number of descriptors that a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory(pid: int) -> int:
    """Return the resident memory of a process in bytes (VmRSS in proc_pid_status(5))."""
    found = re.search(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise BenchmarkError(f"process {pid} has no memory: it has ended")
    return int(found[1]) * 1024


def cpu(pid: int) -> float:
    """Return the CPU seconds of a process, user and system (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


# --- the servers ------------------------------------------------------------------------------


class Subject(ABC):
    """A kind of server.

    Attributes:
        key: its name on the command line.
        joining: the first bytes of a client that receives commands.
        sending: the first bytes of a client that only sends commands.
    """

    key: str
    joining: bytes
    sending: bytes

    @abstractmethod
    def title(self) -> str | None:
        """Return its name and version, or None if it is not installed."""

    @abstractmethod
    def start(self, clients: int, **settings: Sequence[str]) -> ServerProgram:
        """Start it; ``settings[key]`` has options or configuration lines that differ from the defaults."""

    @abstractmethod
    def has_joined(self, line: bytes) -> bool:
        """Return whether, after this line, a client receives all commands, or may send."""

    @abstractmethod
    def command(self, text: bytes) -> bytes:
        """Return the bytes that send command ``text``."""

    @abstractmethod
    def guess(self, token: bytes) -> bytes:
        """Return the bytes that try a token."""

    def texts(self, lines: list[bytes]) -> list[bytes]:
        """Return the texts of the commands in these lines."""
        return [line for line in lines if line[:1] == b"#"]


class LoggedServer(ServerProgram):
    """The real server with its defaults; its log is kept."""

    def __init__(self, clients: int, options: Sequence[str]) -> None:
        """Start it and wait until it listens.

        Raises:
            BenchmarkError: if it does not.
        """
        command = [sys.executable, "-m", "rankserver", str(clients), "--port", "0", *options]
        with ExitStack() as stack:
            self._errors = stack.enter_context(tempfile.TemporaryFile())
            super().__init__("the server", command, errors=self._errors)
            stack.callback(super().close)
            self.address = HostPort.parse(self.line(MAX_START_SECONDS).split()[-1])
            self._stack = stack.pop_all()

    def close(self) -> None:
        """End the server."""
        self._stack.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Suspend the server during the block, so that one turn finds all that happened."""
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def log(self) -> bytes:
        """Return everything that it has logged."""
        self._errors.seek(0)
        return self._errors.read()


class Rank(Subject):
    """rankserver."""

    key = "rankserver"
    joining = sending = b"HELLO\n"

    def title(self) -> str:
        return "rankserver"

    def start(self, clients: int, **settings: Sequence[str]) -> LoggedServer:
        return LoggedServer(clients, settings.get(self.key, ()))

    def has_joined(self, line: bytes) -> bool:
        return line.startswith(b"WELCOME ")

    def command(self, text: bytes) -> bytes:
        return b"CMD " + text + b"\n"

    def guess(self, token: bytes) -> bytes:
        return b'HELLO {"token":"' + token + b'"}\n'

    def texts(self, lines: list[bytes]) -> list[bytes]:
        return [line.split(b" ", 3)[3] for line in lines if line[:4] == b"CMD "]


class Redis(Subject):
    """Redis, with PUBLISH and SUBSCRIBE."""

    key = "redis"
    joining = b"SUBSCRIBE c\r\n"
    sending = b"PING\r\n"

    def title(self) -> str | None:
        return _title(self.key, "Redis")

    def start(self, clients: int, **settings: Sequence[str]) -> ServerProgram:
        return _start("Redis", ["redis-server"], REDIS, clients, settings.get(self.key, ()))

    def has_joined(self, line: bytes) -> bool:
        return line in (b":1", b"+PONG")

    def command(self, text: bytes) -> bytes:
        return b"*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n$%d\r\n%s\r\n" % (len(text), text)

    def guess(self, token: bytes) -> bytes:
        return b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n" % (len(token), token)


class Nats(Subject):
    """NATS core, with PUB and SUB."""

    key = "nats"
    joining = b'CONNECT {"verbose":false}\r\nSUB c 1\r\nPING\r\n'
    sending = b'CONNECT {"verbose":false}\r\nPING\r\n'

    def title(self) -> str | None:
        return _title(self.key, "NATS")

    def start(self, clients: int, **settings: Sequence[str]) -> ServerProgram:
        return _start("NATS", ["nats-server", "-c"], NATS, clients, settings.get(self.key, ()))

    def has_joined(self, line: bytes) -> bool:
        return line == b"PONG"

    def command(self, text: bytes) -> bytes:
        return b"PUB c %d\r\n%s\r\n" % (len(text), text)

    def guess(self, token: bytes) -> bytes:
        return b'CONNECT {"verbose":false,"auth_token":"' + token + b'"}\r\nPING\r\n'


RANK: Final = Rank()
SUBJECTS: Final[tuple[Subject, ...]] = (RANK, Redis(), Nats())


def _title(key: str, name: str) -> str | None:
    version = next(peer for peer in peers.PEERS if peer.key == key).version()
    return version and f"{name} {version}"


def _start(
    name: str, command: Sequence[str], config: str, clients: int, more: Sequence[str]
) -> ServerProgram:
    text = config + "".join(f"{line}\n" for line in more)
    return peers.daemon(name, command, text)(peers.PeerLoad(clients, 0, 0), None)
