from __future__ import annotations

import asyncio
import inspect
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

import rankserver.client as asyncio_client
from rankserver.client import (
    Answer,
    Counts,
    DisconnectedError,
    Execute,
    LocalProtocolError,
    aio,
    ask,
    reconnect,
    stream,
    sync,
)
from rankserver.client.events import ClientsChanged, Connected, Disconnected, Event, Retrying, Sent, Started
from rankserver.client.functions import FunctionExecutor
from rankserver.client.sync import SyncClient, connect
from rankserver.wire import frames, protocol
from rankserver.wire.exceptions import ConfigError, ConnectError
from tests.support.paths import ROOT
from tests.support.rawclient import RawClient
from tests.support.servers import ServerProcess
from tests.support.waiting import BOUND

BANNER = protocol.info(frames.InfoFrame(1, "fake", 65_536, auth=False, capacity=8))
HELLO = b'HELLO {"proto":1}\n'
Later = Callable[..., "Future[Any]"]


@pytest.fixture
def later() -> Iterator[Later]:
    """Return a function that runs another one in a thread, and returns a future."""
    with ThreadPoolExecutor(32) as pool:
        yield pool.submit


def descriptors() -> list[str]:
    """Return the descriptors that a loop and its client keep open: sockets, and selectors for them."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        # The descriptor of the listing itself.
        with suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(link for link in links if link.startswith(("socket:", "anon_inode:")))


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Check that a test leaves behind no client thread and no descriptor."""
    before = descriptors()
    yield
    for thread in threading.enumerate():
        if thread.name.startswith(("client", "asyncio")):
            thread.join(BOUND)
            assert not thread.is_alive(), thread
    assert descriptors() == before


@contextmanager
def fake(data: bytes) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Serve ``data`` to one client; yield the address, and a function that returns the client's next line."""
    lines: SimpleQueue[bytes] = SimpleQueue()

    def serve() -> None:
        sock = listener.accept()[0]
        sock.settimeout(BOUND)
        with sock, sock.makefile("rb") as stream:
            sock.sendall(data)
            for line in stream:
                lines.put(line)
                if line == b"BYE\n":
                    break

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(BOUND)
        served = pool.submit(serve)
        yield "{}:{}".format(*listener.getsockname()), lambda: lines.get(timeout=BOUND)
        served.result(BOUND)


def welcome(rank: int, clients: int) -> bytes:
    return BANNER + protocol.welcome(frames.WelcomeFrame(rank, clients, 0, "me", "s", 30))


def answer(raw: RawClient, status: bytes = b"ok") -> None:
    """Answer the next ASK."""
    line = raw.line()
    while not line.startswith(b"ASK "):
        line = raw.line()
    raw.send(b"RES %s %s\n" % (line.split(b" ")[1], status))


def take(events: Iterator[Event], kind: type[Event]) -> Event:
    return next(event for event in events if isinstance(event, kind))


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


# --- threads ---


def test_many_threads_may_use_one_client(server: ServerProcess, later: Later) -> None:
    with connect(server.where) as c, connect(server.where, jobs=4) as low:
        low.executes(lambda command: command.text)

        def work(number: int) -> list[int]:
            seqs = []
            for count in range(25):
                asked = c.ask(f"{number} {count}")
                assert [one.out for one in asked] == [f"{number} {count}"]
                seqs += [asked.logged(), c.cmd("x")]
            return seqs

        seqs = [seq for done in [later(work, number) for number in range(8)] for seq in done.result(BOUND)]
        assert len(set(seqs)) == 400
        assert c.seq == max(seqs)


def test_threads_that_share_one_iteration_get_each_event_once(server: ServerProcess, later: Later) -> None:
    with connect(server.where) as c:
        events = iter(c)
        readers = [later(list, events) for _ in range(4)]
        seqs = [c.cmd("x") for _ in range(100)]
        c.close()
        read = [event for reader in readers for event in reader.result(BOUND)]
        assert sorted(event.seq for event in read if isinstance(event, Sent)) == seqs


def test_closing_while_others_use_it_leaves_nobody_waiting(server: ServerProcess, later: Later) -> None:
    def use(c: SyncClient) -> None:
        with suppress(DisconnectedError):
            while True:
                c.cmd("x")
                c.who()

    for _ in range(20):
        with connect(server.where) as c:
            users = [later(use, c) for _ in range(4)]
            c.cmd("x")
            closing = [later(c.close) for _ in range(2)]
        for future in users + closing:
            future.result(BOUND)


def test_nothing_that_waits_outlives_the_client(server: ServerProcess, later: Later) -> None:
    with connect(server.where) as c:
        begun = threading.Event()

        async def wait() -> None:
            begun.set()
            await asyncio.Event().wait()

        waiting = later(c._loop.run, wait)
        assert begun.wait(BOUND)
    with pytest.raises(DisconnectedError, match="the client is closed"):
        waiting.result(BOUND)


