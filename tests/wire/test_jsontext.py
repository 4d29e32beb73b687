from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankserver.wire import grammar, jsontext, protocol
from rankserver.wire.exceptions import RemoteProtocolError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(values)
def test_a_value_comes_through_as_one_line_of_text(value: object) -> None:
    text = jsontext.encode(value).decode()
    assert grammar.text_problem(text) is None
    assert jsontext.parse(text) == value


def test_only_what_a_line_must_not_contain_is_escaped() -> None:
    out = "aä€😀\u2028\t\n\x1b\x7f\x9f\ud83d"
    encoded = jsontext.encode({"out": out})
    assert encoded == '{"out":"aä€😀\u2028\\t\\n\\u001b\\u007f\\u009f\\ud83d"}'.encode()
    assert json.loads(encoded) == {"out": out}


@pytest.mark.parametrize("text", [" {}", "\t[1]\t", '"a" '])
def test_spaces_and_tabs_around_a_value_are_allowed(text: str) -> None:
    assert jsontext.parse(text) == json.loads(text)


@pytest.mark.parametrize("text", ["", "{", "{} {}", "NaN", "[-Infinity]", "\u2003{}", "9" * 5_000])
def test_anything_but_one_json_value_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        jsontext.parse(text)


@pytest.mark.parametrize("line", [b"RES 1 ok %s", b"RES 1 0 a ok %s"])
def test_both_sides_allow_the_same_nesting(line: bytes) -> None:
    parse = protocol.parse_server_line if b" a " in line else protocol.parse_client_line
    brackets_in_a_string = b'"\\"' + b"[{" * 500 + b'"'
    depth = jsontext.MAX_NESTING - 1
    parse(line % (b'{"a":' + b"[" * depth + brackets_in_a_string + b"]" * depth + b"}"))
    with pytest.raises(RemoteProtocolError, match="nested more than 64 deep"):
        parse(line % (b'{"a":[' + b"[" * depth + brackets_in_a_string + b"]" * depth + b"]}"))
    with pytest.raises(RemoteProtocolError, match="nested more than 64 deep"):
        parse(line % (b'{"a":' + b"[" * 20_000))


@pytest.mark.parametrize("end", ["", '"', "\\"])
def test_a_hostile_text_takes_time_linear_in_its_length(end: str) -> None:
    # Quadratic time would run into the test's timeout.
    text = "{" * 65 + '"\\' * 300_000 + end
    assert jsontext.is_too_deep(text)
    with pytest.raises(ValueError, match=r"."):
        jsontext.parse(text)
