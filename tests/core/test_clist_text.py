"""The text rule in C, which must agree with the Python implementation about any bytes."""

from __future__ import annotations

import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st

from rankserver._clist_cffi import lib
from rankserver.clist import text_ok
from tests.support.clist_model import keeps_text_rule


def test_every_text_of_one_or_two_bytes_is_judged_as_in_python() -> None:
    texts = [bytes(text) for length in (1, 2) for text in itertools.product(range(256), repeat=length)]
    assert [text for text in texts if text_ok(text) != keeps_text_rule(text)] == []


def test_every_kind_of_longer_sequence_is_judged_as_in_python() -> None:
    edges = (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF)
    three = itertools.product(range(0xE0, 0xF0), range(256), edges)
    four = itertools.product(range(0xF0, 0x100), range(256), edges, (0x7F, 0x80, 0xBF, 0xC0))
    texts = [bytes(text) for text in itertools.chain(three, four)]
    texts += [b"a" + text[:length] + b"a" for text in texts[::7] for length in (2, 3)]
    assert [text for text in texts if text_ok(text) != keeps_text_rule(text)] == []


def test_a_truncated_utf8_sequence_is_not_text() -> None:
    text = "😀".encode()
    assert [lib.cl_text_ok(text, length) for length in range(5)] == [1, 0, 0, 0, 1]


@given(st.one_of(st.binary(max_size=60), st.text(max_size=40).map(str.encode)))
@example(b"")
@settings(max_examples=200, deadline=None)
def test_any_text_is_judged_as_in_python(text: bytes) -> None:
    assert text_ok(text) == keeps_text_rule(text)
