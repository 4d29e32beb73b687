"""The real server as a process of its own."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.paths import ROOT
from tests.support.rawclient import Address
from tests.support.tls_peer import Certificates, TlsAddress
from tests.support.waiting import BOUND, read_line

# The command that the server is started under, such as Valgrind with its options.
WRAPPER: Final = shlex.split(os.environ.get("TEST_SERVER_UNDER", ""))
# Options that a test may override. On a loaded machine a client may take long to say HELLO.
DEFAULTS: Final = ("--port", "0", "--handshake-timeout", "1000")


class ServerProcess:
    """The real server, from the moment that it accepts until the end of the ``with``.

    Args:
        capacity: how many clients it accepts.
        options: further command-line options, such as ``"--heartbeat", "1"``.
        unix: the path of a Unix socket to listen on as well; it is then the ``address``.
        tls: the certificates that it is to use, if it is to speak TLS; they are part of the ``address``.
        cwd: the directory to run in.
        stderr: the descriptor that is its standard error, if it is not to be the file behind ``log``.
    """

    def __init__(
        self,
        capacity: int,
        *options: str,
        unix: Path | None = None,
        tls: Certificates | None = None,
        cwd: Path = ROOT,
        stderr: int | None = None,
    ) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe that nobody reads would fill up
        command = [*WRAPPER, sys.executable, "-m", "rankserver", str(capacity), *DEFAULTS, *options]
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
        """Where it listens, as one tells a client."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.unix is None else f"unix:{self.unix}"

    def line(self) -> str:
        """Return the next line that it writes to stdout."""
        assert self.process.stdout is not None
        line = read_line(self.process.stdout)
        assert line.endswith(b"\n"), f"the server wrote {line!r}\n{self.log()}"
        return line.decode().rstrip("\n")

    def log(self) -> str:
        """Return what it has written to stderr so far."""
        self._stderr.seek(0)
        return self._stderr.read().decode()

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Ask it to stop, wait until it has, and return its exit code; again does no harm."""
        if self.process.returncode is None:
            self.process.send_signal(signum)
        return self.wait()

    def wait(self) -> int:
        """Wait until it has stopped, and return its exit code."""
        try:
            return self.process.wait(BOUND)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hold the server meanwhile, so that it finds all that happens in one turn of its loop."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a goodbye."""
        self.process.kill()
        self.process.wait()

    # --- what the system knows about the process ---

    def descriptors(self) -> int:
        """Return how many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory(self) -> int:
        """Return the bytes of memory that it occupies now."""
        return self._status_bytes("VmRSS")

    def peak_memory(self) -> int:
        """Return the most bytes of memory that it has ever occupied."""
        return self._status_bytes("VmHWM")

    def naps(self) -> int | None:
        """Return how often it has gone to sleep so far, or None if it is running.

        If two calls return the same number, it slept all the time in between, however busy the machine is.
        """
        status = self._status()
        return int(status["voluntary_ctxt_switches"]) if status["State"].startswith("S") else None

    def wait_until_asleep(self) -> None:
        """Wait until it has done all it has to do for now."""
        deadline = time.monotonic() + BOUND
        while self.naps() is None:
            assert time.monotonic() < deadline, "the server does not go to sleep"

    def wait_until_idle(self, seconds: float) -> None:
        """Wait until it sleeps for this long without waking up once."""
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