def test_an_unclosed_client_does_not_keep_the_program_alive(server: ServerProcess) -> None:
    program = "from rankserver.client.sync import connect; print(connect().__enter__().cmd('x'))"
    environment = {**os.environ, "RANKSERVER": server.where}
    command = [sys.executable, "-c", program]
    assert subprocess.check_output(command, cwd=ROOT, env=environment, timeout=BOUND) == b"2\n"


# --- interrupts ---


@contextmanager
def interrupted(when: Callable[[], object]) -> Iterator[None]:
    """Send SIGINT to the main thread while it waits; the body makes ``when`` return."""
    main = threading.main_thread().ident or 0
    # A program that starts the tests may have set it to be ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        when()
        deadline = time.monotonic() + BOUND
        while sys._current_frames()[main].f_code.co_name != "wait" and time.monotonic() < deadline:
            pass
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    thread.join(BOUND)
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("wait", [len, list, lambda asked: asked.by_rank])
def test_an_interrupt_while_waiting_for_answers_leaves_cleanly(
    server: ServerProcess, wait: Callable[[sync.SyncAsk], object]
) -> None:
    with RawClient(server.address) as silent:
        silent.hello("silent")
        # These are the JOIN and the ASK.
        with interrupted(lambda: silent.lines(2)), connect(server.where) as c:
            wait(c.ask("x"))
        silent.expect(b"LEFT ")


def test_an_interrupt_while_waiting_for_events_loses_none(server: ServerProcess) -> None:
    with connect(server.where) as c:
        events = iter(c)
        for count in range(20):
            was_read = threading.Event()
            c.cmd(str(count))
            with interrupted(was_read.wait):
                for event in events:
                    if isinstance(event, Sent):
                        assert event.text == str(count)
                        was_read.set()


def test_an_interrupt_ends_joining() -> None:
    with fake(b"") as (address, line), interrupted(line), connect(address):
        pytest.fail("nobody let us in")


def test_after_an_interrupt_the_client_can_be_used(server: ServerProcess) -> None:
    with connect(server.where) as c, RawClient(server.address) as low:
        low.hello("low")
        asked = c.ask("x")
        tasks = asyncio.all_tasks(c._loop._loop)
        # These are the ASK and the CMD.
        with interrupted(lambda: low.lines(2)):
            c.cmd("y")
            len(asked)
        assert c.cmd("z") == 5
        # No task still waits for what the program gave up.
        assert asyncio.all_tasks(c._loop._loop) == tasks
        low.send(b"RES 3 ok\n")
        assert asked.ok


def test_a_signal_handler_may_use_the_client(server: ServerProcess) -> None:
    seqs = []
    with connect(server.where) as c:
        before = signal.signal(signal.SIGUSR1, lambda *_: seqs.append(c.cmd("x")))
        try:
            # This is the worst moment.
            with c._loop._lock:
                signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert seqs == [2]


# --- executing and leading ---


def test_what_a_function_returns_is_the_answer(server: ServerProcess) -> None:
    with connect(server.where) as top, connect(server.where, name="low") as low:

        @low.executes
        def run(command: Execute) -> str | None:
            if command.text == "fail":
                raise ValueError("no")
            return None if command.text == "quiet" else f"{command.text} by {command.own_name}"

        assert run.__name__ == "run"
        assert [top.ask(text).by_rank[1][3:6] for text in ("quiet", "loud")] == [
            ("ok", None, ""),
            ("ok", None, "loud by low"),
        ]
        assert top.ask("fail").by_name["low"][0].reason == "ValueError: no"


@pytest.mark.parametrize("error", [StopIteration, SystemExit, KeyboardInterrupt])
def test_no_exception_of_a_function_leaves_the_asker_waiting(
    server: ServerProcess, error: type[BaseException]
) -> None:
    with connect(server.where) as top, connect(server.where) as low:

        @low.executes
        def run(_command: Execute) -> None:
            raise error

        for _ in range(2):
            assert top.ask("x").by_rank[1][3:] == (
                "fail",
                None,
                "",
                None,
                False,
                f"RuntimeError: {error()!r}",
            )


def test_functions_that_are_there_before_joining_miss_nothing() -> None:
    with fake(welcome(1, 2) + b"ASK 1 0 go\nLEFT 2 0\n") as (address, line):
        c = connect(address)
        led: Future[int] = Future()
        c.executes(lambda command: command.text)
        c.on_lead(led.set_result)
        with c:
            assert [line(), line()] == [HELLO, b'RES 1 ok {"out":"go"}\n']
            assert led.result(BOUND) == 2


def test_a_command_from_before_there_is_a_function_is_denied() -> None:
    with fake(welcome(1, 2) + b"ASK 1 0 go\n") as (address, line), connect(address) as c:
        c.executes(lambda command: command.text)
        assert line() == HELLO
        assert line().startswith(b"RES 1 denied ")


def test_an_executor_runs_in_the_thread_of_the_client(server: ServerProcess) -> None:
    class Named(FunctionExecutor):
        async def execute(self, command: Execute) -> Any:
            return (await super().execute(command))._replace(detail={"out": threading.current_thread().name})

    with connect(server.where) as top, connect(server.where, executor=Named(print)) as low:
        assert top.ask("x").by_rank[1].out == f"client of {server.where}"
        low.execute_with(FunctionExecutor(lambda _command: "other"))
        assert top.ask("x").by_rank[1].out == "other"


