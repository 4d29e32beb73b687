"""The C core against ``clist_model``, step by step: any calls in any order, over sockets that fill up."""

from __future__ import annotations

import fcntl
import itertools
import socket
import struct
import termios
from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rankserver.clist import PEEK_SPANS, Flushed, Log
from rankserver.wire.exceptions import RemoteProtocolError
from tests.support.clist_model import ModelClient, ModelLog

MAX_LINE: Final = 256
BLOCK_BYTES: Final = MAX_LINE + 256  # the least that the core allows: a few lines each
INPUT_BYTES: Final = 1000  # in one read at most: a few lines
READ_SIZE: Final = 1 << 20  # more than a socket holds

WHICH: Final = st.integers(0, 99)  # of the clients that a rule is for
CLASSES: Final = st.sampled_from([0, 0, 1, 2, 0xFFFFFFFF])
TEXTS: Final = st.one_of(
    st.text(max_size=12).map(str.encode),
    st.binary(max_size=6),
    st.integers(0, MAX_LINE + 4).map(lambda size: b"x" * size),
)
CUTS: Final = st.lists(st.integers(0, 2 * INPUT_BYTES), max_size=4)  # where what is sent is cut
LINES: Final = st.tuples(
    st.sampled_from([b"CMD ", b"CMD ", b"CMD ", b"CMD a", b"ASK ", b"WHO", b""]),
    TEXTS,
    st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"\r\r\n", b""]),
).map(b"".join)


class Peer:
    """One client in both worlds, with both ends of its connection."""

    def __init__(self, log: Log, *, is_slow: bool) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        if is_slow:
            self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        self.fd = self.ours.fileno()
        self.client = log.open(self.fd)
        self.model = ModelClient()
        self.received = bytearray()
        self.on_the_way = b""  # what it sent that was not read yet
        self.is_blocked = False
        self.has_hung_up = False

    @property
    def sent(self) -> int:
        """Bytes that the core has got rid of, as the kernel tells it."""
        return len(self.received) + self._in_the_socket()

    @property
    def lag(self) -> int:
        return len(self.model.stream) - self.sent

    def read(self, most: int) -> None:
        if not self.has_hung_up and self._in_the_socket():
            self.received += self.theirs.recv(most)
            assert self.model.stream.startswith(self.received)

    def send(self, data: bytes) -> None:
        if not self.has_hung_up:
            self.on_the_way += data[: self.theirs.send(data)]

    def hang_up(self) -> None:
        self.read(READ_SIZE)  # or the connection would be reset, and what is on the way lost
        self.has_hung_up = True
        self.theirs.close()

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()

    def _in_the_socket(self) -> int:
        if self.has_hung_up:
            return 0
        answer = fcntl.ioctl(self.theirs, termios.FIONREAD, bytes(4))
        return int(struct.unpack("i", answer)[0])


