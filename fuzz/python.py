"""Fuzzes ``protocol.parse_client_line``, and runs the fuzzers in Python."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable

from fuzz import grammar
from rankserver import clist
from rankserver.wire import codes, frames, protocol
from rankserver.wire.exceptions import RemoteProtocolError
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
    check(is_text == clist.text_ok(line), line, "the core applies a different text rule")
    try:
        frame = protocol.parse_client_line(line)
    except RemoteProtocolError as error:
        reply = protocol.err(error.code, error.text)
        check(
            error.code == codes.BAD_FRAME and len(reply) < protocol.MAX_SERVER_SLACK,
            line,
            f"{reply!r} is the reply",
        )
        check(protocol.parse_server_line(reply[:-1]) is not None, line, f"{reply!r} breaks the protocol")
        return line
    check(is_text, line, "it is accepted against the text rule")
    if isinstance(frame, frames.Submit):
        again = protocol.submit(frame.text, wants_answer=frame.wants_answer)
        check(again == line + b"\n", line, f"{frame} would be sent as {again!r}")
    elif isinstance(frame, frames.Result):
        relayed = protocol.parse_server_line(protocol.answer(3, "name", *frame)[:-1])
        check(
            relayed
            == frames.AnswerFrame(frame.seq, 3, "name", frame.status, json.loads(frame.detail or "{}")),
            line,
            f"it is {relayed}",
        )
    return line


def check(holds: bool, data: bytes, what: str) -> None:
    """Check that something holds for an input.

    Raises:
        FailureError: it does not.
    """
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
