"""A second state that is fed only the inputs, and must end up the same as the server's.

In some runs the server has a ``Collecting`` order. It encodes each input when it is proposed. When the input
is handed out, it is decoded and also applied to the ``Replica``, which has a log of its own and neither
channels nor a clock. What the replica's observer is told, and the bytes of its log, are then compared with
those of the server.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from rankserver import inputs
from rankserver.clist import Cursor, Log
from rankserver.inputs import Input
from rankserver.members import Member
from rankserver.state import State
from simulate.faults import Shortage
from simulate.kernel import lib
from simulate.scenario import Scenario
from simulate.truth import Violation

# Turns between two comparisons of all members and asks, which cost more than those of the log.
COMPARED_TURNS: Final = 8


class Told(NamedTuple):
    """What an observer was told, and the seq of the log's last frame at that time."""

    seq: int
    what: str
    members: tuple[int, ...]
    details: Any


def told(log: Log, what: str, members: Sequence[Member], details: Any) -> Told:
    """Return a record of what an observer is told now."""
    return Told(log.seq, what, tuple(member.id for member in members), details)


class LogReader:
    """Reads what is appended to a log, with a cursor that belongs to no client."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._cursor: Cursor = log.retain()

    def read(self) -> bytes:
        """Return what was appended since this was last called."""
        data = bytearray()
        while pieces := self._cursor.peek():
            before = len(data)
            for piece in pieces:
                data += piece
            self._cursor.advance(len(data) - before)
        return bytes(data)


class Replica:
    """A state to which the inputs of the server are applied, and the comparison of the two states.

    Args:
        scenario: the sizes and settings of the server.

    Attributes:
        server_told: what the server's observer is told; the server appends to it.
    """

    def __init__(self, scenario: Scenario) -> None:
        config = scenario.config
        self.server_told: list[Told] = []
        self._told: list[Told] = []
        self._log = Log(config.max_line, scenario.block_bytes, scenario.read_bytes)
        self._state = State(self._log, config.max_line, self)
        self._state.asks.limit = scenario.max_asks
        self._state.asks.orphan_limit = scenario.max_orphans
        self._reader = LogReader(self._log)

    def follow(self, state: State) -> None:
        """Compare with this state, to which nothing was applied yet."""
        self._server = state
        self._server_reader = LogReader(state.log)

    def apply(self, given: Input) -> None:
        """Apply an input to this state."""
        self._state.apply(given)

    def close(self) -> None:
        """Free the log."""
        self._log.close()

    # --- what the state tells ---

    def joined(self, members: Sequence[Member], ranks: Sequence[int]) -> None:
        """Note that members have joined."""
        self._told.append(told(self._log, "joined", members, ranks))

    def left(self, members: Sequence[Member]) -> None:
        """Note that members have left."""
        self._told.append(told(self._log, "left", members, None))

    def tell(self, member: Member, frame: bytes) -> None:
        """Note a frame for one member alone."""
        self._told.append(told(self._log, "private", [member], frame))

    # --- the comparison ---

    def check_turn(self, turn: int) -> None:
        """Compare what happened in the last turn, and in some turns everything.

        Raises:
            Violation: the states differ.
        """
        _compare("the log", self._server_reader.read(), self._reader.read())
        _compare("what observers are told", self.server_told, self._told)
        self.server_told.clear()
        self._told.clear()
        if turn % COMPARED_TURNS == 0:
            self.check_whole()

    def check_whole(self) -> None:
        """Compare all members and asks.

        Raises:
            Violation: the states differ.
        """
        self._log.check()
        _compare("the roster", _roster(self._server), _roster(self._state))
        _compare("the open asks", self._server.asks.waiting(), self._state.asks.waiting())
        _compare("the number of changes", self._server.changes, self._state.changes)


class Collecting:
    """An order that collects: inputs count when they are handed out, each decoded from its encoding.

    Allocations succeed while an input is applied. A server that shares its order must stop if it fails to
    apply an input, but here it must continue.

    Args:
        replica: each input is applied to it before it is handed out.
        shortage: lets allocations in Python fail.
    """

    def __init__(self, replica: Replica, shortage: Shortage) -> None:
        self.collects = True
        self._replica = replica
        self._shortage = shortage
        self._proposed: deque[bytes] = deque()

    def propose(self, given: Input) -> None:
        """Let an input count when ``ready`` is called next."""
        self._proposed.append(inputs.encode(given))

    def ready(self) -> Iterator[Input]:
        """Yield the inputs proposed so far, in order."""
        while self._proposed:
            given = inputs.decode(self._proposed.popleft())
            self._spare(is_spared=True)
            try:
                self._replica.apply(given)
                yield given
            finally:
                self._spare(is_spared=False)

    def _spare(self, *, is_spared: bool) -> None:
        lib.sim_spare_memory(is_spared)
        self._shortage.is_spared = is_spared


def _roster(state: State) -> list[tuple[int, int, str, int, str]]:
    return [
        (state.roster.rank(member), member.id, member.name, member.rank_class, member.token)
        for member in state.roster
    ]


def _compare(what: str, server: Any, replica: Any) -> None:
    if server != replica:
        raise Violation(f"{what}: {server!r} of the server, and {replica!r} of its replica")
