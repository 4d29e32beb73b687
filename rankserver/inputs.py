"""Inputs: everything that changes members, ranks, open asks or the log, as values with a codec.

An ``Order`` puts inputs into one sequence, and ``State.apply`` applies each of them. Whatever an input
depends on besides the state (assigned names, which joins share a frame) is decided before it is proposed, and
is part of it.

The codec is for orders that leave this process. An encoded input is one byte for its kind, then its fields:
integers as unsigned LEB128, texts and batches as their length and their bytes. It has no version number,
because its readers run the same program as its writers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from rankserver.wire import grammar
from rankserver.wire.exceptions import InputError

# An encoded integer has at most this many bytes: ten groups of seven bits hold any unsigned 64-bit number.
MAX_INTEGER_BYTES: Final = 10
# The largest integer that has an encoding: the ids of members have 64 bits in the core.
MAX_INTEGER: Final = 2**64 - 1
# The largest class: the core keeps it in 32 bits.
MAX_CLASS: Final = 2**32 - 1


class Newcomer(NamedTuple):
    """A client that joins.

    Attributes:
        member: the member's id; ids are never used again.
        name: the name that it asked for, or the one that the server assigned.
        rank_class: its class; lower numbers rank above higher ones.
        token: the name of the token that it presented; empty if it needed none.
    """

    member: int
    name: str
    rank_class: int = 0
    token: str = ""


class Joined(NamedTuple):
    """Clients join in this order and share one JOIN frame. Their classes ascend."""

    newcomers: tuple[Newcomer, ...]


class Left(NamedTuple):
    """Members leave, and share one LEFT frame."""

    members: tuple[int, ...]


class Lines(NamedTuple):
    """Consecutive valid CMD lines of one member, each with its LF, as they were received."""

    member: int
    batch: bytes


class Asked(NamedTuple):
    """A member asks: ``text`` is broadcast, and every other member may answer once."""

    member: int
    text: str


class Answered(NamedTuple):
    """A member answers the ASK ``seq``; ``detail`` is JSON text, or empty."""

    member: int
    seq: int
    status: str
    detail: str


Input = Joined | Left | Lines | Asked | Answered


def encode(given: Input) -> bytes:
    """Encode an input. O(bytes).

    Raises:
        ValueError: a number is negative or has more than 64 bits.
    """
    out = bytearray()
    kind = _KINDS.index(type(given))
    out.append(kind)
    for (write, _), value in zip(_FIELDS[kind], given, strict=True):
        write(out, value)
    return bytes(out)


def decode(data: bytes) -> Input:
    """Decode an input that ``encode`` has encoded. O(bytes).

    Raises:
        InputError: the bytes are not exactly one such input.
    """
    if not data:
        raise InputError("the input is empty")
    kind = data[0]
    if kind >= len(_KINDS):
        raise InputError(f"there is no input of kind {kind}")
    reader = _Bytes(data, 1)
    values = [read(reader) for _, read in _FIELDS[kind]]
    if reader.left:
        raise InputError(f"the input is longer than what it encodes, by {reader.left}")
    made: Input = _KINDS[kind](*values)
    return made


class _Bytes:
    """Reads bytes from front to back."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise InputError(f"the input ends too early: bytes announced: {count}, left: {self.left}")
        self._at += count
        return self._data[self._at - count : self._at]


def _write_integer(out: bytearray, value: int) -> None:
    if not 0 <= value <= MAX_INTEGER:
        raise ValueError(f"{value} is not an unsigned number of 64 bits")
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _read_integer(reader: _Bytes) -> int:
    value = 0
    for place in range(MAX_INTEGER_BYTES):
        byte = reader.take(1)[0]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            # Exactly one encoding of each number is accepted, so that equal inputs have equal bytes.
            if (byte == 0 and place > 0) or value > MAX_INTEGER:
                break
            return value
    raise InputError("a number is not in its shortest form, or exceeds 64 bits")


def _write_bytes(out: bytearray, value: bytes) -> None:
    _write_integer(out, len(value))
    out += value


def _read_bytes(reader: _Bytes) -> bytes:
    return reader.take(_read_integer(reader))


def _write_text(out: bytearray, value: str) -> None:
    _write_bytes(out, value.encode())


def _read_text(reader: _Bytes) -> str:
    try:
        text = _read_bytes(reader).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"a text is not valid UTF-8: {error.reason}") from None
    if problem := grammar.text_problem(text):
        raise InputError(problem)
    return text


def _write_members(out: bytearray, members: tuple[int, ...]) -> None:
    _write_integer(out, len(members))
    for member in members:
        _write_integer(out, member)


def _read_members(reader: _Bytes) -> tuple[int, ...]:
    members = tuple(_read_integer(reader) for _ in range(_read_count(reader)))
    _check_distinct(members)
    return members


def _check_distinct(members: Sequence[int]) -> None:
    if not members or len(set(members)) < len(members):
        raise InputError("the list of members is empty, or names one of them twice")


def _write_newcomers(out: bytearray, newcomers: tuple[Newcomer, ...]) -> None:
    _write_integer(out, len(newcomers))
    for member, name, rank_class, token in newcomers:
        _write_integer(out, member)
        _write_text(out, name)
        _write_integer(out, rank_class)
        _write_text(out, token)


def _read_newcomers(reader: _Bytes) -> tuple[Newcomer, ...]:
    newcomers = tuple(_read_newcomer(reader) for _ in range(_read_count(reader)))
    _check_distinct([each.member for each in newcomers])
    if any(one.rank_class > other.rank_class for one, other in pairwise(newcomers)):
        raise InputError("the classes of the newcomers do not ascend")
    return newcomers


def _read_newcomer(reader: _Bytes) -> Newcomer:
    newcomer = Newcomer(_read_integer(reader), _read_text(reader), _read_integer(reader), _read_text(reader))
    if not grammar.is_name(newcomer.name) or newcomer.rank_class > MAX_CLASS:
        raise InputError("a newcomer has an invalid name or class")
    return newcomer


def _read_count(reader: _Bytes) -> int:
    """Read how many items follow. Each takes at least one byte, which bounds what a false count can claim."""
    count = _read_integer(reader)
    if count > reader.left:
        raise InputError(f"the input ends too early: items announced: {count}, bytes left: {reader.left}")
    return count


_Field = tuple[Callable[[bytearray, Any], None], Callable[[_Bytes], Any]]
_INTEGER: Final[_Field] = (_write_integer, _read_integer)
_BYTES: Final[_Field] = (_write_bytes, _read_bytes)
_TEXT: Final[_Field] = (_write_text, _read_text)
_MEMBERS: Final[_Field] = (_write_members, _read_members)
_NEWCOMERS: Final[_Field] = (_write_newcomers, _read_newcomers)

# The kinds of input, each with its fields in order. The byte of a kind is its index in this table.
_TABLE: Final[dict[type[Any], tuple[_Field, ...]]] = {
    Joined: (_NEWCOMERS,),
    Left: (_MEMBERS,),
    Lines: (_INTEGER, _BYTES),
    Asked: (_INTEGER, _TEXT),
    Answered: (_INTEGER, _INTEGER, _TEXT, _TEXT),
}
_KINDS: Final = tuple(_TABLE)
_FIELDS: Final = tuple(_TABLE.values())
