"""The console's output on a terminal; ``test_terminal`` is about its input."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from rankserver.wire import protocol
from tests.support.on_screen import CTRL_C, DRAWN, LEFT, TAB, TerminalClient
from tests.support.rawclient import RawClient
from tests.support.servers import ServerProcess


@pytest.fixture
def other(server: ServerProcess, console: TerminalClient) -> Iterator[RawClient]:
    """Join as rank 1, to answer the console's asks."""
    with RawClient(server.address) as client:
        client.hello("web")
        console.see("0/2>")
        yield client


def answer(console: TerminalClient, other: RawClient, out: str) -> None:
    """Let the console ask, and ``other`` answer with this output."""
    console.type("ask\r")
    seq = int(other.expect(b"ASK ").split()[1])
    console.see(f"sent #{seq}: ask", "0/2>")
    other.send(protocol.result(seq, "ok", {"out": out}))


# --- many lines ---


def test_a_burst_of_answers_is_drawn_in_few_writes(
    server: ServerProcess, console: TerminalClient, other: RawClient
) -> None:
    console.type("ask\r")
    console.see("sent #3: ask", "0/2>")
    other.expect(b"ASK 3")
    before = len(console.raw)
    with server.paused():
        other.send(protocol.result(3, "ok", {"out": "".join(f"{count}\n" for count in range(1000))}))
        other.send(b"".join(b"CMD %d\n" % count for count in range(1000)))
    console.see("cannot execute #1003 from lower-ranked rank 1: 999", "0/2>")
    console.until(lambda: console.bottom() != "")
    burst = console.raw[before:]
    assert burst.count(b"#3 rank 1 web | ") == 1000
    assert burst.count(b"cannot execute #") == 1000
    # It would be 2,000 if each line were drawn separately.
    assert burst.count(DRAWN) <= 20


def test_lines_that_come_one_by_one_are_shown_one_by_one(console: TerminalClient, other: RawClient) -> None:
    for count in range(3, 20):
        other.send(b"CMD a\n")
        console.see(f"cannot execute #{count} from lower-ranked rank 1: a", "0/2>")


def test_the_terminal_is_not_asked_where_the_cursor_is(console: TerminalClient) -> None:
    # Not every terminal answers, and the library warns if one does not.
    assert b"\x1b[6n" not in console.raw


# --- text of all kinds ---

HOSTILE = {
    "clear": ("\x1b[2J\x1b[H", "\\x1b[2J\\x1b[H"),
    "title": ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
    "return": ("good\rbad", "good\\x0dbad"),
    "backspace": ("rm\b\bls", "rm\\x08\\x08ls"),
    "c1": ("\x9b2J", "\\x9b2J"),
    "direction": ("a\u202eb", "a\\u202eb"),
}


@pytest.mark.parametrize(("out", "shown"), HOSTILE.values(), ids=HOSTILE)
def test_control_characters_in_an_output_are_shown_as_text(
    console: TerminalClient, other: RawClient, out: str, shown: str
) -> None:
    answer(console, other, f"before\n{out}\nafter")
    console.see(
        "sent #3: ask",
        "#3 rank 1 web | before",
        f"#3 rank 1 web | {shown}",
        "#3 rank 1 web | after",
        "#3: executed by 1 of 1",
        "0/2>",
    )
    assert not console.title


def test_lines_longer_than_the_screen_is_wide_are_all_there(
    console: TerminalClient, other: RawClient
) -> None:
    console.type("half")
    console.see("0/2> half")
    other.send(b"CMD " + b"x" * 250 + b"\n")
    said = "cannot execute #3 from lower-ranked rank 1: " + "x" * 250
    console.see(said[:100], said[100:200], said[200:], "0/2> half")
    other.send(b"CMD " + b"y" * (200 - len("cannot execute #4 from lower-ranked rank 1: ")) + b"\n")
    console.see(said[200:], said[:43].replace("#3", "#4") + " " + "y" * 56, "y" * 100, "0/2> half")


def test_a_tab_in_an_output_leads_to_the_next_tab_stop(console: TerminalClient, other: RawClient) -> None:
    answer(console, other, "a\tb\n\tc")
    console.see("#3 rank 1 web | a       b", "#3 rank 1 web |         c", "#3: executed by 1 of 1", "0/2>")


WIDE = "日本語 é n\u0308 😀 ﷺ ─"


def test_wide_and_combining_characters_are_shown_as_they_are(
    console: TerminalClient, other: RawClient
) -> None:
    console.type(WIDE)
    console.see(f"0/2> {WIDE}")
    console.type("\r")
    other.expect(b"ASK 3 0 " + WIDE.encode())
    other.send(protocol.result(3, "ok", {"out": WIDE}))
    console.see(f"sent #3: {WIDE}", f"#3 rank 1 web | {WIDE}", "#3: executed by 1 of 1", "0/2>")


def test_the_cursor_is_where_it_belongs_among_wide_characters(
    console: TerminalClient, other: RawClient
) -> None:
    console.type("日本語" + LEFT)
    console.until(lambda: console.cursor() == (-1, len("0/2> ") + 4))
    console.type("x\r")
    other.expect("ASK 3 0 日本x語".encode())


# --- size ---


