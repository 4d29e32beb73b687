"""Measure what bystanders notice: two clients in a separate process, and how long their commands take.

Run as a program, it sends a command every few milliseconds and waits until it comes back. When its standard
input ends or has a line, it prints the times as one line of JSON and exits. Its clients can refuse what
others ask, as clients of a higher rank do.
"""

from __future__ import annotations

import json
import select
import ssl
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

# When it is started as a program by its path, it must find its own package and the harness.
if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[2]
    sys.path[:1] = [str(ROOT), str(ROOT / "benchmarks")]

from harness import BenchmarkError, HostPort, Program

from tests.abuse.clients import MAX_WAIT, NOT_NOW, LineClient
from tests.abuse.subjects import SUBJECTS, Subject

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Seconds between two commands.
PAUSE: Final = 0.005

# The most bytes that are sent at once.
MAX_SENT: Final = 65_536


class ProbeClient(LineClient):
    """A client whose sending never waits, and that looks out for one command at a time.

    Attributes:
        refuses: whether it answers each ASK with ``refused``.
        unsent: what its socket has not taken yet.
        arrived: whether the command that it looks out for has come.
    """

    def __init__(self, *arguments: Any, refuses: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.refuses = refuses
        self.unsent = bytearray()
        self.arrived = False
        self._expected = b""

    def expect(self, text: bytes) -> None:
        """Look out for this command from now on."""
        self._expected, self.arrived = text, False

    def send(self, data: bytes) -> None:
        self.unsent += data
        self.push()

    def push(self) -> None:
        """Send as much as the socket takes."""
        with suppress(*NOT_NOW):
            while self.unsent:
                del self.unsent[: self.sock.send(bytes(self.unsent[:MAX_SENT]))]

    def take(self, lines: list[bytes]) -> None:
        self.arrived = self.arrived or self._expected in self.subject.texts(lines)
        if self.refuses:
            asked = [line.split(b" ", 2)[1] for line in lines if line.startswith(b"ASK ")]
            self.send(b"".join(b"RES %s refused\n" % seq for seq in asked))


def main() -> int:
    """Measure until told to end."""
    _, host, port, key, token, tls, refuses = sys.argv
    subject = next(subject for subject in SUBJECTS if subject.key == key)
    first = subject.guess(token.encode()) if token else b""
    hellos = (subject.joining, subject.sending)
    if subject.key == "rankserver" and token:
        hellos = (b"", b"")
    context = trusting() if tls else None
    reader, sender = (
        ProbeClient(
            subject, HostPort(host, int(port)), hello=first + hello, tls=context, refuses=bool(refuses)
        )
        for hello in hellos
    )
    with reader, sender:
        reader.join()
        sender.join()
        for client in (reader, sender):
            client.sock.setblocking(False)
        print(json.dumps({"event": "ready"}), flush=True)
        try:
            result = {"event": "latency", "seconds": _measure(sender, reader)}
        except BenchmarkError as error:
            result = {"event": "error", "message": str(error)}
        print(json.dumps(result), flush=True)
    return 0


def trusting() -> ssl.SSLContext:
    """Return a client context that trusts any server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _measure(sender: ProbeClient, reader: ProbeClient) -> list[float]:
    """Send a command at a time until told to end, and return how long each took to reach the reader."""
    times: list[float] = []
    clients = (sender, reader)
    while not _is_told(clients, PAUSE):
        text = b"#probe %d" % len(times)
        reader.expect(text)
        begin = time.perf_counter()
        sender.command(text)
        while not reader.arrived:
            left = begin + MAX_WAIT - time.perf_counter()
            if left < 0:
                raise BenchmarkError(f"a command did not arrive within {MAX_WAIT:g} s")
            _exchange(clients, left)
        times.append(time.perf_counter() - begin)
    return times


def _is_told(clients: Sequence[ProbeClient], seconds: float) -> bool:
    """Let the clients read and send for some seconds; return whether standard input has something."""
    deadline = time.perf_counter() + seconds
    while (left := deadline - time.perf_counter()) > 0:
        if _exchange(clients, left, [sys.stdin]):
            return True
    return False


def _exchange(clients: Sequence[ProbeClient], seconds: float, inputs: Sequence[Any] = ()) -> bool:
    """Wait until a client can read or send, and let it; return whether one of ``inputs`` is readable.

    Raises:
        BenchmarkError: if a connection has ended.
    """
    unsent = [client.sock for client in clients if client.unsent]
    readable, writable, _ = select.select(
        [*inputs, *(client.sock for client in clients)], unsent, [], seconds
    )
    for client in clients:
        if client.sock in writable:
            client.push()
        if client.sock in readable and not client.read():
            raise BenchmarkError("a client that reads all the time was dropped")
    return any(one in readable for one in inputs)


class Probe:
    """A running probe.

    Attributes:
        times: the seconds that each command took, once the probe is over.
    """

    def __init__(self) -> None:
        self.times: list[float] = []

    @property
    def steady_times(self) -> list[float]:
        """The times as if a command had been sent every ``PAUSE`` seconds, even while one was on its way.

        Otherwise a single long wait would be one value among thousands, although it had delayed all commands
        that somebody wanted to send meanwhile.
        """
        return [left for seconds in self.times for left in _countdown(seconds)]


def _countdown(seconds: float) -> Iterator[float]:
    """Yield what is left of a wait at its begin and after each pause."""
    yield seconds
    while (seconds := seconds - PAUSE) > 0:
        yield seconds


@contextmanager
def probing(
    subject: Subject, address: HostPort, *, token: str = "", tls: bool = False, refuses: bool = False
) -> Iterator[Probe]:
    """Run a probe during the block; afterwards ``times`` is set.

    Raises:
        BenchmarkError: if one of its commands did not arrive.
    """
    flags = ["yes" if flag else "" for flag in (tls, refuses)]
    options = [address.host, str(address.port), subject.key, token, *flags]
    probe = Probe()
    with Program("the probe", [sys.executable, str(Path(__file__).resolve()), *options]) as program:
        program.event()
        yield probe
        probe.times = program.ask("end")["seconds"]


if __name__ == "__main__":
    sys.exit(main())
