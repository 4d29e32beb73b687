"""The real server as a separate process."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.paths import ROOT
from tests.support.rawclient import Address
from tests.support.tls_peer import Certificates, TlsAddress
from tests.support.waiting import BOUND, read_line

# A command that runs the server, such as Valgrind with its options.
WRAPPER: Final = shlex.split(os.environ.get("TEST_SERVER_UNDER", ""))
# Options that a test may override. On a loaded machine, a client may take long to send HELLO.
DEFAULTS: Final = ("--port", "0", "--handshake-timeout", "1000")


class ServerProcess:
    """The real server, from the time at which it accepts connections to the end of the ``with`` block.

    Args:
        capacity: the number of clients that it accepts.
        options: further command-line options, such as ``"--heartbeat", "1"``.
        unix: the path of a further Unix socket to listen on, which is then the ``address``.
        tls: the certificates, if it must use TLS; they are part of the ``address``.
        program: what Python runs.
        cwd: the directory to run in.
        stderr: the descriptor for its standard error, instead of the file behind ``log``.
    """

    def __init__(
        self,
        capacity: int,
        *options: str,
        unix: Path | None = None,
        tls: Certificates | None = None,
        program: Sequence[str] = ("-m", "rankserver"),
        cwd: Path = ROOT,
        stderr: int | None = None,
    ) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe that nobody reads would fill up
        command = [*WRAPPER, sys.executable, *program, str(capacity), *DEFAULTS, *options]
        if unix is not None:
            command += ["--unix", str(unix)]
        if tls is not None:
            command += tls.options
        self.unix = unix
        self.tls = tls
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=self._stderr if stderr is None else stderr,
            bufsize=0,
        )
        try:
            line = self.line()
            host, _, port = line.removeprefix("listening on ").rpartition(":")
            assert line.startswith("listening on ") and port.isdecimal(), line  # noqa: PT018
            if unix is not None:
                line = self.line()
                assert line == f"listening on unix:{unix}", line
        except BaseException:
            self.kill()
            raise
        self.host = host.strip("[]")
        self.port = int(port)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def address(self) -> Address:
        """Where it listens."""
        if self.tls is not None:
            return TlsAddress(self.host, self.port, self.tls.client)
        return (self.host, self.port) if self.unix is None else str(self.unix)

    @property
    def where(self) -> str:
        """Where it listens, in the form that a client program takes."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.unix is None else f"unix:{self.unix}"

    def line(self) -> str:
        """Return the next line that it writes to stdout."""
        assert self.process.stdout is not None
        line = read_line(self.process.stdout)
        assert line.endswith(b"\n"), f"the server wrote {line!r}\n{self.log()}"
        return line.decode().rstrip("\n")

    def log(self) -> str:
        """Return its standard error so far."""
        self._stderr.seek(0)
        return self._stderr.read().decode()

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Signal it to stop, wait for its end, and return its exit code; further calls do nothing."""
        if self.process.returncode is None:
            self.process.send_signal(signum)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        try:
            return self.process.wait(BOUND)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Suspend the server during the block, so that one turn of its loop finds all that happened."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()

    # --- the system's data on the process ---

    def descriptors(self) -> int:
        """Return the number of its open descriptors."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory(self) -> int:
        """Return its resident memory in bytes."""
        return self._status_bytes("VmRSS")

    def peak_memory(self) -> int:
        """Return its peak resident memory in bytes."""
        return self._status_bytes("VmHWM")

    def naps(self) -> int | None:
        """Return how often it has gone to sleep so far, or None if it is running now.

        If two calls return the same number, it slept all the time in between, no matter how busy the machine
        is.
        """
        status = self._status()
        return int(status["voluntary_ctxt_switches"]) if status["State"].startswith("S") else None

    def wait_until_asleep(self) -> None:
        """Wait until it has nothing left to do and sleeps."""
        deadline = time.monotonic() + BOUND
        while self.naps() is None:
            assert time.monotonic() < deadline, "the server does not go to sleep"

    def wait_until_idle(self, seconds: float) -> None:
        """Wait until it sleeps for this many seconds without waking up."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + BOUND
        while True:
            naps = self.naps()
            assert not select.select([self.process.stdout], [], [], seconds)[0], "the server ended"
            if naps is not None and naps == self.naps():
                return
            assert time.monotonic() < deadline, "the server keeps waking up"

    def _status_bytes(self, name: str) -> int:
        return int(self._status()[name].split()[0]) * 1024

    def _status(self) -> dict[str, str]:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def again(server: ServerProcess) -> ServerProcess:
    """Start a server on the port of one that has stopped."""
    return ServerProcess(8, "--port", str(server.port))
