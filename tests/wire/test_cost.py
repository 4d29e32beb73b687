"""The time that parsing takes per byte, whatever a line holds: the server's turns rely on this bound."""

from __future__ import annotations

from typing import Final

import pytest

from fuzz import cost, grammar
from fuzz.python import FailureError


def many(value: bytes, first: bytes = b"") -> bytes:
    """Return a long JSON object that holds ``first`` and then ``value`` over and over again."""
    count = grammar.LONG // (len(value) + 1)
    return b'{"a":[' + b",".join([first, *[value] * count] if first else [value] * count) + b"]}"


def string(piece: bytes) -> bytes:
    return b'{"out":"' + piece * (grammar.LONG // len(piece)) + b'"}'


# With these, the depth of what follows is measured as well.
BRACKETS: Final = b"[]," * 65 + b"[]"
KINDS: Final = {
    "brackets": b'{"a":' + b"[" * grammar.LONG,
    "objects": b'{"a":' * (grammar.LONG // 5),
    "brackets and quotes": b'{"a":["' * (grammar.LONG // 7),
    "empty arrays": many(b"[]"),
    "empty objects": many(b"{}"),
    "arrays 60 deep": many(b"[" * 60 + b"]" * 60),
    "as many arrays as allowed": many(b"1", b"[" * 60 + b"]" * 60 + (b",[" + b"[" * 59 + b"]" * 60) * 180),
    "as many objects as allowed": b"{" + b",".join(b'"%d":{"":{}}' % number for number in range(4500)) + b"}",
    "objects 60 deep": many(b'{"":' * 60 + b"1" + b"}" * 60),
    "one array too deep": many(b"[" * 60 + b"]" * 60, b"[" * 64 + b"]" * 64),
    "duplicate keys": b'{"b":0' + b',"a":1' * (grammar.LONG // 6) + b"}",
    "digits": many(b"1", BRACKETS),
    "numbers": many(b"-12345", BRACKETS),
    "the longest numbers": many(b"9" * 4300),
    "a number too long": many(b"9" * 60_000),
    "short fractions": many(b"1.5", BRACKETS),
    "powers": many(b"1e9", BRACKETS),
    "small fractions": many(b"1e-300", BRACKETS),
    "the smallest fractions": many(b"2.2250738585072011e-308"),
    "long fractions": many(b"1." + b"3" * 800),
    "empty strings": many(b'""', BRACKETS),
    "brackets in strings": many(b'"["', BRACKETS),
    "strings": many(b'"a"', BRACKETS),
    "escaped quotes": string(b'\\"'),
    "escaped backslashes": string(b"\\\\"),
    "escaped line ends": string(b"\\n"),
    "escapes": string(b"\\u00e4"),
    "escapes like surrogates": string(b"\\ud7ff"),
    "pairs of surrogates": string(b"\\ud83d\\uDE00"),
    "a last surrogate unpaired": string(b"\\ud83d\\ude00")[:-2] + b'\\ud800"}',
    "two-byte characters": string("ä".encode()),
    "four-byte characters": string("😀".encode()),
    "mixed characters": string("aä€😀".encode()),
    "tabs": b'{"a":"b"}' + b"\t" * grammar.LONG,
    "tabs among others": string("\t€".encode()),
    "words": many(b"true"),
    "numbers in words": b"1-2," * (grammar.LONG // 4),
    "spaces": b" " * grammar.LONG,
    "bad UTF-8": string("ä".encode()) + b"\xff",
    "a control character": string("\u2028".encode()) + b"\x00",
}
HEADS: Final = (b"HELLO ", b"RES 1 ok ", b"RES ", b"PING ", b"ASK ", b"HELLO", b'HELLO {"name":')


@pytest.mark.parametrize("kind", KINDS)
def test_no_line_from_a_client_takes_long_for_its_length(kind: str) -> None:
    for head in HEADS:
        tail = b"}" if head.endswith(b":") else b""
        cost.check(cost.FROM_CLIENT, head + KINDS[kind] + tail)


@pytest.mark.parametrize("kind", KINDS)
def test_no_line_from_a_server_takes_long_for_its_length(kind: str) -> None:
    for head in (b"RES 1 0 a ok ", b"WELCOME ", b"ROSTER ", b"INFO ", b"ERR x "):
        cost.check(cost.FROM_SERVER, head + KINDS[kind])


def test_a_line_that_takes_too_long_is_found() -> None:
    slow = cost.FROM_CLIENT._replace(parse=lambda line: [byte for _ in range(50) for byte in line])
    with pytest.raises(FailureError, match=r"ns a byte; \d+ are allowed\ninput: "):
        cost.check(slow, b"x" * 10_000)
