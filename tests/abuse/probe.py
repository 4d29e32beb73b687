"""Measure what bystanders notice: two clients in a separate process, and how long their commands take.

Run as a program, it sends a command every few milliseconds and waits until it comes back. When its standard
input ends or has a line, it prints the times as one line of JSON and exits.
"""

from __future__ import annotations

import json
import select
import ssl
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

# When it is started as a program by its path, it must find its own package and the harness.
if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[2]
    sys.path[:1] = [str(ROOT), str(ROOT / "benchmarks")]

from harness import HostPort, Program

from tests.abuse.clients import LineClient
from tests.abuse.subjects import SUBJECTS, Subject

if TYPE_CHECKING:
    from collections.abc import Iterator

# Seconds between two commands.
PAUSE: Final = 0.005


def main() -> int:
    """Measure until told to end."""
    _, host, port, key, token, tls = sys.argv
    subject = next(subject for subject in SUBJECTS if subject.key == key)
    first = subject.guess(token.encode()) if token else b""
    hello = (
        (first, first)
        if subject.key == "rankserver" and token
        else (
            first + subject.joining,
            first + subject.sending,
        )
    )
    address = HostPort(host, int(port))
    context = trusting() if tls else None
    with (
        LineClient(subject, address, hello=hello[0], tls=context) as reader,
        LineClient(subject, address, hello=hello[1], tls=context) as sender,
    ):
        reader.join()
        sender.join()
        # Its own input is read from time to time.
        sender.sock.setblocking(False)
        print(json.dumps({"event": "ready"}), flush=True)
        print(json.dumps({"event": "latency", "seconds": _measure(sender, reader)}), flush=True)
    return 0


def trusting() -> ssl.SSLContext:
    """Return a client context that trusts any server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _measure(sender: LineClient, reader: LineClient) -> list[float]:
    times: list[float] = []
    number = 0
    while not select.select([sys.stdin], [], [], PAUSE)[0]:
        number += 1
        text = b"#probe %d" % number
        begin = time.perf_counter()
        sender.command(text)
        reader.texts.clear()
        reader.until(lambda text=text: text in reader.texts, "get a command")  # type: ignore[misc]
        times.append(time.perf_counter() - begin)
        while select.select([sender.sock], [], [], 0)[0]:
            sender.read()
    return times


class Probe:
    """A running probe.

    Attributes:
        times: the seconds that each command took, once the probe is over.
    """

    def __init__(self) -> None:
        self.times: list[float] = []


@contextmanager
def probing(subject: Subject, address: HostPort, *, token: str = "", tls: bool = False) -> Iterator[Probe]:
    """Run a probe during the block; afterwards ``times`` is set.

    Raises:
        BenchmarkError: if one of its commands did not arrive.
    """
    options = [address.host, str(address.port), subject.key, token, "tls" if tls else ""]
    probe = Probe()
    with Program("the probe", [sys.executable, str(Path(__file__).resolve()), *options]) as program:
        program.event()
        yield probe
        probe.times = program.ask("end")["seconds"]


if __name__ == "__main__":
    sys.exit(main())
