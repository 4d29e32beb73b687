"""Version 1 of the wire protocol as pure functions: frames to bytes and back, and the text rule.

Server and client share it. It knows neither sockets nor clocks, nor what a frame does: ``ranking`` knows what
happens to ranks, and ``lines`` cuts a stream into lines.

A line is a verb and, after a space, the rest. The tables ``CLIENT_VERBS`` and ``SERVER_VERBS`` at the end
have a row for each verb of one direction: the class of its frames, and how its lines are parsed and built. A
new verb is a new row, and a class in ``frames``.

Source of every rule: docs/protocol.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, NoReturn, TypeVar

from rankserver.wire import frames, jsontext
from rankserver.wire.exceptions import LocalProtocolError, RemoteProtocolError

VERSION: Final = 1

# Bytes in the longest line from a client, LF included, unless the server is configured otherwise.
DEFAULT_MAX_LINE: Final = 65_536
# A HELLO with a long name, a token and a resume must fit.
MIN_MAX_LINE: Final = 256
# A line is kept whole in memory, for each client.
MAX_MAX_LINE: Final = 16 * 1024 * 1024
# A line from the server is at most this many bytes longer than max_line.
SERVER_SLACK: Final = 256
# The largest number of digits that a signed 64-bit number can have.
MAX_NUMBER_DIGITS: Final = 19
# Far more clients than one process can serve. A range of ranks is expanded in memory, so it must be bounded.
MAX_CLIENTS: Final = 1_000_000
# The most characters of a bad value that an error message repeats.
MAX_SHOWN: Final = 64

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

_NAME: Final = re.compile(r"[A-Za-z0-9._:@-]{1,64}")
# Every control character but TAB.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


# --- the text rule ----------------------------------------------------------------------------


def decode_line(line: bytes) -> str:
    """Decode one line (without its LF) and check the text rule.

    Raises:
        RemoteProtocolError: ``bad-frame``, for invalid UTF-8 or a control character other than TAB.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise _bad(f"byte 0x{byte:02x} at offset {error.start} is not valid UTF-8") from None
    if not text.isprintable() and (problem := text_problem(text)):
        raise _bad(problem)
    return text


def text_problem(text: str) -> str | None:
    """Return what in ``text`` breaks the text rule, as one line for a person, or None."""
    # Printable text has no control characters, and str.isprintable is much faster than a search.
    if text.isprintable() or not (match := _CONTROL.search(text)):
        return None
    return f"control character U+{ord(match[0]):04X} at position {match.start()}; only TAB is allowed"


def is_name(text: str) -> bool:
    """Tell whether ``text`` may be a client's name."""
    return _NAME.fullmatch(text) is not None


def shown(text: str) -> str:
    """Return ``text`` quoted, in ASCII and shortened, for use in an error message."""
    quoted = ascii(text[: MAX_SHOWN + 1])
    return quoted if len(quoted) <= MAX_SHOWN + 2 else quoted[:MAX_SHOWN] + "..."


# --- parsing: the words of a frame ------------------------------------------------------------


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


def _number(what: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_NUMBER_DIGITS):
        raise _bad(f"{what} {shown(text)} is not a number")
    return int(text)


def _count(fields: dict[str, Any], field: str) -> int:
    value = fields[field]
    if type(value) is not int or value < 0:
        raise ValueError(f"{field} {shown(str(value))} is not a number from 0 on")
    return value


def _class(fields: dict[str, Any]) -> int:
    return _count(fields, "class") if "class" in fields else 0


def _name(value: object) -> str:
    if not (isinstance(value, str) and is_name(value)):
        raise _bad(f"name {shown(str(value))} {NOT_A_NAME}")
    return value


def _status(text: str) -> str:
    if text not in STATUSES:
        raise _bad(f"status {shown(text)} is none of {', '.join(STATUSES)}")
    return text


def _json_object(text: str) -> dict[str, Any]:
    if jsontext.is_too_deep(text):
        raise _bad(f"bad JSON: nested more than {jsontext.MAX_NESTING} deep")
    try:
        value = jsontext.parse(text)
    except ValueError as error:
        raise _bad(f"bad JSON: {shown(str(error))}") from None
    if not isinstance(value, dict):
        raise _bad("bad JSON: expected one object")
    return value


def _too_few(count: int, rest: str) -> RemoteProtocolError:
    return _bad(f"expected {count} words, got {shown(rest)}")


def _bad(text: str) -> RemoteProtocolError:
    return RemoteProtocolError(BAD_FRAME, text)


# --- parsing: what follows a verb from a client --------------------------------------------


