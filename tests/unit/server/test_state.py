"""The state: the effect of each input on members, ranks, asks and the log, and that it needs nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Final

import pytest

from rankserver.clist import Cursor, Log
from rankserver.inputs import Answered, Asked, Input, Joined, Left, Lines, Newcomer
from rankserver.members import Member
from rankserver.state import State
from rankserver.wire import protocol
from tests.support.draining import drain
from tests.support.memory import no_memory

MAX_LINE: Final = 256


class Told:
    """An observer that records everything it is told, each with the seq of the log at that time."""

    def __init__(self) -> None:
        self.log: Log | None = None
        self.events: list[tuple[object, ...]] = []

    def joined(self, members: Sequence[Member], ranks: Sequence[int]) -> None:
        self._note("joined", [member.id for member in members], list(ranks))

    def left(self, members: Sequence[Member]) -> None:
        self._note("left", [member.id for member in members])

    def tell(self, member: Member, frame: bytes) -> None:
        self._note("tell", member.id, frame)

    def take(self) -> list[tuple[object, ...]]:
        events, self.events = self.events, []
        return events

    def _note(self, *event: object) -> None:
        assert self.log is not None
        self.events.append((*event, self.log.seq))


class Stage:
    """A state with an observer and a reader of its log."""

    def __init__(self) -> None:
        self.told = Told()
        self.log = Log(MAX_LINE)
        self.told.log = self.log
        self.state = State(self.log, MAX_LINE, self.told)
        self._reader: Cursor = self.log.retain()

    def apply(self, *inputs: Input) -> None:
        for given in inputs:
            self.state.apply(given)

    def join(self, *numbers: int) -> None:
        """Let members with these numbers join, and forget everything logged and told so far."""
        self.apply(Joined(tuple(Newcomer(number, f"c{number}") for number in numbers)))
        self.logged()
        self.told.take()

    def logged(self) -> list[bytes]:
        """Return the frames that were logged since the last call."""
        return drain(self._reader).splitlines()

    @property
    def members(self) -> list[int]:
        return [member.id for member in self.state.roster]


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.log.check()
    stage.log.close()


# --- joins and leaves -------------------------------------------------------------------------


def test_members_of_one_join_share_a_frame(stage: Stage) -> None:
    stage.apply(Joined((Newcomer(1, "a"), Newcomer(2, "b", 5))))
    stage.apply(Joined((Newcomer(3, "c"), Newcomer(4, "d", 5, "ops"))))
    assert stage.logged() == [b"JOIN 1 0-1", b"JOIN 2 1,3"]
    assert stage.told.take() == [("joined", [1, 2], [0, 1], 1), ("joined", [3, 4], [1, 3], 2)]
    assert stage.members == [1, 3, 2, 4]
    assert stage.state.changes == 2


def test_members_of_one_leave_share_a_frame_in_rank_order(stage: Stage) -> None:
    stage.join(1, 2, 3, 4)
    stage.apply(Left((4, 1)))
    assert stage.logged() == [b"LEFT 2 0,3"]
    assert stage.told.take() == [("left", [1, 4], 2)]
    assert stage.members == [2, 3]
    assert stage.state.changes == 2


def test_a_member_leaves_only_once(stage: Stage) -> None:
    stage.join(1, 2)
    stage.apply(Left((1,)), Left((1,)), Left((1, 2)), Left(()))
    assert stage.logged() == [b"LEFT 2 0", b"LEFT 3 0"]
    assert stage.members == []
    assert stage.state.changes == 3


def test_a_member_that_left_can_no_longer_answer(stage: Stage) -> None:
    stage.join(1, 2, 3)
    stage.apply(Asked(1, "a"), Left((3,)))
    assert stage.state.asks.waiting() == {2: (1, frozenset({2}))}
    stage.apply(Left((1,)))
    assert stage.state.asks.waiting() == {2: (None, frozenset({2}))}


# --- commands, asks and answers ---------------------------------------------------------------


def test_lines_are_logged_under_the_rank_of_their_member(stage: Stage) -> None:
    stage.join(1, 2)
    stage.apply(Lines(2, b"CMD a\r\n\nCMD b\n"), Left((1,)), Lines(2, b"CMD c\n"))
    assert stage.logged() == [b"CMD 2 1 a", b"CMD 3 1 b", b"LEFT 4 0", b"CMD 5 0 c"]


def test_an_ask_may_be_answered_once_by_each_other(stage: Stage) -> None:
    stage.join(1, 2, 3)
    stage.apply(Asked(2, "who"))
    assert stage.logged() == [b"ASK 2 1 who"]
    assert stage.state.asks.waiting() == {2: (2, frozenset({1, 3}))}
    stage.apply(Answered(3, 2, "ok", '{"output":"x"}'), Answered(3, 2, "ok", ""), Answered(2, 2, "ok", ""))
    assert stage.told.take() == [
        ("tell", 2, b'RES 2 2 c3 ok {"output":"x"}\n', 2),
        ("tell", 3, b"ERR no-such-ask no ASK 2 is waiting for your answer\n", 2),
        ("tell", 2, b"ERR no-such-ask no ASK 2 is waiting for your answer\n", 2),
    ]
    assert stage.state.asks.waiting() == {2: (2, frozenset({1}))}


def test_an_answer_carries_the_rank_at_its_time(stage: Stage) -> None:
    stage.join(1, 2, 3)
    stage.apply(Asked(2, "who"), Left((1,)), Answered(3, 2, "refused", ""))
    assert ("tell", 2, b"RES 2 1 c3 refused\n", 3) in stage.told.take()


def test_an_answer_to_a_member_that_left_is_dropped(stage: Stage) -> None:
    stage.join(1, 2, 3)
    stage.apply(Asked(2, "who"), Left((2,)))
    stage.told.take()
    stage.apply(Answered(3, 2, "ok", ""))
    assert stage.told.take() == []
    assert stage.state.asks.waiting() == {2: (None, frozenset({1, 3}))}


def test_an_asker_is_told_which_ask_was_forgotten(stage: Stage) -> None:
    stage.state.asks.limit = 2
    stage.join(1, 2)
    stage.apply(Asked(2, "a"), *(Asked(1, text) for text in "bcde"))
    assert stage.logged()[-1] == b"ASK 6 0 e"
    assert stage.told.take() == [("tell", 1, b"DROPPED 3\n", 5), ("tell", 1, b"DROPPED 4\n", 6)]
    stage.apply(Answered(2, 4, "ok", ""), Answered(2, 5, "ok", ""), Answered(1, 2, "ok", ""))
    assert stage.told.take() == [
        ("tell", 2, b"ERR no-such-ask no ASK 4 is waiting for your answer\n", 6),
        ("tell", 1, b"RES 5 1 c2 ok\n", 6),
        ("tell", 2, b"RES 2 0 c1 ok\n", 6),
    ]


@pytest.mark.parametrize(
    "given", [Lines(1, b"CMD a\n"), Asked(1, "a"), Answered(1, 2, "ok", ""), Left((1,)), Lines(9, b"CMD a\n")]
)
def test_input_of_an_unknown_member_is_ignored(given: Input, stage: Stage) -> None:
    stage.join(1, 2)
    stage.apply(Asked(2, "a"), Left((1,)))
    stage.logged()
    stage.told.take()
    before = (stage.log.end, stage.state.changes, stage.state.asks.waiting(), stage.members)
    stage.apply(given)
    assert (stage.log.end, stage.state.changes, stage.state.asks.waiting(), stage.members) == before
    assert stage.told.take() == []


# --- without memory ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "fails"),
    [
        (Joined((Newcomer(8, "new"), Newcomer(9, "too"))), "append"),
        (Joined((Newcomer(8, "new"), Newcomer(9, "too"))), "join"),
        (Left((1, 3)), "reserve"),
        (Lines(1, b"CMD a\nCMD b\n"), "apply"),
        (Asked(1, "a"), "append"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_without_memory_nothing_has_changed(
    given: Input, fails: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.join(1, 2, 3)
    stage.apply(Asked(2, "a"))
    stage.logged()
    with monkeypatch.context() as patch:
        patch.setattr(stage.log, fails, no_memory)
        with pytest.raises(MemoryError):
            stage.apply(given)
    assert stage.logged() == []
    assert stage.told.take() == []
    assert stage.members == [1, 2, 3]
    assert stage.state.changes == 1
    assert stage.state.asks.waiting() == {2: (2, frozenset({1, 3}))}
    stage.apply(given)
    assert stage.logged(), "it counts once there is memory"


@pytest.mark.parametrize(
    ("given", "builder"),
    [(Asked(2, "b"), "dropped"), (Answered(1, 2, "ok", "{}"), "answer"), (Answered(1, 1, "ok", ""), "err")],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_without_memory_for_a_frame_nothing_has_changed(
    given: Input, builder: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.state.asks.limit = 1
    stage.join(1, 2, 3)
    stage.apply(Asked(2, "a"))
    stage.logged()
    with monkeypatch.context() as patch:
        patch.setattr(protocol, builder, no_memory)
        with pytest.raises(MemoryError):
            stage.apply(given)
    assert stage.logged() == []
    assert stage.told.take() == []
    assert stage.state.asks.waiting() == {2: (2, frozenset({1, 3}))}
    stage.apply(given)
    assert len(stage.told.take()) == 1, "it counts once there is memory"


# --- alone ------------------------------------------------------------------------------------

ALONE: Final = """
import builtins, os, sys

