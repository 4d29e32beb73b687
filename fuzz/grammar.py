"""Random lines that more or less follow the protocol."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from rankserver.wire import protocol

CLIENT_VERBS: Final = (*map(str.encode, protocol.CLIENT_VERBS), b"cmd", b"RE", b"")
# Rare, because a second INFO or a BYE ends the session, and nothing is read after it. NEW is a verb of a
# later version.
RARE_SERVER_VERBS: Final = (b"INFO", b"BYE", b"NEW")
SERVER_VERBS: Final = tuple(
    verb for verb in map(str.encode, protocol.SERVER_VERBS) if verb not in RARE_SERVER_VERBS
)
NUMBERS: Final = (
    *(b"0", b"1", b"2", b"7", b"007", b"999999", b"1000000", b"%d" % (2**63 - 1), b"%d" % 2**63),
    *(b"9" * 19, b"9" * 20, b"-1", b"1.5", b"", b"\xd9\xa1", b"x"),
)
STATUSES: Final = (b"ok", b"fail", b"refused", b"denied", b"timeout", b"OK", b"")
JSON: Final = (
    b"{}",
    b'{"code":1,"out":"x","ms":3,"truncated":true,"reason":"r"}',
    b'{"name":"a","token":"t","proto":1}',
    b'{"name":"a b"}',
    b'{"proto":2}',
    b'{"proto":true}',
    b'{"resume":{"session":"s","seq":3}}',
    b'{"resume":{"session":"s","seq":-3}}',
    b'{"total":1,"from":0,"clients":[{"rank":0,"name":"a"}]}',
    b'{"total":2,"from":0,"clients":[{"rank":0,"name":"a","class":1}]}',
    b'{"total":1e999,"from":null,"clients":3}',
    b'{"out":"\\ud800"}',
    b'{"a":NaN}',
    b'{"a":' + b"[" * 2000,
    b"[" * 30 + b"]" * 30,
    b'{"a":1}{',
    b"{",
    b"null",
    b'{"code":' + b"9" * 5000 + b"}",
)
# Characters of two to four bytes, bytes that are not UTF-8, and characters that move a cursor or end a line.
ODD: Final = (
    *(b"\xc3\xa4", b"\xe2\x82\xac", b"\xf0\x9f\x98\x80", b"\xef\xbb\xbf"),
    *(b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\xc3"),
    *(b"\xc2\x85", b"\xe2\x80\xa8", b"\x1b[2J", b"\x00", b"\t", b"\r", b" ", b"\x7f"),
)


def text(rng: random.Random) -> bytes:
    """Return a text that mostly follows the text rule."""
    parts = [
        rng.choice((b"ls", b"a b", b"x" * rng.randrange(40), b"{}", b'"', b"0"))
        for _ in range(rng.randrange(3))
    ]
    if rng.random() < 0.2:
        parts.append(rng.choice(ODD))
    return b"".join(parts)


def client_line(rng: random.Random) -> bytes:
    """Return a line, mostly a valid one, as from a client, without its LF."""
    verb = rng.choice(CLIENT_VERBS)
    gap = b" " if rng.random() < 0.9 else rng.choice((b"", b"\t", b"  "))
    if verb == b"RES":
        rest = b" ".join((rng.choice(NUMBERS), rng.choice(STATUSES), rng.choice(JSON)))
    elif verb == b"HELLO" or rng.random() < 0.05:
        rest = rng.choice(JSON)
    else:
        rest = text(rng)
    line = verb + gap + rest
    return line if rng.random() < 0.9 else line[: rng.randrange(len(line) + 1)] + text(rng)


def server_line(rng: random.Random, seq: int, clients: int) -> bytes:
    """Return a line, mostly a valid one, as from a server whose next log frame is ``seq``."""
    verb = rng.choice(SERVER_VERBS if rng.random() < 0.97 else RARE_SERVER_VERBS)
    number = b"%d" % seq if rng.random() < 0.97 else rng.choice(NUMBERS)
    rank = b"%d" % rng.randrange(clients + 1) if rng.random() < 0.95 else rng.choice(NUMBERS)
    if verb in (b"JOIN", b"LEFT"):
        ranks = (
            rank if rng.random() < 0.8 else rng.choice((b"0-1", b"1,2", b"2-1", b"0,0", b"0-9999999", b","))
        )
        return b" ".join((verb, number, ranks))
    if verb in (b"CMD", b"ASK"):
        return b" ".join((verb, number, rank, text(rng)))
    if verb == b"RES":
        asked = b"%d" % max(seq - rng.randrange(4), 0)
        return b" ".join((verb, asked, rank, b"n" + rank, rng.choice(STATUSES), rng.choice(JSON[:2] + JSON)))
    if verb == b"DROPPED":
        return b"DROPPED " + (b"%d" % max(seq - rng.randrange(4), 0) if rng.random() < 0.95 else number)
    if verb in (b"ROSTER", b"INFO", b"WELCOME"):
        return verb + b" " + rng.choice(JSON)
    return verb + b" " + text(rng)


# --- long lines -------------------------------------------------------------------------------

# The bytes of a long line.
LONG: Final = 65_000
# What comes before JSON or text in a long line from a client and from a server. Some of it is not valid.
CLIENT_HEADS: Final = (b"HELLO ", b"RES 1 ok ", b"PING ", b"ASK ", b"CMD ", b"HELLO", b"RES ", b"RES 1 ", b"")
SERVER_HEADS: Final = (
    *(b"RES 1 0 a ok ", b"ROSTER ", b"WELCOME ", b"INFO ", b"PING ", b"CMD 1 0 ", b"ASK 1 0 ", b"JOIN 1 "),
    *(b"LEFT 1 ", b"ERR ", b"BYE ", b"RES 1 0 ", b""),
)
# Values that take long to parse for their length.
VALUES: Final = (
    *(b"[]", b"{}", b"[[]]", b'{"":[]}', b"[" * 60 + b"]" * 60, b'{"":' * 60 + b"1" + b"}" * 60),
    *(b"1", b"-1", b"12345678901", b"9" * 4000, b"true", b"null"),
    *(b"1.5", b"1e9", b"1e-300", b"2.2250738585072011e-308", b"1." + b"3" * 800),
    *(b'""', b'"a"', b'"["', b'"\\""', b'"\\\\"', b'"\\u00e4"', b'"\\ud7ff"', b'"\\ud83d\\ude00"'),
    *('"ä"'.encode(), '"ä€"'.encode(), '"😀"'.encode()),
    *(b'{"a":1,"a":1}', b'{"rank":0,"name":"a"}'),
)
# Pieces of a string that take long to parse for their length.
CHARACTERS: Final = (
    *(b"a", b"[", b"\\n", b'\\"', b"\\\\", b"\\u0041", b"\\ud7ff", b"\\ud83d\\ude00", b"\\uD83D\\uDE00"),
    *(b"\t", "\u2028".encode(), "ä".encode(), "€".encode(), "😀".encode(), b"1,", b"1-2,"),
)


def long_json(rng: random.Random, size: int) -> bytes:
    """Return JSON of about ``size`` bytes that takes long to parse."""
    kind = rng.randrange(3)
    if kind == 0:
        return b'{"a":"%s"}' % _repeated(rng, CHARACTERS, b"", size)
    # With these brackets, the depth is looked at as well.
    many = b"[]," * rng.choice((0, 65))
    if kind == 1:
        return b'{"%s":[%s%s]}' % (rng.choice((b"a", b"clients")), many, _repeated(rng, VALUES, b",", size))
    keys = [b'"%s":%s' % (rng.choice((b"", b"a", b"b", b"\\ud83d\\ude00")), value) for value in VALUES]
    return b'{"m":[%s1],%s}' % (many, _repeated(rng, keys, b",", size))


def long_line(rng: random.Random, heads: Sequence[bytes]) -> bytes:
    """Return a line of about ``LONG`` bytes, valid or not, that takes long to parse."""
    is_json = rng.random() < 0.7
    rest = long_json(rng, LONG) if is_json else _repeated(rng, (*CHARACTERS, *VALUES), b"", LONG)
    if rng.random() < 0.3:  # an error at the end shows only after everything before it was parsed
        rest = rest[: -rng.randrange(1, 9)] + rng.choice((b"", b"\xff", b"\x00", b"]"))
    return rng.choice(heads) + rest


def _repeated(rng: random.Random, pieces: Sequence[bytes], separator: bytes, size: int) -> bytes:
    """Return one to three of the pieces, over and over again."""
    unit = separator.join(rng.choices(pieces, k=rng.choice((1, 1, 2, 3))))
    return separator.join([unit] * (size // (len(unit) + len(separator)) or 1))
