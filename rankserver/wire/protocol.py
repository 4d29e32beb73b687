"""Version 1 of the wire protocol as pure functions: frames to bytes and back.

Server and client share it. It knows neither sockets nor clocks, nor what a frame does: ``ranking`` knows what
happens to ranks, and ``lines`` cuts a stream into lines.

A line is a verb and, after a space, the rest. ``grammar`` has the rules for lines and single fields,
``parsing`` makes frames of lines, and this module makes lines of frames. The tables ``CLIENT_VERBS`` and
``SERVER_VERBS`` at the end have a row for each verb of one direction: the class of its frames, and how its
lines are parsed and built. A new verb is a new row, a class in ``frames``, a function in ``parsing`` and one
here.

Source of every rule: docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar

from rankserver.wire import codes, frames, jsontext, parsing
from rankserver.wire.exceptions import LocalProtocolError
from rankserver.wire.grammar import NOT_A_NAME, bad_frame, decode_line, is_name, shown, text_problem

# The most bytes in a line from a client, LF included, unless the server is configured otherwise.
DEFAULT_MAX_LINE: Final = 65_536
# The least that the server can be configured to allow: a HELLO with a long name, a token and a resume fits.
MIN_MAX_LINE: Final = 256
# The most that the server can be configured to allow: a line is kept whole in memory, for each client.
MAX_MAX_LINE: Final = 16 * 1024 * 1024
# The most bytes by which a line from the server is longer than max_line: what the server adds to a client's
# text (a verb, numbers and a name of 64 characters) fits into it.
MAX_SERVER_SLACK: Final = 256


# --- building: client to server, and both ways ------------------------------------------------


def hello(*, name: str | None = None, token: str | None = None) -> bytes:
    """Build ``HELLO``.

    Raises:
        LocalProtocolError: ``bad-frame``, for a name that the protocol does not allow.
    """
    if name is not None and not is_name(name):
        raise LocalProtocolError(codes.BAD_FRAME, f"name {shown(name)} {NOT_A_NAME}")
    fields = {"proto": frames.VERSION, "name": name, "token": token}
    return _json_frame("HELLO", {key: value for key, value in fields.items() if value is not None})


def submit(text: str, *, wants_answer: bool, max_line: int = DEFAULT_MAX_LINE) -> bytes:
    """Build ``ASK`` if an answer is wanted, else ``CMD``.

    Raises:
        LocalProtocolError: ``bad-frame`` for an empty text or one with a control character,
            ``too-long`` if the line would be longer than ``max_line`` bytes.
    """
    if not text:
        raise LocalProtocolError(codes.BAD_FRAME, "the command is empty")
    problem = text_problem(text)
    if problem:
        raise LocalProtocolError(codes.BAD_FRAME, problem)
    try:
        line = f"{'ASK' if wants_answer else 'CMD'} {text}\n".encode()
    except UnicodeEncodeError:
        raise LocalProtocolError(codes.BAD_FRAME, "the command is not valid Unicode text") from None
    if len(line) > max_line:
        problem = f"the line is {len(line)} bytes long; the limit is {max_line}"
        raise LocalProtocolError(codes.TOO_LONG, problem)
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


def dropped(seq: int) -> bytes:
    """Build ``DROPPED``, which tells the sender of the ASK ``seq`` that the server has forgotten it."""
    return b"DROPPED %d\n" % seq


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
    "HELLO": Verb(frames.Hello, parsing.hello, hello),
    "CMD": Verb(frames.Submit, partial(parsing.submit, "CMD"), submit),
    "ASK": Verb(frames.Submit, partial(parsing.submit, "ASK"), submit),
    "RES": Verb(frames.Result, parsing.result, result),
    "WHO": Verb(frames.Who, lambda _: frames.Who(), who),
    "PING": Verb(frames.Ping, frames.Ping, ping),
    "PONG": Verb(frames.Pong, frames.Pong, pong),
    "BYE": Verb(frames.Leave, lambda _: frames.Leave(), leave),
}

SERVER_VERBS: Final[Mapping[str, Verb[frames.ServerFrame]]] = {
    "JOIN": Verb(frames.JoinFrame, lambda rest: frames.JoinFrame(*parsing.seq_and_ranks(rest)), None),
    "LEFT": Verb(frames.LeftFrame, lambda rest: frames.LeftFrame(*parsing.seq_and_ranks(rest)), None),
    "CMD": Verb(frames.CommandFrame, partial(parsing.command, wants_answer=False), None),
    "ASK": Verb(frames.CommandFrame, partial(parsing.command, wants_answer=True), None),
    "INFO": Verb(frames.InfoFrame, parsing.info, info),
    "WELCOME": Verb(frames.WelcomeFrame, parsing.welcome, welcome),
    "RES": Verb(frames.AnswerFrame, parsing.answer, answer),
    "DROPPED": Verb(frames.DroppedFrame, parsing.dropped, dropped),
    "ROSTER": Verb(frames.RosterFrame, parsing.roster, roster),
    "PING": Verb(frames.Ping, frames.Ping, ping),
    "PONG": Verb(frames.Pong, frames.Pong, pong),
    "ERR": Verb(frames.ErrFrame, lambda rest: frames.ErrFrame(*parsing.code_and_text(rest)), err),
    "BYE": Verb(frames.ByeFrame, lambda rest: frames.ByeFrame(*parsing.code_and_text(rest)), bye),
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
        raise bad_frame(f"unknown verb of {len(word)} characters") from None
    return verb.parse(rest)


def parse_server_line(line: bytes) -> frames.ServerFrame | None:
    """Parse one line from the server, without its LF; None for a verb of a later version.

    Raises:
        RemoteProtocolError: ``bad-frame`` with what is wrong.
    """
    word, _, rest = decode_line(line).partition(" ")
    verb = SERVER_VERBS.get(word)
    return None if verb is None else verb.parse(rest)