FORBIDDEN = {
    "_socket", "_ssl", "_thread", "asyncio", "datetime", "fcntl", "io", "logging", "mmap", "multiprocessing",
    "random", "secrets", "select", "selectors", "signal", "socket", "ssl", "subprocess", "tempfile",
    "threading", "time", "uuid",
}
real_import = builtins.__import__

def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if importer.partition(".")[0] == "rankserver" and name.partition(".")[0] in FORBIDDEN:
        raise AssertionError(f"{importer} imports {name}")
    return real_import(name, globals, locals, fromlist, level)

builtins.__import__ = guarded

from rankserver.clist import Log
from rankserver.inputs import Answered, Asked, Joined, Left, Lines, Newcomer
from rankserver.state import State

class Observer:
    told = 0
    def joined(self, members, ranks): self.told += 1
    def left(self, members): self.told += 1
    def tell(self, member, frame): self.told += 1

before = os.listdir("/proc/self/fd")
observer, log = Observer(), Log(256)
state = State(log, 256, observer)
for given in (
    Joined((Newcomer(1, "a"), Newcomer(2, "b"), Newcomer(3, "c", 1))),
    Lines(2, b"CMD x\\nCMD y\\n"),
    Asked(1, "z"),
    Answered(2, 4, "ok", ""),
    Answered(2, 4, "ok", ""),
    Left((2,)),
):
    state.apply(given)
