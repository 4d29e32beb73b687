"""Rows: readers on slow links, above and below the least rate that the server expects of them."""

from __future__ import annotations

import select
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from tests.abuse import subjects
from tests.abuse.clients import LineClient
from tests.abuse.flow import TURN, Producer, discard
from tests.abuse.outcome import MIB, RowOutcome, latency, milliseconds
from tests.abuse.probe import probing
from tests.abuse.subjects import RANK, LoggedServer
from tests.abuse.transports import serving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness import ServerProgram

    from tests.abuse.subjects import Subject

KIB: Final = 1024

# The fewest bytes that a slow link delivers at once: two TCP segments.
PART: Final = 2800

# Seconds between two checks of whether the reader was dropped.
LOOK: Final = 0.2

# A command that takes longer than this many seconds has waited for the slow reader.
MAX_UNNOTICED: Final = 0.1


def slow_link(
    subject: Subject,
    rate: float = 100 * KIB,
    seconds: float = 30,
    transport: str = "tcp",
    options: Sequence[str] = (),
) -> RowOutcome:
    """Let the highest rank read ``rate`` bytes a second over this transport, while the lowest one floods."""
    outcome = RowOutcome()
    with ExitStack() as stack:
        if subject is RANK:
            endpoint = stack.enter_context(serving(transport, 8, options))
            server: ServerProgram = endpoint.server
            reader = stack.enter_context(endpoint.client(LineClient, subject))
        else:
            server = stack.enter_context(subject.start(8))
            reader = stack.enter_context(LineClient(subject, server.address))
        reader.join()
        with probing(subject, server.address) as probe:
            sent, dropped, lasted = _flood(subject, server, reader, rate, seconds)
    outcome.check(not dropped, f"it was dropped after {lasted:.1f} s")
    outcome.check_latency("others'", probe.steady_times)
    outcome.figure = (
        f"dropped after {lasted:.1f} s" if dropped else f"not dropped in {lasted:.0f} s"
    ) + f"; {sent / lasted / MIB:.1f} MiB/s from the flooder; others' {latency(probe.steady_times)}"
    return outcome


def below_the_floor(
    subject: Subject,
    rate: float = 16 * KIB,
    timeout: float = 5,
    patience: float = 40,
    options: Sequence[str] = (),
) -> RowOutcome:
    """Let a client read ``rate`` bytes a second, less than the least rate, while another one floods."""
    outcome = RowOutcome()
    with (
        subject.start(8, rankserver=options) as server,
        probing(subject, server.address) as probe,
        LineClient(subject, server.address) as reader,
    ):
        reader.join()
        sent, dropped, lasted = _flood(subject, server, reader, rate, patience)
    waited = sum(seconds for seconds in probe.times if seconds > MAX_UNNOTICED)
    outcome.check(dropped, f"it was not dropped within {patience:g} s")
    outcome.check_time(waited <= timeout + 1, f"others waited for {waited:.1f} s in all")
    outcome.figure = (
        (f"dropped after {lasted:.1f} s" if dropped else f"not dropped in {lasted:.0f} s")
        + f"; others waited for {milliseconds(waited)} in all, {milliseconds(max(probe.times))} at most; "
        + f"{sent / lasted / MIB:.1f} MiB/s from the flooder"
    )
    return outcome


def _flood(
    subject: Subject, server: ServerProgram, reader: LineClient, rate: float, seconds: float
) -> tuple[int, bool, float]:
    """Flood for some seconds, or until the server has dropped the reader.

    Returns:
        The bytes that were sent, whether the reader was dropped, and the seconds that it took.
    """
    with LineClient(subject, server.address, hello=subject.sending) as client:
        client.join()
        producer = Producer(client, 0, 1000)
        reader.sock.setblocking(False)
        count = subjects.descriptors(server.pid)
        begin = looked = now = time.monotonic()
        got, dropped = 0, False
        while now < begin + seconds and not dropped:
            select.select([client.sock], [client.sock], [], TURN)
            producer.send()
            discard(client)
            due = int((now - begin) * rate) - got
            if due >= PART:
                got += due
                discard(reader, due)
            if now - looked > LOOK:
                looked, dropped = now, reader.ended or _has_dropped(server, count)
            now = time.monotonic()
    return producer.sent * producer.size, dropped, now - begin


def _has_dropped(server: ServerProgram, descriptors: int) -> bool:
    """Return whether a client has left; of other servers, whether they have fewer descriptors than this."""
    if isinstance(server, LoggedServer):
        return b" INFO left " in server.log()
    return subjects.descriptors(server.pid) < descriptors
