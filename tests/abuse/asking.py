"""Row: members that ask so much that the server must forget some of their asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tests.abuse import subjects
from tests.abuse.clients import Follower, LineClient, crowd, read_all
from tests.abuse.outcome import RowOutcome, mebibytes
from tests.abuse.subjects import RANK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness import HostPort

    from tests.abuse.subjects import Subject

# The fewest open asks of each member that the server remembers (docs/protocol.md, "Open commands").
MIN_OPEN: Final = 1024

# The asks, or answers, that are sent at once; the next ones wait for these to arrive.
CHUNK: Final = 500


class AskFlood(NamedTuple):
    """Members of the lowest ranks, and how many asks each of them opens."""

    members: int
    asks: int

    def __str__(self) -> str:
        return f"{self.members} x {self.asks:,} asks"


# One member alone, and many members that each stay within their bound.
FLOODS: Final = (AskFlood(1, 100_000), AskFlood(70, 1000))


class CountingAsker(LineClient):
    """A member that keeps the numbers of its own asks, and what becomes of them.

    Attributes:
        asked: the asks that were logged.
        answered: the asks that were answered, with each answer.
        dropped: the asks that the server said it had forgotten.
        is_over: whether the last command has come.
    """

    def __init__(self, address: HostPort, number: int) -> None:
        super().__init__(RANK, address)
        self.asked: list[int] = []
        self.answered: list[int] = []
        self.dropped: list[int] = []
        self.is_over = False
        self._mark = b" #%d " % number

    def ask(self, count: int) -> None:
        """Ask this many times, and wait until all asks are logged."""
        for begin in range(0, count, CHUNK):
            numbers = range(begin, min(begin + CHUNK, count))
            self.send(b"".join(b"ASK%s%d\n" % (self._mark, number) for number in numbers))
            self.until(lambda end=numbers.stop: len(self.asked) >= end, "ask")  # type: ignore[misc]

    def take(self, lines: list[bytes]) -> None:
        self.asked += [_number(line) for line in lines if self._mark in line]
        self.answered += [_number(line) for line in lines if line.startswith(b"RES ")]
        self.dropped += [_number(line) for line in lines if line.startswith(b"DROPPED ")]
        self.is_over = self.is_over or any(line.endswith(b" #end") for line in lines)


def _number(line: bytes) -> int:
    """Return the second word of a line."""
    return int(line.split(b" ", 2)[1])


def ask_flood(_subject: Subject, floods: Sequence[AskFlood] = FLOODS) -> RowOutcome:
    """Let the lowest ranks ask very often while an ask of the highest rank is open; answer all asks."""
    outcome = RowOutcome()
    outcome.figure = "; ".join(_flood(flood, outcome) for flood in floods)
    return outcome


def _flood(flood: AskFlood, outcome: RowOutcome) -> str:
    with (
        RANK.start(flood.members + 16) as server,
        Follower(server.address, "boss") as boss,
        Follower(server.address, "executor") as executor,
    ):
        boss.join()
        executor.join()
        boss.send(b"ASK #boss\n")
        executor.until(lambda: bool(executor.commands), "get the boss's ASK")
        with crowd(flood.members, lambda number: CountingAsker(server.address, number)) as askers:
            before = subjects.memory(server.pid)
            for asker in askers:
                asker.ask(flood.asks)
            grown = subjects.memory(server.pid) - before
            last = max(asker.asked[-1] for asker in askers)
            executor.until(lambda: executor.seq >= last, "get all ASKs")
            _answer(executor, boss, askers)
    boss_is_answered = any(line.startswith(b"RES ") for line in boss.private)
    outcome.check(boss_is_answered, f"{flood}: the ask of the highest rank was forgotten")
    for asker in askers:
        _judge(asker, flood, outcome)
    return (
        f"{flood}: the highest rank's answer {'came' if boss_is_answered else 'was lost'}, "
        f"{sum(len(asker.answered) for asker in askers):,} others came, "
        f"{sum(len(asker.dropped) for asker in askers):,} asks were reported as dropped; "
        f"memory +{mebibytes(grown)}"
    )


def _answer(executor: Follower, boss: Follower, askers: Sequence[CountingAsker]) -> None:
    """Answer each ASK, and wait until all answers have arrived."""
    numbers = [seq for seq, _, _ in executor.commands]
    for begin in range(0, len(numbers), CHUNK):
        executor.private.clear()
        executor.send(b"".join(b"RES %d ok\n" % seq for seq in numbers[begin : begin + CHUNK]))
        executor.send(b"PING answered\n")
        read_all([executor, boss, *askers], lambda: b"PONG answered" in executor.private)
    # What is logged next arrives behind the answers.
    executor.send(b"CMD #end\n")
    for asker in askers:
        asker.until(lambda asker=asker: asker.is_over, "get the end")  # type: ignore[misc]


def _judge(asker: CountingAsker, flood: AskFlood, outcome: RowOutcome) -> None:
    """Check that the oldest asks were dropped, as many as necessary, and that all others were answered."""
    dropped = len(asker.dropped)
    outcome.check(
        asker.dropped == asker.asked[:dropped], f"{flood}: others than the oldest asks were dropped"
    )
    outcome.check(dropped <= max(0, flood.asks - MIN_OPEN), f"{flood}: {dropped:,} asks were dropped")
    silent = flood.asks - dropped - len(asker.answered)
    outcome.check(not silent, f"{flood}: {silent:,} asks were forgotten without a word")
