"""What bystanders notice: two clients in a process of their own, and how long their commands take.

As a program, it sends a command every few milliseconds and waits until it comes back, until its standard
input ends or has a line; then it prints the times as one line of JSON.
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

# As a program it is started by its path, and has to find the package that it is part of, and the harness.
if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[2]
    sys.path[:1] = [str(ROOT), str(ROOT / "benchmarks")]

from harness import Address, Program

from tests.abuse.clients import Client
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
    address = Address(host, int(port))
    context = trusting() if tls else None
    with (
        Client(subject, address, hello=hello[0], tls=context) as reader,
        Client(subject, address, hello=hello[1], tls=context) as sender,
    ):
        reader.join()
        sender.join()
        sender.sock.setblocking(False)  # what it gets is read now and then
        print(json.dumps({"event": "ready"}), flush=True)
        print(json.dumps({"event": "latency", "seconds": _measure(sender, reader)}), flush=True)
    return 0


def trusting() -> ssl.SSLContext:
    """Return the context of a client that trusts any server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _measure(sender: Client, reader: Client) -> list[float]:
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
    """A probe that runs.

    Attributes:
        times: in seconds, each command's; once it is over.
    """

    def __init__(self) -> None:
        self.times: list[float] = []


@contextmanager
def probing(subject: Subject, address: Address, *, token: str = "", tls: bool = False) -> Iterator[Probe]:
    """Measure in the block; afterwards the times are known.

    Raises:
        BenchmarkError: one of its commands did not arrive.
    """
    options = [address.host, str(address.port), subject.key, token, "tls" if tls else ""]
    probe = Probe()
    with Program("the probe", [sys.executable, str(Path(__file__).resolve()), *options]) as program:
        program.event()
        yield probe
        probe.times = program.ask("end")["seconds"]


if __name__ == "__main__":
    sys.exit(main())
