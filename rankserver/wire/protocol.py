"""Version 1 of the wire protocol as pure functions: frames to bytes and back, and the text rule.

Both the server and the client use it. It knows no socket, selector or clock, and nothing of what a
frame does: see ``ranking`` for ranks. Source of every rule: docs/protocol.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from rankserver.wire.exceptions import LocalProtocolError, RemoteProtocolError
from rankserver.wire.frames import (
    AnswerFrame,
    ByeFrame,
    ClientFrame,
    CommandFrame,
    ErrFrame,
    Hello,
    InfoFrame,
    JoinFrame,
    Leave,
    LeftFrame,
    Ping,
    Pong,
    Result,
    Resume,
    RosterEntry,
    RosterFrame,
    ServerFrame,
    Submit,
    WelcomeFrame,
    Who,
)

VERSION: Final = 1
DEFAULT_MAX_LINE: Final = 65_536  # bytes, LF included
MIN_MAX_LINE: Final = 256  # a HELLO with a long name, a token and a resume must fit
MAX_MAX_LINE: Final = 16 * 1024 * 1024  # a line is kept whole in memory, for each client
SERVER_SLACK: Final = 256  # a server's line is at most this much longer than max_line
MAX_NUMBER_DIGITS: Final = 19  # what a signed 64-bit number can have
MAX_NESTING: Final = 64  # of JSON: Python's own limit depends on who calls its parser, and so on the side
MAX_CLIENTS: Final = 1_000_000  # far more than one process can serve; a range of ranks is expanded in memory
SHOWN: Final = 64  # characters that an error message has for what was bad

# Codes on BYE.
FULL: Final = "full"
AUTH: Final = "auth"
PROTO: Final = "proto"
TIMEOUT: Final = "timeout"
TOO_LONG: Final = "too-long"
SLOW: Final = "slow"
SHUTDOWN: Final = "shutdown"
RESUME: Final = "resume"
# Codes on ERR.
BAD_FRAME: Final = "bad-frame"
NO_SUCH_ASK: Final = "no-such-ask"

NOT_A_NAME: Final = "is not 1 to 64 characters of A-Z a-z 0-9 . _ : @ -"
STATUSES: Final = ("ok", "fail", "refused", "denied", "timeout")

_NAME = re.compile(r"[A-Za-z0-9._:@-]{1,64}")
# Without escapes. One that does not end takes the rest: to look for the next in it takes the square of that.
_STRING = re.compile(r'"[^"]*(?:"|\Z)')
_ESCAPE = re.compile(r"\\.")
_BRACKET = re.compile(r"[][{}]")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")  # TAB alone is allowed
_ESCAPED = re.compile(r"[\x7f-\x9f\ud800-\udfff]")  # what JSON need not escape and a line cannot have


# --- the text rule ----------------------------------------------------------------------------


def decode_line(line: bytes) -> str:
    """Decode one line (without its LF) and check the text rule.

    Raises:
        RemoteProtocolError: ``bad-frame``, for bytes that are no UTF-8 or a control character other than TAB.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise _bad(f"byte 0x{byte:02x} at offset {error.start} is not valid UTF-8") from None
    problem = text_problem(text)
    if problem:
        raise _bad(problem)
    return text


def text_problem(text: str) -> str | None:
    """Return what in ``text`` breaks the text rule, as one line for a person, or None."""
    if text.isprintable():  # then it has none, and this is told sooner
        return None
    match = _CONTROL.search(text)
    if match:
        return f"control character U+{ord(match[0]):04X} at position {match.start()}; only TAB is allowed"
    return None


def is_name(text: str) -> bool:
    """Tell whether ``text`` may be a client's name."""
    return _NAME.fullmatch(text) is not None


def shown(text: str) -> str:
    """Return ``text`` quoted, in ASCII and shortened, for use in an error message."""
    quoted = ascii(text[: SHOWN + 1])
    return quoted if len(quoted) <= SHOWN + 2 else quoted[:SHOWN] + "..."


