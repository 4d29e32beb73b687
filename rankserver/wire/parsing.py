"""Parsing: makes a frame of what follows each verb, in either direction.

A function that makes frames is named like its verb, takes what follows the verb and its space, and raises
RemoteProtocolError with ``bad-frame`` and what is wrong. ``protocol`` has the table that maps verbs to them.

Nothing here makes text of a value that JSON holds: that would take longer than parsing it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from rankserver.wire import codes, frames, jsontext
from rankserver.wire.exceptions import RemoteProtocolError
from rankserver.wire.grammar import (
    MAX_NUMBER,
    NOT_A_NAME,
    bad_frame,
    is_name,
    parse_number,
    parse_ranks,
    shown,
)

Frame = TypeVar("Frame")


# --- frames from a client ---------------------------------------------------------------------


def submit(verb: str, rest: str) -> frames.Submit:
    """Parse ``CMD`` or ``ASK``."""
    if not rest:
        raise bad_frame(f"{verb} needs a command after it")
    return frames.Submit(rest, wants_answer=verb == "ASK")


def hello(rest: str) -> frames.Hello:
    """Parse ``HELLO``."""
    fields = _json_object(rest, jsontext.parse_without_fractions) if rest.strip() else {}
    proto = fields.get("proto", frames.VERSION)
    if type(proto) is not int or proto != frames.VERSION:
        raise bad_frame(f"this server speaks only protocol {frames.VERSION}")
    name = fields.get("name")
    if name is not None:
        name = _name(name)
    token = fields.get("token")
    if token is not None and not isinstance(token, str):
        raise bad_frame("token is not a string")
    return frames.Hello(proto, name, token, _resume(fields.get("resume")))


def _resume(fields: object) -> frames.Resume | None:
    if fields is None:
        return None
    if isinstance(fields, dict):
        session, seq = fields.get("session"), fields.get("seq")
        if isinstance(session, str) and type(seq) is int and seq >= 0:
            return frames.Resume(session, seq)
    raise bad_frame("resume needs a session and a seq")


def result(rest: str) -> frames.Result:
    """Parse a client's ``RES``; its detail is checked, and stays text."""
    seq, _, rest = rest.partition(" ")
    status, _, detail = rest.partition(" ")
    parsed = frames.Result(parse_number("seq", seq), _status(status), detail)
    if detail:
        _json_object(detail, jsontext.parse_without_fractions)
    return parsed


# --- frames from the server -------------------------------------------------------------------


def command(rest: str, *, wants_answer: bool) -> frames.CommandFrame:
    """Parse ``CMD`` or ``ASK``."""
    try:
        seq, rank, text = rest.split(" ", 2)
    except ValueError:
        raise _too_few(3, rest) from None
    return frames.CommandFrame(parse_number("seq", seq), parse_number("rank", rank), text, wants_answer)


def seq_and_ranks(rest: str) -> tuple[int, list[range]]:
    """Parse what follows ``JOIN`` or ``LEFT``."""
    try:
        seq, ranks = rest.split(" ", 1)
    except ValueError:
        raise _too_few(2, rest) from None
    return parse_number("seq", seq), parse_ranks(ranks)


def answer(rest: str) -> frames.AnswerFrame:
    """Parse ``RES`` as it is relayed to the asker."""
    try:
        seq, rank, name, rest = rest.split(" ", 3)
    except ValueError:
        raise _too_few(4, rest) from None
    status, _, detail = rest.partition(" ")
    fields = _json_object(detail) if detail else {}
    return frames.AnswerFrame(
        parse_number("seq", seq), parse_number("rank", rank), _name(name), _status(status), fields
    )


def dropped(rest: str) -> frames.DroppedFrame:
    """Parse ``DROPPED``."""
    return frames.DroppedFrame(parse_number("seq", rest))


def code_and_text(rest: str) -> tuple[str, str]:
    """Parse what follows ``ERR`` or ``BYE``."""
    code, _, text = rest.partition(" ")
    return code, text


