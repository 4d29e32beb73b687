"""Events for people: each in words. docs/design.md, "What a person sees", explains them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from rankserver.client import events
from rankserver.client.display import visible
from rankserver.wire import frames, grammar
from rankserver.wire.exceptions import DisconnectedError

# Statuses in words; the others are words already.
STATUS_WORDS: Final = {"ok": "executed", "fail": "failed", "timeout": "timed out"}
HELP: Final = (
    "a line        is a command: all clients of lower rank execute it",
    "? or :who     who is here, by rank",
    ":help         this",
    "exit or quit  leave, as Ctrl-D does",
    "a space       before any of these sends the line as a command",
)


class Line(NamedTuple):
    """One line for a person; ``kind`` says what it is about, which decides its colour and where it goes."""

    kind: str
    text: str


class Unfinished(NamedTuple):
    """We leave while our ASK ``seq`` has only ``answered`` of its ``targets`` answers."""

    seq: int
    answered: int
    targets: int


class Unlogged(NamedTuple):
    """We leave before we have seen our command in the log, so it may be there or not."""

    text: str


class Unsent(NamedTuple):
    """This command was not sent.

    ``reason`` says why it cannot be sent; it is empty if we leave before its turn.
    """

    text: str
    reason: str = ""


DisplayEvent = events.Event | Unfinished | Unlogged | Unsent
Renderer = Callable[[DisplayEvent], list[Line]]
# The kinds of lines that are results: they go to standard output.
RESULTS: Final = frozenset({"out", "answer", "done", "json"})


def render_text(happened: DisplayEvent, *, address: str) -> list[Line]:
    """Return what happened in words, or no lines if it is not worth one. Control characters become visible.

    Args:
        happened: what happened.
        address: the server's address.
    """
    if isinstance(happened, events.Answer):
        return render_answer(happened)
    if isinstance(happened, events.Connected):
        where = f"connected to {address} as {happened.name}"
        return [Line("rank", visible(f"{where}: rank {happened.rank} of {happened.clients}"))]
    describe = _DESCRIPTIONS.get(type(happened))
    line = describe(happened) if describe else None
    return [Line(line.kind, visible(line.text))] if line else []


def cannot_send(unsent: Unsent) -> str:
    """Return the complaint about a command that cannot be sent, which may be of any length and content."""
    text, reason = unsent
    named = f" {text[: grammar.MAX_SHOWN]!r}" if text else ""
    more = "..." if len(text) > grammar.MAX_SHOWN else ""
    return f"cannot send{visible(named)}{more}: {visible(reason)}"


def _describe_finished(event: events.Finished) -> Line:
    command, outcome = event
    what = STATUS_WORDS.get(outcome.status, outcome.status)
    reason = outcome.status != "ok" and (outcome.detail or {}).get("reason")
    return Line("execute", f"{what} #{command.seq}: {command.text}" + (f" ({reason})" if reason else ""))


def _describe_started(event: events.Started) -> Line:
    command = event.command
    return Line("execute", f"executing #{command.seq} from rank {command.rank}: {command.text}")


def _describe_refused(event: events.Refused) -> Line:
    return Line("refuse", f"cannot execute #{event.seq} from lower-ranked rank {event.rank}: {event.text}")


def _describe_rejected(event: events.Rejected) -> Line:
    what = "a frame" if event.command is None else f"the command {event.command!r}"
    return Line("error", f"the server rejected {what}: {event.code} {event.text}")


def _describe_retrying(event: events.Retrying) -> Line:
    why = f"{event.text}; " if event.text else ""
    return Line("error", f"{why}trying again in {event.delay:.1f} s")


def _describe_unsent(event: Unsent) -> Line | None:
    """Return None if there is a reason: then the person has already seen a complaint."""
    return None if event.reason else Line("error", f"not sent: {event.text}")


_DESCRIPTIONS: Final[Mapping[type[DisplayEvent], Callable[[Any], Line | None]]] = {
    events.Sent: lambda event: Line("sent", f"sent #{event.seq}: {event.text}"),
    events.Started: _describe_started,
    events.Finished: _describe_finished,
    events.Refused: _describe_refused,
    events.AskDone: lambda event: Line("done", summary(event)),
    events.Rejected: _describe_rejected,
    events.RankChanged: lambda event: Line("rank", f"rank is now {event.rank} of {event.clients}"),
    events.Lost: lambda event: Line(
        "error", f"connection lost before this was seen in the log: {event.command}"
    ),
    events.Disconnected: lambda event: Line("error", f"disconnected: {DisconnectedError(*event)}"),
    events.Retrying: _describe_retrying,
    Unfinished: lambda event: Line("error", f"#{event.seq}: {event.answered} of {event.targets} answers"),
    Unlogged: lambda event: Line("error", f"not seen in the log: {event.text}"),
    Unsent: _describe_unsent,
}


def summary(done: events.AskDone) -> str:
    """Return the counts of a command in words; each target is counted once."""
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


def render_answer(given: events.Answer) -> list[Line]:
    """Return the lines for one answer: each line of output after `` | ``, and the outcome after ``:``."""
    who = f"#{given.seq} rank {given.rank} {visible(given.name)}".rstrip()
    lines = [Line("out", f"{who} | {line}") for line in output(given)]
    if not lines or given.status != "ok" or given.truncated:
        lines.append(Line("answer", f"{who}: {outcome(given)}"))
    return lines


def output(given: events.Answer) -> list[str]:
    """Return the lines of an answer's output, made visible."""
    return visible_lines(content(given))


def visible_lines(text: str) -> list[str]:
    """Return the lines of a text, made visible; none of an empty one."""
    return [visible(line) for line in text.split("\n")] if text else []


def content(given: events.Answer) -> str:
    """Return an answer's output with only LF between its lines, and nothing after the last one."""
    return given.out.removesuffix("\n").replace("\r\n", "\n").removesuffix("\r")


def outcome(given: events.Answer) -> str:
    """Return the outcome of a command at one client, in words."""
    words = STATUS_WORDS.get(given.status, given.status)
    if given.status == "fail" and given.code is not None:
        words += f" with exit code {given.code}"
    if given.reason:
        words += f" ({visible(given.reason)})"
    return words + (", output truncated" if given.truncated else "")


def render_roster(members: tuple[frames.RosterEntry, ...], own_rank: int | None) -> list[Line]:
    """Return the roster as a table, by rank, with our own row marked."""
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