def _no_command(verb: str) -> NoReturn:
    raise _bad(f"{verb} needs a command after it")


def _parse_hello(rest: str) -> frames.Hello:
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
    return frames.Hello(proto, name, token, _parse_resume(fields.get("resume")))


def _parse_resume(fields: object) -> frames.Resume | None:
    if fields is None:
        return None
    if isinstance(fields, dict):
        session, seq = fields.get("session"), fields.get("seq")
        if isinstance(session, str) and type(seq) is int and seq >= 0:
            return frames.Resume(session, seq)
    raise _bad("resume needs a session and a seq")


def _parse_result(rest: str) -> frames.Result:
    seq, _, rest = rest.partition(" ")
    status, _, detail = rest.partition(" ")
    parsed = frames.Result(_number("seq", seq), _status(status), detail)
    if detail:
        _json_object(detail)
    return parsed


# --- parsing: what follows a verb from the server ------------------------------------------


def _parse_command(rest: str, *, wants_answer: bool) -> frames.CommandFrame:
    try:
        seq, rank, text = rest.split(" ", 2)
    except ValueError:
        raise _too_few(3, rest) from None
    return frames.CommandFrame(_number("seq", seq), _number("rank", rank), text, wants_answer)


def _seq_and_ranks(rest: str) -> tuple[int, list[int]]:
    try:
        seq, ranks = rest.split(" ", 1)
    except ValueError:
        raise _too_few(2, rest) from None
    return _number("seq", seq), parse_ranks(ranks)


def _parse_answer(rest: str) -> frames.AnswerFrame:
    try:
        seq, rank, name, rest = rest.split(" ", 3)
    except ValueError:
        raise _too_few(4, rest) from None
    status, _, detail = rest.partition(" ")
    fields = _json_object(detail) if detail else {}
    return frames.AnswerFrame(
        _number("seq", seq), _number("rank", rank), _name(name), _status(status), fields
    )


def _code_and_text(rest: str) -> tuple[str, str]:
    code, _, text = rest.partition(" ")
    return code, text


def _parse_fields(
    verb: str, rest: str, read: Callable[[dict[str, Any]], frames.ServerFrame]
) -> frames.ServerFrame:
    fields = _json_object(rest)
    try:
        return read(fields)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _bad(f"{verb} lacks a field or has a bad one: {error!r}") from None


def _read_info(fields: dict[str, Any]) -> frames.InfoFrame:
    return frames.InfoFrame(
        proto=_count(fields, "proto"),
        server=str(fields["server"]),
        max_line=_count(fields, "max_line"),
        auth=bool(fields["auth"]),
        capacity=_count(fields, "capacity"),
    )


def _read_welcome(fields: dict[str, Any]) -> frames.WelcomeFrame:
    return frames.WelcomeFrame(
        rank=_count(fields, "rank"),
        clients=_count(fields, "clients"),
        seq=_count(fields, "seq"),
        name=_name(fields["name"]),
        session=str(fields["session"]),
        heartbeat=float(fields["heartbeat"]),
        rank_class=_class(fields),
    )


def _read_roster(fields: dict[str, Any]) -> frames.RosterFrame:
    members = [
        frames.RosterEntry(_count(member, "rank"), _name(member["name"]), _class(member))
        for member in fields["clients"]
    ]
    return frames.RosterFrame(_count(fields, "total"), _count(fields, "from"), members)


# --- building: client to server, and both ways ------------------------------------------------


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
    """Build ``ASK`` if an answer is wanted, else ``CMD``.

    Raises:
        LocalProtocolError: ``bad-frame`` for an empty text or one with a control character,
            ``too-long`` if the line would be longer than ``max_line`` bytes.
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
    return b"RES %d %s %s\n" % (seq, status.encode(), jsontext.encode(detail))


def who() -> bytes:
    """Build ``WHO``."""
    return b"WHO\n"


def leave() -> bytes:
    """Build the client's ``BYE``."""
    return b"BYE\n"


def ping(text: str = "") -> bytes:
    """Build ``PING``."""
    return f"PING {text}\n".encode() if text else b"PING\n"


def pong(text: str = "") -> bytes:
    """Build ``PONG``, which repeats the text of the ``PING``."""
    return f"PONG {text}\n".encode() if text else b"PONG\n"


# --- building: server to client ---------------------------------------------------------------


def info(frame: frames.InfoFrame) -> bytes:
    """Build ``INFO``."""
    return _json_frame("INFO", frame._asdict())


def welcome(frame: frames.WelcomeFrame) -> bytes:
    """Build ``WELCOME``."""
    return _json_frame("WELCOME", _with_class(frame._asdict()))


