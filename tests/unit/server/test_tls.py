"""The TLS transport by itself: its bounds, and its errors."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rankserver import tls
from rankserver.channel import Channel
from rankserver.clist import MAX_READ_BYTES, Cursor, Flushed, Log
from rankserver.core import Core
from rankserver.tls import (
    MAX_BARE_RECORDS,
    MAX_OWED_BYTES,
    MAX_RECEIVE_BYTES,
    MIN_RECEIVE_BYTES,
    RecordEnds,
    TlsTransport,
)
from rankserver.tls_common import MAX_RECORD_BYTES
from rankserver.wire.exceptions import ConfigError
from tests.support.memory import no_memory
from tests.support.tls_peer import Certificates, TlsSocket
from tests.support.waiting import BOUND


class TakingCursor(Cursor):
    """A cursor that records its input."""

    __slots__ = ("taken",)

    def __init__(self, core: Core, handle: Any) -> None:
        super().__init__(core, handle)
        self.taken = b""

    def take(self, data: bytes | bytearray | memoryview) -> None:
        self.taken += data


class Pair:
    """A transport and its peer, in this thread.

    Attributes:
        ours: the server's side.
        theirs: the client's.
    """

    def __init__(self, certificates: Certificates) -> None:
        self.log = Log(65_536)
        here, there = socket.socketpair()
        here.setblocking(False)
        there.settimeout(BOUND)
        there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        self.sockets = (here, there)
        self.cursor = TakingCursor(self.log._core, self.log.open(here.fileno(), external=True)._handle)
        context = tls.context(str(certificates.cert), str(certificates.key), None)
        self.ours = TlsTransport(here, context, self.cursor)
        self.theirs = TlsSocket(there, certificates.client)

    def shake_hands(self) -> None:
        while not self.theirs._shakes_hands():
            self.nothing()
            self.theirs._incoming.write(self.theirs.plain.recv(MAX_READ_BYTES))
        self.nothing()

    def nothing(self) -> None:
        """Let our side receive data for the TLS layer only."""
        with contextlib.suppress(BlockingIOError):
            assert self.receive() == b""
        self.ours.flush()

    def receive(self, size: int = MAX_READ_BYTES) -> bytes:
        """Let our side receive once; return the bytes that the log gets."""
        self.cursor.taken = b""
        self.ours.receive(size)
        return self.cursor.taken

    def queue(self, size: int) -> bytes:
        frame = bytes(range(48, 58)) * (size // 10) + b"\n"
        self.cursor.private(frame)
        return frame

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.log.check()
        self.log.close()


@pytest.fixture
def pair(certificates: Certificates) -> Iterator[Pair]:
    made = Pair(certificates)
    yield made
    made.close()


@pytest.fixture
def opened(pair: Pair) -> Pair:
    pair.shake_hands()
    return pair


# --- the beginning ----------------------------------------------------------------------------


@pytest.mark.parametrize("received", range(8))
def test_a_client_hello_is_recognized_by_its_first_bytes(pair: Pair, received: int) -> None:
    assert not pair.theirs._shakes_hands()
    assert pair.ours.has_begun()
    if received:
        pair.ours.receive(received)
    assert pair.ours.has_begun()


@pytest.mark.parametrize(
    "sent", [b"", b"\x16", b"\x16\x03\x01\x00\xf0", b"\x16\x03\x01\x00\xf0\x02", b"HELLO\n", b"GET / HTTP"]
)
def test_nothing_else_counts_as_the_beginning(pair: Pair, sent: bytes) -> None:
    pair.theirs.plain.sendall(sent)
    assert not pair.ours.has_begun()


def test_a_connection_that_is_lost_has_not_begun(pair: Pair) -> None:
    pair.theirs.plain.close()
    assert not pair.ours.has_begun()


# --- out --------------------------------------------------------------------------------------


def test_nothing_is_sent_before_the_handshake(pair: Pair) -> None:
    frame = pair.queue(100)
    assert pair.ours.flush() is Flushed.DONE
    assert pair.cursor.lag() == len(frame)
    pair.shake_hands()
    assert pair.theirs.recv(MAX_READ_BYTES) == frame


def test_bytes_a_full_socket_left_follow_in_order_then_the_end(opened: Pair) -> None:
    sent = opened.queue(500_000) + opened.queue(10)
    assert opened.ours.flush() is Flushed.BLOCKED
    assert opened.ours.is_blocked
    received = b""
    while opened.ours.flush() is Flushed.BLOCKED:
        received += opened.theirs.recv(10_000)
    assert opened.cursor.lag() == 0
    assert opened.ours.shut_down()
    while more := opened.theirs.recv(MAX_READ_BYTES):
        received += more
    assert received == sent
    assert opened.theirs.said_goodbye


def test_encrypted_bytes_count_once_the_socket_has_them(opened: Pair) -> None:
    there = opened.sockets[1]
    there.setblocking(False)
    before = opened.ours.sent
    opened.queue(500_000)
    assert opened.ours.flush() is Flushed.BLOCKED
    assert opened.ours.unsent > 0
    received = b""
    with contextlib.suppress(BlockingIOError):
        while more := there.recv(MAX_READ_BYTES):
            received += more
    assert opened.ours.sent - before == len(received)


def test_the_end_waits_for_a_socket_that_is_full(opened: Pair) -> None:
    here, there = opened.sockets
    opened.queue(10_000)
    while opened.ours.flush() is Flushed.DONE:
        opened.queue(10_000)
    assert not opened.ours.shut_down()
    assert not opened.ours.shut_down()
    while not opened.ours.shut_down():
        assert opened.theirs.recv(MAX_READ_BYTES)
    here.shutdown(socket.SHUT_WR)
    while opened.theirs.recv(MAX_READ_BYTES):
        pass
    assert opened.theirs.said_goodbye
    assert not there.recv(1)


def test_one_flush_is_bounded(opened: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    opened.queue(8 * tls.MAX_SENDS * tls.MAX_SEND_BYTES)
    before = opened.cursor.lag()
    # The socket now takes everything.
    monkeypatch.setattr(opened.ours, "_send", lambda: True)
    assert opened.ours.flush() is Flushed.BLOCKED
    assert opened.ours.is_blocked
    assert before - opened.cursor.lag() <= tls.MAX_SENDS * tls.MAX_SEND_BYTES


def test_a_peer_that_is_gone_is_broken(opened: Pair) -> None:
    opened.theirs.close()
    opened.queue(10)
    assert opened.ours.flush() is Flushed.BROKEN
    assert not opened.ours.is_blocked
    # There is no peer to be told.
    assert opened.ours.shut_down()


# --- in ---------------------------------------------------------------------------------------


def test_one_call_returns_no_more_than_the_core_takes_at_once() -> None:
    assert MAX_RECEIVE_BYTES + MAX_RECORD_BYTES <= MAX_READ_BYTES


def test_a_record_longer_than_what_may_be_read_is_put_together(opened: Pair) -> None:
    opened.theirs.sendall(b"x" * 5_000)
    for _ in range(5):
        assert opened.ours.receive(1_000) == 1_000
        assert opened.cursor.taken == b""
    assert opened.receive(1_000) == b"x" * 5_000
    with pytest.raises(BlockingIOError):
        opened.ours.receive(1_000)


def asked_for(opened: Pair, monkeypatch: pytest.MonkeyPatch, data: bytes) -> list[int]:
    """Let the peer send ``data``; return the sizes that our side asks the socket for until it has all."""
    asked: list[int] = []
    sock = opened.sockets[0]
    left = len(data)

    class Sock:
        def recv(self, most: int) -> bytes:
            nonlocal left
            received = sock.recv(most)
            asked.append(most)
            left -= len(received)
            return received

    with monkeypatch.context() as patch:
        patch.setattr(opened.ours, "_sock", Sock())
        opened.sockets[1].sendall(data)
        while left:
            with contextlib.suppress(BlockingIOError):
                opened.ours.receive(MAX_READ_BYTES)
    return asked


def test_receives_get_larger_for_a_peer_that_sends_much(
    opened: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.sockets[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    asked = []
    for _ in range(4):
        asked += asked_for(opened, monkeypatch, opened.theirs.encrypted(b"x" * 100_000))
    assert asked[0] == MIN_RECEIVE_BYTES
    assert sorted(asked) == asked
    assert asked[-1] == MAX_RECEIVE_BYTES


def test_receives_stay_small_for_a_peer_that_wastes_work(
    opened: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.sockets[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    for _ in range(4):
        asked_for(opened, monkeypatch, opened.theirs.encrypted(b"x" * 100_000))
    for _ in range(2):
        asked = asked_for(opened, monkeypatch, b"".join(opened.theirs.encrypted(b"x") for _ in range(2_000)))
    assert set(asked) == {MIN_RECEIVE_BYTES}
    asked_for(opened, monkeypatch, opened.theirs.encrypted(b"x" * 100_000))
    assert asked_for(opened, monkeypatch, opened.theirs.encrypted(b"x"))[0] == MAX_RECEIVE_BYTES


def test_the_end_is_known_with_the_last_bytes(opened: Pair) -> None:
    opened.sockets[1].sendall(opened.theirs.encrypted(b"last") + opened.theirs.goodbye())
    assert opened.receive() == b"last"
    assert opened.ours.ended
    assert opened.ours.receive(MAX_READ_BYTES) == 0


def test_an_end_without_a_goodbye_is_an_end(opened: Pair) -> None:
    opened.theirs.sendall(b"last")
    opened.theirs.close()
    assert opened.receive() == b"last"
    assert opened.ours.receive(MAX_READ_BYTES) == 0


def test_the_buffers_of_the_tls_layer_stay_small(opened: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0

    class Bio:
        def __init__(self, bio: ssl.MemoryBIO) -> None:
            self._bio = bio

        def write(self, data: memoryview) -> int:
            nonlocal most
            most = max(most, self._bio.pending + len(data))
            return self._bio.write(data)

    monkeypatch.setattr(opened.ours, "_incoming", Bio(opened.ours._incoming))
    opened.sockets[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    opened.theirs.sendall(b"x" * 150_000)
    received = b""
    while len(received) < 150_000:
        with contextlib.suppress(BlockingIOError):
            received += opened.receive()
    assert received == b"x" * 150_000
    assert most <= 2 * MAX_RECORD_BYTES + 1_024


def test_a_peer_that_ignores_its_tls_replies_is_dropped(opened: Pair) -> None:
    opened.queue(500_000)
    assert opened.ours.flush() is Flushed.BLOCKED
    # This stands for answers to KeyUpdate.
    opened.ours._outgoing.write(b"x" * (MAX_OWED_BYTES + 1))
    opened.theirs.sendall(b"data")
    with pytest.raises(OSError, match="does not read the replies"):
        opened.ours.receive(MAX_READ_BYTES)


class Bare:
    """A TLS layer to which all records are without data, such as KeyUpdate."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self, _: int) -> bytes:
        self.reads += 1
        raise ssl.SSLWantReadError


