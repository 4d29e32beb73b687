"""Rows: very many connections, connections that come and go, and half of all lost at once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tests.abuse import subjects
from tests.abuse.clients import Checker, Follower, LineClient, crowd, pass_time, read_all, settled_descriptors
from tests.abuse.outcome import MIB, RowOutcome, mebibytes, milliseconds
from tests.abuse.subjects import RANK

if TYPE_CHECKING:
    from harness import HostPort, ServerProgram

    from tests.abuse.subjects import Subject

# Places for clients that are just leaving.
SPARE: Final = 32

# Bytes of memory growth that are noise, from the allocator and from the operator's log.
MAX_GROWTH: Final = 2 * MIB

# Seconds for a server to notice that all clients have gone.
MAX_SETTLE: Final = 10.0

# Seconds between two checks.
LOOK: Final = 0.02


def hold(subject: Subject, clients: int = 10_000, commands: int = 1000) -> RowOutcome:
    """Hold very many connections, and send commands to all of them."""
    outcome = RowOutcome()
    expected = [b"#%d " % number + b"x" * 56 for number in range(commands)]
    with subject.start(clients + SPARE) as server:
        before = subjects.memory(server.pid)
        with (
            crowd(clients, lambda _: Checker(subject, server.address)) as members,
            LineClient(subject, server.address, hello=subject.sending) as sender,
        ):
            sender.join()
            each = (subjects.memory(server.pid) - before) / clients
            for member in members:
                member.expected = expected
            begin = time.perf_counter()
            sender.send(b"".join(map(subject.command, expected)))
            read_all([sender, *members], lambda: all(member.got >= commands for member in members))
            seconds = time.perf_counter() - begin
        lost = sum(commands - member.got for member in members)
        outcome.check(lost == 0, f"{lost:,} of {commands * clients:,} commands did not arrive")
        outcome.check(not any(member.wrong for member in members), "a client got something else")
        peak = subjects.memory(server.pid) - before
    outcome.figure = (
        f"{commands * clients - lost:,} of {commands * clients:,} deliveries right in {seconds:.1f} s; "
        f"{each / 1024:.1f} KiB a client, {mebibytes(peak)} in all"
    )
    return outcome


def churn(subject: Subject, cycles: int = 50_000) -> RowOutcome:
    """Connect and disconnect: before and after joining, with a FIN and with an RST."""
    outcome = RowOutcome()
    with subject.start(256, rankserver=["--log-level", "warning"]) as server:
        witness = Follower(server.address, "witness") if subject is RANK else None
        if witness:
            witness.join()
        _churn(subject, server.address, max(cycles // 10, 200))
        descriptors = settled_descriptors(server)
        before = subjects.memory(server.pid)
        begin = time.perf_counter()
        _churn(subject, server.address, cycles)
        seconds = time.perf_counter() - begin
        after = _wait_for_descriptors(server, descriptors)
        growth = subjects.memory(server.pid) - before
        outcome.check(after == descriptors, f"{after} descriptors afterwards, {descriptors} before")
        outcome.check(growth <= MAX_GROWTH, f"{mebibytes(growth)} more memory than before")
        if witness:
            roster = witness.roster()
            outcome.check(roster == ["witness"], f"{len(roster)} clients are left")
            outcome.check(not witness.wrong, f"the log of the client that stayed: {witness.wrong[:1]}")
            outcome.check((witness.me, witness.clients) == (0, 1), "the client that stayed has another rank")
            witness.close()
    outcome.figure = (
        f"descriptors {descriptors} → {after}, memory {mebibytes(before)} {growth / MIB:+.1f} MiB, "
        f"{cycles / seconds:,.0f} cycles/s"
    )
    return outcome


def _churn(subject: Subject, address: HostPort, cycles: int) -> None:
    for cycle in range(cycles):
        client = LineClient(subject, address)
        if cycle & 1:
            client.join()
        if cycle & 2:
            client.abort()
        else:
            client.close()


def _wait_for_descriptors(server: ServerProgram, wanted: int) -> int:
    """Wait until ``wanted`` descriptors are open, but not for ever; return how many are."""
    deadline = time.monotonic() + MAX_SETTLE
    while (now := subjects.descriptors(server.pid)) != wanted and time.monotonic() < deadline:
        pass_time(server, LOOK)
    return now


def reset_half(subject: Subject, clients: int = 400, commands: int = 4000) -> RowOutcome:
    """Reset every second client in the middle of a broadcast."""
    outcome = RowOutcome()
    expected = [b"#%d " % number + b"x" * 500 for number in range(commands)]
    data = [subject.command(text) for text in expected]

    def make(number: int) -> LineClient:
        return (
            Follower(server.address, f"n{number}") if subject is RANK else LineClient(subject, server.address)
        )

    with (
        subject.start(clients + SPARE) as server,
        LineClient(subject, server.address, hello=subject.sending) as sender,
    ):
        sender.join()
        with crowd(clients, make) as members:
            before = members[0].roster() if isinstance(members[0], Follower) else []
            sender.send(b"".join(data[: commands // 2]))
            begin = time.perf_counter()
            for member in members[1::2]:
                member.abort()
            sender.send(b"".join(data[commands // 2 :]))
            rest = members[::2]
            read_all([sender, *rest], lambda: all(_count(member) >= commands for member in rest))
            seconds = time.perf_counter() - begin
            right = sum(_texts(member) == expected for member in rest)
            outcome.check(right == len(rest), f"{len(rest) - right} of {len(rest)} did not get all")
            ranks = _ranks(rest, before, outcome) if subject is RANK else ""
    outcome.figure = f"{right} of {len(rest)} got all {commands:,} in order, {milliseconds(seconds)}{ranks}"
    return outcome


def _count(member: LineClient) -> int:
    return len(member.commands if isinstance(member, Follower) else member.texts)


def _texts(member: LineClient) -> list[bytes]:
    return [text for _, _, text in member.commands] if isinstance(member, Follower) else member.texts


def _ranks(members: list[LineClient], before: list[str], outcome: RowOutcome) -> str:
    """Check that the remaining clients keep their order, and that each agrees with the server on its rank."""
    followers = [member for member in members if isinstance(member, Follower)]
    read_all(followers, lambda: all(follower.clients == len(followers) + 1 for follower in followers))
    roster = followers[0].roster()
    names = {follower.name for follower in followers}
    outcome.check(roster[1:] == [name for name in before if name in names], "the order is another")
    right = sum(roster[follower.me] == follower.name for follower in followers)
    outcome.check(right == len(followers), f"{len(followers) - right} have another rank than they think")
    wrong = [what for follower in followers for what in follower.wrong]
    outcome.check(not wrong, f"a gap in the log: {wrong[:1]}")
    return f"; {right} of {len(followers)} ranks right"
