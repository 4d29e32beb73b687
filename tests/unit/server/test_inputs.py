"""The codec of inputs: decoding reverses encoding, and anything but an encoded input is refused."""

from __future__ import annotations

import contextlib
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rankserver.inputs import (
    MAX_CLASS,
    MAX_INTEGER,
    Answered,
    Asked,
    Input,
    Joined,
    Left,
    Lines,
    Newcomer,
    decode,
    encode,
)
from rankserver.wire.exceptions import InputError

# The two largest numbers of each number of bits, so that every encoded length occurs.
NUMBER: Final = st.integers(0, 64).flatmap(lambda bits: st.integers(max(2**bits - 2, 0), 2**bits - 1))
# What a line may hold: no control character but TAB.
TEXT: Final = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]) | st.just("\t"))
NAME: Final = st.from_regex(r"[A-Za-z0-9._:@-]{1,64}", fullmatch=True)
NEWCOMER: Final = st.builds(Newcomer, NUMBER, NAME, st.integers(0, MAX_CLASS), TEXT)


def by_class(newcomers: list[Newcomer]) -> tuple[Newcomer, ...]:
    return tuple(sorted(newcomers, key=lambda newcomer: newcomer.rank_class))


BY_KIND: Final[dict[type, st.SearchStrategy[Input]]] = {
    Joined: st.builds(
        Joined,
        st.lists(NEWCOMER, min_size=1, max_size=4, unique_by=lambda each: each.member).map(by_class),
    ),
    Left: st.builds(Left, st.lists(NUMBER, min_size=1, max_size=200, unique=True).map(tuple)),
    Lines: st.builds(Lines, NUMBER, st.binary(max_size=300)),
    Asked: st.builds(Asked, NUMBER, TEXT),
    Answered: st.builds(Answered, NUMBER, NUMBER, TEXT, TEXT),
}
INPUT: Final = st.one_of(*BY_KIND.values())

# An example of each kind, with its encoding.
EXAMPLES: Final[list[tuple[Input, bytes]]] = [
    (Joined((Newcomer(1, "web", 0, ""), Newcomer(300, "db", 2, "ops"))), b"\0\2\1\3web\0\0\xac\2\2db\2\3ops"),
    (Left((7, 128)), b"\1\2\7\x80\1"),
    (Lines(5, b"CMD a\n"), b"\2\5\6CMD a\n"),
    (Asked(5, "\u00e4h"), b"\3\5\3\xc3\xa4h"),
    (Answered(6, 2, "ok", "{}"), b"\4\6\2\2ok\2{}"),
]
each_example: Final = pytest.mark.parametrize(
    ("value", "data"), EXAMPLES, ids=[type(value).__name__ for value, _ in EXAMPLES]
)


def is_refused_or_canonical(data: bytes) -> bool:
    """Return whether ``data`` is refused, or is exactly the encoding of the input that it decodes to."""
    with contextlib.suppress(InputError):
        return encode(decode(data)) == data
    return True


def test_the_examples_have_one_of_each_kind() -> None:
    assert {type(value) for value, _ in EXAMPLES} == set(BY_KIND) == set(Input.__args__)


@each_example
def test_each_kind_is_a_byte_and_its_fields(value: Input, data: bytes) -> None:
    assert encode(value) == data
    assert decode(data) == value


@pytest.mark.parametrize("kind", BY_KIND, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(deadline=None)
def test_decoding_reverses_encoding(kind: type, data: st.DataObject) -> None:
    value = data.draw(BY_KIND[kind])
    decoded = decode(encode(value))
    assert decoded == value
    assert type(decoded) is kind
    if isinstance(decoded, Joined):
        assert all(type(newcomer) is Newcomer for newcomer in decoded.newcomers)


@given(value=INPUT, data=st.data())
@settings(deadline=None)
def test_no_prefix_of_an_input_is_an_input(value: Input, data: st.DataObject) -> None:
    encoded = encode(value)
    with pytest.raises(InputError):
        decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


@each_example
def test_each_truncation_is_refused(value: Input, data: bytes) -> None:
    del value
    for end in range(len(data)):
        with pytest.raises(InputError):
            decode(data[:end])


@given(value=INPUT, more=st.binary(min_size=1))
@settings(deadline=None)
def test_bytes_behind_an_input_are_refused(value: Input, more: bytes) -> None:
    with pytest.raises(InputError, match=f"longer than what it encodes, by {len(more)}"):
        decode(encode(value) + more)


@each_example
def test_each_changed_byte_gives_another_input_or_none(value: Input, data: bytes) -> None:
    for at in range(len(data)):
        for byte in set(range(256)) - {data[at]}:
            changed = data[:at] + bytes([byte]) + data[at + 1 :]
            assert is_refused_or_canonical(changed)
            with contextlib.suppress(InputError):
                assert (type(decode(changed)), decode(changed)) != (type(value), value)


@given(st.binary() | st.builds(lambda kind, rest: bytes([kind]) + rest, st.integers(0, 4), st.binary()))
@example(b"")
@example(b"\5")
@settings(deadline=None)
def test_equal_inputs_have_equal_bytes_and_garbage_none(data: bytes) -> None:
    assert is_refused_or_canonical(data)


@pytest.mark.parametrize("announced", [3, 2**31, 2**63, MAX_INTEGER])
@pytest.mark.parametrize("prefix", [b"\0", b"\1", b"\2\1", b"\3\1", b"\4\1\1", b"\4\1\1\0", b"\0\1\1"])
def test_an_announced_length_beyond_the_end_is_refused(prefix: bytes, announced: int) -> None:
    length = encode(Left((announced,)))[2:]
    with pytest.raises(InputError, match=f"(items|bytes) announced: {announced}, (bytes )?left: 2"):
        decode(prefix + length + b"\1\1")


@pytest.mark.parametrize(
    "number", [b"\x80\0", b"\x81\x80\0", b"\xff" * 9 + b"\2", b"\xff" * 10 + b"\1", b"\x80" * 11]
)
def test_a_number_has_its_shortest_form_and_64_bits(number: bytes) -> None:
    with pytest.raises(InputError, match="shortest form"):
        decode(b"\1\1" + number)


@pytest.mark.parametrize("text", [b"\xff", b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80"])
def test_a_text_must_be_utf8(text: bytes) -> None:
    with pytest.raises(InputError, match="UTF-8"):
        decode(b"\3\1" + bytes([len(text)]) + text)


@pytest.mark.parametrize("number", [-1, MAX_INTEGER + 1])
def test_a_number_beyond_64_bits_is_not_encoded(number: int) -> None:
    for value in (Left((number,)), Lines(number, b""), Joined((Newcomer(1, "a", number),))):
        with pytest.raises(ValueError, match="unsigned number of 64 bits"):
            encode(value)


@pytest.mark.parametrize(
    "value",
    [
        Joined(()),
        Left(()),
        Left((1, 1)),
        Joined((Newcomer(1, "a"), Newcomer(1, "b"))),
        Joined((Newcomer(1, "a", 1), Newcomer(2, "b", 0))),
        Joined((Newcomer(1, ""),)),
        Joined((Newcomer(1, "a b"),)),
        Joined((Newcomer(1, "a", MAX_CLASS + 1),)),
        Asked(1, "two\nlines"),
        Answered(1, 2, "ok\r", ""),
    ],
    ids=str,
)
def test_what_no_server_proposes_is_refused(value: Input) -> None:
    with pytest.raises(InputError):
        decode(encode(value))
