from __future__ import annotations

import json
import re
from typing import Any, get_args

import pytest

from client import jsonlines
from client.words import RESULTS, DisplayEvent, Unfinished
from rankserver.client import events
from tests.support.paths import ROOT

COMMAND = events.Execute(18, 0, "df -h", True, 1, "me")
HOSTILE = 'a"\\\x00\x1b[2J\r\n\x85\u2028\u202e\ud83dü🙂'


def described(happened: DisplayEvent) -> dict[str, Any]:
    (line,) = jsonlines.render_json(happened)
    assert line.kind in RESULTS
    assert line.text.isascii()
    assert line.text.isprintable()
    fields = json.loads(line.text)
    assert isinstance(fields, dict)
    return fields


@pytest.mark.parametrize(
    ("happened", "fields"),
    [
        (
            events.Connected("me", 1, 3, 9),
            {"event": "connected", "name": "me", "rank": 1, "clients": 3, "seq": 9, "rank_class": 0},
        ),
        (
            events.Sent(17, "uptime", True, 2),
            {"event": "sent", "seq": 17, "text": "uptime", "wants_answer": True, "targets": 2},
        ),
        (
            events.Finished(COMMAND, events.Outcome("fail", {"code": 3, "out": "x"})),
            {
                "event": "finished",
                "command": {
                    "seq": 18,
                    "rank": 0,
                    "text": "df -h",
                    "wants_answer": True,
                    "own_rank": 1,
                    "own_name": "me",
                },
                "outcome": {"status": "fail", "detail": {"code": 3, "out": "x"}},
            },
        ),
        (
            events.Answer(17, 5, "web-5", "ok", 0, "x\n", 12),
            {
                "event": "answer",
                "seq": 17,
                "rank": 5,
                "name": "web-5",
                "status": "ok",
                "code": 0,
                "out": "x\n",
                "ms": 12,
                "truncated": False,
                "reason": "",
            },
        ),
        (events.ClientsChanged(3, 9), {"event": "clients_changed", "clients": 3, "seq": 9}),
        (Unfinished(5, 2, 3), {"event": "unfinished", "seq": 5, "answered": 2, "targets": 3}),
    ],
)
def test_an_event_is_an_object_with_its_fields(happened: DisplayEvent, fields: dict[str, Any]) -> None:
    assert described(happened) == fields


@pytest.mark.parametrize(
    ("may_execute", "counts", "code"),
    [
        (1, events.Counts(ok=1, refused=2), 0),
        (0, events.Counts(refused=2), 5),
        (0, events.Counts(gone=1), 5),
        (2, events.Counts(ok=1, failed=1), 6),
        (2, events.Counts(ok=1, gone=1), 6),
    ],
)
def test_the_end_of_an_ask_has_counts_and_an_exit_code(
    may_execute: int, counts: events.Counts, code: int
) -> None:
    fields = described(events.AskDone(17, "uptime", may_execute, counts))
    assert fields == {
        "event": "ask_done",
        "seq": 17,
        "text": "uptime",
        "may_execute": may_execute,
        "counts": counts._asdict(),
        "exit": code,
    }


@pytest.mark.parametrize(
    ("happened", "path"),
    [
        (events.Answer(17, 5, HOSTILE, "ok"), ["name"]),
        (events.Answer(17, 5, "a", "ok", out=HOSTILE), ["out"]),
        (events.Refused(17, 5, HOSTILE), ["text"]),
        (events.Started(COMMAND._replace(text=HOSTILE)), ["command", "text"]),
        (events.Disconnected("", HOSTILE), ["text"]),
    ],
)
def test_text_of_others_is_kept_but_cannot_end_the_line(happened: DisplayEvent, path: list[str]) -> None:
    value: Any = described(happened)
    for key in path:
        value = value[key]
    assert value == HOSTILE


def test_the_guide_has_each_event_with_all_its_fields() -> None:
    guide = (ROOT / "docs" / "scripts.md").read_text()
    examples = [json.loads(found) for found in re.findall(r"`({\"event\":.*?})` \|", guide)]
    shown = {example.pop("event"): set(example) for example in examples}
    # A roster comes only if a person asks for it.
    kinds = [kind for kind in get_args(DisplayEvent) if kind is not events.RosterReceived]
    names = [re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower() for kind in kinds]
    expected = {name: set(kind.__match_args__) - {"handle"} for name, kind in zip(names, kinds, strict=True)}
    expected["ask_done"].add("exit")
    assert shown == {**expected, "exit": {"code", "error"}}