def answer(rank: int, name: str, seq: int, status: str, detail: str) -> bytes:
    """Build the ``RES`` that relays the result of the client ``name`` to the sender of the ASK ``seq``."""
    return f"RES {seq} {rank} {name} {status}{' ' if detail else ''}{detail}\n".encode()


def roster(members: Sequence[frames.RosterEntry], max_line: int) -> Iterator[bytes]:
    """Build the ``ROSTER`` frames for all clients, given in rank order. O(len(members))."""
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
    """Write ascending ``ranks`` as ``0,3,7-9``, split into pieces of at most ``max_bytes`` each."""
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
    """Rename ``rank_class`` to ``class``, its name in the protocol, which Python reserves."""
    fields["class"] = fields.pop("rank_class")
    return fields


def _json_frame(verb: str, fields: Mapping[str, object]) -> bytes:
    return b"%s %s\n" % (verb.encode(), jsontext.encode(fields))


# --- the verbs --------------------------------------------------------------------------------

Frame = TypeVar("Frame")


@dataclass(frozen=True, slots=True)
class Verb(Generic[Frame]):
    """What one verb means in one direction.

    Attributes:
        frame: the class of its frames.
        parse: makes a frame from what follows the verb and its space; raises RemoteProtocolError.
        build: makes the line; None for log frames, which the C core builds when it gives them a seq.
    """

    frame: type[Frame]
    parse: Callable[[str], Frame]
    build: Callable[..., bytes | Iterator[bytes]] | None


CLIENT_VERBS: Final[Mapping[str, Verb[frames.ClientFrame]]] = {
    "HELLO": Verb(frames.Hello, _parse_hello, hello),
    "CMD": Verb(frames.Submit, lambda rest: frames.Submit(rest or _no_command("CMD"), False), submit),
    "ASK": Verb(frames.Submit, lambda rest: frames.Submit(rest or _no_command("ASK"), True), submit),
    "RES": Verb(frames.Result, _parse_result, result),
    "WHO": Verb(frames.Who, lambda _: frames.Who(), who),
    "PING": Verb(frames.Ping, frames.Ping, ping),
    "PONG": Verb(frames.Pong, frames.Pong, pong),
    "BYE": Verb(frames.Leave, lambda _: frames.Leave(), leave),
}

SERVER_VERBS: Final[Mapping[str, Verb[frames.ServerFrame]]] = {
    "JOIN": Verb(frames.JoinFrame, lambda rest: frames.JoinFrame(*_seq_and_ranks(rest)), None),
    "LEFT": Verb(frames.LeftFrame, lambda rest: frames.LeftFrame(*_seq_and_ranks(rest)), None),
    "CMD": Verb(frames.CommandFrame, lambda rest: _parse_command(rest, wants_answer=False), None),
    "ASK": Verb(frames.CommandFrame, lambda rest: _parse_command(rest, wants_answer=True), None),
    "INFO": Verb(frames.InfoFrame, lambda rest: _parse_fields("INFO", rest, _read_info), info),
    "WELCOME": Verb(frames.WelcomeFrame, lambda rest: _parse_fields("WELCOME", rest, _read_welcome), welcome),
    "RES": Verb(frames.AnswerFrame, _parse_answer, answer),
    "ROSTER": Verb(frames.RosterFrame, lambda rest: _parse_fields("ROSTER", rest, _read_roster), roster),
    "PING": Verb(frames.Ping, frames.Ping, ping),
    "PONG": Verb(frames.Pong, frames.Pong, pong),
    "ERR": Verb(frames.ErrFrame, lambda rest: frames.ErrFrame(*_code_and_text(rest)), err),
    "BYE": Verb(frames.ByeFrame, lambda rest: frames.ByeFrame(*_code_and_text(rest)), bye),
}


def parse_client_line(line: bytes) -> frames.ClientFrame:
    """Parse one line from a client, without its LF.

    Raises:
        RemoteProtocolError: ``bad-frame`` with what is wrong.
    """
    word, _, rest = decode_line(line).partition(" ")
    try:
        verb = CLIENT_VERBS[word]
    except KeyError:
        raise _bad(f"unknown verb {shown(word)}") from None
    return verb.parse(rest)


def parse_server_line(line: bytes) -> frames.ServerFrame | None:
    """Parse one line from the server, without its LF; None for a verb of a later version.

    Raises:
        RemoteProtocolError: ``bad-frame`` with what is wrong.
    """
    word, _, rest = decode_line(line).partition(" ")
    verb = SERVER_VERBS.get(word)
    return None if verb is None else verb.parse(rest)
