"""Rows: connections that are not clients, that have no token, or for which there is no descriptor."""

from __future__ import annotations

import resource
import secrets
import select
import socket
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.abuse import subjects
from tests.abuse.clients import LineClient, crowd, pass_time, settled_descriptors
from tests.abuse.outcome import RowOutcome, latency, milliseconds
from tests.abuse.probe import probing
from tests.abuse.transports import certificate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness import HostPort, ServerProgram

    from tests.abuse.subjects import Subject

# Limits while there are too few descriptors: the server's share of a CPU, and the seconds in which a member
# is served. The last one is the seconds in which waiting clients are served once there are descriptors.
MAX_SHARE: Final = 0.05
MAX_SERVED: Final = 1.0
MAX_RESUMED: Final = 3.0

TLS_HELLO: Final = bytes.fromhex("160301007a010000760303") + bytes(range(111))
KINDS: Final = {
    "silent": b"",
    "a byte now and then": b"H",
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
    "TLS": TLS_HELLO,
    "noise": bytes(range(128, 256)) + b"\n" + bytes(64) + b"\n",
}

# Seconds between two bytes of a connection that drips them.
DRIP: Final = 0.2

# The bytes of one read.
MAX_READ: Final = 65_536


@dataclass
class _Stranger:
    """One connection; ``seconds`` is the time until it was closed, 0 while it is open."""

    kind: str
    sock: socket.socket
    seconds: float = 0


def strangers(subject: Subject, each: int = 10, timeout: float = 5, patience: float = 8) -> RowOutcome:
    """Connect and send nothing, or bytes that no client sends."""
    outcome = RowOutcome()
    with subject.start(200, rankserver=["--handshake-timeout", str(timeout)]) as server:
        with probing(subject, server.address) as probe:
            found = _pester(server.address, [kind for kind in KINDS for _ in range(each)], patience)
        _judge(found, timeout + 1, outcome)
    outcome.check_latency("others'", probe.times)
    outcome.figure = f"{_told(found, patience)}; others' {latency(probe.times)}"
    return outcome


def plain_to_tls(subject: Subject, each: int = 10, timeout: float = 5, patience: float = 8) -> RowOutcome:
    """Connect to a TLS port and send nothing, or bytes that are not TLS."""
    outcome = RowOutcome()
    with tempfile.TemporaryDirectory() as folder:
        options = [*certificate(Path(folder)), "--handshake-timeout", str(timeout)]
        with subject.start(200, rankserver=options) as server:
            kinds = ["silent", "HELLO", "HTTP", "noise"]
            with probing(subject, server.address, tls=True) as probe:
                found = _pester(server.address, [kind for kind in kinds for _ in range(each)], patience)
            _judge(found, timeout + 1, outcome)
    outcome.check_latency("others'", probe.times)
    outcome.figure = f"{_told(found, patience)}; others' {latency(probe.times)}"
    return outcome


def _pester(address: HostPort, kinds: Sequence[str], patience: float) -> list[_Stranger]:
    """Connect as each of these kinds, and wait for up to ``patience`` seconds."""
    found = {}
    poll = select.poll()
    begin = dripped = time.monotonic()
    for kind in kinds:
        sock = socket.create_connection(address)
        sock.setblocking(False)
        found[sock.fileno()] = _Stranger(kind, sock)
        sock.send(KINDS.get(kind, b"HELLO\n"))
        poll.register(sock, select.POLLIN)
    while any(not one.seconds for one in found.values()) and time.monotonic() < begin + patience:
        for descriptor, _ in poll.poll(DRIP * 1000):
            if not _is_open(found[descriptor].sock):
                found[descriptor].seconds = time.monotonic() - begin
                poll.unregister(descriptor)
        if time.monotonic() - dripped > DRIP:
            dripped = time.monotonic()
            for one in found.values():
                if one.kind == "a byte now and then" and not one.seconds:
                    _drip(one.sock)
    for one in found.values():
        one.sock.close()
    return list(found.values())


def _is_open(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(MAX_READ))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _drip(sock: socket.socket) -> None:
    try:
        sock.send(b"x")
    except OSError:
        return


def _judge(found: list[_Stranger], bound: float, outcome: RowOutcome) -> None:
    still_open = {one.kind for one in found if not one.seconds}
    outcome.check(not still_open, f"never closed: {', '.join(sorted(still_open))}")
    late = {one.kind for one in found if one.seconds > bound}
    outcome.check_time(not late, f"not closed within {bound:g} s: {', '.join(sorted(late))}")


def _told(found: list[_Stranger], patience: float) -> str:
    """Return how long each kind stayed connected, as text."""
    kinds = list(dict.fromkeys(one.kind for one in found))
    longest = {kind: [one.seconds for one in found if one.kind == kind] for kind in kinds}
    return "closed after: " + ", ".join(
        f"{kind} {max(times):.1f} s" if all(times) else f"{kind} not within {patience:g} s"
        for kind, times in longest.items()
    )


# --- tokens -----------------------------------------------------------------------------------