assert (log.seq, log.count, observer.told, len(state.asks)) == (5, 2, 4, 1)
assert os.listdir("/proc/self/fd") == before, "a descriptor is open"
print(*sorted(name for name in sys.modules if name.startswith("rankserver.")))
"""
# All modules of rankserver that the state may import.
ITS_OWN: Final = {
    "rankserver._clist_cffi",
    "rankserver._clist_cffi.lib",
    "rankserver.asks",
    "rankserver.clist",
    "rankserver.core",
    "rankserver.inputs",
    "rankserver.members",
    "rankserver.state",
}


def alone(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_it_needs_no_socket_no_clock_and_no_descriptor() -> None:
    done = alone(ALONE)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert loaded >= ITS_OWN
    assert {name for name in loaded - ITS_OWN if not name.startswith("rankserver.wire")} == set()


def test_the_guard_of_that_test_notices_a_socket_import() -> None:
    done = alone(ALONE.replace("from rankserver.state", "from rankserver.channel"))
    assert "AssertionError: rankserver.channel imports socket" in done.stderr


def test_two_states_with_the_same_inputs_are_the_same() -> None:
    inputs: Sequence[Input] = (
        Joined((Newcomer(5, "a", 1), Newcomer(3, "b", 1))),
        Joined((Newcomer(4, "c"),)),
        Lines(3, b"CMD x\n"),
        Asked(4, "y"),
        Left((5,)),
        Answered(3, 4, "ok", ""),
    )
    results = []
    for _ in range(2):
        stage = Stage()
        stage.apply(*inputs)
        results.append((stage.logged(), stage.told.take(), stage.members, stage.state.asks.waiting()))
        stage.log.close()
    assert results[0] == results[1]
    assert results[0][0][-1] == b"LEFT 5 1"
