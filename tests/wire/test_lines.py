from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankserver.wire.exceptions import RemoteProtocolError
from rankserver.wire.lines import LineBuffer
from tests.support.pieces import cut


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"WHO", []),
        (b"WHO\n", [b"WHO"]),
        (b"WHO\r\n", [b"WHO"]),
        (b"CMD a\rb\n", [b"CMD a\rb"]),
        (b"\n\r\n\nWHO\n\n", [b"WHO"]),
        (b"A\nB\r\nC", [b"A", b"B"]),
    ],
)
def test_lines_end_at_lf_and_empty_ones_are_left_out(data: bytes, lines: list[bytes], bytewise: bool) -> None:
    assert cut(data, bytewise=bytewise) == lines


@given(st.binary(max_size=200) | st.text("ab\r\n", max_size=60).map(str.encode), st.lists(st.integers(0, 20)))
def test_lines_do_not_depend_on_how_the_bytes_arrive(data: bytes, sizes: list[int]) -> None:
    buffer, rest, lines = LineBuffer(1_000), data, []
    for size in sizes:
        lines += buffer.feed(rest[:size])
        rest = rest[size:]
    lines += buffer.feed(rest)
    assert lines == cut(data, bytewise=False) == cut(data, bytewise=True)


@pytest.mark.parametrize("bytewise", [False, True])
def test_max_line_counts_every_byte_and_the_lf(bytewise: bool) -> None:
    assert cut(b"1234567\n", bytewise=bytewise, max_line=8) == [b"1234567"]
    for data in (b"12345678\n", b"123456789", b"ok\n12345678\nok\n", b"1234567\r\n"):
        with pytest.raises(RemoteProtocolError) as caught:
            cut(data, bytewise=bytewise, max_line=8)
        assert caught.value.code == "too-long"


def test_a_long_line_in_many_pieces_is_not_copied_for_each() -> None:
    # If each piece copied all earlier ones, a trillion bytes would be copied, and the test would time out.
    size = 1_500_000
    buffer = LineBuffer(size + 1)
    assert all(buffer.feed(b"x") == [] for _ in range(size))
    assert buffer.feed(b"\n") == [b"x" * size]
