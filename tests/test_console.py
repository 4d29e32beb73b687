from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import console, events
from client.aio import connect
from client.console import Console, Exit, Line, LineCutter, Plain, describe, visible
from client.executors import Finished, Outcome, Simulated, Started
from rankserver import frames, protocol
from rankserver.exceptions import StreamError
from tests.support import BOUND, RawClient, Server

WHERE = "127.0.0.1:5050"
COMMAND = events.Execute(18, 0, "df -h", True, 1, "me")


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine, within the bound."""
    asyncio.run(asyncio.wait_for(work, BOUND))


# --- words ---


@pytest.mark.parametrize(
    ("happened", "words"),
    [
        (events.Connected("web-1", 1, 3), "connected to 127.0.0.1:5050 as web-1: rank 1 of 3"),
        (events.Sent(17, "uptime", wants_answer=True), "sent #17: uptime"),
        (Started(COMMAND), "executing #18 from rank 0: df -h"),
        (Finished(COMMAND, Outcome("ok")), "executed #18: df -h"),
        (events.Refused(19, 2, "reboot"), "cannot execute #19 from lower-ranked rank 2: reboot"),
        (events.RankChanged(0, 2), "rank is now 0 of 2"),
        (events.AskDone(17, "", 1, 1, 1, 0, 0, 0, 0), "#17: executed by 1 of 1, refused by 1"),
        (events.AskDone(17, "", 0, 0, 0, 0, 0, 0, 0), "#17: executed by 0 of 0"),
        (
            events.AskDone(17, "", 9, 1, 2, 3, 4, 5, 6),
            "#17: executed by 1 of 9, refused by 2, failed by 3, denied by 4, timed out at 5, gone 6",
        ),
        (events.Rejected("bad-frame", "no", "x"), "the server rejected the command 'x': bad-frame no"),
        (events.Rejected("no-such-ask", "7", None), "the server rejected a frame: no-such-ask 7"),
        (
            events.Disconnected("shutdown", "the server is stopping"),
            "disconnected: shutdown the server is stopping",
        ),
        (events.Disconnected("", "connection lost"), "disconnected: connection lost"),
    ],
)
def test_what_happened_is_put_into_these_words(happened: events.Event, words: str) -> None:
    line = describe(happened, WHERE)
    assert line is not None
    assert line.text == words


@pytest.mark.parametrize(
    "happened",
    [
        COMMAND,
        events.ClientsChanged(2),
        events.Answered(17, 1, "web-1", "ok", ""),
        events.RosterReceived((frames.Member(0, "a"),)),
    ],
)
def test_what_changes_nothing_for_a_person_has_no_words(happened: events.Event) -> None:
    assert describe(happened, WHERE) is None


def test_control_characters_of_others_are_made_visible() -> None:
    line = describe(events.Refused(1, 2, "a\x1b[2J\x9b\x7f\r\n\tü"), WHERE)
    assert line is not None
    assert line.text.endswith("a\\x1b[2J\\x9b\\x7f\\x0d\\x0a\tü")


@given(st.text())
def test_what_is_visible_passes_the_text_rule(text: str) -> None:
    assert protocol.text_problem(visible(text)) is None


# --- cutting input into lines ---


@given(st.binary(max_size=100), st.lists(st.integers(1, 9)), st.integers(1, 12))
def test_cutting_does_not_depend_on_how_the_bytes_arrive(data: bytes, sizes: list[int], limit: int) -> None:
    expected = [
        None if len(line) > limit else line.removesuffix(b"\r")
        for line in data.removesuffix(b"\n").split(b"\n")
    ]
    if not data:
        expected = []
    cutter, rest, lines = LineCutter(limit), data, list[bytes | None]()
    for size in sizes:
        lines += cutter.feed(rest[:size])
        rest = rest[size:]
    lines += cutter.feed(rest) + cutter.end()
    assert lines == expected


def test_a_line_without_end_takes_no_memory() -> None:
    cutter = LineCutter(100)
    for _ in range(1_000):
        assert cutter.feed(b"x" * 90) == []
        assert len(cutter._pending) <= 100
    assert cutter.feed(b"x\nok\n") == [None, b"ok"]


# --- the plain face ---


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)


def plain(stdin: int, max_line: int = 100) -> tuple[Plain, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Plain(stdin, out, err, max_line), out, err


def test_lines_come_from_a_pipe_as_they_are_written(pipe: tuple[int, int]) -> None:
    async def main() -> None:
        face, _, _ = plain(pipe[0])
        lines = face.lines()
        os.write(pipe[1], b"one\r\ntw")
        assert await anext(lines) == b"one"
        second = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0)
        assert not second.done()
        os.write(pipe[1], b"o\nlast")
        assert await second == b"two"
        os.close(pipe[1])
        assert [line async for line in lines] == [b"last"]

    run(main())


def test_lines_come_from_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "commands").write_bytes(b"".join(b"%d\n" % count for count in range(20_000)))

    async def main(descriptor: int) -> None:
        face, _, _ = plain(descriptor)
        assert [line async for line in face.lines()] == [b"%d" % count for count in range(20_000)]

    with (tmp_path / "commands").open("rb") as file:
        run(main(file.fileno()))


def test_no_lines_come_from_dev_null() -> None:
    async def main(descriptor: int) -> None:
        face, _, _ = plain(descriptor)
        assert [line async for line in face.lines()] == []

    with Path(os.devnull).open("rb") as file:
        run(main(file.fileno()))


def test_input_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        descriptor = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(StreamError, match="cannot read standard input: Is a directory"):
            await anext(plain(descriptor)[0].lines())
        os.close(descriptor)

    run(main())


def test_a_line_that_is_too_long_is_complained_about_and_skipped(pipe: tuple[int, int]) -> None:
    async def main() -> None:
        face, out, err = plain(pipe[0], max_line=10)
        os.write(pipe[1], b"x" * 11 + b"\nok\n" + b"y" * 20)
        os.close(pipe[1])
        assert [line async for line in face.lines()] == [b"ok"]
        assert err.getvalue() == 2 * "cannot send: the line has more than 10 bytes\n"
        assert out.getvalue() == ""

    run(main())


def test_every_line_is_flushed() -> None:
    with Path(os.devnull).open("w") as out, Path(os.devnull).open("w") as err:
        face = Plain(0, out, err, 100)
        out.flush = lambda: flushed.append("out")  # type: ignore[method-assign]
        err.flush = lambda: flushed.append("err")  # type: ignore[method-assign]
        flushed: list[str] = []
        face.show(Line("sent", "a"))
        face.complain("b")
        assert flushed == ["out", "err"]


def test_output_that_cannot_be_written_is_told() -> None:
    out = Path("/dev/full").open("w")  # noqa: SIM115 - closing it fails again
    with pytest.raises(StreamError, match="cannot write to standard output: No space left on device"):
        Plain(0, out, io.StringIO(), 100).show(Line("sent", "x"))
    with pytest.raises(OSError, match="No space"):
        out.close()


# --- the conversation ---


class Puppet:
    """A face whose person the test plays."""

    def __init__(self) -> None:
        self.typed: asyncio.Queue[bytes | None] = asyncio.Queue()  # None: the end
        self.shown: asyncio.Queue[str] = asyncio.Queue()
        self.complaints: asyncio.Queue[str] = asyncio.Queue()
        self.refreshed = asyncio.Event()

    async def __aenter__(self) -> Puppet:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    def show(self, line: Line) -> None:
        self.shown.put_nowait(line.text)

    def complain(self, text: str) -> None:
        self.complaints.put_nowait(text)

    def refresh(self) -> None:
        self.refreshed.set()

    async def lines(self) -> AsyncGenerator[bytes, None]:
        while (line := await self.typed.get()) is not None:
            yield line

    def type(self, *lines: bytes | None) -> None:
        for line in lines:
            self.typed.put_nowait(line)


def converse(server: Server, test: Callable[[Puppet, asyncio.Task[Exit]], Coroutine[Any, Any, None]]) -> None:
    """Run ``test`` beside a console that is connected and has said so."""

    async def main() -> None:
        puppet = Puppet()
        async with connect(server.where, name="me") as client:
            running = asyncio.create_task(Console(client, puppet, Simulated(0)).run())
            assert (await puppet.shown.get()).startswith(f"connected to {server.where} as me: rank ")
            await test(puppet, running)
            await running

    run(main())


def test_the_end_of_the_input_waits_for_every_outcome(server: Server) -> None:
    async def test(puppet: Puppet, running: asyncio.Task[Exit]) -> None:
        with RawClient(server.address) as other:
            await asyncio.to_thread(other.hello)
            puppet.type(b"a", b"", b"  ", b"b", None)
            assert (await puppet.shown.get(), await puppet.shown.get()) == ("sent #3: a", "sent #4: b")
            other.send(b"RES 4 ok\n")
            assert await puppet.shown.get() == "#4: executed by 1 of 1"
            assert not running.done()
        assert await puppet.shown.get() == "#3: executed by 0 of 1, gone 1"
        assert await running is Exit.OK

    converse(server, test)


def test_exit_waits_for_nothing(server: Server) -> None:
    async def test(puppet: Puppet, running: asyncio.Task[Exit]) -> None:
        with RawClient(server.address) as other:
            await asyncio.to_thread(other.hello)
            puppet.type(b"a")
            assert await puppet.shown.get() == "sent #3: a"
            puppet.type(b" exit ", b"b")
            assert await running is Exit.OK
        assert puppet.shown.empty()

    converse(server, test)


def test_what_may_not_be_sent_is_complained_about_and_not_waited_for(server: Server) -> None:
    async def test(puppet: Puppet, running: asyncio.Task[Exit]) -> None:
        puppet.type(b"a\x1bb", b"\xff", b"x" * 65_536, None)
        assert [await puppet.complaints.get() for _ in range(3)] == [
            "cannot send: control character U+001B at position 1; only TAB is allowed",
            "cannot send: byte 0xff at offset 0 is not valid UTF-8",
            "cannot send: the line has 65541 bytes, 65536 are allowed",
        ]
        assert await running is Exit.OK

    converse(server, test)


def test_commands_of_higher_ranks_are_executed_and_answered(server: Server) -> None:
    async def test(puppet: Puppet, _running: asyncio.Task[Exit]) -> None:
        top.send(b"ASK up\nCMD down\n")
        assert [await puppet.shown.get() for _ in range(4)] == [
            "executing #3 from rank 0: up",
            "executed #3: up",
            "executing #4 from rank 0: down",
            "executed #4: down",
        ]
        lines = await asyncio.to_thread(top.lines, 4)
        assert lines[-1] == b"RES 3 1 me ok"
        puppet.type(None)

    with RawClient(server.address) as top:
        top.hello()
        converse(server, test)


def test_a_new_rank_is_told_and_a_new_number_of_clients_refreshes(server: Server) -> None:
    async def test(puppet: Puppet, _running: asyncio.Task[Exit]) -> None:
        with RawClient(server.address) as other:
            await asyncio.to_thread(other.hello)
            await puppet.refreshed.wait()
            assert puppet.shown.empty()
            top.close()
            assert await puppet.shown.get() == "rank is now 0 of 2"
        puppet.type(None)

    with RawClient(server.address) as top:
        top.hello()
        converse(server, test)


def test_the_end_of_the_connection_ends_the_conversation_whatever_else_goes_on(server: Server) -> None:
    async def test(puppet: Puppet, running: asyncio.Task[Exit]) -> None:
        server.process.send_signal(signal.SIGTERM)
        puppet.type(*[b"x"] * 1_000)
        assert await running is Exit.DISCONNECTED
        shown = [puppet.shown.get_nowait() for _ in range(puppet.shown.qsize())]
        assert shown[-1] == "disconnected: shutdown the server is stopping"
        assert puppet.complaints.empty()

    converse(server, test)


def test_input_waits_while_too_many_asks_are_open(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "MAX_OPEN", 3)

    async def test(puppet: Puppet, _running: asyncio.Task[Exit]) -> None:
        with RawClient(server.address) as other:
            await asyncio.to_thread(other.hello)
            puppet.type(*[b"%d" % count for count in range(9)], None)
            assert await asyncio.to_thread(other.lines, 3) == [b"ASK %d 0 %d" % (3 + n, n) for n in range(3)]
            other.send(b"PING here\n")
            assert await asyncio.to_thread(other.line) == b"PONG here"
            other.send(b"RES 4 ok\n")
            assert await asyncio.to_thread(other.line) == b"ASK 6 0 3"

    converse(server, test)
