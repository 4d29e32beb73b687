from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.frontend import Status
from client.plain import CLEAR, LineCutter, PlainFrontend
from client.words import Line
from rankserver.wire.exceptions import StreamError
from tests.support.waiting import run

CHATTER = [Line("rank", "r"), Line("sent", "s"), Line("execute", "x"), Line("error", "e")]
RESULTS = [Line("out", "o"), Line("answer", "a"), Line("done", "d"), Line("json", "j")]
OPEN = Status("here", 0, 3, asks=2, answered=1, targets=4)
CLOSED = Status("here", 0, 3, asks=0, answered=0, targets=0)


# --- cutting input into lines ---


@given(st.binary(max_size=100), st.lists(st.integers(1, 9)), st.integers(1, 12))
def test_cutting_does_not_depend_on_how_the_bytes_arrive(data: bytes, sizes: list[int], limit: int) -> None:
    expected = [
        # The whole line, or enough of it to be too long.
        line.removesuffix(b"\r")[: limit + 1]
        for line in data.removesuffix(b"\n").split(b"\n")
    ]
    if not data:
        expected = []
    cutter, rest, lines = LineCutter(limit), data, list[bytes]()
    for size in sizes:
        lines += cutter.feed(rest[:size])
        rest = rest[size:]
    lines += cutter.feed(rest) + cutter.end()
    assert lines == expected


def test_a_line_without_end_takes_no_memory() -> None:
    cutter = LineCutter(100)
    for _ in range(1_000):
        assert cutter.feed(b"x" * 90) == []
        assert len(cutter._pending) <= 102
    assert cutter.feed(b"x\nok\n") == [b"x" * 101, b"ok"]


# --- lines in ---


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)


def plain(stdin: int) -> PlainFrontend:
    return PlainFrontend(stdin, io.StringIO(), io.StringIO(), io.StringIO())


async def read(descriptor: int, max_line: int = 100) -> list[bytes]:
    return [line async for line in plain(descriptor).lines(max_line)]


def test_lines_come_from_a_pipe_as_they_are_written(pipe: tuple[int, int]) -> None:
    async def main() -> None:
        lines = plain(pipe[0]).lines(100)
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
        assert await read(descriptor) == [b"%d" % count for count in range(20_000)]

    with (tmp_path / "commands").open("rb") as file:
        run(main(file.fileno()))


def test_no_lines_come_from_dev_null() -> None:
    async def main(descriptor: int) -> None:
        assert await read(descriptor) == []

    with Path(os.devnull).open("rb") as file:
        run(main(file.fileno()))


def test_input_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    async def main() -> None:
        descriptor = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(StreamError, match="cannot read standard input: Is a directory"):
            await read(descriptor)
        os.close(descriptor)

    run(main())


def test_an_overlong_line_yields_its_beginning(pipe: tuple[int, int]) -> None:
    async def main() -> None:
        os.write(pipe[1], b"x" * 11 + b"\nok\n" + b"y" * 20)
        os.close(pipe[1])
        assert await read(pipe[0], max_line=10) == [b"x" * 11, b"ok", b"y" * 11]

    run(main())


# --- lines out ---


class Recorded(io.StringIO):
    """A stream that records its writes and flushes in a list that it shares with others."""

    def __init__(self, name: str, calls: list[tuple[str, str]]) -> None:
        super().__init__()
        self._name = name
        self._calls = calls

    def write(self, text: str) -> int:
        self._calls.append((self._name, text))
        return len(text)

    def flush(self) -> None:
        self._calls.append((self._name, ""))


def recorded(
    *, chatter_to_err: bool = True, progress: bool = False
) -> tuple[PlainFrontend, list[tuple[str, str]]]:
    """Return a frontend, and the list of its writes with their streams; an empty text is a flush."""
    calls: list[tuple[str, str]] = []
    out, err = Recorded("out", calls), Recorded("err", calls)
    frontend = PlainFrontend(0, out, err, err if chatter_to_err else out, shows_progress=progress)
    return frontend, calls


def test_results_go_to_the_output_and_the_rest_to_stderr() -> None:
    frontend, calls = recorded()
    frontend.show([*CHATTER, *RESULTS])
    assert calls == [("err", "r\ns\nx\ne\n"), ("err", ""), ("out", "o\na\nd\nj\n"), ("out", "")]
    frontend, calls = recorded(chatter_to_err=False)
    frontend.show([*CHATTER, *RESULTS])
    assert calls == [("out", "r\ns\nx\ne\no\na\nd\nj\n"), ("out", "")]


def test_output_and_chatter_stay_in_order_in_the_same_file() -> None:
    frontend, calls = recorded()
    frontend.show([RESULTS[0], CHATTER[0], RESULTS[1]])
    assert calls == [("out", "o\n"), ("out", ""), ("err", "r\n"), ("err", ""), ("out", "a\n"), ("out", "")]


def test_a_thousand_answers_are_one_write() -> None:
    frontend, calls = recorded()
    frontend.show([Line("out", f"#17 rank {rank} | x") for rank in range(1_000)])
    assert [(name, text.count("\n")) for name, text in calls] == [("out", 1_000), ("out", 0)]


def test_a_complaint_is_flushed_to_standard_error() -> None:
    frontend, calls = recorded(chatter_to_err=False)
    frontend.complain("b")
    assert calls == [("err", "b\n"), ("err", "")]


@pytest.mark.parametrize(("kind", "name"), [("out", "output"), ("sent", "error")])
def test_output_that_cannot_be_written_is_reported(kind: str, name: str) -> None:
    full = Path("/dev/full").open("w")  # noqa: SIM115 - closing it fails again
    frontend = PlainFrontend(0, full, io.StringIO(), io.StringIO())
    if kind == "sent":
        frontend = PlainFrontend(0, io.StringIO(), full, full)
        frontend.complain("nobody can be told that complaining fails")
    with pytest.raises(StreamError, match=f"cannot write to standard {name}: No space left on device"):
        frontend.show([Line(kind, "x")])
    with pytest.raises(OSError, match="No space"):
        full.close()


# --- the progress ---


def test_progress_is_drawn_on_changes_and_erased_before_lines() -> None:
    frontend, calls = recorded(progress=True)
    frontend.refresh(CLOSED)
    assert calls == []
    frontend.refresh(OPEN)
    frontend.refresh(OPEN)
    assert calls == [("err", CLEAR + "1 of 4 answers"), ("err", "")]
    calls.clear()
    frontend.show([RESULTS[0]])
    assert calls == [("err", CLEAR), ("err", ""), ("out", "o\n"), ("out", "")]
    calls.clear()
    frontend.refresh(OPEN)
    frontend.complain("b")
    assert calls[2:] == [("err", CLEAR), ("err", ""), ("err", "b\n"), ("err", "")]
    calls.clear()
    frontend.refresh(OPEN)
    frontend.refresh(CLOSED)
    assert calls[2:] == [("err", CLEAR), ("err", "")]


def test_the_progress_is_gone_at_the_end() -> None:
    frontend, calls = recorded(progress=True)

    async def main() -> None:
        async with frontend:
            frontend.refresh(OPEN)
        assert calls[2:] == [("err", CLEAR), ("err", "")]

    run(main())


def test_no_progress_is_drawn_without_a_terminal() -> None:
    frontend, calls = recorded()
    frontend.refresh(OPEN)
    assert calls == []