def test_a_function_may_use_the_client_that_calls_it(server: ServerProcess) -> None:
    with connect(server.where) as top, connect(server.where) as low, connect(server.where) as lowest:
        lowest.executes(lambda command: f"{command.text} below")

        @low.executes
        def run(command: Execute) -> str:
            assert low.who()[1].rank == low.rank == 1
            return low.ask(command.text).by_rank[2].out

        assert top.ask("go").by_rank[1].out == "go below"


def test_functions_that_run_long_do_not_keep_others_waiting(server: ServerProcess) -> None:
    together = threading.Barrier(50)
    with connect(server.where) as top, connect(server.where, jobs=50) as low:
        low.executes(lambda _command: together.wait(BOUND))
        asks = [top.ask("x") for _ in range(50)]
        assert all(asked.ok for asked in asks)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_leader_works_for_as_long_as_it_leads(server: ServerProcess) -> None:
    ended: Future[Exception] = Future()
    with RawClient(server.address) as top, RawClient(server.address) as low:
        top.hello()
        with connect(server.where) as c:
            low.hello()

            @c.on_lead
            def lead(seq: int) -> None:
                try:
                    while c.rank == 0:
                        c.cmd(f"led since {seq}")
                except DisconnectedError as error:
                    ended.set_result(error)

            top.send(b"BYE\n")
            assert low.lines(3) == [b"LEFT 4 0", b"CMD 5 0 led since 4", b"CMD 6 0 led since 4"]
        assert str(ended.result(BOUND)) == "the client is closed"


def test_a_leader_that_fails_leaves(server: ServerProcess, caplog: pytest.LogCaptureFixture) -> None:
    with connect(server.where) as c:
        events = iter(c)

        @c.on_lead
        def lead(_seq: int) -> None:
            raise ValueError("no")

        with pytest.raises(DisconnectedError, match="a function of on_lead failed: ValueError"):
            list(events)
        assert "on_lead" in caplog.text


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_closing_does_not_wait_for_a_function_that_runs_long(server: ServerProcess) -> None:
    go_on = threading.Event()
    with connect(server.where) as top, connect(server.where) as low:
        top.on_lead(lambda _seq: go_on.wait(BOUND))
        low.executes(lambda _command: go_on.wait(BOUND))
        events = iter(low)
        top.cmd("x")
        take(events, Started)
    assert not go_on.is_set()
    go_on.set()


@pytest.mark.parametrize("flavour", ["sync", "asyncio"])
def test_a_program_does_not_wait_for_a_leader_at_its_end(server: ServerProcess, flavour: str) -> None:
    program = """
import threading
from rankserver.client.sync import connect
with connect() as c:
    led = threading.Event()
    c.on_lead(lambda seq: (led.set(), threading.Event().wait()))
    led.wait()
"""
    if flavour == "asyncio":
        program = """
import asyncio, threading
from rankserver.client import connect
async def main():
    async with connect() as c:
        led = threading.Event()
        c.on_lead(lambda seq: (led.set(), threading.Event().wait()))
        await asyncio.to_thread(led.wait)
asyncio.run(main())
"""
    environment = {**os.environ, "RANKSERVER": server.where}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, timeout=BOUND, check=True)


def test_a_function_may_close_the_client(server: ServerProcess) -> None:
    with connect(server.where) as top, connect(server.where) as low:
        low.executes(lambda _command: low.close())
        assert top.ask("x").counts == Counts(gone=1)
        assert not low.is_connected


def test_a_coroutine_is_awaited_but_cannot_use_the_client(server: ServerProcess) -> None:
    with connect(server.where) as top, connect(server.where) as low:

        @low.executes
        async def run(command: Execute) -> str:
            if command.text == "use":
                low.who()
            if command.text == "close":
                low.close()
            return "done"

        assert top.ask("x").by_rank[1].out == "done"
        for text in ("use", "close"):
            assert top.ask(text).by_rank[1].reason.startswith("RuntimeError: a coroutine function cannot use")
        assert low.is_connected


def test_tasks_of_a_coroutine_function_end_with_the_client(server: ServerProcess) -> None:
    ended = []

    async def begun() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    with connect(server.where) as top, connect(server.where) as low:

        @low.executes
        async def run(_command: Execute) -> None:
            tasks.append(asyncio.create_task(begun()))
            await asyncio.sleep(0)

        tasks: list[asyncio.Task[None]] = []
        assert top.ask("x").ok
    assert ended == [True]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_coroutine_that_exits_ends_the_client_and_all_waits(server: ServerProcess, later: Later) -> None:
    with connect(server.where) as top, connect(server.where) as low:

        @low.executes
        async def run(_command: Execute) -> None:
            sys.exit(3)

        reading = later(list, low)
        waiting = later(lambda: low.ask("x").counts)
        assert top.ask("x").counts.gone == 1
        reading.result(BOUND)
        waiting.exception(BOUND)
        with pytest.raises(DisconnectedError):
            low.cmd("x")


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
