"""Build the load generator, start programs, and exchange lines with them, for all benchmarks.

Nothing is measured here: clocks, sockets and verification are in ``loadgen/``, a C program that Python cannot
slow down. Each benchmark decides what it measures and prints.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from typing_extensions import Self

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCES: Final = ROOT / "benchmarks" / "loadgen"
PROGRAM: Final = ROOT / "build" / "loadgen"

# Seconds to wait for an answer, more than any phase takes. The generator itself gives up when nothing has
# arrived for 10 s.
MAX_ANSWER_SECONDS: Final = 300.0

# Seconds within which the server must listen.
MAX_START_SECONDS: Final = 30.0

# Seconds that a program may take to end; if it was asked to end, it is then killed.
MAX_EXIT_SECONDS: Final = 10.0

# Descriptors that a process needs besides its sockets.
SPARE_DESCRIPTORS: Final = 64

# The bytes of the id by which the generator tells its commands apart.
MIN_COMMAND_BYTES: Final = 14

Event = dict[str, Any]


class BenchmarkError(Exception):
    """A benchmark cannot go on, or something was lost; the message says what."""


class HostPort(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> HostPort:
        """Parse ``HOST:PORT`` or ``[HOST]:PORT``.

        Raises:
            BenchmarkError: for anything else.
        """
        host, colon, port = text.rpartition(":")
        if not (colon and host and port.isdecimal() and 0 < int(port) < 65_536):
            raise BenchmarkError(f"expected HOST:PORT, not {text!r}")
        return cls(host.strip("[]"), int(port))


# --- the machine ------------------------------------------------------------------------------


def raise_descriptor_limit(sockets: int) -> None:
    """Raise the limit so that this process and those that it starts can open ``sockets`` each.

    Raises:
        BenchmarkError: if the hard limit is lower.
    """
    need = sockets + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and need > hard:
        raise BenchmarkError(f"{sockets} sockets need {need} descriptors, the limit is {hard} (ulimit -Hn)")
    if soft < need:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))


class Places(NamedTuple):
    """The CPUs of the measured program and of the generator; None for any CPU."""

    sender: int | None
    generator: int | None

    @property
    def spin(self) -> bool:
        """Whether the generator polls without sleeping, as it has a CPU to itself."""
        return self.generator is not None

    @classmethod
    def choose(cls) -> Places:
        """Choose two CPUs, on different cores if possible; none on a machine with one CPU."""
        cpus = sorted(os.sched_getaffinity(0))
        if len(cpus) < 2:
            return cls(None, None)
        siblings = _siblings(cpus[0])
        return cls(cpus[0], next((cpu for cpu in cpus[1:] if cpu not in siblings), cpus[1]))


def _siblings(cpu: int) -> set[int]:
    """Return the CPUs that share a core with ``cpu``, including itself, as far as the kernel tells."""
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    found = {cpu}
    with suppress(OSError):
        for part in path.read_text().strip().split(","):
            low, _, high = part.partition("-")
            found.update(range(int(low), int(high or low) + 1))
    return found


# --- programs ---------------------------------------------------------------------------------


@contextmanager
def _pinned(cpu: int | None) -> Iterator[None]:
    """Pin the programs that the block starts to this CPU, from their first instruction.

    Pinning a program that already runs would bind only its first thread, and Go would count all CPUs.
    """
    before = os.sched_getaffinity(0)
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Program:
    """A child process that is driven by lines and ended at the end of its ``with`` block."""

    def __init__(  # noqa: PLR0913 - most are handed on to Popen
        self,
        name: str,
        command: Sequence[str],
        cpu: int | None = None,
        *,
        output: IO[bytes] | None = None,
        errors: IO[bytes] | None = None,
        folder: Path = ROOT,
    ) -> None:
        """Start ``command`` in ``folder``, on CPU ``cpu`` if given; errors refer to it by ``name``.

        If ``output`` is given, all that the program prints goes there, and ``line`` cannot read it. If
        ``errors`` is given, its standard error goes there.
        """
        self.name = name
        self._lines: deque[bytes] = deque()
        # The beginning of a line that is not complete yet.
        self._begun = b""
        with _pinned(cpu):
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output or subprocess.PIPE,
                stderr=errors or output,
                cwd=folder,
            )

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def starting(self) -> Iterator[None]:
        """End the program if the block, which waits until it is ready, fails."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the program and wait for it."""
        with suppress(BrokenPipeError):
            self._stdin.close()
        self._process.terminate()
        try:
            self._process.wait(MAX_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._stdout:
            self._stdout.close()

    def wait(self, seconds: float = MAX_EXIT_SECONDS) -> int:
        """Wait until the program ends by itself, and return its exit code, negative for a signal.

        Raises:
            BenchmarkError: if it has not ended after ``seconds``.
        """
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"{self.name} does not end within {seconds:g} s") from None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def line(self, seconds: float = MAX_ANSWER_SECONDS) -> str:
        """Return the next line of its output.

        Raises:
            BenchmarkError: if it ends, or is silent for ``seconds``.
        """
        deadline = time.monotonic() + seconds
        while not self._lines:
            self._wait(deadline)
            data = os.read(self._stdout.fileno(), 65_536)
            if not data:
                raise BenchmarkError(self._end())
            *lines, self._begun = (self._begun + data).split(b"\n")
            self._lines.extend(lines)
        return self._lines.popleft().decode()

    def lines(self, seconds: float = MAX_ANSWER_SECONDS) -> list[str]:
        """Wait for output, and return all lines that have come, at least one.

        Raises:
            BenchmarkError: as ``line``.
        """
        lines = [self.line(seconds), *(line.decode() for line in self._lines)]
        self._lines.clear()
        return lines

    def event(self) -> Event:
        """Return the next line of its output, parsed as JSON.

        Raises:
            BenchmarkError: as ``line``, and if the program reports an error.
        """
        event: Event = json.loads(self.line())
        if event["event"] == "error":
            raise BenchmarkError(f"{self.name}: {event['message']}")
        return event

    def ask(self, command: str) -> Event:
        """Send a line and return the answer.

        Raises:
            BenchmarkError: as ``event``.
        """
        self.tell(command)
        return self.event()

    def tell(self, line: str) -> None:
        """Send a line."""
        # If the program is gone, its last line says why.
        with suppress(BrokenPipeError):
            self._stdin.write(line.encode() + b"\n")
            self._stdin.flush()

    def _end(self) -> str:
        """Return how the program ended, after it closed its output."""
        try:
            return f"{self.name} ended with exit code {self._process.wait(MAX_EXIT_SECONDS)}"
        except subprocess.TimeoutExpired:
            return f"{self.name} has closed its output and does not end"

    def _wait(self, deadline: float) -> None:
        # A PollSelector needs a single system call.
        with selectors.PollSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise BenchmarkError(f"{self.name} is silent")

    @property
    def _stdin(self) -> Any:
        return self._process.stdin

    @property
    def _stdout(self) -> Any:
        return self._process.stdout


