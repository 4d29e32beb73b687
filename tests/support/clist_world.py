"""Cursors, members and a log, both in the core and in the model, for ``test_clist_model``."""

from __future__ import annotations

import fcntl
import itertools
import socket
import struct
import termios
from collections.abc import Callable
from typing import Final, TypeVar

import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant

from rankserver.clist import Flushed, Log
from rankserver.wire.exceptions import RemoteProtocolError
from tests.support.clist_model import ModelCursor, ModelLog, ModelMember

T = TypeVar("T")

MAX_LINE: Final = 256

# The smallest block that the core allows: it holds a few lines.
BLOCK_BYTES: Final = MAX_LINE + 256

# The most bytes of one read, which are a few lines.
INPUT_BYTES: Final = 1000

# More bytes than a socket holds.
READ_SIZE: Final = 1 << 20


class ModeledPeer:
    """A cursor of the core and its model, with both ends of its connection."""

    def __init__(self, log: Log, *, is_slow: bool) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        if is_slow:
            self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        self.fd = self.ours.fileno()
        self.cursor = log.open(self.fd)
        self.model = ModelCursor()
        self.received = bytearray()
        # Bytes that it sent and that were not read yet.
        self.on_the_way = b""
        self.is_blocked = False
        self.has_hung_up = False

    @property
    def sent(self) -> int:
        """The number of bytes that the core has handed to the kernel."""
        return len(self.received) + self._in_the_socket()

    @property
    def lag(self) -> int:
        return len(self.model.stream) - self.sent

    def read(self, size: int) -> None:
        if not self.has_hung_up and self._in_the_socket():
            self.received += self.theirs.recv(size)
            assert self.model.stream.startswith(self.received)

    def send(self, data: bytes) -> None:
        if not self.has_hung_up:
            self.on_the_way += data[: self.theirs.send(data)]

    def hang_up(self) -> None:
        # Otherwise the connection would be reset, and bytes on the way lost.
        self.read(READ_SIZE)
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


class ModeledReader:
    """A retaining cursor of the core and its model."""

    def __init__(self, log: Log, model: ModelLog) -> None:
        self.cursor = log.retain()
        self.model = ModelCursor(retains=True)
        model.attach(self.model, None, model.seq)
        self.received = bytearray()


class World(RuleBasedStateMachine):
    """The core and the model; everything observable is compared after each step of a subclass."""

    def __init__(self) -> None:
        super().__init__()
        self.log = Log(MAX_LINE, BLOCK_BYTES, INPUT_BYTES)
        self.model = ModelLog(MAX_LINE)
        self.peers: list[ModeledPeer] = []
        self.readers: list[ModeledReader] = []
        self.joined = 0
        # The seq at the last ``flush_all``.
        self.flushed = 0

    # --- invariants ---

    @invariant()
    def nothing_in_the_core_is_broken(self) -> None:
        self.log.check()

    @invariant()
    def the_log_and_the_ranks_are_those_of_the_model(self) -> None:
        assert (self.log.seq, self.log.end) == (self.model.seq, self.model.ends[-1])
        assert self.log.unflushed == self.model.seq - self.flushed
        assert self.log.count == len(self.model.members)
        assert self.log.members() == [member.number for member in self.model.members]
        for rank, member in enumerate(self.model.members):
            assert self.log.rank(member.number) == rank

    @invariant()
    def what_is_not_sent_yet_is_what_waits(self) -> None:
        for peer in self.peers:
            assert peer.cursor.lag() == peer.lag
            assert peer.cursor.is_blocked() == peer.is_blocked

    @invariant()
    def nothing_is_kept_that_all_have(self) -> None:
        everybody = [*(peer.lag for peer in self.peers)]
        everybody += [len(reader.model.stream) - len(reader.received) for reader in self.readers]
        if not any(everybody):
            assert self.log.held <= BLOCK_BYTES

    def teardown(self) -> None:
        """Let all cursors read to the end: nothing is lost, doubled or out of order."""
        self.log.publish(None)
        for peer in self.peers:
            gone = peer.has_hung_up or peer.model.is_muted
            while not gone and peer.cursor.flush() is not Flushed.DONE:
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
    def _pick(things: list[T], which: int) -> T:
        return things[which % len(things)]

    def _join(self, rank_class: int) -> ModelMember:
        self.joined += 1
        self.log.join(self.joined, rank_class)
        return self.model.join(self.joined, rank_class)

    def _attach(self, peer: ModeledPeer, member: ModelMember | None, seq: int) -> None:
        peer.cursor.attach(member.number if member else None, seq)
        self.model.attach(peer.model, member, seq, peer.sent)

    def _is_gone(self, seq: int) -> bool:
        """Return whether the log behind this frame is no longer kept."""
        return self.model.ends[seq] < self.log.end - self.log.held

    def _waits(self, peer: ModeledPeer) -> bool:
        """Return whether something could be sent now."""
        return not peer.model.is_muted and self.model.sendable(peer.model) > peer.sent

    def _feed(self, peer: ModeledPeer, data: bytes, cuts: list[int]) -> None:
        """Deliver ``data`` in pieces of at most one read, and handle all but the last piece."""
        edges = {0, len(data), *(cut % (len(data) + 1) for cut in cuts), *range(0, len(data), INPUT_BYTES)}
        for start, stop in itertools.pairwise(sorted(edges)):
            while peer.model.has_input:
                self._next_line(peer, logs=True)
            peer.cursor.take(data[start:stop])
            self.model.take(peer.model, data[start:stop])

    def _next_line(self, peer: ModeledPeer, *, logs: bool) -> bytes | None:
        """Get the next line from both; ignore a cursor whose line is too long, as a server does."""
        try:
            line = self.model.next_line(peer.model, logs=logs)
        except RemoteProtocolError as error:
            for _ in range(2):
                with pytest.raises(RemoteProtocolError, match=f"^{error.text}$"):
                    peer.cursor.next_line(logs=logs)
            self._ignore(peer)
            return None
        assert peer.cursor.next_line(logs=logs) == line
        return line

    def _ignore(self, peer: ModeledPeer) -> None:
        peer.cursor.ignore()
        self.model.ignore(peer.model)

    @staticmethod
    def _expect_misuse(call: Callable[[], object], why: str = "does not allow the call") -> None:
        with pytest.raises(ValueError, match=why):
            call()
