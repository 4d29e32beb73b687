"""Tokens and classes: admission, ranks, and what an operator can change while the server runs."""

from __future__ import annotations

import os
import re
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import pytest

from rankserver import tokens
from rankserver.client import events
from rankserver.client.session import Session
from rankserver.reception import TOKEN_PENALTY
from rankserver.wire import protocol
from tests.functional.test_server import check_failure, run
from tests.support.rawclient import READ_SIZE, RawClient, fields_of
from tests.support.servers import ServerProcess
from tests.support.tls_peer import Certificates, write_private

Connect = Callable[[ServerProcess], RawClient]
Serve = Callable[..., ServerProcess]

Happened = TypeVar("Happened", bound=events.Event)

CLASSES: Final = {"op": 0, "web": 5, "bulk": 9}
FILES: Final = ("--token-file", "--tls-cert", "--tls-key", "--tls-client-ca")


class Guarded:
    """A server with a token file, and its clients.

    Attributes:
        tokens: the accepted tokens by the name of the holder.
    """

    def __init__(self, serve: Serve, connect: Connect, path: Path, *options: str) -> None:
        self.tokens: dict[str, str] = {}
        self._connect = connect
        self.file = path / "tokens"
        self.write(CLASSES)
        self.server = serve(300, "--token-file", str(self.file), "--log-level", "debug", *options)

    def write(self, classes: dict[str, int]) -> None:
        """Write a file with these holders and their classes; holders keep their tokens."""
        lines = []
        for name, rank_class in classes.items():
            token, line = tokens.new(f"{name}:{rank_class}")
            if name in self.tokens:
                line = line.replace(line.split()[1], digest_of(self.tokens[name]))
            self.tokens.setdefault(name, token)
            lines.append(line)
        write_private(self.file, "\n".join(lines))

    def connect(self) -> RawClient:
        client = self._connect(self.server)
        client.expect(b"INFO ")
        return client

    def join(self, holder: str, name: str) -> RawClient:
        client = self.connect()
        client.hello(name, token=self.tokens[holder])
        return client

    def hello(self, holder: str, name: str) -> bytes:
        return protocol.hello(name=name, token=self.tokens[holder])

    def signal(self, number: int, client: RawClient) -> None:
        """Send a signal, and wait until it is handled."""
        signalled(self.server, number, client)


def signalled(server: ServerProcess, number: int, client: RawClient) -> None:
    """Send a signal, and wait until it is handled, maybe in the turn after that in which it came."""
    server.process.send_signal(number)
    for _ in range(2):
        client.settle()


def digest_of(token: str) -> str:
    return tokens._digest(token).hex()


@pytest.fixture
def guarded(serve: Serve, connect: Connect, tmp_path: Path) -> Guarded:
    return Guarded(serve, connect, tmp_path)


# --- tokens -----------------------------------------------------------------------------------


def test_a_token_admits_a_client_and_the_banner_asks_for_it(guarded: Guarded, serve: Serve) -> None:
    with RawClient(guarded.server.address) as client:
        assert fields_of(client.expect(b"INFO "))["auth"] is True
        assert client.hello("a", token=guarded.tokens["web"])["class"] == 5
    with RawClient(serve(1).address) as client:
        assert fields_of(client.expect(b"INFO "))["auth"] is False


def test_only_a_connection_with_a_wrong_token_waits(guarded: Guarded) -> None:
    member = guarded.join("web", "member")
    almost = guarded.tokens["web"][:-1]
    huge = protocol.hello(token="x" * 65_000)
    tries = [b"HELLO\n", b"HELLO {}\n", b'HELLO {"token":null}\n', b'HELLO {"token":""}\n', huge]
    tries += [
        protocol.hello(token=token) for token in (almost, almost + "xx", digest_of(guarded.tokens["web"]))
    ]
    strangers = [guarded.connect() for _ in tries]
    begin = time.monotonic()
    for stranger, line in zip(strangers, tries, strict=True):
        stranger.send(line + b"CMD first\n")
    assert member.settle() == []
    friend = guarded.join("op", "friend")
    assert not select.select([stranger.sock for stranger in strangers], [], [], 0)[0]
    for stranger, line in zip(strangers, tries, strict=True):
        absent = b'"token":"' not in line
        text = b"a token is needed" if absent else b"the token is not accepted"
        assert stranger.rest() == [b"BYE auth " + text]
    assert time.monotonic() >= begin + TOKEN_PENALTY
    assert friend.roster() == ["friend", "member"]


