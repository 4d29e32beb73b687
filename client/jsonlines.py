"""Events for programs: each is one JSON object on a line. docs/scripts.md lists them."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import Any

from client.exits import exit_code
from client.words import DisplayEvent, Line
from rankserver.client import events

_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")


def render_json(happened: DisplayEvent) -> list[Line]:
    """Return the event's fields, and its name as ``event``: ``AskDone`` is ``ask_done``."""
    values = {name: _plain(value) for name, value in _fields(happened).items()}
    if isinstance(happened, events.AskDone):
        values["exit"] = int(exit_code(happened))
    return [line(_WORD.sub("_", type(happened).__name__).lower(), **values)]


def line(event: str, **fields: object) -> Line:
    """Return one object, in ASCII, so that no text in it can end the line or fail to be written."""
    return Line("json", json.dumps({"event": event, **fields}, separators=(",", ":")))


def _fields(happened: DisplayEvent) -> dict[str, Any]:
    """Return the fields that are part of an event's value."""
    if isinstance(happened, tuple):
        return happened._asdict()
    return {field.name: getattr(happened, field.name) for field in fields(happened) if field.compare}


def _plain(value: object) -> object:
    """Return named tuples as objects, all the way down."""
    if isinstance(value, tuple):
        names = getattr(value, "_fields", None)
        if names is not None:
            return {name: _plain(item) for name, item in zip(names, value, strict=True)}
        return [_plain(item) for item in value]
    return value
