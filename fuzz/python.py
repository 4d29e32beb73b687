"""Fuzzes ``protocol.parse_client_line`` and the client's session."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable

from fuzz import grammar
from rankserver import clist
from rankserver.client import events
from rankserver.client.session import Session, SessionState
from rankserver.wire import codes, frames, protocol
from rankserver.wire.exceptions import LocalProtocolError, RemoteProtocolError
from rankserver.wire.grammar import decode_line

# Makes one input from a random generator, feeds it and returns it.
Fuzzer = Callable[[random.Random], bytes]


class FailureError(AssertionError):
    """What must hold for every input does not hold for this one."""


def parse(rng: random.Random) -> bytes:
    """Parse one line; return it.

    Raises:
        FailureError: it is not parsed as what it says, or the core applies a different text rule.
    """
    line = grammar.client_line(rng)
    try:
        decode_line(line)
        is_text = True
    except RemoteProtocolError:
        is_text = False
    _check(is_text == clist.text_ok(line), line, "the core applies a different text rule")
    try:
        frame = protocol.parse_client_line(line)
    except RemoteProtocolError as error:
        reply = protocol.err(error.code, error.text)
        _check(
            error.code == codes.BAD_FRAME and len(reply) < protocol.MAX_SERVER_SLACK,
            line,
            f"{reply!r} is the reply",
        )
        _check(protocol.parse_server_line(reply[:-1]) is not None, line, f"{reply!r} breaks the protocol")
        return line
    _check(is_text, line, "it is accepted against the text rule")
    if isinstance(frame, frames.Submit):
        again = protocol.submit(frame.text, wants_answer=frame.wants_answer)
        _check(again == line + b"\n", line, f"{frame} would be sent as {again!r}")
    elif isinstance(frame, frames.Result):
        relayed = protocol.parse_server_line(protocol.answer(3, "name", *frame)[:-1])
        _check(
            relayed
            == frames.AnswerFrame(frame.seq, 3, "name", frame.status, json.loads(frame.detail or "{}")),
            line,
            f"it is {relayed}",
        )
    return line


def session(rng: random.Random) -> bytes:
    """Feed one stream to two sessions, whole and in pieces; return it.

    Raises:
        FailureError: they differ, or one of them breaks a promise of its own.
    """
    clients = rng.choice((1, 2, 3, 5))
    head = b'INFO {"proto":1,"server":"s","max_line":300,"auth":false,"capacity":8}\n'
    head += b'WELCOME {"rank":%d,"clients":%d,"seq":9,"name":"me","session":"s","heartbeat":1}\n' % (
        rng.randrange(clients),
        clients,
    )
    if rng.random() < 0.03:
        head = head[: rng.randrange(len(head))] + b"\n"
    seq, lines = 10, []
    for _ in range(rng.randrange(12)):
        lines.append(grammar.server_line(rng, seq, clients))
        seq += lines[-1][:3] in (b"CMD", b"ASK", b"JOI", b"LEF")
    tail = b"".join(line + rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\n\n")) for line in lines)
    asks = [rng.random() < 0.7 for _ in range(rng.randrange(4))]
    stream = head + tail
    max_size = rng.choice((1, 1, 7, 60))
    whole = _fed(head, tail, asks, lambda data: [data])
    pieces = _fed(head, tail, asks, lambda data: _cut(data, max_size, random.Random(len(data))))
    _check(whole == pieces, stream, f"it is {whole} whole, and {pieces} in pieces")
    return stream


def _fed(
    head: bytes, tail: bytes, asks: list[bool], cut: Callable[[bytes], list[bytes]]
) -> tuple[list[events.Event], bytes, str]:
    one = Session()
    one.hello()
    got = [event for piece in cut(head) for event in one.receive_data(piece)]
    for wants_answer in asks:
        try:
            (one.ask if wants_answer else one.cmd)("ls")
        except LocalProtocolError:
            _check(one.state is not SessionState.JOINED, head, "it is joined, and may not send")
    got += [event for piece in cut(tail) for event in one.receive_data(piece)]
    if one.state is SessionState.JOINED:
        _check(
            0 <= one.log.rank < one.log.clients,
            head + tail,
            f"it has rank {one.log.rank} of {one.log.clients}",
        )
    got += one.receive_eof()
    ends = sum(isinstance(event, events.Disconnected) for event in got)
    _check(ends == 1, head + tail, f"{ends} ends of one connection")
    return got, one.data_to_send(), one.state.value


def _cut(data: bytes, max_size: int, rng: random.Random) -> list[bytes]:
    if max_size == 1:
        return [data[at : at + 1] for at in range(len(data))]
    pieces = []
    while data:
        size = rng.randrange(1, max_size)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def _check(holds: bool, data: bytes, what: str) -> None:
    if not holds:
        raise FailureError(f"{what}\ninput: {data.hex()}")


def run(name: str, fuzz: Fuzzer, count: int, seed: int) -> bool:
    """Run ``count`` inputs, print how fast that was, and return whether all of them passed."""
    begin = time.process_time()
    size = 0
    for number in range(count):
        try:
            size += len(fuzz(random.Random(f"{seed} {number}")))
        except Exception as error:  # noqa: BLE001 - any exception is a finding
            print(f"{name}: input {number} of seed {seed}: {type(error).__name__}: {error}")
            return False
    seconds = max(time.process_time() - begin, 0.001)
    print(
        f"{name}: {count} inputs, {size} bytes in {seconds:.1f} seconds of CPU"
        f" ({count / seconds:.0f} inputs/s)"
    )
    return True