class LineBuffer:
    """Cut a stream of bytes into lines, in whatever pieces it arrives."""

    def __init__(self, max_line: int) -> None:
        self.max_line = max_line
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add ``data`` and return the lines that are complete, without LF and CR, empty ones left out.

        Raises:
            RemoteProtocolError: ``too-long``, once a line has more than ``max_line`` bytes.
        """
        self._pending += data
        if b"\n" not in data:
            lines = []
        else:
            *lines, rest = bytes(self._pending).split(b"\n")
            self._pending = bytearray(rest)
        longest = max(len(self._pending), max(map(len, lines), default=-1) + 1)
        if longest > self.max_line:
            raise RemoteProtocolError(TOO_LONG, f"a line is longer than {self.max_line} bytes")
        return [stripped for line in lines if (stripped := line.removesuffix(b"\r"))]


# --- parsing what a client sent ---------------------------------------------------------------


def parse_client_line(line: bytes) -> ClientFrame:
    """Parse one line from a client, without its LF.

    Raises:
        RemoteProtocolError: ``bad-frame`` with what is wrong.
    """
    verb, _, rest = decode_line(line).partition(" ")
    if verb in ("CMD", "ASK"):
        if not rest:
            raise _bad(f"{verb} needs a command after it")
        return Submit(rest, verb == "ASK")
    if verb == "RES":
        return _parse_result(rest)
    if verb == "HELLO":
        return _parse_hello(rest)
    if verb == "PING":
        return Ping(rest)
    if verb == "PONG":
        return Pong(rest)
    if verb == "WHO":
        return Who()
    if verb == "BYE":
        return Leave()
    raise _bad(f"unknown verb {shown(verb)}")


def _parse_hello(rest: str) -> Hello:
    fields = _json_object(rest) if rest.strip() else {}
    proto = fields.get("proto", VERSION)
    if type(proto) is not int or proto != VERSION:
        raise _bad(f"this server speaks protocol {VERSION}, not {shown(str(proto))}")
    name = fields.get("name")
    if name is not None:
        name = _name(name)
    token = fields.get("token")
    if token is not None and not isinstance(token, str):
        raise _bad("token is not a string")
    return Hello(proto, name, token, _parse_resume(fields.get("resume")))


def _parse_resume(fields: object) -> Resume | None:
    if fields is None:
        return None
    if isinstance(fields, dict):
        session, seq = fields.get("session"), fields.get("seq")
        if isinstance(session, str) and type(seq) is int and seq >= 0:
            return Resume(session, seq)
    raise _bad("resume needs a session and a seq")


def _parse_result(rest: str) -> Result:
    seq, _, rest = rest.partition(" ")
    status, _, detail = rest.partition(" ")
    return Result(_number("seq", seq), _status(status), _detail(detail))


# --- parsing what the server sent -------------------------------------------------------------


def parse_server_line(line: bytes) -> ServerFrame | None:
    """Parse one line from the server, without its LF; None for a verb of a later version.

    Raises:
        RemoteProtocolError: ``bad-frame`` with what is wrong.
    """
    verb, _, rest = decode_line(line).partition(" ")
    if verb in ("CMD", "ASK"):
        seq, rank, text = _split(rest, 3)
        return CommandFrame(_number("seq", seq), _number("rank", rank), text, verb == "ASK")
    if verb in ("JOIN", "LEFT"):
        seq, ranks = _split(rest, 2)
        return (JoinFrame if verb == "JOIN" else LeftFrame)(_number("seq", seq), parse_ranks(ranks))
    if verb == "RES":
        seq, rank, name, rest = _split(rest, 4)
        status, _, detail = rest.partition(" ")
        fields = _json_object(detail) if detail else {}
        return AnswerFrame(_number("seq", seq), _number("rank", rank), _name(name), _status(status), fields)
    if verb in ("ERR", "BYE"):
        code, _, text = rest.partition(" ")
        return (ErrFrame if verb == "ERR" else ByeFrame)(code, text)
    if verb == "PING":
        return Ping(rest)
    if verb == "PONG":
        return Pong(rest)
    if verb in ("INFO", "WELCOME", "ROSTER"):
        return _parse_json_frame(verb, _json_object(rest))
    return None


def _parse_json_frame(verb: str, fields: dict[str, Any]) -> ServerFrame:
    try:
        if verb == "INFO":
            return _parse_info(fields)
        return _parse_welcome(fields) if verb == "WELCOME" else _parse_roster(fields)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _bad(f"{verb} lacks a field or has a bad one: {error!r}") from None


def _parse_info(fields: dict[str, Any]) -> InfoFrame:
    return InfoFrame(
        proto=_count(fields, "proto"),
        server=str(fields["server"]),
        max_line=_count(fields, "max_line"),
        auth=bool(fields["auth"]),
        capacity=_count(fields, "capacity"),
    )


def _parse_welcome(fields: dict[str, Any]) -> WelcomeFrame:
    return WelcomeFrame(
        rank=_count(fields, "rank"),
        clients=_count(fields, "clients"),
        seq=_count(fields, "seq"),
        name=_name(fields["name"]),
        session=str(fields["session"]),
        heartbeat=float(fields["heartbeat"]),
        rank_class=_count(fields, "class") if "class" in fields else 0,
    )


def _parse_roster(fields: dict[str, Any]) -> RosterFrame:
    members = [_parse_member(member) for member in fields["clients"]]
    return RosterFrame(_count(fields, "total"), _count(fields, "from"), members)


def _parse_member(fields: dict[str, Any]) -> RosterEntry:
    rank_class = _count(fields, "class") if "class" in fields else 0
    return RosterEntry(_count(fields, "rank"), _name(fields["name"]), rank_class)


def _count(fields: dict[str, Any], field: str) -> int:
    value = fields[field]
    if type(value) is not int or value < 0:
        raise ValueError(f"{field} {shown(str(value))} is not a number from 0 on")
    return value


def parse_ranks(text: str) -> list[int]:
    """Parse ``0,3,7-9`` into an ascending list of ranks.

    Raises:
        RemoteProtocolError: ``bad-frame`` if it is anything but ascending ranks and ranges.
    """
    ranks: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low = _number("rank", first)
        high = _number("rank", last) if dash else low
        if high < low or (ranks and low <= ranks[-1]):
            raise _bad(f"ranks {shown(text)} do not ascend")
        if high >= MAX_CLIENTS:
            raise _bad(f"rank {high} is not below {MAX_CLIENTS}")
        ranks.extend(range(low, high + 1))
    return ranks


def _split(rest: str, count: int) -> list[str]:
    parts = rest.split(" ", count - 1)
    if len(parts) < count:
        raise _bad(f"expected {count} words, got {shown(rest)}")
    return parts


def _number(what: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_NUMBER_DIGITS):
        raise _bad(f"{what} {shown(text)} is not a number")
    return int(text)


def _name(value: object) -> str:
    if not (isinstance(value, str) and is_name(value)):
        raise _bad(f"name {shown(str(value))} {NOT_A_NAME}")
    return value


def _status(text: str) -> str:
    if text not in STATUSES:
        raise _bad(f"status {shown(text)} is none of {', '.join(STATUSES)}")
    return text


def _detail(text: str) -> str:
    if text:
        _json_object(text)
    return text


def _json_object(text: str) -> dict[str, Any]:
    if text.count("{") + text.count("[") > MAX_NESTING and _nesting(text) > MAX_NESTING:
        raise _bad(f"bad JSON: nested more than {MAX_NESTING} deep")
    try:
        text = text.strip(" \t")  # the white space of JSON that a line can have
        value, end = _DECODER.raw_decode(text)
        if end < len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except ValueError as error:
        raise _bad(f"bad JSON: {shown(str(error))}") from None
    if not isinstance(value, dict):
        raise _bad("bad JSON: expected one object")
    return value


def _nesting(text: str) -> int:
    """Return how deep objects and arrays are nested in what may be JSON. O(len(text))."""
    deepest = depth = 0
    for bracket in _BRACKET.findall(_STRING.sub("", _ESCAPE.sub("", text))):
        depth += 1 if bracket in "{[" else -1
        deepest = max(deepest, depth)
    return deepest


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant)  # json.loads would make one for each text


def _bad(text: str) -> RemoteProtocolError:
    return RemoteProtocolError(BAD_FRAME, text)


# --- building frames: client to server --------------------------------------------------------


def hello(*, name: str | None = None, token: str | None = None) -> bytes:
    """Build ``HELLO``.

    Raises:
        LocalProtocolError: ``bad-frame``, for a name that the protocol does not allow.
    """
    if name is not None and not is_name(name):
        raise LocalProtocolError(BAD_FRAME, f"name {shown(name)} {NOT_A_NAME}")
    fields = {"proto": VERSION, "name": name, "token": token}
    return _json_frame("HELLO", {key: value for key, value in fields.items() if value is not None})


def submit(text: str, *, wants_answer: bool, max_line: int = DEFAULT_MAX_LINE) -> bytes:
    """Build ``ASK`` (an answer is wanted) or ``CMD``.

    Raises:
        LocalProtocolError: ``bad-frame`` for an empty text or one with a control character,
            ``too-long`` for more bytes than a server with this ``max_line`` takes.
    """
    if not text:
        raise LocalProtocolError(BAD_FRAME, "the command is empty")
    problem = text_problem(text)
    if problem:
        raise LocalProtocolError(BAD_FRAME, problem)
    try:
        line = f"{'ASK' if wants_answer else 'CMD'} {text}\n".encode()
    except UnicodeEncodeError:
        raise LocalProtocolError(BAD_FRAME, "the command is not valid Unicode text") from None
    if len(line) > max_line:
        raise LocalProtocolError(TOO_LONG, f"the line has {len(line)} bytes, {max_line} are allowed")
    return line


def result(seq: int, status: str, detail: Mapping[str, object] | None = None) -> bytes:
    """Build ``RES``, the answer to ``ASK`` ``seq``."""
    if detail is None:
        return b"RES %d %s\n" % (seq, status.encode())
    return b"RES %d %s %s\n" % (seq, status.encode(), json_bytes(detail))


def who() -> bytes:
    """Build ``WHO``."""
    return b"WHO\n"


def leave() -> bytes:
    """Build the client's ``BYE``."""
    return b"BYE\n"


