"""Random clients with the real server: whatever they do, there is one log, and the ranks follow from it.

Hypothesis draws the clients' actions; one server serves all examples, one after the other. At the end of an
example, everything received is checked against a replay of the log from the beginning of the example.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rankserver.wire import codes, frames
from rankserver.wire.frames import (
    AnswerFrame,
    CommandFrame,
    DroppedFrame,
    InfoFrame,
    JoinFrame,
    LeftFrame,
    WelcomeFrame,
)
from tests.support.few_asks import MAX_ASKS
from tests.support.random_client import SMALL, LogFrame, RandomClient, sender
from tests.support.rawclient import READ_SIZE
from tests.support.servers import ServerProcess
from tests.support.tls_peer import Certificates, write_private

# The classes of a server with tokens. Token "c" puts its holder into class c.
CLASSES: Final = 3
# --- the replay -------------------------------------------------------------------------------


class Replay:
    """The log from the observer's WELCOME on, and the clients by rank after each of its frames.

    Args:
        names: the clients by rank when the observer joined.
        observer: the client that has received the whole log.
        peers: all clients that may appear in the log.
    """

    def __init__(self, names: list[str], observer: RandomClient, peers: list[RandomClient]) -> None:
        assert observer.welcome is not None
        self.first = observer.welcome.seq
        # Names by rank, and numbers that identify clients by rank; the index is that of the frame after which
        # they hold.
        self.names = [names]
        self.members = [list(range(len(names)))]
        self._numbers = itertools.count(len(names))
        self.texts: dict[str, list[str]] = {}
        self.left_at: dict[str, int] = {}
        self.log = observer.log
        self._welcomed = {(peer.welcome.seq, peer.welcome.rank): peer.name for peer in peers if peer.welcome}
        for seq, frame in enumerate(self.log, self.first + 1):
            assert frame.seq == seq, "the log has a gap"
            self.names.append(self._apply(frame, list(self.names[-1])))
            self.members.append(self._moved(frame, list(self.members[-1])))

    def names_after(self, seq: int) -> list[str]:
        return self.names[seq - self.first]

    def members_after(self, seq: int) -> list[int]:
        return self.members[seq - self.first]

    def _moved(self, frame: LogFrame, members: list[int]) -> list[int]:
        if isinstance(frame, JoinFrame):
            for rank in itertools.chain(*frame.ranks):
                members.insert(rank, next(self._numbers))
        elif isinstance(frame, LeftFrame):
            for rank in reversed([*itertools.chain(*frame.ranks)]):
                members.pop(rank)
        return members

    def _apply(self, frame: LogFrame, names: list[str]) -> list[str]:
        if isinstance(frame, JoinFrame):
            for rank in itertools.chain.from_iterable(frame.ranks):
                assert rank <= len(names)
                names.insert(rank, self._welcomed.get((frame.seq, rank), ""))
            return names
        if isinstance(frame, LeftFrame):
            for rank in reversed(list(itertools.chain.from_iterable(frame.ranks))):
                self.left_at[names.pop(rank)] = frame.seq
            return names
        # It was gone before it read its WELCOME, but the command names it.
        if not names[frame.rank]:
            assert sender(frame) not in names
            names[frame.rank] = sender(frame)
        assert names[frame.rank] == sender(frame)
        self.texts.setdefault(sender(frame), []).append(frame.text)
        return names


def check_stream(peer: RandomClient, replay: Replay) -> None:
    """Check that a client got the log from its WELCOME on, and answers from the clients they name."""
    if peer.welcome is None:
        assert not peer.log
        return
    assert isinstance(peer.frames[0], InfoFrame)
    assert isinstance(peer.frames[1], WelcomeFrame)
    assert peer.frames.count(peer.welcome) == 1
    start = peer.welcome.seq
    if start >= replay.first:
        offset = start - replay.first
        assert peer.log == replay.log[offset : offset + len(peer.log)]
    else:
        known = [frame for frame in peer.log if frame.seq > replay.first]
        assert known == replay.log[: len(known)]
    seq = start
    asked = {
        frame.seq for frame in peer.log if isinstance(frame, CommandFrame) and sender(frame) == peer.name
    }
    for frame in peer.frames:
        if isinstance(frame, LogFrame):
            seq += 1
            assert frame.seq == seq
        elif isinstance(frame, AnswerFrame):
            assert frame.seq in asked
            assert replay.names_after(seq)[frame.rank] == frame.name


def check_drops(peer: RandomClient, replay: Replay) -> None:
    """Check that a client is told of each ask that the server had to forget, behind its ask."""
    waiting: dict[int, set[int]] = {}
    seq = peer.welcome.seq if peer.welcome else 0
    due: int | None = None
    for frame in peer.frames:
        assert (frame.seq if isinstance(frame, DroppedFrame) else None) == due
        due = None
        if isinstance(frame, LogFrame):
            seq += 1
        if isinstance(frame, AnswerFrame):
            waiting[frame.seq].remove(replay.members_after(seq)[frame.rank])
        elif isinstance(frame, CommandFrame) and frame.wants_answer and sender(frame) == peer.name:
            here = set(replay.members_after(seq))
            waiting[seq] = here - {replay.members_after(seq)[frame.rank]}
            waiting = {ask: others & here for ask, others in waiting.items() if others & here}
            if len(waiting) > MAX_ASKS:
                due = min(waiting)
                del waiting[due]
    assert due is None or not peer.here


def check_rejected_answers(peers: list[RandomClient]) -> None:
    """Check that answers were rejected only if the ask was forgotten."""
    dropped = {seq for peer in peers for seq in peer.dropped}
    orphans = {f.seq for peer in peers for f in peer.log if f.seq not in dropped and is_orphan(f, peers)}
    for peer in peers:
        for frame in peer.frames:
            if isinstance(frame, frames.ErrFrame) and frame.code == codes.NO_SUCH_ASK:
                assert int(frame.text.split()[2]) in dropped | orphans


def is_orphan(frame: LogFrame, peers: list[RandomClient]) -> bool:
    """Tell whether a frame is an ASK whose sender has left."""
    return isinstance(frame, CommandFrame) and not any(p.here for p in peers if p.name == sender(frame))


def check_answers(peers: list[RandomClient]) -> None:
    """Check that every answer reached its asker once, if that was still there, and the ask not forgotten."""
    given = Counter(
        (frame.seq, peer.name, frame.status)
        for peer in peers
        for frame in peer.sent
        if isinstance(frame, frames.Result)
    )
    got: Counter[tuple[int, str, str]] = Counter()
    for peer in peers:
        answers = Counter((f.seq, f.name, f.status) for f in peer.frames if isinstance(f, AnswerFrame))
        asks = {f.seq for f in peer.log if isinstance(f, CommandFrame) and sender(f) == peer.name}
        if peer.here:
            asks -= peer.dropped
            assert {key: count for key, count in answers.items() if key[0] in asks} == {
                key: count for key, count in given.items() if key[0] in asks
            }
        got += answers
    assert got <= given


def check_departure(peer: RandomClient, replay: Replay) -> None:
    """Check that a client that left and went on reading got everything up to its own LEFT."""
    last = peer.log[-1].seq if peer.log else peer.welcome.seq if peer.welcome else None
    assert last == replay.left_at[peer.name] - 1


# --- the examples -----------------------------------------------------------------------------


class Step(NamedTuple):
    """An action of one client; ``who`` selects the client, and actions use the other fields as needed."""

    who: int
    what: str
    wants_answer: bool
    times: int
    size: int
    status: str
    how: str


WAYS_TO_LEAVE: Final = ("bye", "close", "abort", "half-close", "bye half-close")
ACTIONS: Final = (
    *("connect", "hello", "command", "burst", "write", "flush", "read", "leave", "storm"),
    # Several clients must have read that far, so these are frequent.
    *("ask", "answer", "answer", "answer"),
)
STEPS: Final = st.builds(
    Step,
    who=st.integers(0, 7),
    what=st.sampled_from(ACTIONS),
    wants_answer=st.booleans(),
    times=st.integers(1, 300),
    size=st.one_of(st.integers(1, 40), st.integers(1, 100_000)),
    status=st.sampled_from(codes.STATUSES),
    how=st.sampled_from(WAYS_TO_LEAVE),
)


class Scenario:
    """The clients of one example: those present at its beginning, and those that its steps bring.

    ``previous`` is the observer of the last example, which leaves when the new observer has joined. So the
    log that the observers see has no gap, and ranks above the observer also change.
    """

    def __init__(self, server: ServerProcess, number: int, previous: RandomClient, early: int) -> None:
        self._server = server
        self._number = number
        self._has_tokens = previous.token is not None
        self.peers: list[RandomClient] = []
        for _ in range(early + 1):
            self.observer = self._connect()
            self.observer.hello()
            self.observer.write_all()
            self.observer.read_until(lambda: self.observer.welcome is not None)
        there = sorted([previous, *self.peers], key=lambda peer: peer.rank_class)
        self._names = [peer.name for peer in there]
        previous.leave("close")

    def _connect(self, *, small: bool = False) -> RandomClient:
        name = f"e{self._number}-{len(self.peers)}"
        token = str(self._class_of(len(self.peers))) if self._has_tokens else None
        self.peers.append(RandomClient(self._server, name, small=small, token=token))
        return self.peers[-1]

    def _class_of(self, number: int) -> int:
        return (self._number + number * number) % CLASSES

    def step(self, step: Step) -> None:
        others = [peer for peer in self.peers if peer.here and peer is not self.observer]
        if step.what == "connect" or not others:
            self._connect(small=step.wants_answer)
            return
        if step.what == "storm":
            self._storm(step, others)
            return
        peer = others[step.who % len(others)]
        if step.what == "leave":
            peer.leave(step.how)
            return
        if not peer.greeted:
            peer.hello()
        self._act(peer, step)

    def _act(self, peer: RandomClient, step: Step) -> None:
        if step.what == "command":
            peer.command(wants_answer=step.wants_answer, padding=step.size % 1_000)
        elif step.what == "burst":
            for _ in range(step.times):
                peer.command(wants_answer=False, padding=step.size % 1_000)
        elif step.what == "write":
            peer.write(step.size)
        elif step.what == "flush":
            peer.write_all()
        elif step.what == "read":
            peer.read(step.size)
        elif step.what == "ask":
            peer.command(wants_answer=True, padding=0)
            peer.write_all()
        elif step.what == "answer":
            peer.read(READ_SIZE)
            peer.answer(step.status)
            if step.wants_answer:
                peer.write_all()

    def _storm(self, step: Step, others: list[RandomClient]) -> None:
        """Let several clients leave and join in one turn of the server."""
        leavers = [peer for peer in others if peer.unsent < SMALL][step.who : step.who + 3]
        for peer in leavers:
            # This makes room for the rest.
            peer.wait_until_received()
        early = [self._connect() for _ in range(step.times % 4)] if self._server.tls else []
        # A paused server cannot do a TLS handshake.
        with self._server.paused():
            for peer in leavers:
                peer.leave(step.how)
            for peer in early or [self._connect() for _ in range(step.times % 4)]:
                peer.hello()
                peer.command(wants_answer=False, padding=0)
                peer.write_all()

    def finish(self) -> None:
        """Let all present clients send and receive the rest, and wait until all departed ones are gone."""
        for peer in self.peers:
            if not peer.here:
                peer.read_to_the_end()
        here = [peer for peer in self.peers if peer.here]
        for peer in here:
            if not peer.greeted:
                peer.hello()
            peer.settle("all is sent")
        gone = 1 + sum(peer.has_joined for peer in self.peers if not peer.here)
        self.observer.read_until(lambda: departures(self.observer) == gone)
        for peer in here:
            peer.settle("all is logged")

    def check(self) -> None:
        replay = Replay(self._names, self.observer, self.peers)
        here = [peer for peer in self.peers if peer.here]
        names = replay.names[-1]
        assert sorted(names) == sorted(peer.name for peer in here)
        for peer in self.peers:
            check_stream(peer, replay)
            check_drops(peer, replay)
            assert replay.texts.get(peer.name, []) == (peer.submitted if peer.has_joined else [])
        for peer in here:
            me, n = peer.rank_and_clients()
            assert (names[me], n) == (peer.name, len(names))
            assert peer.welcome is not None
            assert peer.welcome.seq + len(peer.log) == replay.first + len(replay.log), (
                "it has the log to its end"
            )
            assert peer.raw.roster() == names
        arrivals = [
            (peer.rank_class, peer.welcome.seq, peer.welcome.rank)
            for peer in sorted(here, key=lambda peer: names.index(peer.name))
            if peer.welcome
        ]
        assert arrivals == sorted(arrivals), "ranks are in order of class and arrival"
        for peer in self.peers:
            if peer.has_joined and peer.raw.sock.fileno() >= 0 and not peer.here:
                check_departure(peer, replay)
        check_answers(self.peers)
        check_rejected_answers(self.peers)

    def close(self) -> None:
        """Close all clients except the observer, which bridges to the next example."""
        for peer in self.peers:
            if peer is not self.observer:
                peer.raw.close()
        self.observer.read_until(lambda: self.observer.rank_and_clients() == (0, 1))


def departures(peer: RandomClient) -> int:
    return sum(len(span) for frame in peer.log if isinstance(frame, LeftFrame) for span in frame.ranks)


class Arena:
    """A server, and the only client of it between two examples. A failure replaces both."""

    def __init__(self, *options: str, unix: Path | None = None, tls: Certificates | None = None) -> None:
        self._options = options
        self._unix = unix
        self._tls = tls
        self._stack = contextlib.ExitStack()
        self._examples = itertools.count(1)

    def __enter__(self) -> Arena:
        options = ("--log-level", "error", *self._options)
        self._server = self._stack.enter_context(
            ServerProcess(
                1_000, *options, unix=self._unix, tls=self._tls, program=("-m", "tests.support.few_asks")
            )
        )
        self._previous = RandomClient(self._server, "first", token="0" if self._options else None)
        self._previous.hello()
        self._previous.settle("here")
        return self

    def __exit__(self, *_exc: object) -> None:
        self._previous.raw.close()
        self._stack.close()

    def play(self, early: int, steps: list[Step]) -> None:
        example = Scenario(self._server, next(self._examples), self._previous, early)
        try:
            for step in steps:
                example.step(step)
            example.finish()
            example.check()
            example.close()
            self._previous = example.observer
        except BaseException:
            print(self._server.log())
            for peer in example.peers:
                peer.raw.close()
            self.__exit__()
            self.__enter__()
            raise


@pytest.fixture(scope="module", params=["tcp", "unix with classes", "tls with classes"])
def arena(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    directory = tmp_path_factory.mktemp("arena")
    tokens = write_private(directory / "tokens", "".join(line_of(c) for c in range(CLASSES)))
    options = ("--token-file", str(tokens)) if "classes" in request.param else ()
    unix = directory / "socket" if "unix" in request.param else None
    tls = Certificates(directory) if "tls" in request.param else None
    with Arena(*options, unix=unix, tls=tls) as started:
        yield started


def line_of(rank_class: int) -> str:
    """Return the line of a token file that maps the token of this class to the class."""
    return f"c:{rank_class} {hashlib.sha256(str(rank_class).encode()).hexdigest()}\n"


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(early=st.integers(0, 2), steps=st.lists(STEPS, min_size=30, max_size=150))
def test_whatever_clients_do_all_ranks_follow_from_one_log(
    arena: Arena, early: int, steps: list[Step]
) -> None:
    arena.play(early, steps)