def tokens(subject: Subject, guessers: int = 50, seconds: float = 5) -> RowOutcome:
    """Keep guessing tokens from many connections: wrong ones, none, and one of 60,000 bytes."""
    outcome = RowOutcome()
    token = secrets.token_urlsafe(16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens"
        path.touch(mode=0o600)
        path.write_text(token + "\n")
        with subject.start(
            200,
            rankserver=["--token-file", str(path)],
            redis=[f"requirepass {token}"],
            nats=[f'authorization {{ token: "{token}" }}'],
        ) as server:
            huge, absent = _first_answers(subject, server, [secrets.token_hex(30_000).encode(), None])
            with probing(subject, server.address, token=token) as probe:
                guesses, entered = _guess(subject, server, guessers, seconds)
    outcome.check(not entered, f"{entered} wrong tokens were accepted")
    outcome.check_latency("others'", probe.times)
    for kind, answer in (("a huge token", huge), ("no token", absent)):
        outcome.check(answer.startswith("BYE "), f"{kind}: {answer}")
    outcome.check(guesses <= guessers * (seconds + 1), f"{guesses} guesses in {seconds:g} s")
    outcome.figure = (
        f"{guesses / seconds:,.0f} guesses/s from {guessers} connections, {entered} accepted; "
        f"none: {absent}, 60,000 bytes: {huge}; others' {latency(probe.times)}"
    )
    return outcome


def _first_answers(subject: Subject, server: ServerProgram, tokens: Sequence[bytes | None]) -> list[str]:
    """Return, for each of these tokens, the first words of the server that say whether it is accepted."""
    clients = [LineClient(subject, server.address) for _ in tokens]
    for client, token in zip(clients, tokens, strict=True):
        client.sock.settimeout(5)
        client.send(subject.joining if token is None else subject.guess(token))
    return [_first_answer(client) for client in clients]


def _first_answer(client: LineClient) -> str:
    lines: list[bytes] = []
    with client, suppress(OSError):
        while data := client.sock.recv(MAX_READ):
            lines += data.split(b"\n")
            for line in lines:
                if line.startswith((b"BYE", b"-", b"WELCOME", b"+OK", b"PONG")):
                    return " ".join(line.decode().split()[:2]).replace("'", "")
    return "closed"


def _guess(subject: Subject, server: ServerProgram, guessers: int, seconds: float) -> tuple[int, int]:
    """Guess as fast as answers come; return how many guesses were answered, and how many were accepted."""
    guesses = entered = 0
    poll = select.poll()
    clients: dict[int, socket.socket] = {}

    def begin() -> None:
        sock = socket.create_connection(server.address)
        clients[sock.fileno()] = sock
        poll.register(sock, select.POLLIN)
        _try(subject, sock)

    for _ in range(guessers):
        begin()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for descriptor, _ in poll.poll(50):
            sock = clients[descriptor]
            try:
                data = sock.recv(MAX_READ)
            except OSError:
                data = b""
            entered += data.startswith((b"+OK", b"PONG")) or b"WELCOME " in data
            # The connection may try again.
            if data.startswith(b"-WRONGPASS"):
                guesses += 1
                _try(subject, sock)
            elif not data:
                guesses += 1
                poll.unregister(descriptor)
                clients.pop(descriptor).close()
                begin()
    for sock in clients.values():
        sock.close()
    return guesses, entered


def _try(subject: Subject, sock: socket.socket) -> None:
    try:
        sock.send(subject.guess(secrets.token_urlsafe(16).encode()))
    except OSError:
        return


# --- descriptors ------------------------------------------------------------------------------


def descriptors(subject: Subject, clients: int = 100, too_many: int = 100, seconds: float = 5) -> RowOutcome:
    """Let more clients connect than the server has descriptors for, then let some of the first ones leave."""
    outcome = RowOutcome()
    with subject.start(clients + too_many + 64) as server, LineClient(subject, server.address) as member:
        member.join()
        with (
            LineClient(subject, server.address, hello=subject.sending) as sender,
            crowd(clients, lambda _: LineClient(subject, server.address)) as members,
        ):
            sender.join()
            # Some descriptors are only opened shortly after the start.
            limit = settled_descriptors(server) + 2
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (limit, limit))
            waiting = [LineClient(subject, server.address) for _ in range(too_many)]
            for client in waiting:
                client.send(client.hello)
            settled_descriptors(server)
            before, begin = subjects.cpu(server.pid), time.monotonic()
            pass_time(server, seconds)
            used = (subjects.cpu(server.pid) - before) / (time.monotonic() - begin)
            begin = time.perf_counter()
            sender.command(b"#one")
            member.until(lambda: b"#one" in member.texts, "get a command")
            served = time.perf_counter() - begin
            for client in members:
                client.close()
            begin = time.perf_counter()
            joined = _joined(waiting[:clients])
            resumed = time.perf_counter() - begin
            for client in waiting:
                client.close()
    outcome.check_time(used <= MAX_SHARE, f"{used:.0%} of a CPU while there were too few descriptors")
    outcome.check(joined, "clients that waited for a descriptor were not served")
    outcome.check_time(resumed <= MAX_RESUMED, f"clients that waited were served after {resumed:.1f} s")
    outcome.check_time(served <= MAX_SERVED, f"a member waited {served:.1f} s for a command")
    outcome.figure = (
        f"CPU {used:.1%} meanwhile, a member's command {milliseconds(served)}; those that waited are served "
        + (f"{milliseconds(resumed)} after" if joined else "not")
    )
    return outcome


def _joined(clients: list[LineClient]) -> bool:
    """Wait until these clients have joined."""
    for client in clients:
        client.sock.settimeout(10)
        while not client.joined:
            if not client.read():
                return False
    return True
