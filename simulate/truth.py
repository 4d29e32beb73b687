"""The truth about a run: the log as it was written, and the roster at each place in it.

The log is read from the core's memory before any of it can be freed, and each frame is compared with what its
sender sent. What clients receive is then compared with the truth.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from rankserver.wire import grammar

if TYPE_CHECKING:
    from simulate.client import SimClient


class Violation(AssertionError):  # noqa: N818 - it names what happened
    """An invariant does not hold; the message says which."""


class Change(NamedTuple):
    """What a JOIN or LEFT did; ``roster`` has the clients by rank after it."""

    joins: bool
    ranks: list[range]
    roster: tuple[SimClient, ...]


class LoggedCommand(NamedTuple):
    """A command in the log."""

    sender: SimClient
    rank: int
    wants_answer: bool
    roster: tuple[SimClient, ...]


class Truth:
    """The log of one run.

    Attributes:
        frames: the frames by seq; there is none with seq 0.
        meaning: what each frame says.
        roster: the clients by rank after the last frame.
        joining: the clients in each of the next JOINs, in the order of its ranks, as the server says.
        commands: how many commands were logged.
        dropped: the asks that the server has forgotten, as it has told their askers.
    """

    def __init__(self) -> None:
        self.frames: list[bytes] = [b""]
        self.meaning: list[Change | LoggedCommand | None] = [None]
        self.roster: tuple[SimClient, ...] = ()
        self.joining: deque[list[SimClient]] = deque()
        self.commands = 0
        self.dropped: set[int] = set()

    def has_left(self, seq: int) -> bool:
        """Tell whether the sender of a command has left."""
        meaning = self.meaning[seq]
        return isinstance(meaning, LoggedCommand) and meaning.sender.left_seq > 0

    def grow(self, data: bytes) -> None:
        """Add frames that were logged."""
        lines = data.split(b"\n")
        if lines.pop():
            raise Violation(f"the log ends inside a frame: {data[-80:]!r}")
        for line in lines:
            verb, seq, rest = line.split(b" ", 2)
            if int(seq) != len(self.frames):
                raise Violation(f"frame {line!r} is logged where {len(self.frames)} was due")
            if verb in (b"JOIN", b"LEFT"):
                meaning: Change | LoggedCommand = self._change(verb == b"JOIN", rest)
            else:
                meaning = self._sent(verb == b"ASK", rest)
            self.frames.append(line)
            self.meaning.append(meaning)

    def _change(self, joins: bool, rest: bytes) -> Change:
        seq = len(self.frames)
        spans = grammar.parse_ranks(rest.decode())
        ranks = [rank for span in spans for rank in span]
        roster = list(self.roster)
        if joins:
            joining = self.joining.popleft() if self.joining else []
            if len(joining) != len(ranks):
                raise Violation(f"JOIN {seq} gives {ranks}, and {joining} are let in")
            for rank, client in zip(ranks, joining, strict=True):
                roster.insert(rank, client)
            places = [client.place for client in roster]
            if places != sorted(places):
                raise Violation(f"JOIN {seq}: ranks are not in order of (class, HELLO): {places}")
        else:
            for rank in reversed(ranks):
                if rank >= len(roster):
                    raise Violation(f"LEFT {seq} of rank {rank} of {len(roster)}")
                roster.pop(rank).leaves(seq)
        self.roster = tuple(roster)
        return Change(joins, spans, self.roster)

    def _sent(self, wants_answer: bool, rest: bytes) -> LoggedCommand:
        seq = len(self.frames)
        number, _, text = rest.partition(b" ")
        rank = int(number)
        if rank >= len(self.roster):
            raise Violation(f"frame {seq} is from rank {rank} of {len(self.roster)}")
        sender = self.roster[rank]
        sender.expected.check_logged(seq, text, wants_answer=wants_answer)
        self.commands += 1
        return LoggedCommand(sender, rank, wants_answer, self.roster)
