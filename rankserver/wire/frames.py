"""The frames of the protocol as values.

``protocol`` builds lines of them, and ``parsing`` makes them of lines. Source: docs/protocol.md.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

# The version of the protocol, which both sides name in their first frame.
VERSION: Final = 1

# --- frames from a client ---------------------------------------------------------------------


class Resume(NamedTuple):
    """The place in the log where a client that lost its connection wants to continue."""

    session: str
    seq: int


class Hello(NamedTuple):
    """``HELLO [json]``: join."""

    proto: int = VERSION
    name: str | None = None
    token: str | None = None
    resume: Resume | None = None


class Submit(NamedTuple):
    """``CMD <text>``, or ``ASK <text>`` if answers are wanted: broadcast a command."""

    text: str
    wants_answer: bool


class Result(NamedTuple):
    """``RES <seq> <status> [json]``: this client's answer to an ASK. ``detail`` is JSON text or empty."""

    seq: int
    status: str
    detail: str


class Who(NamedTuple):
    """``WHO``: ask for the roster."""


class Leave(NamedTuple):
    """``BYE`` from a client: leave."""


# --- frames of both sides ---------------------------------------------------------------------


class Ping(NamedTuple):
    """``PING [text]``: answer with ``PONG`` and the same text."""

    text: str


class Pong(NamedTuple):
    """``PONG [text]``: the answer to ``PING``."""

    text: str


# --- frames from the server -------------------------------------------------------------------


class InfoFrame(NamedTuple):
    """``INFO {json}``: the banner, sent on connecting."""

    proto: int
    server: str
    max_line: int
    auth: bool
    capacity: int


class WelcomeFrame(NamedTuple):
    """``WELCOME {json}``: joined; the log follows from ``seq`` + 1 on. ``heartbeat`` is in seconds.

    ``rank_class`` is ``class`` in the frame, a keyword in Python. Lower classes rank above higher ones.
    """

    rank: int
    clients: int
    seq: int
    name: str
    session: str
    heartbeat: float
    rank_class: int = 0


class JoinFrame(NamedTuple):
    """``JOIN <seq> <ranks>``: clients joined; spans of ranks, as numbered after the frame."""

    seq: int
    ranks: list[range]


class LeftFrame(NamedTuple):
    """``LEFT <seq> <ranks>``: clients left; spans of ranks, as numbered before the frame."""

    seq: int
    ranks: list[range]


class CommandFrame(NamedTuple):
    """``CMD`` or ``ASK <seq> <rank> <text>``: the client with this rank commands ``text``."""

    seq: int
    rank: int
    text: str
    wants_answer: bool


class AnswerFrame(NamedTuple):
    """``RES <seq> <rank> <name> <status> [json]``: a client's answer to this client's ASK ``seq``."""

    seq: int
    rank: int
    name: str
    status: str
    detail: dict[str, Any]


class DroppedFrame(NamedTuple):
    """``DROPPED <seq>``: the server has forgotten this client's ASK ``seq``; no more answers to it come."""

    seq: int


class RosterEntry(NamedTuple):
    """One client in the roster."""

    rank: int
    name: str
    rank_class: int = 0


class RosterFrame(NamedTuple):
    """``ROSTER {json}``: the clients from rank ``start`` on, out of ``total``."""

    total: int
    start: int
    members: list[RosterEntry]


class ErrFrame(NamedTuple):
    """``ERR <code> <text>``: a line was rejected and had no effect."""

    code: str
    text: str


class ByeFrame(NamedTuple):
    """``BYE <code> <text>``: the server closes the connection."""

    code: str
    text: str


ClientFrame = Hello | Submit | Result | Who | Leave | Ping | Pong
ServerFrame = (
    InfoFrame
    | WelcomeFrame
    | JoinFrame
    | LeftFrame
    | CommandFrame
    | AnswerFrame
    | DroppedFrame
    | RosterFrame
    | ErrFrame
    | ByeFrame
    | Ping
    | Pong
)
