"""The client without asyncio: the same names as with it, commands, events, and the end."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

import rankserver.client as asyncio_client
from rankserver.asks import MAX_ASKS_PER_MEMBER
from rankserver.client import (
    Answer,
    Counts,
    DisconnectedError,
    LocalProtocolError,
    aio,
    ask,
    reconnect,
    stream,
    sync,
)
from rankserver.client.events import ClientsChanged, Connected, Disconnected, Retrying, Sent
from rankserver.client.functions import FunctionExecutor
from rankserver.client.sync import SyncClient, connect
from rankserver.wire import frames
from rankserver.wire.exceptions import ConfigError, ConnectError
from tests.support.blocking import Later, answer, take
from tests.support.rawclient import RawClient
from tests.support.servers import ServerProcess
from tests.support.waiting import BOUND

pytestmark = pytest.mark.usefixtures("nothing_left")


# --- the twin ---

# Methods that an asyncio client calls on objects that it makes, and that no program calls.
INTERNAL = {"log", "add", "begin", "end", "put", "batch"}


def members(kind: type) -> dict[str, object]:
    return {name: inspect.getattr_static(kind, name) for name in dir(kind) if not name.startswith("_")}


def signature(member: object) -> str:
    """Return arguments and result in the form of the asyncio flavour."""
    function = member.fget if isinstance(member, property) else member
    assert callable(function)
    return str(inspect.signature(function)).replace("Sync", "")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(sync.SyncClient, aio.Client), (sync.SyncAsk, ask.Ask), (sync.SyncEventStream, stream.EventStream)],
)
def test_both_flavours_have_the_same_names_and_signatures(ours: type, theirs: type) -> None:
    ours_by_name, theirs_by_name = members(ours), members(theirs)
    assert ours_by_name.keys() == theirs_by_name.keys() - INTERNAL
    for name, member in ours_by_name.items():
        assert isinstance(member, property) == isinstance(theirs_by_name[name], property), name
        assert signature(member) == signature(theirs_by_name[name]), name
        assert not inspect.iscoroutinefunction(member), name


def test_connect_has_the_same_arguments() -> None:
    assert signature(sync.connect) == signature(asyncio_client.connect)


# --- commanding ---


def test_the_properties_of_a_client_can_be_read(server: ServerProcess) -> None:
    with connect(server.where, name="web-1") as c:
        assert (c.name, c.rank, c.clients, c.seq, c.max_line, c.capacity) == ("web-1", 0, 1, 1, 65_536, 8)
        assert c.is_connected
        assert str(c.address) == server.where
        with RawClient(server.address) as other:
            other.hello("web-2")
            assert c.who() == (frames.RosterEntry(0, "web-1"), frames.RosterEntry(1, "web-2"))
            assert (c.clients, c.seq) == (2, 2)
    assert not c.is_connected


def test_the_environment_gives_the_address(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKSERVER", server.where)
    with connect() as c:
        assert str(c.address) == server.where
    monkeypatch.delenv("RANKSERVER")
    assert str(connect().address) == "127.0.0.1:5050"
    with pytest.raises(ConfigError):
        connect("")


def test_a_command_returns_its_number(server: ServerProcess) -> None:
    with RawClient(server.address) as other, connect(server.where) as c:
        other.hello()
        assert [c.cmd("a"), c.cmd("b")] == [3, 4]
        assert other.lines(2) == [b"CMD 3 0 a", b"CMD 4 0 b"]


def test_answers_are_there_as_they_come(server: ServerProcess) -> None:
    with connect(server.where) as c, ExitStack() as stack:
        raws = [stack.enter_context(RawClient(server.address)) for _ in range(3)]
        for raw, name in zip(raws, ("a", "b", "c"), strict=True):
            raw.hello(name)
        asked = c.ask("x")
        answers = iter(asked)
        for raw, expected in ((raws[2], (3, "c")), (raws[0], (1, "a")), (raws[1], (2, "b"))):
            # Others have not answered yet.
            assert not asked.is_done
            answer(raw)
            assert next(answers)[1:3] == expected
        assert not list(answers)
        assert asked.is_done
        assert [one.name for one in asked] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (lambda asked: asked.by_rank, {1: Answer(3, 1, "low", "ok")}),
        (lambda asked: asked.by_name, {"low": [Answer(3, 1, "low", "ok")]}),
        (lambda asked: asked.counts, Counts(ok=1)),
        (lambda asked: asked.ok, True),
        (len, 1),
        (list, [Answer(3, 1, "low", "ok")]),
    ],
)
def test_results_of_an_ask_wait_until_it_is_complete(
    server: ServerProcess, later: Later, read: Callable[[sync.SyncAsk], object], value: object
) -> None:
    with connect(server.where) as c, RawClient(server.address) as low:
        low.hello("low")
        asked = c.ask("x")
        reading = later(read, asked)
        # Everything that the server had for us has come.
        c.who()
        assert not reading.done()
        assert (asked.seq, asked.is_done, asked.has_failed) == (3, False, False)
        assert repr(asked) == "<Ask 'x' open: 0 answers>"
        answer(low)
        assert reading.result(BOUND) == value


def test_an_ask_without_targets_is_done_at_once(server: ServerProcess) -> None:
    with connect(server.where) as c:
        asked = c.ask("x")
        assert asked.nobody
        assert (len(asked), asked.ok, asked.text) == (0, False, "x")
        assert c.ask("y").logged() == 3


def test_a_client_that_answers_too_late_counts_as_timeout(server: ServerProcess) -> None:
    with connect(server.where) as c, RawClient(server.address) as low:
        low.hello()
        asked = c.ask("x", timeout=BOUND)
        asked.logged()
        # The ask's timer does the same.
        c._loop.call(c._client._runner.expire, asked._ask)
        assert asked.counts == Counts(timeout=1)


def test_an_ask_that_is_not_logged_in_time_raises(server: ServerProcess) -> None:
    with connect(server.where) as c:
        with server.paused():
            asked = c.ask("x", timeout=0.01)
            with pytest.raises(TimeoutError, match="did not acknowledge the command in time: x"):
                _ = asked.counts
        assert asked.has_failed
        with pytest.raises(TimeoutError):
            list(asked)


def test_an_unsendable_text_raises_in_the_call(server: ServerProcess) -> None:
    with connect(server.where) as c:
        with pytest.raises(LocalProtocolError):
            c.ask("a\nb")
        with pytest.raises(LocalProtocolError):
            c.cmd("")
        assert c.seq == 1


def test_draining_waits_for_a_server_that_does_not_read(server: ServerProcess, later: Later) -> None:
    with connect(server.where) as c:
        c.drain()
        with server.paused():
            while c._client._runner._connection.session.unsent < 1_000_000:  # type: ignore[union-attr]
                last = c.ask("x" * 60_000)
            draining = later(c.drain)
            with pytest.raises(TimeoutError):
                c.ask("y", timeout=0.01).logged()
            assert not draining.done()
        draining.result(BOUND)
        assert last.logged() > 1


# --- events ---


def test_events_are_those_of_the_asyncio_client(server: ServerProcess) -> None:
    with connect(server.where, name="web-1") as c, RawClient(server.address) as other:
        events, again = iter(c), iter(c)
        other.hello()
        c.cmd("x")
        expected = [Connected("web-1", 0, 1, 1), ClientsChanged(2, 2), Sent(3, "x", False, 1)]
        assert [next(events) for _ in range(3)] == expected
        assert [next(again) for _ in range(3)] == expected


def test_leaving_ends_the_iteration_after_the_queued_events(server: ServerProcess, later: Later) -> None:
    with connect(server.where) as c:
        waiting = later(list, c)
        late = iter(c)
        c.cmd("x")
    assert [type(event) for event in late] == [Connected, Sent]
    assert waiting.result(BOUND)[-1] == Sent(2, "x", False, 0)
    assert list(late) == list(c) == []


def test_it_joins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "FIRST_DELAY", 0.01)
    path = tmp_path / "socket"
    with ServerProcess(8, unix=path) as first, connect(f"unix:{path}", reconnect=True, name="me") as c:
        events = iter(c)
        first.kill()
        take(events, Disconnected)
        take(events, Retrying)
        with pytest.raises(DisconnectedError):
            _ = c.rank
        path.unlink()
        with ServerProcess(8, unix=path):
            assert take(events, Connected) == Connected("me", 0, 1, 1)
            assert c.cmd("x") == 2


def test_events_that_are_waited_for_before_joining_are_not_lost(server: ServerProcess) -> None:
    c = connect(server.where, name="me")
    events = iter(c)
    with pytest.raises(DisconnectedError, match="the client has not connected yet"):
        next(events)
    with c:
        assert next(events) == Connected("me", 0, 1, 1)
    early = connect(server.where)
    events = iter(early)
    early.close()
    assert not list(events)


def test_closing_ends_a_join_that_keeps_retrying(tmp_path: Path, later: Later) -> None:
    c = connect(f"unix:{tmp_path}/nobody", reconnect=True)
    events = iter(c)
    joining = later(c.__enter__)
    # Reading earlier would raise.
    while not c._client._runner._running:
        pass
    take(events, Retrying)
    c.close()
    with pytest.raises(DisconnectedError, match="the client is closed"):
        joining.result(BOUND)
    assert not list(events)


# --- the end ---

WAITS: list[Callable[[SyncClient], object]] = [
    lambda c: c.cmd("x"),
    lambda c: c.who(),
    lambda c: list(c.ask("x")),
    lambda c: len(c.ask("x")),
    lambda c: c.ask("x").logged(),
    lambda c: c.ask("x").by_rank,
    lambda c: c.ask("x").by_name,
    lambda c: c.ask("x").counts,
    lambda c: c.ask("x").ok,
    lambda c: c.ask("x").nobody,
    list,
]
READS: list[Callable[[SyncClient], object]] = [
    lambda c: c.rank,
    lambda c: c.clients,
    lambda c: c.seq,
    lambda c: c.name,
    lambda c: c.max_line,
    lambda c: c.capacity,
    lambda c: c.ask("x"),
]


def test_a_lost_connection_raises_one_exception_everywhere(server: ServerProcess, later: Later) -> None:
    with connect(server.where) as c:
        with server.paused():
            asked = c.ask("before")
            waiting = [later(wait, c) for wait in WAITS]
            server.process.kill()
        for future in waiting:
            assert type(future.exception(BOUND)) is DisconnectedError
        for use in WAITS + READS:
            with pytest.raises(DisconnectedError, match="connection lost"):
                use(c)
        assert asked.has_failed
    for use in WAITS[:-1] + READS:
        # It still raises this error, because closing came later.
        with pytest.raises(DisconnectedError, match="connection lost"):
            use(c)


def test_the_words_of_the_server_are_in_the_exception(server: ServerProcess) -> None:
    with connect(server.where) as c:
        server.stop()
        with pytest.raises(DisconnectedError) as caught:
            list(c)
        assert caught.value.code == "shutdown"


def test_after_closing_answers_can_still_be_read(server: ServerProcess) -> None:
    with connect(server.where) as c, RawClient(server.address) as low:
        low.hello("low")
        asked, open_one = c.ask("x"), c.ask("y")
        answer(low)
        answers = iter(asked)
        one = next(answers)
        assert asked.counts == Counts(ok=1)
        begun = iter(c.ask("z"))
        low.send(b"BYE\n")
        low.rest()
        assert open_one.counts == Counts(gone=1)
        c.close()
        c.close()
    assert asked.by_rank == {1: one}
    assert (len(asked), asked.ok, list(asked), list(answers)) == (1, True, [one], [])
    assert [gone.status for gone in begun] == ["gone"]
    for use in WAITS[:-1] + READS:
        with pytest.raises(DisconnectedError, match="the client is closed"):
            use(c)
    c.drain()
    c.executes(print)
    c.on_lead(print)


def test_closing_amid_answers_raises_in_the_iteration(server: ServerProcess) -> None:
    with RawClient(server.address) as low, RawClient(server.address) as lowest:
        with connect(server.where) as c:
            low.hello()
            lowest.hello()
            answers = iter(c.ask("x"))
            answer(low)
            next(answers)
        with pytest.raises(DisconnectedError):
            next(answers)


def test_before_joining_it_is_not_connected(server: ServerProcess) -> None:
    c = connect(server.where)
    assert not c.is_connected
    for use in WAITS + READS:
        with pytest.raises(DisconnectedError, match="has not connected yet"):
            use(c)
    c.close()


def test_a_client_joins_only_once(server: ServerProcess) -> None:
    with connect(server.where) as c:
        with pytest.raises(RuntimeError, match="joins only once"), c:
            pass
        assert c.cmd("still here") == 2
        server.kill()
        with pytest.raises(DisconnectedError):
            list(c)
        with pytest.raises(RuntimeError, match="joins only once"), c:
            pass
    with pytest.raises(DisconnectedError, match="connection lost"), c:
        pass


def test_a_closed_client_cannot_be_joined(server: ServerProcess) -> None:
    executor = Closing()
    with connect(server.where) as c:
        pass
    early = connect(server.where, executor=executor)
    early.close()
    assert executor.closed == 1
    for each in (c, early):
        with pytest.raises(DisconnectedError, match="the client is closed"), each:
            pass
        each.close()
    assert executor.closed == 1


class Closing(FunctionExecutor):
    """An executor that counts the calls of ``close``."""

    def __init__(self) -> None:
        super().__init__(print)
        self.closed = 0

    async def close(self) -> None:
        self.closed += 1


def test_failing_to_join_says_why_and_leaves_nothing(
    tmp_path: Path, serve: Callable[..., ServerProcess]
) -> None:
    with pytest.raises(ConnectError, match="No such file"), connect(f"unix:{tmp_path}/none"):
        pass
    with pytest.raises(LocalProtocolError), connect("nowhere.invalid", name="a b"):
        pass
    server = serve(1)
    with connect(server.where), pytest.raises(DisconnectedError, match="full"), connect(server.where):
        pass


def test_an_ask_that_the_server_forgets_is_done(server: ServerProcess) -> None:
    with connect(server.where) as top, RawClient(server.address) as deaf:
        deaf.hello()
        asks = [top.ask("x") for _ in range(MAX_ASKS_PER_MEMBER + 1)]
        assert asks[0].counts == Counts(gone=1)
        asks[-1].logged()
        assert not any(asked.is_done for asked in asks[1:])
