"""Rows: clients that flood the server, and read late what they are sent.

The flood consists of commands, or of ASKs, whose answers the flooder reads late. Each attack runs over one
transport, by a member, by strangers, or by members that have left; period and sizes vary.
"""

from __future__ import annotations

import select
import socket
import time
from contextlib import suppress
from itertools import cycle, product
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.abuse import subjects
from tests.abuse.clients import LineClient
from tests.abuse.flow import TURN, Producer, discard
from tests.abuse.outcome import MIB, RowOutcome, latency, milliseconds
from tests.abuse.probe import probing
from tests.abuse.reports import Sampler
from tests.abuse.subjects import RANK, Rank
from tests.abuse.transports import ROLES, TRANSPORTS, serving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.abuse.subjects import Subject
    from tests.abuse.transports import Endpoint

# Places for clients that have left, and for the probe.
SPARE: Final = 64

# The clients of the probe, which hold the highest ranks.
QUIET: Final = 2


class Asking(Rank):
    """rankserver, to which every command is sent as an ASK."""

    def command(self, text: bytes) -> bytes:
        return b"ASK " + text + b"\n"


class LateAttack(NamedTuple):
    """A flood by a client that reads late.

    Attributes:
        transport: one of ``TRANSPORTS``.
        role: one of ``ROLES``.
        period: the seconds between two reads. A former member also leaves once in each period, and another
            one takes its place.
        part: the bytes that it then reads.
        size: the bytes of a command.
    """

    transport: str
    role: str
    period: float
    part: int
    size: int

    def __str__(self) -> str:
        return f"{self.role}, {self.transport}, {self.part // 1024} KiB each {self.period:g} s"


def _attacks(values: Sequence[tuple[float, int, int]]) -> tuple[LateAttack, ...]:
    """Return an attack for each transport and role, with these values in turn."""
    ways = zip(product(TRANSPORTS, ROLES), cycle(values), strict=False)
    return tuple(LateAttack(transport, role, *value) for (transport, role), value in ways)


# Four values for three roles, so that each role has different ones over each transport.
READERS: Final = _attacks([(4, 2 * MIB, 1000), (4, 2 * MIB, 1000), (2, MIB, 16_000), (1, MIB // 4, 100)])
ASKERS: Final = _attacks([(4, 2 * MIB, 1000), (4, 2 * MIB, 1000), (2, MIB, 300), (1, MIB // 4, 4000)])


def late_reader(
    subject: Subject,
    attacks: Sequence[LateAttack] = READERS,
    seconds: float = 10,
    options: Sequence[str] = (),
) -> RowOutcome:
    """Flood with commands that are read late, below two quiet clients."""
    if subject is not RANK:
        return _late_subscriber(subject, READERS[0], seconds)
    return _late(RANK, attacks, seconds, options)


def late_asker(
    _subject: Subject,
    attacks: Sequence[LateAttack] = ASKERS,
    seconds: float = 10,
    options: Sequence[str] = (),
) -> RowOutcome:
    """Flood with ASKs that two higher ranks refuse, while their own commands follow these answers."""
    return _late(Asking(), attacks, seconds, options)


def _late(
    subject: Subject, attacks: Sequence[LateAttack], seconds: float, options: Sequence[str]
) -> RowOutcome:
    outcome = RowOutcome()
    times: list[float] = []
    sent = waits = looks = 0
    for attack in attacks:
        with serving(attack.transport, SPARE, options) as endpoint:
            sampler = Sampler(endpoint.server, QUIET)
            with endpoint.probing(refuses=isinstance(subject, Asking)) as probe:
                sent += _flood(endpoint, subject, attack, seconds, sampler)
            waited, looked = sampler.waits()
        outcome.check(looked > 0, f"{attack}: no report")
        outcome.check(not waited, f"{attack}: higher ranks waited in {waited} of {looked} reports")
        outcome.check_latency(f"{attack}: others'", probe.steady_times)
        times += probe.steady_times
        waits, looks = waits + waited, looks + looked
    outcome.figure = (
        f"{len(attacks)} attacks, {sent:,} lines: the higher ranks' commands {latency(times)}, "
        f"{milliseconds(max(times))} at most; they waited in {waits:,} of {looks:,} reports"
    )
    return outcome


def _flood(endpoint: Endpoint, subject: Subject, attack: LateAttack, seconds: float, sampler: Sampler) -> int:
    """Attack for this many seconds, and return how many lines were sent."""
    begin = time.monotonic()
    due = begin + attack.period
    sent = 0
    leaving: list[Producer] = []
    flooder = _flooder(endpoint, subject, attack)
    while (now := time.monotonic()) < begin + seconds:
        select.select([], [flooder.client.sock], [], TURN)
        flooder.send()
        is_due = now >= due
        if is_due:
            due += attack.period
            for one in (flooder, *leaving):
                _read(one.client, attack.part)
        if flooder.client.ended or (is_due and attack.role == "former member"):
            sent += flooder.sent
            if _leaves(flooder):
                leaving.append(flooder)
            flooder = _flooder(endpoint, subject, attack)
        sampler.sample()
    for one in (flooder, *leaving):
        one.client.close()
    return sent + flooder.sent


def _flooder(endpoint: Endpoint, subject: Subject, attack: LateAttack) -> Producer:
    client = endpoint.client(LineClient, subject)
    if attack.role != "stranger":
        client.join()
    return Producer(client, 0, attack.size)


def _read(client: LineClient, part: int) -> None:
    """Read up to ``part`` bytes that are there."""
    while part > 0 and not client.ended and (count := discard(client, part)):
        part -= count


def _leaves(flooder: Producer) -> bool:
    """Close the sending side of a connection, or all of one that has ended; return whether it can be read."""
    if not flooder.client.ended:
        with suppress(OSError):
            flooder.client.sock.shutdown(socket.SHUT_WR)
            return True
    flooder.client.close()
    return False


def _late_subscriber(subject: Subject, attack: LateAttack, seconds: float) -> RowOutcome:
    """Let one client flood, and another one that gets it all read late."""
    with (
        subject.start(8) as server,
        LineClient(subject, server.address, hello=subject.sending) as client,
        LineClient(subject, server.address) as reader,
        probing(subject, server.address) as probe,
    ):
        client.join()
        reader.join()
        reader.sock.setblocking(False)
        count = subjects.descriptors(server.pid)
        producer = Producer(client, 0, attack.size)
        begin = time.monotonic()
        due = begin + attack.period
        while (now := time.monotonic()) < begin + seconds:
            select.select([], [client.sock], [], TURN)
            producer.send()
            discard(client)
            if now >= due and not reader.ended:
                due += attack.period
                _read(reader, attack.part)
        dropped = subjects.descriptors(server.pid) < count
    return RowOutcome(
        f"others' commands {latency(probe.steady_times)}, {milliseconds(max(probe.times))} at most; the late "
        f"reader was {'dropped' if dropped else 'not dropped'}"
    )
