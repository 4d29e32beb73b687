"""What a person reads: each event in words, docs/design.md lists them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from rankserver.client import events
from rankserver.client.display import visible
from rankserver.wire import frames, protocol
from rankserver.wire.exceptions import DisconnectedError

_STATUS: Final = {"ok": "executed", "fail": "failed", "timeout": "timed out"}  # the others are words already
HELP: Final = (
    "a line        is a command: all who rank lower execute it",
    "? or :who     who is here, by rank",
    ":help         this",
    "exit or quit  leave, as Ctrl-D does",
    "a space       before any of these sends the line as a command",
)


class Line(NamedTuple):
    """One line for a person; ``kind`` says what it is about, for whoever colours it or sorts it out."""

    kind: str
    text: str


class Unfinished(NamedTuple):
    """We leave while our ASK ``seq`` has so many answers of so many."""

    seq: int
    answered: int
    targets: int


class Unlogged(NamedTuple):
    """We leave before our command was seen in the log: it may be there, or not."""

    text: str


class Unsent(NamedTuple):
    """This command was not sent; ``reason`` says why it cannot be, and is empty if we just leave before."""

    text: str
    reason: str = ""


Happening = events.Event | Unfinished | Unlogged | Unsent
Describe = Callable[[Happening], list[Line]]
RESULTS: Final = frozenset({"out", "answer", "done", "json"})  # kinds that a command is given for


class Words:
    """Events as lines; those that are not worth a line give none.

    Args:
        address: of the server.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def __call__(self, happened: Happening) -> list[Line]:
        """Return what happened in words, with what others sent made visible."""
        if isinstance(happened, events.Answer):
            return answer(happened)
        line = self._describe(happened)
        return [Line(line.kind, visible(line.text))] if line else []

    def _describe(self, happened: Happening) -> Line | None:
        match happened:
            case events.Sent(seq, text):
                return Line("sent", f"sent #{seq}: {text}")
            case events.Started(command):
                return Line("execute", f"executing #{command.seq} from rank {command.rank}: {command.text}")
            case events.Finished(command, outcome):
                return _finished(command, outcome)
            case events.Refused(seq, rank, text):
                return Line("refuse", f"cannot execute #{seq} from lower-ranked rank {rank}: {text}")
            case events.AskDone():
                return Line("done", summary(happened))
            case events.Rejected(code, text, command):
                what = "a frame" if command is None else f"the command {command!r}"
                return Line("error", f"the server rejected {what}: {code} {text}")
            case Unfinished(seq, answered, targets):
                return Line("error", f"#{seq}: {answered} of {targets} answers")
            case Unlogged(text):
                return Line("error", f"not seen in the log: {text}")
            case Unsent(text, ""):  # with a reason, the person has had a complaint
                return Line("error", f"not sent: {text}")
        return self._of_connection(happened)

    def _of_connection(self, happened: Happening) -> Line | None:
        match happened:
            case events.Connected(name, rank, clients):
                return Line("rank", f"connected to {self._address} as {name}: rank {rank} of {clients}")
            case events.RankChanged(rank, clients):
                return Line("rank", f"rank is now {rank} of {clients}")
            case events.Lost(command):
                return Line("error", f"connection lost before this was seen in the log: {command}")
            case events.Disconnected(code, text):
                return Line("error", f"disconnected: {DisconnectedError(code, text)}")
            case events.Retrying(text, delay):
                why = f"{text}; " if text else ""
                return Line("error", f"{why}trying again in {delay:.1f} s")
        return None


def cannot_send(unsent: Unsent) -> str:
    """Return the complaint about a command that cannot be sent, which may be any bytes, and as many."""
    text, reason = unsent
    named = f" {text[: protocol.MAX_SHOWN]!r}" if text else ""
    more = "..." if len(text) > protocol.MAX_SHOWN else ""
    return f"cannot send{visible(named)}{more}: {visible(reason)}"


def _finished(command: events.Execute, outcome: events.Outcome) -> Line:
    what = _STATUS.get(outcome.status, outcome.status)
    reason = outcome.status != "ok" and (outcome.detail or {}).get("reason")
    return Line("execute", f"{what} #{command.seq}: {command.text}" + (f" ({reason})" if reason else ""))


def summary(done: events.AskDone) -> str:
    """Return the counts of an ask, in words; each target is in one of them."""
    counts = done.counts
    words = (
        (", refused by", counts.refused),
        (", failed by", counts.failed),
        (", denied by", counts.denied),
        (", timed out at", counts.timeout),
        (", gone", counts.gone),
    )
    rest = "".join(f"{word} {count}" for word, count in words if count)
    return f"#{done.seq}: executed by {counts.ok} of {done.may_execute}{rest}"


def answer(given: events.Answer) -> list[Line]:
    """Return one answer: its output line by line after `` | ``, and what became of it after ``:``."""
    who = f"#{given.seq} rank {given.rank} {visible(given.name)}".rstrip()
    lines = [Line("out", f"{who} | {line}") for line in output(given)]
    if not lines or given.status != "ok" or given.truncated:
        lines.append(Line("answer", f"{who}: {outcome(given)}"))
    return lines


def output(given: events.Answer) -> list[str]:
    """Return the lines of an answer's output, made visible."""
    text = content(given)
    return [visible(line) for line in text.split("\n")] if text else []


def content(given: events.Answer) -> str:
    """Return an answer's output with LF alone between its lines, and nothing behind the last one."""
    return given.out.removesuffix("\n").replace("\r\n", "\n").removesuffix("\r")


def outcome(given: events.Answer) -> str:
    """Return what became of a command at one client."""
    words = _STATUS.get(given.status, given.status)
    if given.status == "fail" and given.code is not None:
        words += f" with exit code {given.code}"
    if given.reason:
        words += f" ({visible(given.reason)})"
    return words + (", output truncated" if given.truncated else "")


def roster(members: tuple[frames.RosterEntry, ...], own_rank: int | None) -> list[Line]:
    """Return who is here as a table, by rank, with the own place marked."""
    has_classes = any(member.rank_class for member in members)
    cells = [("rank", "class", "name")]
    cells += [(str(member.rank), str(member.rank_class), visible(member.name)) for member in members]
    ranks, classes = (max(len(row[column]) for row in cells) for column in (0, 1))
    rows = []
    for (rank, rank_class, name), member in zip(cells, (None, *members), strict=True):
        mark = "*" if member is not None and member.rank == own_rank else " "
        middle = f"  {rank_class:>{classes}}" if has_classes else ""
        rows.append(f"{mark} {rank:>{ranks}}{middle}  {name}")
    return [Line("roster", row) for row in rows]
