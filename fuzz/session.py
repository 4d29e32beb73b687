"""Fuzzes the client's session: what a server may send, and what none may.

Most lines follow from the ones before them, and a reference knows what they mean: our rank, the number of
clients, and which commands are ours to execute. Numbers go up to what the protocol allows.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from fuzz import grammar
from fuzz.python import check
from rankserver.client import events
from rankserver.client.session import Session, SessionState
from rankserver.wire.exceptions import LocalProtocolError

# Numbers of clients when the session begins.
COUNTS: Final = (1, 2, 3, 5, 20, 1000)
# The largest number that the protocol allows. It is rare, because an ASK then costs a million answers.
MANY: Final = 1_000_000
# Share of the sessions that begin with that many.
MANY_SHARE: Final = 0.0005
# Values of the seq in WELCOME. Some of them are close to the ends of 31, 32 and 63 bits, and to the largest
# number of 19 digits.
SEQS: Final = (0, 9, 98, 2**31 - 4, 2**32 - 4, 2**63 - 4, 10**19 - 30)
# Share of the lines that need not follow from the ones before them.
HOSTILE_SHARE: Final = 0.1

# Texts of valid commands.
TEXTS: Final = (b"ls", b"a b", b"x" * 40, b'{"', "ä€😀".encode(), b"\t")


class Reference:
    """A server that sends valid frames, and what a client must make of them.

    Args:
        rng: decides what it sends.

    Attributes:
        rank, clients, seq: what the client must know after the frames so far.
        verdicts: the seq and the kind of event of each command.
        submitted: how many commands of the client are not in the log yet.
    """

    def __init__(self, rng: random.Random) -> None:
        self.clients = MANY if rng.random() < MANY_SHARE else rng.choice(COUNTS)
        self.rank = rng.choice((0, self.clients - 1, rng.randrange(self.clients)))
        self.seq = rng.choice(SEQS)
        self.verdicts: list[tuple[int, type[events.Event]]] = []
        self.submitted = 0
        self._rng = rng

    def greeting(self) -> bytes:
        """Return INFO and WELCOME."""
        info = b'INFO {"proto":1,"server":"s","max_line":4096,"auth":false,"capacity":1000000}\n'
        welcome = b'WELCOME {"rank":%d,"clients":%d,"seq":%d,"name":"me","session":"s","heartbeat":1}\n'
        return info + welcome % (self.rank, self.clients, self.seq)

    def frame(self) -> bytes:
        """Return the next frame of the log, without its LF."""
        self.seq += 1
        kind = self._rng.random()
        if kind < 0.25 and self.clients < MANY:
            return self._join()
        if kind < 0.5 and self.clients > 1:
            return self._leave()
        return self._command()

    def _join(self) -> bytes:
        count = min(self._rng.choice((1, 1, 2, 7, 300)), MANY - self.clients)
        ranks = sorted(self._rng.sample(range(self.clients + count), count))
        self.clients += count
        for rank in ranks:
            self.rank += rank <= self.rank
        return b"JOIN %d %s" % (self.seq, _listed(ranks))

    def _leave(self) -> bytes:
        count = min(self._rng.choice((1, 1, 2, 7, 300)), self.clients)
        ranks = sorted({*self._rng.sample(range(self.clients), count)} - {self.rank})
        if not ranks:
            return self._command()
        self.clients -= len(ranks)
        self.rank -= sum(rank < self.rank for rank in ranks)
        return b"LEFT %d %s" % (self.seq, _listed(ranks))

    def _command(self) -> bytes:
        rank = self._rng.choice((0, self.clients - 1, self.rank, self._rng.randrange(self.clients)))
        if rank == self.rank and not self.submitted:
            rank = (rank + 1) % self.clients
        if rank == self.rank and not self.submitted:  # there is nobody else
            self.clients += 1
            return b"JOIN %d 1" % self.seq
        if rank == self.rank:
            self.submitted -= 1
            kind: type[events.Event] = events.Sent
        else:
            kind = events.Execute if rank < self.rank else events.Refused
        self.verdicts.append((self.seq, kind))
        verb, text = self._rng.choice((b"CMD", b"ASK")), self._rng.choice(TEXTS)
        return b"%s %d %d %s" % (verb, self.seq, rank, text)


def session(rng: random.Random) -> bytes:
    """Feed one stream to two sessions, whole and in pieces; return it.

    Raises:
        FailureError: they differ, or one of them breaks a promise of its own.
    """
    server = Reference(rng)
    head = server.greeting()
    is_hostile = rng.random() < 0.03
    if is_hostile:
        head = head[: rng.randrange(len(head))] + b"\n"
    asks = [rng.random() < 0.7 for _ in range(rng.randrange(4))]
    server.submitted = len(asks)
    lines = []
    for _ in range(rng.randrange(12)):
        if rng.random() < HOSTILE_SHARE:
            lines.append(grammar.server_line(rng, server.seq + 1, server.clients))
            is_hostile = True
        else:
            lines.append(server.frame())
    tail = b"".join(line + rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\n\n")) for line in lines)
    stream = head + tail
    max_size = rng.choice((1, 1, 7, 60))
    whole = Fed(head, tail, asks, lambda data: [data])
    pieces = Fed(head, tail, asks, lambda data: _cut(data, max_size, random.Random(len(data))))
    check(whole.result == pieces.result, stream, f"it is {whole.result} whole, and {pieces.result} in pieces")
    if not is_hostile:
        _compare(whole, server, stream)
    return stream


class Fed:
    """A session that was fed a stream.

    Args:
        head: what comes before the client sends commands.
        tail: the rest.
        asks: for each command that the client sends, whether it wants an answer.
        cut: cuts the stream into pieces.

    Attributes:
        session: the session before its stream ended.
        place: its rank, the number of clients and the seq at that time.
        result: all events, what it has to send, and its state in the end.
    """

    def __init__(
        self, head: bytes, tail: bytes, asks: list[bool], cut: Callable[[bytes], list[bytes]]
    ) -> None:
        one = Session()
        one.hello()
        got = [event for piece in cut(head) for event in one.receive_data(piece)]
        for wants_answer in asks:
            try:
                (one.ask if wants_answer else one.cmd)("ls")
            except LocalProtocolError:
                check(one.state is not SessionState.JOINED, head, "it is joined, and may not send")
        got += [event for piece in cut(tail) for event in one.receive_data(piece)]
        self.place = (one.log.rank, one.log.clients, one.log.seq)
        self.was_joined = one.state is SessionState.JOINED
        if self.was_joined:
            check(0 <= one.log.rank < one.log.clients, head + tail, f"it has {self.place}")
        got += one.receive_eof()
        ends = sum(isinstance(event, events.Disconnected) for event in got)
        check(ends == 1, head + tail, f"{ends} ends of one connection")
        self.events = got
        self.result = (got, one.data_to_send(), one.state.value)


def _compare(fed: Fed, server: Reference, stream: bytes) -> None:
    """Compare a session that got only valid frames with the reference."""
    check(fed.was_joined, stream, "it is over after valid frames")
    place = (server.rank, server.clients, server.seq)
    check(fed.place == place, stream, f"it derives {fed.place}, and it is {place}")
    kinds = (events.Sent, events.Execute, events.Refused)
    verdicts = [(event.seq, type(event)) for event in fed.events if isinstance(event, kinds)]
    check(verdicts == server.verdicts, stream, f"it derives {verdicts}, and it is {server.verdicts}")


def _listed(ranks: list[int]) -> bytes:
    """Return ascending ranks as the protocol lists them, with ranges."""
    parts: list[list[int]] = []
    for rank in ranks:
        if parts and parts[-1][-1] == rank - 1:
            parts[-1].append(rank)
        else:
            parts.append([rank])
    return b",".join(b"%d" % part[0] if len(part) == 1 else b"%d-%d" % (part[0], part[-1]) for part in parts)


def _cut(data: bytes, max_size: int, rng: random.Random) -> list[bytes]:
    if max_size == 1:
        return [data[at : at + 1] for at in range(len(data))]
    pieces = []
    while data:
        size = rng.randrange(1, max_size)
        pieces.append(data[:size])
        data = data[size:]
    return pieces