def test_a_peer_may_send_a_few_records_without_data(opened: Pair) -> None:
    opened.ours._tls = Bare()  # type: ignore[assignment]
    for _ in range(MAX_BARE_RECORDS):
        opened.theirs.sendall(b"x")
    assert opened.receive() == b""
    opened.theirs.sendall(b"x")
    with pytest.raises(OSError, match="too many records without data"):
        opened.receive()


def test_records_without_data_are_noticed_in_time(opened: Pair) -> None:
    layer = opened.ours._tls = Bare()  # type: ignore[assignment]
    opened.sockets[1].sendall(b"".join(opened.theirs.encrypted(b"x") for _ in range(100)))
    with pytest.raises(OSError, match="too many records without data"):
        opened.receive()
    assert layer.reads == 1


def test_records_with_data_are_never_too_many(opened: Pair) -> None:
    opened.sockets[1].sendall(b"".join(opened.theirs.encrypted(b"x") for _ in range(100)))
    assert opened.receive() == b"x" * 100
    assert opened.ours._bare == 0


@pytest.mark.parametrize("step", [1, 2, 4, 5, 6, 7, 300, 10_000])
def test_record_ends_are_found_however_they_arrive(step: int) -> None:
    lengths = [1, 2, 255, 256, 16_384, 1, 1, 3]
    stream = b"".join(b"\x17\x03\x03" + length.to_bytes(2, "big") + b"\xff" * length for length in lengths)
    records = RecordEnds()
    found = []
    for start in range(0, len(stream), step):
        found += [start + end for end in records.find(stream[start : start + step])]
    assert found == list(itertools.accumulate(5 + length for length in lengths))


