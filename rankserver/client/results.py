"""Encoding an ``Outcome`` as a RES that the server accepts and that fits in a line."""

from __future__ import annotations

import bisect
from typing import Final

from rankserver.client.events import Outcome
from rankserver.wire import codes, grammar, jsontext, protocol
from rankserver.wire.exceptions import LocalProtocolError, RemoteProtocolError

TRUNCATED: Final = ',"truncated":true'


def encode(seq: int, outcome: Outcome, max_line: int) -> bytes:
    """Build the RES that answers the ASK ``seq``. If it is too long, the end of ``out`` is cut off.

    The server must never have a reason to reject it: its ERR would be taken for one about our next command.

    Raises:
        LocalProtocolError: the outcome has no known status or is not JSON, or the frame has more than
            ``max_line`` bytes even without ``out``.
    """
    frame = _encode(seq, outcome)
    if len(frame) > max_line:
        frame = _encode(seq, _shortened(outcome, len(frame) - max_line))
    if len(frame) > max_line:
        text = f"the result is {len(frame)} bytes long; the limit is {max_line}"
        raise LocalProtocolError(codes.TOO_LONG, text)
    return frame


def _encode(seq: int, outcome: Outcome) -> bytes:
    if outcome.status not in codes.STATUSES:
        text = f"status {grammar.shown(str(outcome.status))} is not one of {', '.join(codes.STATUSES)}"
        raise LocalProtocolError(codes.BAD_FRAME, text)
    if outcome.detail is None:
        return protocol.result(seq, outcome.status)
    try:
        frame = protocol.result(seq, outcome.status, dict(outcome.detail))
        protocol.parse_client_line(frame.removesuffix(b"\n"))  # rejects NaN, which only Python allows in JSON
    except (TypeError, ValueError, RecursionError, RemoteProtocolError) as error:
        raise LocalProtocolError(codes.BAD_FRAME, f"the detail is not a JSON object: {error}") from None
    return frame


def _shortened(outcome: Outcome, excess: int) -> Outcome:
    """Cut off the end of ``out`` so that the outcome's JSON is ``excess`` bytes shorter. O(n log n)."""
    detail = outcome.detail or {}
    out = detail.get("out")
    if not isinstance(out, str):
        return outcome
    room = len(jsontext.encode(out)) - excess - len(TRUNCATED)
    out = out[: max(0, room)]  # every character takes at least one byte
    ends = range(1, len(out) + 1)
    length = bisect.bisect_right(ends, room, key=lambda end: len(jsontext.encode(out[:end])))
    return Outcome(outcome.status, {**detail, "out": out[:length], "truncated": True})
