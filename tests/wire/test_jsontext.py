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
    out = "aä€😀\u2028\t\n\x1b\x7f\x9f"
    encoded = jsontext.encode({"out": out})
    assert encoded == '{"out":"aä€😀\u2028\\t\\n\\u001b\\u007f\\u009f"}'.encode()
    assert json.loads(encoded) == {"out": out}


@pytest.mark.parametrize(
    ("out", "sent"),
    [("\ud83d", "\ufffd"), ("a\ude00\ud83d\x7f", "a\ufffd\ufffd\\u007f"), ("\ud83d\ude00", "😀")],
)
def test_surrogates_are_sent_as_characters(out: str, sent: str) -> None:
    encoded = jsontext.encode({"out": out})
    assert encoded == f'{{"out":"{sent}"}}'.encode()
    jsontext.parse(encoded.decode())


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


def nested(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.dictionaries(st.text('a"\\[]{}', max_size=4), inner)


def depth(value: object) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(
    st.recursive(
        st.text('a"\\[]{}', max_size=4), lambda inner: st.lists(inner) | nested(inner), max_leaves=200
    )
)
def test_the_depth_is_measured_as_a_walk_over_the_value_does(value: object) -> None:
    text = jsontext.encode(value).decode()
    for most in range(1, 8):
        assert jsontext.is_deeper(jsontext.shape(text), most) == (depth(value) > most)


def test_objects_and_arrays_are_counted_but_not_those_in_strings() -> None:
    most = jsontext.MAX_CONTAINERS
    brackets = '"%s"' % ("[" * 10_000)
    jsontext.parse(f"[{'[],' * (most + most // 2)}{brackets}]")
    with pytest.raises(ValueError, match=r"^too many objects and arrays$"):
        jsontext.parse(f"[{'[],' * 2 * most}1]")
    with pytest.raises(ValueError, match=r"^too many objects and arrays$"):
        jsontext.parse(f"[{'{},' * 2 * most}1]")


@pytest.mark.parametrize("text", ['{"a":%s,"a":1}', '[{"a":%s,"a":1},%s]'])
def test_a_value_that_another_replaces_is_checked_as_well(text: str) -> None:
    deep = "[" * jsontext.MAX_NESTING + "]" * jsontext.MAX_NESTING
    for value in (deep, '"\\ud800"'):
        with pytest.raises(ValueError, match=r"nested more than 64 deep|an unpaired surrogate"):
            jsontext.parse(text.replace("%s", value))


# --- surrogates -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        r"\ud83d\ude00",
        r"\uD83D\uDE00",
        r"\ud83d\uDE00\ud83d\ude00",
        r"\\ud800",
        r"\\\\ud800",
        r"\\\ud83d\ude00",
        r"\ud7ff",
        r"\ue000",
        r"\ud7ff\ud83d\ude00\ud7ff",
    ],
)
def test_pairs_of_surrogates_and_what_looks_like_one_are_allowed(text: str) -> None:
    assert jsontext.parse(f'["{text}"]') == json.loads(f'["{text}"]')


@pytest.mark.parametrize(
    "text",
    [
        r"\ud800",
        r"\uDBFF",
        r"\udc00",
        r"\uDFFF",
        r"\ud83dx\ude00",
        r"\ud83d\\\ude00",
        r"\ud83d\n\ude00",
        r"\ud83d\ud83d\ude00",
        r"\ud83d\ude00\ude00",
        r"\ude00\ud83d",
        r"\ud83d\ud7ff",
        r"\\\ud800",
        '\\ud83d","\\ude00',
    ],
)
@pytest.mark.parametrize("place", ['["%s"]', '{"%s":1}', '[1,{"a":"b%s"}]'])
def test_an_unpaired_surrogate_is_bad(place: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"^an unpaired surrogate$"):
        jsontext.parse(place.replace("%s", text) if "," not in text else f'["{text}"]')


@given(st.text(st.sampled_from("\\\n\ud83d\ude00\ud7ff\ue000ad89"), max_size=12))
def test_surrogates_are_found_as_the_codec_finds_them(text: str) -> None:
    encoded = json.dumps(text)
    try:
        json.loads(encoded).encode()
    except UnicodeEncodeError:
        with pytest.raises(ValueError, match="an unpaired surrogate"):
            jsontext.parse(encoded)
    else:
        assert jsontext.parse(encoded) == json.loads(encoded)
