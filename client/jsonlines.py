"""What a program reads: each event as one JSON object on a line; docs/scripts.md lists them."""

from __future__ import annotations

import json
import re

from client.console import exit_code
from client.words import Happening, Line
from rankserver.client import events

_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")


def describe(happened: Happening) -> list[Line]:
    """Return what happened as its fields, and its name as ``event``: ``AskDone`` is ``ask_done``."""
    fields = {name: _plain(value) for name, value in happened._asdict().items()}
    if isinstance(happened, events.AskDone):
        fields["exit"] = int(exit_code(happened))
    return [line(_WORD.sub("_", type(happened).__name__).lower(), **fields)]


def line(event: str, **fields: object) -> Line:
    """Return one object: ASCII, so that no text in it can end the line or fail to be written."""
    return Line("json", json.dumps({"event": event, **fields}, separators=(",", ":")))


def _plain(value: object) -> object:
    """Return named tuples as objects, all the way down."""
    if isinstance(value, tuple):
        names = getattr(value, "_fields", None)
        if names is not None:
            return {name: _plain(item) for name, item in zip(names, value, strict=True)}
        return [_plain(item) for item in value]
    return value