# --- building frames: both ways ---------------------------------------------------------------


def ping(text: str = "") -> bytes:
    """Build ``PING``."""
    return f"PING {text}\n".encode() if text else b"PING\n"


def pong(text: str = "") -> bytes:
    """Build ``PONG``, which repeats the text of the ``PING``."""
    return f"PONG {text}\n".encode() if text else b"PONG\n"


# --- building frames: server to client --------------------------------------------------------


def info(frame: InfoFrame) -> bytes:
    """Build ``INFO``."""
    return _json_frame("INFO", frame._asdict())


def welcome(frame: WelcomeFrame) -> bytes:
    """Build ``WELCOME``."""
    return _json_frame("WELCOME", _with_class(frame._asdict()))


def answer(rank: int, name: str, seq: int, status: str, detail: str) -> bytes:
    """Build the ``RES`` that relays the result of the client ``name`` to the sender of the ASK ``seq``."""
    return f"RES {seq} {rank} {name} {status}{' ' if detail else ''}{detail}\n".encode()


def roster(members: Sequence[RosterEntry], max_line: int) -> Iterator[bytes]:
    """Build the ``ROSTER`` frames for all clients, in the order of their ranks. O(len(members))."""
    total = len(members)
    room = max_line - len(_json_frame("ROSTER", {"total": total, "from": total, "clients": []}))
    start = used = 0
    entries: list[dict[str, object]] = []
    for member in members:
        rank, name, rank_class = member
        size = len(name) + len(f"{rank}{rank_class}") + len('{"rank":,"name":"","class":},')
        if entries and used + size > room:
            yield _json_frame("ROSTER", {"total": total, "from": start, "clients": entries})
            start, used, entries = rank, 0, []
        entries.append(_with_class(member._asdict()))
        used += size
    yield _json_frame("ROSTER", {"total": total, "from": start, "clients": entries})