def info(rest: str) -> frames.InfoFrame:
    """Parse ``INFO``."""
    return _from_json("INFO", rest, _read_info)


def welcome(rest: str) -> frames.WelcomeFrame:
    """Parse ``WELCOME``."""
    return _from_json("WELCOME", rest, _read_welcome)


def roster(rest: str) -> frames.RosterFrame:
    """Parse ``ROSTER``."""
    return _from_json("ROSTER", rest, _read_roster)


def _from_json(verb: str, rest: str, read: Callable[[dict[str, Any]], Frame]) -> Frame:
    fields = _json_object(rest)
    try:
        return read(fields)
    except KeyError as error:
        raise bad_frame(f"{verb} has no {error.args[0]}") from None
    except (TypeError, ValueError) as error:
        raise bad_frame(f"{verb} has an invalid field: {error}") from None


def _read_info(fields: dict[str, Any]) -> frames.InfoFrame:
    return frames.InfoFrame(
        proto=_count(fields, "proto"),
        server=_text(fields, "server"),
        max_line=_count(fields, "max_line"),
        auth=_flag(fields, "auth"),
        capacity=_count(fields, "capacity"),
    )


def _read_welcome(fields: dict[str, Any]) -> frames.WelcomeFrame:
    return frames.WelcomeFrame(
        rank=_count(fields, "rank"),
        clients=_count(fields, "clients"),
        seq=_count(fields, "seq"),
        name=_name(fields["name"]),
        session=_text(fields, "session"),
        heartbeat=_seconds(fields, "heartbeat"),
        rank_class=_class(fields),
    )


def _read_roster(fields: dict[str, Any]) -> frames.RosterFrame:
    members = [
        frames.RosterEntry(_count(member, "rank"), _name(member["name"]), _class(member))
        for member in _objects(fields, "clients")
    ]
    return frames.RosterFrame(_count(fields, "total"), _count(fields, "from"), members)


# --- single fields ----------------------------------------------------------------------------


def _count(fields: dict[str, Any], field: str) -> int:
    value = fields[field]
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise ValueError(f"{field} is not a whole number from 0 to {MAX_NUMBER}")
    return value


def _text(fields: dict[str, Any], field: str) -> str:
    value = fields[field]
    if not isinstance(value, str):
        raise TypeError(f"{field} is not a string")
    return value


def _flag(fields: dict[str, Any], field: str) -> bool:
    value = fields[field]
    if not isinstance(value, bool):
        raise TypeError(f"{field} is neither true nor false")
    return value


def _objects(fields: dict[str, Any], field: str) -> list[dict[str, Any]]:
    value = fields[field]
    if not (isinstance(value, list) and all(isinstance(item, dict) for item in value)):
        raise TypeError(f"{field} is not a list of objects")
    return value


def _seconds(fields: dict[str, Any], field: str) -> float:
    value = fields[field]
    if type(value) not in (int, float) or not 0 <= value <= sys.float_info.max:
        raise ValueError(f"{field} is not a number of seconds")
    return float(value)


def _class(fields: dict[str, Any]) -> int:
    return _count(fields, "class") if "class" in fields else 0


def _name(value: object) -> str:
    if not (isinstance(value, str) and is_name(value)):
        raise bad_frame(f"name {NOT_A_NAME}")
    return value


def _status(text: str) -> str:
    if text not in codes.STATUSES:
        raise bad_frame(f"status is not one of {', '.join(codes.STATUSES)}")
    return text


def _json_object(text: str, parse: Callable[[str], Any] = jsontext.parse) -> dict[str, Any]:
    try:
        value = parse(text)
    except ValueError as error:
        raise bad_frame(f"bad JSON: {error}") from None
    if not isinstance(value, dict):
        raise bad_frame("bad JSON: expected one object")
    return value


def _too_few(count: int, rest: str) -> RemoteProtocolError:
    return bad_frame(f"expected {count} words, got {shown(rest)}")
