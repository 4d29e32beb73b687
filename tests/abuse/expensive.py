"""Rows: lines that are cheap to send and expensive to parse, from very many connections at once."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from functools import partial
from itertools import cycle, product
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.abuse import reports
from tests.abuse.clients import BATCH, MAX_WAIT, Follower, LineClient, pass_time
from tests.abuse.outcome import RowOutcome, latency, milliseconds
from tests.abuse.probe import probing
from tests.abuse.subjects import RANK
from tests.abuse.transports import ROLES, TRANSPORTS, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from harness import ServerProgram

    from tests.abuse.subjects import Subject

# Makes JSON values of about a given number of bytes, by kind.
KINDS: Final[Mapping[str, Callable[[int], bytes]]] = {
    "open lists": lambda size: b"[" * size,
    "lists": lambda size: b"[" * (size // 2) + b"]" * (size // 2),
    "open objects": lambda size: b'{"a":' * (size // 5),
    "flat lists": lambda size: _listed((b"[" * 20 + b"]" * 20), size),
    "numbers": lambda size: _listed(b"0.1e-7", size),
    "digits": lambda size: b"1" * size,
    "fields": lambda size: b"{" + b",".join(b'"%x":0' % number for number in range(size // 9)) + b"}",
    "escapes": lambda size: b'"' + b"\\u00e9" * (size // 6) + b'"',
    "surrogates": lambda size: b'"' + b"\\ud800" * (size // 6) + b'"',
    "braces in a text": lambda size: b'"' + b"[{" * (size // 2) + b'"',
}

# The kinds that the server accepts: they are valid, and do not have too many lists and objects.
VALID: Final = ("numbers", "fields", "escapes", "braces in a text")

# Lines that are expensive for the other servers: a command of thousands of words, and nested JSON.
OTHERS: Final[Mapping[str, Callable[[int], bytes]]] = {
    "redis": lambda size: b"a " * (size // 2) + b"\r\n",
    "nats": lambda size: b'CONNECT {"a":' + b"[" * size + b"\r\n",
}

# How the servers begin the answer to a line that they refuse.
REFUSALS: Final = (b"ERR ", b"BYE ", b"-ERR ")

# Places for the probe, and for clients that are just leaving.
SPARE: Final = 64

# The most bytes of JSON that one turn may handle: twice what the server's bounds are meant to allow.
MAX_TURN_BYTES: Final = 2 * 256 * 1024

# The turns after which a server has read all that a client has sent: a line takes sixteen, at 4 KiB each.
MAX_READS: Final = 40

# Seconds between two reads of the answers, so that reading them does not keep the machine busy.
LOOK: Final = 0.05


def _listed(value: bytes, size: int) -> bytes:
    """Return a list of ``size`` bytes with this value again and again."""
    return b"[" + b",".join([value] * (size // (len(value) + 1))) + b"]"


class ExpensiveAttack(NamedTuple):
    """Many connections that complete an expensive line at the same time, and again when it is answered.

    Attributes:
        transport: one of ``TRANSPORTS``.
        role: one of ``ROLES``.
        kind: one of ``KINDS``, or of ``OTHERS`` for another server.
        size: the bytes of the JSON.
        connections: how many connections there are.
    """

    transport: str
    role: str
    kind: str
    size: int
    connections: int

    def __str__(self) -> str:
        return f"{self.connections} {self.role}s, {self.transport}, {self.size:,} bytes of {self.kind}"

    def line(self) -> bytes:
        """Return the line, which the server must refuse after it has parsed it."""
        if self.kind in OTHERS:
            return OTHERS[self.kind](self.size)
        return self._verb() + b'{"proto":0,"a":' + KINDS[self.kind](self.size) + b"}\n"

    def valid_line(self) -> bytes:
        """Return the line without what makes the server refuse it, apart from its kind of JSON."""
        return self._verb() + b'{"a":' + KINDS[self.kind](self.size) + b"}\n"

    def _verb(self) -> bytes:
        return b"HELLO " if self.role == "stranger" else b"RES 1 ok "


class Attacker(LineClient):
    """A client that counts the refusals of its lines."""

    refused = 0

    def take(self, lines: list[bytes]) -> None:
        self.refused += sum(line.startswith(REFUSALS) for line in lines)


# Every kind of JSON from strangers, who need to pass no check before it, and some from all others.
ATTACKS: Final = (
    *(ExpensiveAttack("tcp", "stranger", kind, 65_000, 1000) for kind in KINDS),
    *(
        ExpensiveAttack(transport, role, kind, size, 1000)
        for (transport, role), (kind, size) in zip(
            product(TRANSPORTS, ROLES),
            cycle([*((kind, 65_000) for kind in KINDS), ("lists", 4000)]),
            strict=False,
        )
        if (transport, role) != ("tcp", "stranger")
    ),
)

# The attack whose turns are counted.
COUNTED: Final = ExpensiveAttack("tcp", "stranger", "numbers", 60_000, 40)


def expensive_lines(
    subject: Subject, attacks: Sequence[ExpensiveAttack] = ATTACKS, seconds: float = 3
) -> RowOutcome:
    """Let very many connections complete expensive lines at the same time, for some seconds."""
    if subject is not RANK:
        return _expensive_elsewhere(subject, seconds)
    outcome = RowOutcome()
    times: list[float] = []
    lines = stops = 0
    for attack in attacks:
        options = ["--handshake-timeout", str(MAX_WAIT)]
        with serving(attack.transport, attack.connections + SPARE, options) as endpoint:
            connect = partial(endpoint.client, Attacker, RANK)
            with endpoint.probing() as probe:
                sent, answered = _attack(endpoint.server, attack, connect, seconds)
            stopped = reports.stops(endpoint.server)
        outcome.check(answered == sent, f"{attack}: {sent - answered} of {sent} lines without an answer")
        outcome.check_time(not stopped, f"{attack}: the log has {stopped} times 'was not running'")
        outcome.check_latency(f"{attack}: others'", probe.steady_times)
        times += probe.steady_times
        lines, stops = lines + sent, stops + stopped
    taken, fewest = turns(COUNTED), fewest_turns(COUNTED)
    outcome.check(taken >= fewest, f"{COUNTED}: handled in {taken} turns, not in {fewest} or more")
    outcome.figure = (
        f"{len(attacks)} attacks, {lines:,} lines: others' {latency(times)}, {milliseconds(max(times))} at "
        f"most; 'was not running' {stops} times in the log; {COUNTED} in {taken} turns"
    )
    return outcome


def fewest_turns(attack: ExpensiveAttack) -> int:
    """Return how many turns the lines of an attack should take at least."""
    return attack.connections * attack.size // MAX_TURN_BYTES


def turns(attack: ExpensiveAttack) -> int:
    """Let the lines of an attack become complete at once, and return how many turns the server needs.

    All joins of a turn share one frame of the log, and so do all departures. A stranger joins with its line,
    if the JSON is one of ``VALID``, and a member leaves right behind it.
    """
    options = ["--handshake-timeout", str(MAX_WAIT)]
    with (
        serving(attack.transport, attack.connections + SPARE, options) as endpoint,
        endpoint.client(Follower) as witness,
        ExitStack() as stack,
    ):
        witness.join()
        clients = _gathered(attack, partial(endpoint.client, Attacker, RANK), stack)
        line = attack.valid_line()
        for client in clients:
            client.send(line[:-1])
        for _ in range(MAX_READS):
            witness.ping()
        before = witness.seq
        with endpoint.server.paused():
            for client in clients:
                client.send(b"\n" if attack.role == "stranger" else b"\nBYE\n")
        expected = 1 + len(clients) if attack.role == "stranger" else 1
        witness.until(lambda: witness.clients == expected, "see them all join or leave")
        return witness.seq - before


def _attack(
    server: ServerProgram, attack: ExpensiveAttack, connect: Callable[[], Attacker], seconds: float
) -> tuple[int, int]:
    """Attack again and again for some seconds; return how many lines were sent, and how many answered."""
    end = time.monotonic() + seconds
    sent = answered = 0
    clients: list[Attacker] = []
    with ExitStack() as stack:
        while not sent or time.monotonic() < end:
            if not clients or attack.role != "member":
                stack.close()
                clients = _gathered(attack, connect, stack)
            _complete(clients, attack)
            sent += len(clients)
            answered += len(clients) - _unanswered(server, clients, attack)
    return sent, answered


def _gathered(attack: ExpensiveAttack, connect: Callable[[], Attacker], stack: ExitStack) -> list[Attacker]:
    """Let the attackers connect, and join unless they are strangers."""
    clients: list[Attacker] = []
    while len(clients) < attack.connections:
        some = [stack.enter_context(connect()) for _ in range(min(BATCH, attack.connections - len(clients)))]
        if attack.role != "stranger":
            for client in some:
                client.send(client.hello)
            for client in some:
                client.until(lambda client=client: client.joined, "join")  # type: ignore[misc]
        clients += some
    return clients


def _complete(clients: Sequence[Attacker], attack: ExpensiveAttack) -> None:
    """Send almost all of every line, then the ends of all of them."""
    line = attack.line()
    if attack.role == "former member":
        line = b"BYE\n" + line
    begun = 0 if attack.role == "former member" else len(line) - 1
    for data in (line[:begun], line[begun:]):
        for client in clients:
            client.sock.settimeout(MAX_WAIT)
            # The server may have closed the connection meanwhile.
            with suppress(OSError):
                client.send(data)


def _unanswered(server: ServerProgram, clients: Sequence[Attacker], attack: ExpensiveAttack) -> int:
    """Wait until each line is refused or, from a former member, ignored; return how many are not."""
    waiting = list(clients)
    for client in clients:
        client.sock.setblocking(False)
        client.refused = 0
    deadline = time.monotonic() + MAX_WAIT
    while waiting and time.monotonic() < deadline:
        pass_time(server, LOOK)
        for client in waiting:
            client.read()
        waiting = [client for client in waiting if not (client.refused or client.ended)]
    is_refused = attack.role != "former member"
    return sum(not client.refused for client in clients) if is_refused else len(waiting)


def _expensive_elsewhere(subject: Subject, seconds: float) -> RowOutcome:
    """Do the same to another server, with a line that it has to take apart."""
    attack = ExpensiveAttack("tcp", "stranger", subject.key, 65_000, 1000)
    with subject.start(attack.connections + SPARE) as server:
        connect = partial(Attacker, subject, server.address)
        with probing(subject, server.address) as probe:
            sent, answered = _attack(server, attack, connect, seconds)
    return RowOutcome(
        f"{sent:,} lines, {answered:,} of them refused with an error: others' {latency(probe.steady_times)}, "
        f"{milliseconds(max(probe.times))} at most"
    )