def err(code: str, text: str) -> bytes:
    """Build ``ERR``."""
    return f"ERR {code} {text}\n".encode()


def bye(code: str, text: str) -> bytes:
    """Build the server's ``BYE``."""
    return f"BYE {code} {text}\n".encode()


def rank_lists(ranks: Iterable[int], max_bytes: int) -> list[bytes]:
    """Write ascending ``ranks`` as ``0,3,7-9``, in as many ascending pieces as ``max_bytes`` each demand."""
    pieces: list[bytes] = []
    current = b""
    for low, high in _ranges(ranks):
        part = b"%d" % low if low == high else b"%d-%d" % (low, high)
        if current and len(current) + 1 + len(part) > max_bytes:
            pieces.append(current)
            current = b""
        current = current + b"," + part if current else part
    return [*pieces, current] if current else pieces


def _ranges(ranks: Iterable[int]) -> Iterator[tuple[int, int]]:
    low = high = -1
    for rank in ranks:
        if rank != high + 1 or low < 0:
            if low >= 0:
                yield low, high
            low = rank
        high = rank
    if low >= 0:
        yield low, high


def _with_class(fields: dict[str, object]) -> dict[str, object]:
    """Put ``rank_class`` under its name in the protocol, which is no name in Python."""
    fields["class"] = fields.pop("rank_class")
    return fields


def json_bytes(value: object) -> bytes:
    """Write JSON for a line, short: in UTF-8, with escapes only for what breaks the text rule."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode()


def _json_frame(verb: str, fields: Mapping[str, object]) -> bytes:
    return b"%s %s\n" % (verb.encode(), json_bytes(fields))