def test_a_hello_with_a_malformed_token_ends_without_a_penalty(guarded: Guarded) -> None:
    waiting = guarded.connect()
    waiting.send(b"HELLO\n")
    for line, goodbye in (
        (b'HELLO {"token":7}\n', b"BYE proto "),
        (b'HELLO {"token":["x"]}\n', b"BYE proto "),
        (b'HELLO {"token":"' + b"x" * 65_536 + b'"}\n', b"BYE too-long "),
    ):
        client = guarded.connect()
        client.send(line)
        assert client.rest()[0].startswith(goodbye)
    assert not select.select([waiting.sock], [], [], 0)[0], "they were as slow as a wrong token"


def test_penalized_clients_hold_no_place_and_delay_no_shutdown(
    serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    guarded = Guarded(serve, connect, tmp_path)
    strangers = [guarded.connect() for _ in range(20)]
    for stranger in strangers:
        stranger.send(b"HELLO\n")
    strangers.pop().close()
    member = guarded.join("op", "a")
    guarded.server.process.send_signal(signal.SIGTERM)
    for client in (member, *strangers):
        assert client.rest() == [b"BYE shutdown the server is stopping"]
        client.close()
    assert guarded.server.wait() == 0


def test_no_token_is_ever_logged(guarded: Guarded) -> None:
    wrong = "wrong-token-of-a-stranger"
    strangers = [guarded.connect() for _ in range(3)]
    strangers[0].send(protocol.hello(token=wrong))
    strangers[1].send(b'HELLO {"token":["%s"]}\n' % wrong.encode())
    strangers[2].send(b'HELLO {"token":"%s\n' % wrong.encode())
    member = guarded.join("op", "a")
    # A second HELLO.
    member.send(guarded.hello("op", "a"))
    for stranger in strangers:
        stranger.rest()
    # An invalid line.
    write_private(guarded.file, f"op {guarded.tokens['op']}\n")
    other = guarded.join("web", "b")
    guarded.signal(signal.SIGHUP, other)
    guarded.signal(signal.SIGUSR1, other)
    log = guarded.server.log()
    assert "not reloaded" in log
    assert "BYE" not in log
    for secret in (wrong, *guarded.tokens.values(), *map(digest_of, guarded.tokens.values())):
        assert secret not in log


def test_the_log_names_the_token_behind_any_name(guarded: Guarded) -> None:
    client = guarded.join("web", "op")
    guarded.signal(signal.SIGUSR1, client)
    joined, report = (
        line for line in guarded.server.log().splitlines() if " joined " in line or " client " in line
    )
    assert " name=op " in joined
    assert " token=web" in joined
    assert " token=web " in report


# --- classes ----------------------------------------------------------------------------------


def test_rank_follows_the_class_and_then_the_order_of_joining(guarded: Guarded) -> None:
    witness = guarded.join("web", "w1")
    for holder, name, rank in (
        ("bulk", "b1", 1),
        ("web", "w2", 1),
        ("op", "o1", 0),
        ("bulk", "b2", 4),
        ("op", "o2", 1),
        ("web", "w3", 4),
    ):
        client = guarded.connect()
        welcome = client.hello(name, token=guarded.tokens[holder])
        assert (welcome["rank"], welcome["class"]) == (rank, CLASSES[holder])
        assert witness.expect(b"JOIN ").endswith(b" %d" % rank)
        # A client does not get its own JOIN.
        assert client.settle() == []
    assert witness.roster() == ["o1", "o2", "w1", "w2", "w3", "b1", "b2"]
    witness.send(protocol.who())
    members = fields_of(witness.expect(b"ROSTER "))["clients"]
    assert [member["class"] for member in members] == [0, 0, 5, 5, 5, 9, 9]


def test_joins_of_one_turn_share_a_frame_with_the_final_ranks(guarded: Guarded) -> None:
    stay = [guarded.join("web", "w1"), guarded.join("bulk", "b1")]
    stay[0].expect(b"JOIN ")
    order = (("bulk", "b2"), ("op", "o1"), ("web", "w2"), ("op", "o2"), ("web", "w3"))
    newcomers = {name: guarded.connect() for _, name in order}
    with guarded.server.paused():
        for holder, name in order:
            newcomers[name].send(guarded.hello(holder, name) + b"CMD %s\n" % name.encode())
    # Before: w1 b1. After: o1 o2 w1 w2 w3 b1 b2.
    ranks = {"o1": 0, "o2": 1, "w2": 3, "w3": 4, "b2": 6}
    for client in stay:
        assert client.line() == b"JOIN 3 0-1,3-4,6"
        commands = {line.split()[3].decode(): int(line.split()[2]) for line in client.lines(5)}
        assert commands == ranks
    for name, client in newcomers.items():
        welcome = fields_of(client.expect(b"WELCOME "))
        assert (welcome["rank"], welcome["clients"], welcome["seq"]) == (ranks[name], 7, 3)
        client.lines(5)
    with guarded.server.paused():
        for name in ("o2", "w3", "b2", "w2"):
            newcomers[name].close()
    assert stay[0].line() == b"LEFT 9 1,3-4,6"
    assert stay[0].roster() == ["o1", "w1", "b1"]


def test_many_joins_are_split_into_valid_frames(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    guarded = Guarded(serve, connect, tmp_path, "--max-line", "256")
    witness = Player(guarded, "web", "witness")
    holders = ["bulk", "op", "web"] * 60
    newcomers = [guarded.connect() for _ in holders]
    with guarded.server.paused():
        for number, (holder, client) in enumerate(zip(holders, newcomers, strict=True)):
            client.send(guarded.hello(holder, f"n{number}"))
    names = [f"n{number}" for first in (1, 2, 0) for number in range(first, 180, 3)]
    names.insert(60, "witness")
    while witness.session.log.clients < 181:
        witness.receive()
    assert (witness.session.log.rank, newcomers[0].roster()) == (60, names)
    for number, client in enumerate(newcomers):
        # Its WELCOME was read above.
        if number:
            assert fields_of(client.expect(b"WELCOME "))["seq"] > 1


class Player:
    """A client's session on a plain connection, which interprets the log."""

    def __init__(self, guarded: Guarded, holder: str, name: str) -> None:
        self.client = RawClient(guarded.server.address)
        self.session = Session()
        self.session.hello(name=name)
        # The session's own HELLO, which has no token, is discarded.
        self.session.data_to_send()
        self.client.send(guarded.hello(holder, name))
        self.happened: list[events.Event] = []
        while not self.happened:
            self.receive()

    def receive(self) -> None:
        """Receive the next data."""
        self.happened += self.session.receive_data(self.client.sock.recv(READ_SIZE))
        self.client.send(self.session.data_to_send())

    def until(self, kind: type[Happened]) -> Happened:
        """Return the next event of this kind; forget it and the events before it."""
        while True:
            for number, event in enumerate(self.happened):
                if isinstance(event, kind):
                    del self.happened[: number + 1]
                    return event
            self.receive()

    def say(self, submit: Callable[[str], None], text: str) -> None:
        submit(text)
        self.client.send(self.session.data_to_send())

    def answer(self, seq: int) -> None:
        self.session.result(seq, events.Outcome("ok"))
        self.client.send(self.session.data_to_send())


def test_a_higher_newcomer_commands_others_and_asks_go_on(guarded: Guarded) -> None:
    web, bulk = Player(guarded, "web", "web"), Player(guarded, "bulk", "bulk")
    web.say(web.session.ask, "before")
    asked = bulk.until(events.Execute)
    op = Player(guarded, "op", "op")
    for player, rank in ((web, 1), (bulk, 2)):
        moved = player.until(events.RankChanged)
        assert (moved.rank, player.session.log.rank, player.session.log.clients) == (rank, rank, 3)
    bulk.answer(asked.seq)
    answer = web.until(events.Answer)
    # Rank and name are those at the time of the ask.
    assert (answer.seq, answer.rank, answer.name) == (asked.seq, 1, "bulk")
    # The operator need not answer, because it was not there.
    assert web.until(events.AskDone).seq == asked.seq

    op.say(op.session.cmd, "down")
    assert [player.until(events.Execute).rank for player in (web, bulk)] == [0, 0]
    bulk.say(bulk.session.ask, "up")
    refusals = [player.until(events.Refused) for player in (op, web)]
    assert [(refusal.rank, refusal.text) for refusal in refusals] == [(2, "up")] * 2
    op.client.close()
    assert web.until(events.RankChanged).rank == 0
    for player in (web, bulk):
        player.client.close()


# --- changes by the operator ------------------------------------------------------------------


def test_sighup_rereads_the_tokens_and_members_stay(guarded: Guarded) -> None:
    old = guarded.join("bulk", "old")
    guarded.write({"op": 0, "bulk": 2, "new": 1})
    guarded.signal(signal.SIGHUP, old)
    stranger = guarded.connect()
    stranger.send(guarded.hello("web", "x"))
    guarded.join("new", "new")
    guarded.join("bulk", "bulk")
    old.send(protocol.who())
    lines = [line for line in old.lines(3) if line.startswith(b"ROSTER ")]
    members = [(member["name"], member["class"]) for member in fields_of(lines[0])["clients"]]
    assert members == [("new", 1), ("bulk", 2), ("old", 9)]
    assert stranger.rest() == [b"BYE auth the token is not accepted"]
    assert len(re.findall("INFO reloaded tokens=3", guarded.server.log())) == 1


@pytest.mark.parametrize("damage", ["missing", "open to others", "bad line", "empty"])
def test_sighup_with_an_unusable_file_changes_nothing(guarded: Guarded, damage: str) -> None:
    member = guarded.join("op", "a")
    if damage == "missing":
        guarded.file.unlink()
    elif damage == "open to others":
        guarded.file.chmod(0o644)
    else:
        guarded.file.write_text("two words\n" if damage == "bad line" else "")
    guarded.signal(signal.SIGHUP, member)
    log = guarded.server.log()
    assert len(re.findall("ERROR not reloaded reason=", log)) == 1
    assert "INFO reloaded" not in log
    guarded.join("web", "b")
    assert member.roster() == ["a", "b"]


def files(certificates: Certificates, path: Path) -> dict[str, Path]:
    """Return the options that name files, each with a valid file."""
    token_file = write_private(path / "tokens", "token\n")
    return dict(zip(FILES, (token_file, certificates.cert, certificates.key, certificates.ca), strict=True))


def make_fifo(path: Path) -> None:
    """Replace a file by a FIFO that nobody writes to."""
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize("option", FILES)
def test_sighup_refuses_a_file_that_would_block(
    option: str, serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    certificates = Certificates(tmp_path)
    named = files(certificates, tmp_path)
    arguments = [str(word) for pair in named.items() for word in pair]
    # Use the Unix socket, which needs no TLS.
    server = serve(2, *arguments, unix=tmp_path / "socket")
    client = connect(server)
    client.hello("a", token="token")  # noqa: S106 - of a test
    make_fifo(named[option])
    signalled(server, signal.SIGHUP, client)
    assert f"{named[option]} is not a regular file" in server.log()
    assert "INFO reloaded" not in server.log()
    assert client.roster() == ["a"]


@pytest.mark.parametrize("option", FILES)
def test_a_file_that_would_block_is_refused_at_the_start(option: str, tmp_path: Path) -> None:
    named = files(Certificates(tmp_path), tmp_path)
    make_fifo(named[option])
    result = run("2", "--port", "0", *(str(word) for pair in named.items() for word in pair))
    check_failure(result, 2, f"{named[option]} is not a regular file")


def test_sighup_and_sigusr1_harm_no_server_without_files(serve: Serve, connect: Connect) -> None:
    server = serve(2)
    client = connect(server)
    client.hello("a")
    # More signals than one read of the loop takes.
    for _ in range(100):
        server.process.send_signal(signal.SIGHUP)
        server.process.send_signal(signal.SIGUSR1)
    # After this all are handled; a failure would have been logged.
    for _ in range(10):
        assert client.settle() == []
    log = server.log()
    assert "INFO reloaded" in log
    assert "INFO report" in log
    assert "INFO stopping" not in log


def test_sighup_takes_a_new_certificate_unless_it_is_bad(
    serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    certificates = Certificates(tmp_path)
    server = serve(8, tls=certificates)

    def shown() -> tuple[RawClient, bytes]:
        client = connect(server)
        client.hello()
        return client, client.sock.tls.getpeercert(binary_form=True)

    old, first = shown()
    certificates.renew("new.example")
    signalled(server, signal.SIGHUP, old)
    _, second = shown()
    assert second != first
    certificates.cert.write_text("none\n")
    signalled(server, signal.SIGHUP, old)
    last, third = shown()
    assert third == second
    assert "ERROR not reloaded" in server.log()
    assert len(last.roster()) == 3