def test_a_resize_keeps_what_is_typed_while_lines_come_in(console: TerminalClient, other: RawClient) -> None:
    console.type("half typed" + LEFT)
    console.see("0/2> half typed")
    for count, (rows, columns) in enumerate([(24, 60), (10, 60), (10, 140), (40, 140), (24, 100)], 3):
        console.resized(rows, columns)
        other.send(b"CMD a\n")
        console.see(f"cannot execute #{count} from lower-ranked rank 1: a", "0/2> half typed")
        console.until(lambda: console.cursor() == (-1, len("0/2> half type")))
        console.until(lambda: console.bottom_distance() == 1)
    assert sum(row.startswith("0/2> half") for row in console.rows()) == 1
    console.type("-\r")
    other.expect(b"CMD 3")
    other.lines(4)
    other.expect(b"ASK 8 0 half type-d")


def test_a_long_typed_line_is_wrapped_and_gives_its_rows_back(
    console: TerminalClient, other: RawClient
) -> None:
    text = "".join(f"{count:.<10}" for count in range(25)) + "end"
    console.type(text)
    whole = f"0/2> {text}"
    console.see(whole[:100], whole[100:200], whole[200:])
    other.send(b"CMD a\n")
    console.see("cannot execute #3 from lower-ranked rank 1: a", whole[:100], whole[100:200], whole[200:])
    console.type(CTRL_C)
    console.see("cannot execute #3 from lower-ranked rank 1: a", "0/2>")
    console.until(lambda: console.bottom_distance() == 1)


def test_a_terminal_of_20_columns_and_5_rows_is_enough(
    server: ServerProcess, start: Callable[..., TerminalClient]
) -> None:
    console = start(server.where, "--name", "me", "--delay", "0", size=(5, 20))
    console.see("0/1>")
    console.see_bottom("rank 0 of 1")
    with RawClient(server.address) as other:
        other.hello()
        console.see("0/2>")
        console.type("echo abc\r")
        console.see("0/2> echo abc", "sent #3: echo abc", "0/2>")
        console.see_bottom("0/2 | 0/1")
        other.send(protocol.result(3, "ok", {"out": "日本 abcd"}))
        console.see("abcd", "#3: executed by 1 of", " 1", "0/2>")
        console.type("u" * 105 + "end")
        console.see("u" * 20, "u" * 20, "u" * 20, "u" * 10 + "end")
        console.see_bottom("rank 0 of 2")
        console.type(CTRL_C)
        console.until(lambda: console.rows() == ["0/2>"])
        console.type("e" + TAB)
        # A suggestion in grey, and a menu of one row.
        console.see("0/2> echo abc", "       echo abc")
        console.type(TAB + TAB)
        console.see("0/2> exit", "       exit")


@pytest.mark.parametrize("size", [(1, 20), (2, 2), (3, 1)])
def test_it_works_on_a_tiny_screen(
    server: ServerProcess, start: Callable[..., TerminalClient], size: tuple[int, int]
) -> None:
    with RawClient(server.address) as top:
        top.hello()
        console = start(server.where, size=size)
        top.expect(b"JOIN ")
        console.until(lambda: console.raw.count(DRAWN) > 0)
        console.type("uptime\r")
        top.expect(b"ASK 3 1 uptime")
        console.type("exit\r")
        assert console.exit_code() == 0


@pytest.mark.parametrize("rows", [1, 2])
def test_a_screen_of_few_rows_has_a_prompt_and_no_bottom_line(
    server: ServerProcess, start: Callable[..., TerminalClient], rows: int
) -> None:
    console = start(server.where, size=(rows, 20))
    console.see("0/1>")
    assert not console.bottom()
    console.resized(3, 20)
    console.see_bottom("rank 0 of 1")


# --- colour ---


def test_each_kind_of_line_has_its_colour(console: TerminalClient, other: RawClient) -> None:
    assert console.colour("as me: rank 0 of 1") == "brown"
    assert console.colour("0/2>") == "blue"
    answer(console, other, "text")
    console.see("#3 rank 1 web | text", "#3: executed by 1 of 1", "0/2>")
    assert console.colour("sent #3") == "cyan"
    assert console.colour("#3 rank 1") == "default"
    other.send(b"CMD a\n")
    console.see("cannot execute #4 from lower-ranked rank 1: a", "0/2>")
    assert console.colour("cannot execute") == "magenta"
    console.type(":nothing\r")
    console.until(lambda: console.rows()[-2].startswith("unknown"))
    assert console.colour("unknown") == "red"
    assert console.colour("0/2> :nothing") == "blue"
    assert console.colour("0/2> :nothing", len("0/2> ")) == "default"


def test_an_executed_command_is_green(server: ServerProcess, start: Callable[..., TerminalClient]) -> None:
    with RawClient(server.address) as top:
        top.hello()
        console = start(server.where, "--delay", "0")
        console.see("1/2>")
        top.send(b"CMD date\n")
        console.see("executing #3 from rank 0: date", "executed #3: date", "1/2>")
        assert console.colour("executing") == console.colour("executed") == "green"


def test_no_color_means_no_colour_and_no_suggestion(
    server: ServerProcess, start: Callable[..., TerminalClient]
) -> None:
    console = start(server.where, "--delay", "0", changes={"NO_COLOR": "1"})
    console.see("0/1>")
    console.type("uptime\r")
    console.see("sent #2: uptime", "#2: executed by 0 of 0", "0/1>")
    console.type("upt:\x7f")
    console.see("#2: executed by 0 of 0", "0/1> upt")
    console.type(CTRL_C)
    console.see("#2: executed by 0 of 0", "0/1>")
    console.type("exit\r")
    assert console.exit_code() == 0
    assert not console.has_colour()


def test_an_empty_no_color_is_ignored(server: ServerProcess, start: Callable[..., TerminalClient]) -> None:
    console = start(server.where, changes={"NO_COLOR": ""})
    console.see("0/1>")
    assert console.has_colour()