def build() -> None:
    """Compile the load generator if it is older than its sources.

    Raises:
        BenchmarkError: without a C compiler, or if it reports errors.
    """
    sources = sorted(SOURCES.glob("*.[ch]"))
    if PROGRAM.exists() and PROGRAM.stat().st_mtime > max(path.stat().st_mtime for path in sources):
        return
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise BenchmarkError("the load generator is written in C: install a C compiler (cc), or set CC")
    PROGRAM.parent.mkdir(exist_ok=True)
    # Renamed when complete, because another benchmark may be running.
    fresh = PROGRAM.with_suffix(f".{os.getpid()}")
    command = [compiler, "-std=c99", "-O2", "-Wall", "-Wextra", "-o", str(fresh)]
    command += [str(path) for path in sources if path.suffix == ".c"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"cannot compile the load generator:\n{done.stderr.strip()}")
    fresh.replace(PROGRAM)


class ServerProgram(Program):
    """A started server and its addresses."""

    address: HostPort
    # The address for senders, if it differs.
    sending: HostPort | None = None


class LoopbackServer(ServerProgram):
    """The real server, for up to ``capacity`` clients, on a free loopback port."""

    def __init__(
        self, capacity: int, options: Sequence[str] = (), cpu: int | None = None, tree: Path = ROOT
    ) -> None:
        """Start the server of a source tree, with the Python of its ``.venv`` if any; wait until it listens.

        Raises:
            BenchmarkError: if it does not listen.
        """
        python = tree / ".venv" / "bin" / "python"
        command = [str(python) if python.exists() else sys.executable, "-m", "rankserver", str(capacity)]
        command += ["--port", "0", "--heartbeat", "0", "--log-level", "warning", *options]
        super().__init__("the server", command, cpu, folder=tree)
        with self.starting():
            words = self.line(MAX_START_SECONDS).split()
            self.address = HostPort.parse(words[-1])


