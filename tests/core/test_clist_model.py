"""The C core against ``clist_model``, step by step: any calls in any order, with sockets that fill up."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from rankserver.clist import MAX_PEEK_SPANS, Flushed
from tests.support.clist_world import INPUT_BYTES, MAX_LINE, READ_SIZE, ModeledPeer, ModeledReader, World

# Selects the cursor or member that a rule applies to.
WHICH: Final = st.integers(0, 99)
CLASSES: Final = st.sampled_from([0, 0, 1, 2, 0xFFFFFFFF])
TEXTS: Final = st.one_of(
    st.text(max_size=12).map(str.encode),
    st.binary(max_size=6),
    st.integers(0, MAX_LINE + 4).map(lambda size: b"x" * size),
)

# Selects the place at which sent data is cut.
CUTS: Final = st.lists(st.integers(0, 2 * INPUT_BYTES), max_size=4)
LINES: Final = st.tuples(
    st.sampled_from([b"CMD ", b"CMD ", b"CMD ", b"CMD a", b"ASK ", b"WHO", b""]),
    TEXTS,
    st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"\r\r\n", b""]),
).map(b"".join)


class LogMachine(World):
    """Each rule does the same to the core and to the model."""

    @initialize(kinds=st.lists(st.tuples(st.booleans(), st.booleans(), CLASSES), min_size=3, max_size=6))
    def begin(self, kinds: list[tuple[bool, bool, int]]) -> None:
        for is_slow, joins, rank_class in kinds:
            self.open(is_slow=is_slow, joins=joins, rank_class=rank_class)

    @rule(is_slow=st.booleans(), joins=st.booleans(), rank_class=CLASSES)
    def open(self, is_slow: bool, joins: bool, rank_class: int) -> None:
        peer = ModeledPeer(self.log, is_slow=is_slow)
        self.peers.append(peer)
        if joins:
            self._attach(peer, self._join(rank_class), self.model.seq)

    @rule(rank_class=CLASSES)
    def join(self, rank_class: int) -> None:
        """Let a member join without a cursor."""
        member = self._join(rank_class)
        self._expect_misuse(lambda: self.log.join(member.number), "already exists")

    @precondition(lambda self: self.model.members)
    @rule(which=WHICH)
    def leave(self, which: int) -> None:
        member = self._pick(self.model.members, which)
        self.log.leave(member.number)
        self.model.leave(member)
        self._expect_misuse(lambda: self.log.leave(member.number), "there is no member")

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, member=WHICH, follows=st.booleans(), back=st.integers(-1, 12))
    def attach(self, which: int, member: int, follows: bool, back: int) -> None:
        """Attach a cursor after any frame, for a member with or without another cursor."""
        peer = self._pick(self.peers, which)
        chosen = None if follows or not self.model.members else self._pick(self.model.members, member)
        seq = max(self.model.seq - back, 0)
        number = chosen.number if chosen else None
        if peer.model.was_attached or (chosen and chosen.cursor) or seq > self.model.seq:
            self._expect_misuse(lambda: peer.cursor.attach(number, seq))
        elif self._is_gone(seq):
            with pytest.raises(LookupError):
                peer.cursor.attach(number, seq)
        else:
            self._attach(peer, chosen, seq)

    @precondition(lambda self: self.peers)
    @rule(which=WHICH)
    def detach(self, which: int) -> None:
        peer = self._pick(self.peers, which)
        if peer.model in self.model.attached:
            peer.cursor.detach()
            self.model.detach(peer.model)
        else:
            self._expect_misuse(peer.cursor.detach)

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, part=st.floats(0, 1))
    def cut(self, which: int, part: float) -> None:
        """Cut a cursor, at any place in its frames."""
        self.send_by_hand(which, part)
        peer = self._pick(self.peers, which)
        self.model.cut(peer.model, peer.sent)
        peer.cursor.cut()

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, part=st.floats(0, 1))
    def mute(self, which: int, part: float) -> None:
        self.send_by_hand(which, part)
        peer = self._pick(self.peers, which)
        self.model.mute(peer.model, peer.sent)
        peer.cursor.mute()
        peer.is_blocked = False

    @precondition(lambda self: self.peers)
    @rule(which=WHICH)
    def discard(self, which: int) -> None:
        peer = self._pick(self.peers, which)
        peer.cursor.discard()
        self.peers.remove(peer)
        if peer.model in self.model.attached:
            self.model.detach(peer.model)
        peer.read(READ_SIZE)
        peer.close()

    @precondition(lambda self: len(self.readers) < 2)
    @rule()
    def retain(self) -> None:
        self.readers.append(ModeledReader(self.log, self.model))

    @precondition(lambda self: self.readers)
    @rule(which=WHICH, part=st.floats(0, 1), closes=st.booleans())
    def read_retained(self, which: int, part: float, closes: bool) -> None:
        """Read from a retaining cursor, which also sees unpublished frames."""
        reader = self._pick(self.readers, which)
        data = b"".join(reader.cursor.peek())
        assert reader.model.stream[len(reader.received) :].startswith(data)
        assert data or reader.received == reader.model.stream
        count = round(part * len(data))
        reader.cursor.advance(count)
        reader.received += data[:count]
        if closes:
            reader.cursor.discard()
            self.model.detach(reader.model)
            self.readers.remove(reader)

    # --- sent to clients ---

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
            peer.cursor.private(frame)
            self.model.private(peer.model, frame)

    @rule(back=st.one_of(st.none(), st.integers(0, 20)))
    def publish(self, back: int | None) -> None:
        """Publish the whole log, or the log up to any frame."""
        self.model.published = None if back is None else self.model.ends[max(self.model.seq - back, 0)]
        self.log.publish(self.model.published)

    @rule(back=st.integers(-2, 40))
    def find(self, back: int) -> None:
        seq = max(self.model.seq - back, 0)
        if seq > self.model.seq:
            self._expect_misuse(lambda: self.log.find(seq))
        elif self._is_gone(seq):
            with pytest.raises(LookupError):
                self.log.find(seq)
        else:
            assert self.log.find(seq) == self.model.ends[seq]

    # --- received from clients ---

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, lines=st.lists(LINES, max_size=8))
    def send(self, which: int, lines: list[bytes]) -> None:
        self._pick(self.peers, which).send(b"".join(lines))

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, size=st.integers(1, 2 * INPUT_BYTES))
    def receive(self, which: int, size: int) -> None:
        peer = self._pick(self.peers, which)
        if peer.model.has_input or not (peer.on_the_way or peer.has_hung_up):
            with pytest.raises(BlockingIOError):
                peer.cursor.read(size)
            return
        count = min(size, INPUT_BYTES, len(peer.on_the_way))
        assert peer.cursor.read(size) == count
        self.model.take(peer.model, peer.on_the_way[:count])
        peer.on_the_way = peer.on_the_way[count:]

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, lines=st.lists(LINES, max_size=8), cuts=CUTS)
    def feed(self, which: int, lines: list[bytes], cuts: list[int]) -> None:
        """Deliver several reads in a row, cut anywhere, and leave the last one unhandled."""
        peer = self._pick(self.peers, which)
        if peer.model.has_input:
            self._expect_misuse(lambda: peer.cursor.take(b"CMD a\n"))
        else:
            self._feed(peer, b"".join(lines), cuts)

    @precondition(lambda self: self.peers)
    @rule(which=WHICH)
    def feed_too_much(self, which: int) -> None:
        peer = self._pick(self.peers, which)
        self._expect_misuse(lambda: peer.cursor.take(b"\n" * (INPUT_BYTES + 1)))

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, count=st.integers(1, 100), size=st.integers(1, 200), flushes=st.booleans())
    def burst(self, which: int, count: int, size: int, flushes: bool) -> None:
        peer = self._pick(self.peers, which)
        if not peer.model.has_input:
            self._feed(peer, b"\n" + b"CMD %s\n" % (b"z" * size) * count, [])
        if flushes:
            self.flush_all()

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, count=st.integers(1, 5), logs=st.booleans(), unreads=st.booleans())
    def go_through(self, which: int, count: int, logs: bool, unreads: bool) -> None:
        """Handle a cursor's input, maybe not to its end; maybe bring each line back once."""
        peer = self._pick(self.peers, which)
        for _ in range(count):
            if self._next_line(peer, logs=logs) is None:
                break
            if unreads:
                self.unread(which)
                self._next_line(peer, logs=logs)

    @precondition(lambda self: self.peers)
    @rule(which=WHICH)
    def unread(self, which: int) -> None:
        """Bring back the last line of this cursor, if none was taken since."""
        peer = self._pick(self.peers, which)
        peer.cursor.unread()
        self.model.unread(peer.model)

    @precondition(lambda self: self.peers)
    @rule(which=WHICH)
    def keep(self, which: int) -> None:
        self._pick(self.peers, which).cursor.keep()

    @precondition(lambda self: self.peers)
    @rule(which=WHICH)
    def ignore(self, which: int) -> None:
        self._ignore(self._pick(self.peers, which))

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, member=WHICH)
    def collect(self, which: int, member: int) -> None:
        """Collect a cursor's commands, and apply them for any member."""
        peer = self._pick(self.peers, which)
        batch = peer.cursor.collect()
        assert batch == self.model.collect(peer.model)
        if self.model.members:
            chosen = self._pick(self.model.members, member)
            self.log.apply(chosen.number, batch)
            self.model.apply(chosen, batch)

    # --- sending ---

    @precondition(lambda self: self.peers)
    @rule(which=WHICH)
    def flush(self, which: int) -> None:
        peer = self._pick(self.peers, which)
        waits = self._waits(peer)
        status = peer.cursor.flush()
        if peer.model.is_muted:
            assert status is Flushed.BROKEN
            return
        if not waits:
            assert status is Flushed.DONE
        elif peer.has_hung_up:
            assert status is Flushed.BROKEN
        else:
            assert status is (Flushed.BLOCKED if self._waits(peer) else Flushed.DONE)
        peer.is_blocked = status is not Flushed.DONE

    @rule()
    def flush_all(self) -> None:
        attached = [peer for peer in self.peers if peer.model in self.model.attached]
        waiting = [peer for peer in attached if self._waits(peer) and not peer.is_blocked]
        blocked, broken = self.log.flush_all()
        assert sorted(broken) == sorted(peer.fd for peer in waiting if peer.has_hung_up)
        still = [peer for peer in waiting if self._waits(peer) and not peer.has_hung_up]
        assert sorted(blocked) == sorted(peer.fd for peer in still)
        for peer in waiting:
            peer.is_blocked = self._waits(peer)
        self.flushed = self.model.seq

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, size=st.integers(1, 5000))
    def read(self, which: int, size: int) -> None:
        self._pick(self.peers, which).read(size)

    @precondition(lambda self: self.peers)
    @rule(which=WHICH, part=st.floats(0, 1))
    def send_by_hand(self, which: int, part: float) -> None:
        """Send the bytes that the core would send next, or a part of them."""
        peer = self._pick(self.peers, which)
        peer.read(READ_SIZE)
        spans = peer.cursor.peek()
        data = b"".join(spans)
        assert all(spans)
        sendable = max(self.model.sendable(peer.model) - peer.sent, 0)
        assert len(data) == sendable or len(spans) == MAX_PEEK_SPANS
        assert peer.model.stream[peer.sent :].startswith(data)
        count = round(part * len(data))
        peer.cursor.advance(count)
        peer.received += data[:count]

    @precondition(lambda self: self.peers)
    @rule(which=WHICH)
    def hang_up(self, which: int) -> None:
        self._pick(self.peers, which).hang_up()


# The time to generate an example depends on the load of the machine, so it is not checked.
LogMachine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
test_the_core_does_what_the_model_does = LogMachine.TestCase