# --- failures ---------------------------------------------------------------------------------


class Failing:
    """A TLS layer that fails with ``error``."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def fail(self, *_: object) -> int:
        raise self._error

    read = write = unwrap = do_handshake = fail


@pytest.mark.parametrize("error", [MemoryError(), ssl.SSLError(1, "broken")], ids=repr)
def test_a_failure_of_the_tls_layer_breaks_its_connection_alone(opened: Pair, error: Exception) -> None:
    opened.ours._tls = Failing(error)  # type: ignore[assignment]
    opened.queue(10)
    assert opened.ours.flush() is Flushed.BROKEN
    opened.theirs.sendall(b"data")
    with pytest.raises(OSError, match="memory" if isinstance(error, MemoryError) else "broken"):
        opened.ours.receive(MAX_READ_BYTES)
    assert opened.ours.shut_down()


def test_without_memory_for_input_the_connection_is_lost(
    opened: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TakingCursor, "take", no_memory)
    opened.theirs.sendall(b"data")
    with pytest.raises(OSError, match="out of memory"):
        opened.ours.receive(MAX_READ_BYTES)


@pytest.mark.parametrize("error", [MemoryError(), ssl.SSLError(1, "no memory")], ids=repr)
def test_a_connection_without_memory_for_tls_leaves_nothing(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Context:
        def wrap_bio(self, *_: object, **__: object) -> None:
            raise error

    here, there = socket.socketpair()
    with here, there, Log(65_536) as log:
        discarded: list[Cursor] = []
        discard = Cursor.discard

        def recorded(cursor: Cursor) -> None:
            discarded.append(cursor)
            discard(cursor)

        monkeypatch.setattr(Cursor, "discard", recorded)
        with pytest.raises(MemoryError):
            Channel(here, "127.0.0.1:1", log, Context())  # type: ignore[arg-type]
        assert len(discarded) == 1
        log.check()


# --- the context ------------------------------------------------------------------------------


def test_the_context_refuses_unsafe_options(certificates: Certificates) -> None:
    made = tls.context(str(certificates.cert), str(certificates.key), None)
    assert made.minimum_version is ssl.TLSVersion.TLSv1_2
    assert made.options & ssl.OP_NO_RENEGOTIATION
    assert made.options & ssl.OP_NO_COMPRESSION
    assert made.num_tickets == 0
    assert made.verify_mode is ssl.CERT_NONE
    named = tls.context(str(certificates.cert), str(certificates.key), str(certificates.ca))
    assert named.verify_mode is ssl.CERT_REQUIRED


def test_files_that_cannot_be_used_are_named(certificates: Certificates, tmp_path: Path) -> None:
    cert, key = str(certificates.cert), str(certificates.key)
    other = Certificates(tmp_path)
    empty = tmp_path / "empty"
    empty.touch()
    for arguments in (
        ("missing.pem", key, None),
        (cert, "missing.key", None),
        (str(empty), key, None),
        (cert, str(other.key), None),
        (cert, key, "missing.ca"),
        (cert, key, str(empty)),
    ):
        named = arguments[2] or f"{arguments[0]} with the key {arguments[1]}"
        with pytest.raises(ConfigError, match=f"cannot use .* {named}: ."):
            tls.context(*arguments)


def test_only_regular_files_are_read_for_tls(certificates: Certificates) -> None:
    cert, key = str(certificates.cert), str(certificates.key)
    for arguments in ((os.devnull, key, None), (cert, os.devnull, None), (cert, key, os.devnull)):
        with pytest.raises(ConfigError, match=f"cannot use .*: {os.devnull} is not a regular file"):
            tls.context(*arguments)


def test_a_key_that_does_not_match_the_certificate_is_named(
    certificates: Certificates, tmp_path: Path
) -> None:
    for key in map(str, certificates.keys_of_others(tmp_path)):
        says = f"certificate {certificates.cert} with the key {key}: the key and .* do not belong together"
        with pytest.raises(ConfigError, match=says):
            tls.context(str(certificates.cert), key, None)


def test_a_key_with_a_password_is_refused_without_asking(certificates: Certificates, tmp_path: Path) -> None:
    locked = tmp_path / "locked.key"
    openssl = shutil.which("openssl") or ""
    subprocess.run(
        [openssl, "ec", "-in", certificates.key, "-out", locked, "-aes128", "-passout", "pass:word"],
        check=True,
        capture_output=True,
    )
    with pytest.raises(ConfigError, match="needs a password"):
        tls.context(str(certificates.cert), str(locked), None)
