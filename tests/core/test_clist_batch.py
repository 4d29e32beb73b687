"""Commands that are collected and applied later: the log must be the same as if they were logged at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankserver.clist import Cursor
from tests.support.clist_peers import MAX_LINE, Peers, commands
from tests.support.draining import drain

BATCH_LINES: Final = st.tuples(
    st.sampled_from(
        [b"CMD a", b"CMD b", b"CMD " + b"x" * 200, b"CMD " + "é€😀".encode(), b"", b"CMD", b"PING"]
    ),
    st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n", b"\r\r\n"]),
).map(b"".join)


@pytest.fixture
def peers() -> Iterator[Peers]:
    with Peers() as peers:
        yield peers


def collected(client: Cursor, data: bytes) -> list[bytes]:
    """Receive ``data``, and return its batches of commands and its other lines, in order."""
    client.take(data)
    got: list[bytes] = []
    while True:
        if batch := client.collect():
            assert batch.endswith(b"\n")
            got.append(batch)
        if (line := client.next_line(logs=False)) is None:
            return got
        got.append(line)


@given(
    lines=st.lists(BATCH_LINES, max_size=20),
    cuts=st.lists(st.integers(0, 4000), max_size=4),
    before=st.integers(0, 110),
    has_cursor=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_collecting_and_applying_gives_the_same_log(
    lines: list[bytes], cuts: list[int], before: int, has_cursor: bool
) -> None:
    data = b"".join(lines)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    with Peers() as peers, Peers() as later:
        client, reader, sender = peers.join(), later.log.retain(), later.join()
        # This makes seqs longer, and lets the batch begin anywhere in a block.
        for _ in range(before):
            peers.log.append(b"JOIN", b"0")
            later.log.append(b"JOIN", b"0")
        batches = []
        for start, stop in itertools.pairwise(edges):
            handed = peers.feed(client, data[start:stop])
            got = collected(sender, data[start:stop])
            batches += [batch for batch in got if batch.endswith(b"\n")]
            assert [line for line in got if not line.endswith(b"\n")] == handed
        assert later.log.seq == before
        if not has_cursor:
            sender.detach()
        for batch in batches:
            later.log.apply(later.members[sender], batch)
            later.log.check()
        assert later.log.seq == peers.log.seq
        assert drain(reader) == peers.rest(client)


def test_a_batch_ends_before_the_first_other_line(peers: Peers) -> None:
    client = peers.join()
    client.take(b"\nCMD a\n\r\nCMD b\r\n\nASK c\nCMD d\nCMD e")
    assert client.collect() == b"\nCMD a\n\r\nCMD b\r\n"
    assert client.collect() == b""
    assert client.next_line(logs=False) == b"ASK c"
    assert client.collect() == b"CMD d\n"
    assert client.collect() == b""
    assert client.next_line(logs=False) is None
    assert peers.log.seq == 0


@pytest.mark.parametrize("data", [b"\n\n", b"CM", b"CMD \n", b"CMD " + b"x" * MAX_LINE + b"\n", b""])
def test_without_a_command_in_front_the_batch_is_empty(data: bytes, peers: Peers) -> None:
    client = peers.join()
    client.take(data)
    assert client.collect() == b""
    peers.log.check()


@pytest.mark.parametrize(
    "garbage",
    [
        b"CMD b",
        b"CMD \n",
        b"ASK b\n",
        b"CMD \xff\n",
        b"CMD a\0\n",
        b"CMD a\r\r\n",
        b"CMD ".ljust(MAX_LINE, b"x") + b"\n",
        b"\r",
        b"b\n",
    ],
)
@pytest.mark.parametrize("valid", [0, 1, 500])
def test_applying_garbage_changes_nothing(garbage: bytes, valid: int, peers: Peers) -> None:
    client = peers.join()
    member = peers.members[client]
    with pytest.raises(ValueError, match="does not allow the call"):
        peers.log.apply(member, commands(valid) + garbage)
    assert (peers.log.seq, peers.log.end, client.lag()) == (0, 0, 0)
    peers.log.check()


@pytest.mark.parametrize("batch", [b"", b"\n", b"\r\n\n"])
def test_applying_nothing_logs_nothing(batch: bytes, peers: Peers) -> None:
    peers.log.apply(peers.enter(peers.open()), batch)
    assert peers.log.seq == 0


def test_applied_commands_carry_the_current_rank(peers: Peers) -> None:
    first, second = peers.join(), peers.join()
    second.take(b"CMD a\n")
    batch = second.collect()
    peers.log.apply(peers.members[second], batch)
    peers.leave(first)
    peers.log.apply(peers.members[second], batch)
    assert peers.rest(second) == b"CMD 1 1 a\nCMD 2 0 a\n"
