"""JSON as part of a line: written to fit the text rule, and parsed within fixed bounds.

How deep Python's own parser nests depends on its caller's stack, so one side might accept what the other
rejects. It also accepts ``NaN`` and ``Infinity``, which are not JSON.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

# How deep objects and arrays may be nested. Answers have a depth of one or two.
MAX_NESTING: Final = 64

# A string, in text whose escapes were removed. A string that does not end takes the rest of the text:
# searching for the next quote from each of them would take quadratic time.
_STRING: Final = re.compile(r'"[^"]*(?:"|\Z)')
_ESCAPE: Final = re.compile(r"\\.")
_BRACKET: Final = re.compile(r"[][{}]")
# Characters that the encoder does not escape, although the text rule or UTF-8 forbids them.
_MUST_ESCAPE: Final = re.compile(r"[\x7f-\x9f\ud800-\udfff]")


def encode(value: object) -> bytes:
    """Write JSON without spaces, in UTF-8, with escapes only for what a line must not contain."""
    text = _ENCODER.encode(value)
    return _MUST_ESCAPE.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode()


def is_too_deep(text: str) -> bool:
    """Tell whether objects and arrays are nested more than ``MAX_NESTING`` deep. O(len(text))."""
    # Only text with that many brackets needs a closer look, and hardly any has.
    if len(text) <= MAX_NESTING or text.count("{") + text.count("[") <= MAX_NESTING:
        return False
    return _depth(text) > MAX_NESTING


def parse(text: str) -> Any:
    """Parse one JSON value, with spaces and tabs around it. Check ``is_too_deep`` first.

    Raises:
        ValueError: says what is wrong.
    """
    text = text.strip(" \t")
    value, end = _DECODER.raw_decode(text)
    if end < len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def _depth(text: str) -> int:
    deepest = depth = 0
    for bracket in _BRACKET.findall(_STRING.sub("", _ESCAPE.sub("", text))):
        depth += 1 if bracket in "{[" else -1
        deepest = max(deepest, depth)
    return deepest


def _reject_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


# Made once: json.dumps and json.loads would make new ones for each call.
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_DECODER: Final = json.JSONDecoder(parse_constant=_reject_constant)
