"""JSON as part of a line: written to fit the text rule, and parsed within fixed bounds.

Python's own parser is fast but too lenient: it accepts unpaired surrogates, as well as ``NaN`` and
``Infinity``, and how deep it nests depends on its caller's stack, so one side might accept what the other
rejects. So there are two more checks, one for texts with many brackets, and one for texts with an escaped
surrogate. Both kinds are rare.

The text may come from a stranger who wants to keep us busy. So each step takes time linear in its length, and
nearly all of it in Python's own C code; the parser's fuzzer measures it.
"""

from __future__ import annotations

import itertools
import json
import re
from typing import Any, Final, NoReturn

# How deep objects and arrays may be nested. Answers have a depth of one or two.
MAX_NESTING: Final = 64
# The most objects and arrays in a text, besides those that its length allows. Making one takes longer than
# parsing anything else that is as short.
MAX_CONTAINERS: Final = 4096
# A text may have one more for each of this many characters: only one that is little but brackets has more.
CHARACTERS_PER_CONTAINER: Final = 8

# Characters that the encoder does not escape, although the text rule forbids them.
_MUST_ESCAPE: Final = re.compile(r"[\x7f-\x9f]")

# The first digit behind the d of an escape tells which half of a pair it is, if any.
_HIGH_HALF: Final = "89abAB"
_LOW_HALF: Final = "cdefCDEF"


def encode(value: object) -> bytes:
    """Write JSON without spaces, in UTF-8, with escapes only for what a line must not contain.

    An unpaired surrogate is no character, and becomes U+FFFD.
    """
    text = _MUST_ESCAPE.sub(lambda match: f"\\u{ord(match[0]):04x}", _ENCODER.encode(value))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def parse(text: str) -> Any:
    """Parse one JSON value, with spaces and tabs around it. O(len(text)).

    Raises:
        ValueError: says what is wrong, and repeats nothing of the text, which may hold secrets.
    """
    return _parse(text, _DECODER)


def parse_without_fractions(text: str) -> Any:
    """Do the same as ``parse``, but with True for each fraction, because these take longest to compute."""
    return _parse(text, _FAST_DECODER)


def shape(text: str) -> bytes:
    """Return the brackets of JSON outside of strings, in order: 1 opens, and 0 closes. O(len(text))."""
    data = text.encode()
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = data.translate(_MARKS, _OTHERS)
    if b'"' in brackets:  # two quotes in a row change nothing
        brackets = b"".join(brackets.replace(b'""', b"").split(b'"')[::2])
    return brackets


def is_deeper(brackets: bytes, most: int) -> bool:
    """Tell whether the brackets that ``shape`` returns are nested more than ``most`` deep. O(brackets)."""
    # Eight at a time become one byte, for which there are tables.
    size = len(brackets) // 8 + 1
    depth = 0
    for byte in int(brackets.ljust(8 * size, b"0"), 2).to_bytes(size, "big"):
        if depth + _RISES[byte] > most:
            return True
        depth += _BALANCES[byte]
    return False


def _parse(text: str, decoder: json.JSONDecoder) -> Any:
    text = text.strip(" \t")
    if len(text) > MAX_NESTING and text.count("{") + text.count("[") > MAX_NESTING:
        _check_brackets(text)
    try:
        value, end = decoder.raw_decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at position {error.pos}") from None
    if end < len(text):
        raise ValueError(f"more text behind it at position {end}")
    if "\\u" in text and ("\\ud" in text or "\\uD" in text) and _has_unpaired_surrogate(text):
        raise ValueError("an unpaired surrogate")
    return value


def _check_brackets(text: str) -> None:
    brackets = shape(text)
    if is_deeper(brackets, MAX_NESTING):
        raise ValueError(f"nested more than {MAX_NESTING} deep")
    if brackets.count(b"1") > MAX_CONTAINERS + len(text) // CHARACTERS_PER_CONTAINER:
        raise ValueError("too many objects and arrays")


def _has_unpaired_surrogate(text: str) -> bool:
    """Tell whether valid JSON escapes one half of a surrogate pair without the other. O(len(text))."""
    # An escaped backslash begins no other escape. It may stand between two halves, so something must stay.
    _, *escapes = text.replace("\\\\", "--").replace("\\uD", "\\ud").split("\\ud")
    is_half_open = False
    for digits in escapes:
        if (digits[0] in _LOW_HALF) != is_half_open:
            return True
        is_half_open = digits[0] in _HIGH_HALF
        # The other half must follow its three digits at once.
        if is_half_open and len(digits) > 3:
            return True
    return False


def _depths(byte: int) -> list[int]:
    """Return the depth after each of eight brackets: a bit that is set opens, and the highest comes first."""
    return list(itertools.accumulate(1 if byte >> bit & 1 else -1 for bit in reversed(range(8))))


def _reject_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


# For the shape of a text, brackets become binary digits, and all other bytes except quotes are deleted.
_MARKS: Final = bytes.maketrans(b"[{]}", b"1100")
_OTHERS: Final = bytes(byte for byte in range(256) if byte not in b'[{]}"')
# The greatest and the last of the depths of any eight brackets.
_RISES: Final = tuple(max(_depths(byte)) for byte in range(256))
_BALANCES: Final = tuple(_depths(byte)[-1] for byte in range(256))
# Made once: json.dumps and json.loads would make new ones for each call.
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_DECODER: Final = json.JSONDecoder(parse_constant=_reject_constant)
_FAST_DECODER: Final = json.JSONDecoder(parse_constant=_reject_constant, parse_float=bool)