class Ceiling(ServerProgram):
    """A program that only sends prepared bytes to all connections: the most that the kernel can do."""

    def __init__(self, sockets: int, senders: int, size: int, cpu: int | None) -> None:
        """Start the program and wait until it listens."""
        command = [str(PROGRAM), "ceiling", str(sockets), str(senders), str(size)]
        super().__init__("the ceiling", command, cpu)
        with self.starting():
            self.address = HostPort("127.0.0.1", self.event()["port"])


class Generator(Program):
    """The load generator with all its connections joined, ready for phases."""

    def __init__(  # noqa: PLR0913 - each is a property of the load
        self,
        address: HostPort,
        *,
        proto: str,
        receivers: int,
        senders: int,
        size: int,
        pid: int,
        places: Places,
        sending: HostPort | None = None,
    ) -> None:
        """Start it and wait until all connections are ready; ``ready`` is the event that it then reports.

        ``pid`` is the process whose CPU time is measured during phases, 0 for none; ``sending`` is where the
        senders connect, if not to ``address``.

        Raises:
            BenchmarkError: if one of the connections cannot join.
        """
        numbers = [receivers, senders, size, pid, int(places.spin)]
        ports = f"{address.port},{sending.port}" if sending else str(address.port)
        command = [str(PROGRAM), "generate", address.host, ports, proto]
        super().__init__("the generator", [*command, *map(str, numbers)], places.generator)
        with self.starting():
            self.ready = self.event()


def bar(total: int, what: str) -> tqdm[Any]:
    """Return a progress bar on standard error, which shows nothing unless that is a terminal."""
    form = "{l_bar}{bar}| {n_fmt}/{total_fmt}"
    return tqdm(total=total, desc=what, leave=False, disable=None, bar_format=form)


def parser(doc: str) -> argparse.ArgumentParser:
    """Return a parser with the option --json, described by the first line of a module's ``doc``."""
    found = argparse.ArgumentParser(description=doc.partition("\n")[0])
    found.add_argument("--json", action="store_true", help="print the result as one JSON document")
    return found


def number(low: int) -> Callable[[str], int]:
    """Return an argument parser for whole numbers of at least ``low``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {low} or more")
        return int(text)

    return parse


@contextmanager
def _unwound() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit in the block, so that the programs it started are ended too."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number])


def run(
    name: str,
    options: argparse.Namespace,
    measure: Callable[[argparse.Namespace], Event],
    show: Callable[[Event], None],
) -> int:
    """Measure, print the result (as JSON with ``options.json``), and return the exit code.

    If the result has sentences under ``unmet``, which name the requirements that are not met, the run fails.
    """
    try:
        with _unwound():
            result = measure(options)
    except BenchmarkError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)
    for sentence in result.get("unmet", ()):
        print(f"{name}: {sentence}", file=sys.stderr)
    return 1 if result.get("unmet") else 0