class LogMachine(RuleBasedStateMachine):
    """Each rule does the same to the core and to the model; the invariants compare all that can be asked."""

    def __init__(self) -> None:
        super().__init__()
        self.log = Log(MAX_LINE, BLOCK_BYTES, INPUT_BYTES)
        self.model = ModelLog(MAX_LINE)
        self.peers: list[Peer] = []
        self.flushed = 0  # the seq at the last flush of all
        self.reader: Peer | None = None  # who has input that was not gone through

    # --- who there is ---

    @initialize(kinds=st.lists(st.tuples(st.booleans(), st.booleans(), CLASSES), min_size=3, max_size=6))
    def begin(self, kinds: list[tuple[bool, bool, int]]) -> None:
        for is_slow, joins, rank_class in kinds:
            self.open(is_slow=is_slow, joins=joins, rank_class=rank_class)

    @rule(is_slow=st.booleans(), joins=st.booleans(), rank_class=CLASSES)
    def open(self, is_slow: bool, joins: bool, rank_class: int) -> None:
        peer = Peer(self.log, is_slow=is_slow)
        self.peers.append(peer)
        if joins:
            self._join(peer, rank_class)

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, rank_class=CLASSES)
    def join(self, which: int, rank_class: int) -> None:
        peer = self._pick(self.peers, which)
        if peer.model.has_joined:
            self._expect_misuse(lambda: self.log.join(peer.client))
        else:
            self._join(peer, rank_class)

    @precondition(lambda self: self.peers)
    @rule(which=WHICH)
    def retire(self, which: int) -> None:
        peer = self._pick(self.peers, which)
        if peer.model in self.model.ranked:
            self.log.retire(peer.client)
            self.model.retire(peer.model)
        else:
            self._expect_misuse(lambda: self.log.retire(peer.client))

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, part=st.floats(0, 1))
    def cut(self, which: int, part: float) -> None:
        """Cut a client that may have begun to get any frame."""
        self.take(which, part)
        peer = self._pick(self.peers, which)
        if peer.model in self.model.ranked:
            self.model.cut(peer.model, peer.sent)
            self.log.cut(peer.client)
        else:
            self._expect_misuse(lambda: self.log.cut(peer.client))

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, part=st.floats(0, 1))
    def mute(self, which: int, part: float) -> None:
        self.take(which, part)
        peer = self._pick(self.peers, which)
        self.model.mute(peer.model, peer.sent)
        self.log.mute(peer.client)
        peer.is_blocked = False

    @precondition(lambda self: self.peers)
    @rule(which=WHICH)
    def discard(self, which: int) -> None:
        peer = self._pick(self.peers, which)
        self.log.discard(peer.client)
        self.peers.remove(peer)
        if peer is self.reader:
            self.reader = None
        if peer.model in self.model.ranked:
            self.model.retire(peer.model)
        peer.read(READ_SIZE)
        peer.close()

    # --- what is sent to them ---

    @rule(verb=st.sampled_from([b"JOIN", b"LEFT", b"ASK"]), size=st.integers(0, MAX_LINE))
    def append(self, verb: bytes, size: int) -> None:
        text = b"y" * size
        assert self.log.append(verb, text) == self.model.append(verb, text)

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, size=st.sampled_from([0, 10, 600, 4000]), count=st.integers(1, 3))
    def private(self, which: int, size: int, count: int) -> None:
        peer = self._pick(self.peers, which)
        for number in range(count):
            frame = b"PONG %d %s\n" % (number, b"p" * size)
            self.log.private(peer.client, frame)
            self.model.private(peer.model, frame)

    # --- what they send ---

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, lines=st.lists(LINES, max_size=8))
    def send(self, which: int, lines: list[bytes]) -> None:
        self._pick(self.peers, which).send(b"".join(lines))

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, most=st.integers(1, 2 * INPUT_BYTES), keeps=st.booleans())
    def receive(self, which: int, most: int, keeps: bool) -> None:
        self._free_the_input(keeps=keeps)
        peer = self._pick(self.peers, which)
        if peer.model.is_set_aside or not (peer.on_the_way or peer.has_hung_up):
            with pytest.raises(BlockingIOError):
                self.log.read(peer.client, most)
            return
        count = min(most, INPUT_BYTES, len(peer.on_the_way))
        assert self.log.read(peer.client, most) == count
        self.model.take(peer.model, peer.on_the_way[:count])
        peer.on_the_way = peer.on_the_way[count:]
        self.reader = peer

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, lines=st.lists(LINES, max_size=8), cuts=CUTS, keeps=st.booleans())
    def feed(self, which: int, lines: list[bytes], cuts: list[int], keeps: bool) -> None:
        """Bring several reads in a row, cut anywhere, and do not go through the last of them."""
        self._free_the_input(keeps=keeps)
        peer = self._pick(self.peers, which)
        if peer.model.is_set_aside:
            self._expect_misuse(lambda: self.log.take(peer.client, b"CMD a\n"))
        else:
            self._feed(peer, b"".join(lines), cuts)

    @precondition(lambda self: self.peers)
    @rule(which=WHICH)
    def feed_too_much(self, which: int) -> None:
        peer = self._pick(self.peers, which)
        self._expect_misuse(lambda: self.log.take(peer.client, b"\n" * (INPUT_BYTES + 1)))

    @precondition(lambda self: self.model.ranked)
    @rule(which=WHICH, count=st.integers(1, 100), size=st.integers(1, 200), flushes=st.booleans())
    def burst(self, which: int, count: int, size: int, flushes: bool) -> None:
        self._free_the_input(keeps=False)
        peer = self._pick([peer for peer in self.peers if peer.model in self.model.ranked], which)
        if not peer.model.is_set_aside:
            self._feed(peer, b"\n" + b"CMD %s\n" % (b"z" * size) * count, [])
        if flushes:
            self.flush_all()

    @precondition(lambda self: self.reader)
    @rule(most=st.integers(1, 5), unreads=st.booleans())
    def go_through(self, most: int, unreads: bool) -> None:
        """Go through what was read last, not to the end if that is far; maybe take each line back once."""
        for _ in range(most):
            if not self.reader or self._next_line(self.reader) is None:
                break
            if unreads:
                self.log.unread()
                self.model.unread(self.reader.model)
                self._next_line(self.reader)

    @precondition(lambda self: self.peers)
    @rule(which=WHICH)
    def next_line(self, which: int) -> None:
        """Ask for a line of anybody's: whoever was not read last has none."""
        self._next_line(self._pick(self.peers, which))

    @precondition(lambda self: self.peers)
    @rule(which=WHICH)
    def set_aside(self, which: int) -> None:
        peer = self._pick(self.peers, which)
        self._set_aside(peer)
        self._next_line(peer)

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, keeps=st.booleans())
    def resume(self, which: int, keeps: bool) -> None:
        peer = self._pick(self.peers, which)
        if peer is not self.reader or peer.model.is_set_aside:
            self._free_the_input(keeps=keeps)
            self.log.resume(peer.client)
            self.model.resume(peer.model)
            self.reader = peer

    @precondition(lambda self: self.peers)
    @rule(which=WHICH)
    def ignore(self, which: int) -> None:
        self._ignore(self._pick(self.peers, which))

    @rule(on_hold=st.booleans())
    def hold(self, on_hold: bool) -> None:
        self.log.hold(on_hold=on_hold)
        self.model.on_hold = on_hold

    # --- how it gets out ---

    @precondition(lambda self: self.peers)
    @rule(which=WHICH)
    def flush(self, which: int) -> None:
        peer = self._pick(self.peers, which)
        lag = peer.lag
        status = self.log.flush(peer.client)
        if peer.model.is_muted:
            assert status is Flushed.BROKEN
            return
        if not lag:
            assert status is Flushed.DONE
        elif peer.has_hung_up:
            assert status is Flushed.BROKEN
        else:
            assert status is (Flushed.BLOCKED if peer.lag else Flushed.DONE)
        peer.is_blocked = status is not Flushed.DONE

    @rule()
    def flush_all(self) -> None:
        ranked = [peer for peer in self.peers if peer.model in self.model.ranked]
        waiting = [peer for peer in ranked if peer.lag and not peer.is_blocked]
        blocked, broken = self.log.flush_all()
        assert sorted(broken) == sorted(peer.fd for peer in waiting if peer.has_hung_up)
        assert sorted(blocked) == sorted(peer.fd for peer in waiting if peer.lag and not peer.has_hung_up)
        for peer in waiting:
            peer.is_blocked = peer.lag > 0
        self.flushed = self.model.seq

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, most=st.integers(1, 5000))
    def read(self, which: int, most: int) -> None:
        self._pick(self.peers, which).read(most)

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, part=st.floats(0, 1))
    def take(self, which: int, part: float) -> None:
        """Send by hand what the core would send next, or a part of it."""
        peer = self._pick(self.peers, which)
        peer.read(READ_SIZE)
        spans = self.log.peek(peer.client)
        data = b"".join(spans)
        assert all(spans)
        assert len(data) == peer.lag or len(spans) == PEEK_SPANS
        assert peer.model.stream[peer.sent :].startswith(data)
        count = round(part * len(data))
        self.log.advance(peer.client, count)
        peer.received += data[:count]

    @precondition(lambda self: self.peers)
    @rule(which=WHICH)
    def hang_up(self, which: int) -> None:
        self._pick(self.peers, which).hang_up()

    # --- what holds at all times ---

    @invariant()
    def nothing_in_the_core_is_broken(self) -> None:
        self.log.check()

    @invariant()
    def the_log_and_the_ranks_are_those_of_the_model(self) -> None:
        assert self.log.seq == self.model.seq
        assert self.log.unflushed == self.model.seq - self.flushed
        assert self.log.clients == len(self.model.ranked)
        assert len(self.log.ranked_fds()) == len(self.model.ranked)
        for peer in self.peers:
            rank = self.model.rank(peer.model)
            assert self.log.rank(peer.client) == rank
            assert rank < 0 or self.log.ranked_fds()[rank] == peer.fd

    @invariant()
    def what_is_not_sent_yet_is_what_waits(self) -> None:
        for peer in self.peers:
            assert self.log.lag(peer.client) == peer.lag
            assert self.log.is_blocked(peer.client) == peer.is_blocked

    @invariant()
    def nothing_is_kept_that_all_have(self) -> None:
        if not any(peer.lag for peer in self.peers):
            assert self.log.held <= BLOCK_BYTES

    def teardown(self) -> None:
        """Let everybody read to the end: nothing is lost, doubled or out of order."""
        for peer in self.peers:
            gone = peer.has_hung_up or peer.model.is_muted
            while not gone and self.log.flush(peer.client) is not Flushed.DONE:
                assert peer.sent > len(peer.received)
                peer.read(READ_SIZE)
            peer.read(READ_SIZE)
            if not peer.has_hung_up:
                assert peer.received == peer.model.stream
            self.log.check()
        self.log.close()
        for peer in self.peers:
            peer.close()

    # --- helpers ---

    @staticmethod
    def _pick(peers: list[Peer], which: int) -> Peer:
        return peers[which % len(peers)]

    def _join(self, peer: Peer, rank_class: int) -> None:
        self.log.join(peer.client, rank_class)
        self.model.join(peer.model, rank_class)

    def _feed(self, peer: Peer, data: bytes, cuts: list[int]) -> None:
        """Let this be read in pieces that one read can bring, and go through all but the last."""
        edges = {0, len(data), *(cut % (len(data) + 1) for cut in cuts), *range(0, len(data), INPUT_BYTES)}
        for start, stop in itertools.pairwise(sorted(edges)):
            self._free_the_input(keeps=False)
            self.log.take(peer.client, data[start:stop])
            self.model.take(peer.model, data[start:stop])
            self.reader = peer

    def _next_line(self, peer: Peer) -> bytes | None:
        """Ask for the next line in both worlds; ignore, as a server does, a client with one too long."""
        try:
            line = self.model.next_line(peer.model)
        except RemoteProtocolError as error:
            for _ in range(2):
                with pytest.raises(RemoteProtocolError, match=f"^{error.text}$"):
                    self.log.next_line(peer.client)
            self._ignore(peer)
            return None
        assert self.log.next_line(peer.client) == line
        if line is None and peer is self.reader:
            self.reader = None
        return line

    def _free_the_input(self, *, keeps: bool) -> None:
        """Go through what was read last, or set it aside, before the next read takes its place."""
        if self.reader and keeps:
            self._set_aside(self.reader)
        while self.reader:
            self._next_line(self.reader)
        self.log.check()

    def _set_aside(self, peer: Peer) -> None:
        self.log.set_aside(peer.client)
        self.model.set_aside(peer.model)
        if peer is self.reader:
            self.reader = None

    def _ignore(self, peer: Peer) -> None:
        self.log.ignore(peer.client)
        self.model.ignore(peer.model)
        if peer is self.reader:
            self.reader = None

    @staticmethod
    def _expect_misuse(call: Callable[[], object]) -> None:
        with pytest.raises(ValueError, match="not one for this call"):
            call()


LogMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
test_the_core_does_what_the_model_does = LogMachine.TestCase
