"""The console's input on a terminal, and its end; ``test_screen`` is about its output."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from rankserver.wire import protocol
from tests.support.on_screen import (
    CTRL_C,
    CTRL_D,
    CTRL_L,
    CTRL_Q,
    CTRL_R,
    CTRL_Z,
    END,
    LEFT,
    RIGHT,
    TAB,
    UP,
    TerminalClient,
)
from tests.support.rawclient import RawClient
from tests.support.servers import ServerProcess


def test_a_half_typed_line_survives_what_arrives_meanwhile(
    server: ServerProcess, console: TerminalClient
) -> None:
    console.type("half ti")
    console.see("0/1> half ti")
    with RawClient(server.address) as other:
        other.hello()
        console.see("0/2> half ti")
        console.type(LEFT)
        other.send(b"ASK reboot\n")
        console.see("cannot execute #3 from lower-ranked rank 1: reboot", "0/2> half ti")
        console.type("yped" + END + "!\r")
        other.expect(b"ASK 3 1 reboot")
        other.expect(b"RES 3 0 me refused")
        other.expect(b"ASK 4 0 half typedi!")
        console.see("0/2> half typedi!", "sent #4: half typedi!", "0/2>")


def test_a_half_typed_line_and_its_cursor_survive_1_000_lines(
    server: ServerProcess, console: TerminalClient
) -> None:
    with RawClient(server.address) as other:
        other.hello()
        console.see("0/2>")
        console.type("half" + LEFT + LEFT)
        console.see("0/2> half")
        other.send(b"".join(b"CMD %d\n" % count for count in range(1000)))
        shown = [
            f"cannot execute #{count + 3} from lower-ranked rank 1: {count}" for count in range(980, 1000)
        ]
        console.see(*shown, "0/2> half")
        console.until(lambda: console.cursor() == (-1, len("0/2> ha")))
        console.type("-\r")
        console.see("0/2> ha-lf", "sent #1003: ha-lf", "0/2>")


# --- rank and connection ---


def test_the_prompt_follows_the_rank_at_each_leave(
    server: ServerProcess, start: Callable[..., TerminalClient]
) -> None:
    above = [RawClient(server.address) for _ in range(3)]
    for client in above:
        client.hello()
    killed = start(server.where)
    killed.see(f"connected to {server.where} as c4: rank 3 of 4", "3/4>")
    console = start(server.where)
    console.see(f"connected to {server.where} as c5: rank 4 of 5", "4/5>")
    killed.child.kill(signal.SIGKILL)
    console.see("rank is now 3 of 4", "3/4>")
    above[1].close()
    console.see("rank is now 3 of 4", "rank is now 2 of 3", "2/3>")
    above[0].abort()
    console.see("rank is now 2 of 3", "rank is now 1 of 2", "1/2>")
    console.see_bottom(f"rank 1 of 2 | connected to {server.where}")
    above[2].send(b"BYE\n")
    console.see("rank is now 1 of 2", "rank is now 0 of 1", "0/1>")
    console.see_bottom(f"rank 0 of 1 | connected to {server.where}")
    above[2].close()


def test_a_leave_below_changes_only_the_number_of_clients(
    server: ServerProcess, console: TerminalClient
) -> None:
    with RawClient(server.address) as other:
        other.hello()
        console.see(f"connected to {server.where} as me: rank 0 of 1", "0/2>")
    console.see(f"connected to {server.where} as me: rank 0 of 1", "0/1>")


def test_the_bottom_line_counts_open_answers(server: ServerProcess, console: TerminalClient) -> None:
    where = f"connected to {server.where}"
    console.see_bottom(f"rank 0 of 1 | {where}")
    with RawClient(server.address) as one, RawClient(server.address) as other:
        for client in (one, other):
            client.hello()
        console.see("0/3>")
        console.type("uptime\rwho\r")
        console.see_bottom(f"rank 0 of 3 | 2 open: 0 of 4 answers | {where}")
        one.send(protocol.result(4, "ok"))
        console.see_bottom(f"rank 0 of 3 | 2 open: 1 of 4 answers | {where}")
        other.send(protocol.result(4, "ok"))
        console.see_bottom(f"rank 0 of 3 | 1 open: 0 of 2 answers | {where}")
        one.send(protocol.result(5, "ok"))
        other.send(protocol.result(5, "fail"))
        console.see_bottom(f"rank 0 of 3 | {where}")


def test_a_lost_connection_is_shown_and_restored(
    serve: Callable[..., ServerProcess], start: Callable[..., TerminalClient]
) -> None:
    first = serve(8)
    console = start(first.where, "--name", "me", "--delay", "0", "--reconnect")
    console.see("0/1>")
    first.kill()
    console.see_bottom("not connected")
    console.type("uptime\r")
    console.until(lambda: any(row.startswith("cannot send 'uptime': ") for row in console.rows()))
    assert console.rows()[-1] == "-/0>"
    console.type("ha")
    console.until(lambda: console.rows()[-1] == "-/0> ha")
    second = serve(8, "--port", str(first.port))
    console.see(f"connected to {second.where} as me: rank 0 of 1", "0/1> ha")
    console.see_bottom(f"rank 0 of 1 | connected to {second.where}")
    console.type(CTRL_C)
    console.see("0/1>")
    console.type(UP)
    console.see("0/1> uptime")
    console.type("\r")
    console.see("0/1> uptime", "sent #2: uptime", "#2: executed by 0 of 0", "0/1>")


# --- input ---


def test_a_paste_of_several_lines_is_several_commands(console: TerminalClient) -> None:
    console.type("ec")
    console.see("0/1> ec")
    console.type("\x1b[200~ho a\r\necho b\recho c\nda\x1b[201~")
    console.see("sent #4: echo c", "#4: executed by 0 of 0", "0/1> da")
    console.type("te\r")
    console.see("sent #5: date", "#5: executed by 0 of 0", "0/1>")
    assert [row for row in console.rows() if row.startswith("sent")] == [
        "sent #2: echo a",
        "sent #3: echo b",
        "sent #4: echo c",
        "sent #5: date",
    ]


def test_a_paste_of_many_lines_is_sent_in_order(server: ServerProcess, console: TerminalClient) -> None:
    with RawClient(server.address) as other:
        other.hello()
        console.see("0/2>")
        console.type("\x1b[200~" + "".join(f"line {count}\n" for count in range(500)) + "rest\x1b[201~")
        assert other.lines(500) == [b"ASK %d 0 line %d" % (count + 3, count) for count in range(500)]
        console.see("sent #502: line 499", "0/2> rest")


def test_lines_typed_faster_than_they_are_read_are_sent_in_order(console: TerminalClient) -> None:
    console.type("".join(f"{count}\r" for count in range(200)))
    console.see("sent #201: 199", "#201: executed by 0 of 0", "0/1>")


def test_unsendable_text_is_refused_above_the_prompt(console: TerminalClient) -> None:
    console.type("\x1b[200~a\x1bb\n\x1b[201~half")
    console.see(
        "0/1> a\\x1bb",
        "cannot send 'a\\x1bb': control character U+001B at position 1; only TAB is allowed",
        "0/1> half",
    )


def test_the_roster_marks_the_clients_own_place(
    server: ServerProcess, start: Callable[..., TerminalClient]
) -> None:
    with RawClient(server.address) as top:
        top.hello("top")
        console = start(server.where, "--name", "me")
        console.see("1/2>")
        with RawClient(server.address) as last:
            last.hello("last")
            console.see("1/3>")
            for command in ("?", ":who"):
                console.type(command + "\r")
                console.see(
                    f"1/3> {command}", "  rank  name", "     0  top", "*    1  me", "     2  last", "1/3>"
                )


def test_help_and_complaints_say_what_can_be_typed(console: TerminalClient) -> None:
    console.type(":hello\r")
    console.until(lambda: console.rows()[-2].startswith("unknown: :hello (:help lists"))
    console.type(":help\r")
    console.until(lambda: any(row.startswith("? or :who ") for row in console.rows()))
    console.see("0/1>")


# --- earlier commands ---


@pytest.fixture
def experienced(server: ServerProcess, console: TerminalClient) -> TerminalClient:
    """Return a console in which three commands have been entered."""
    for seq, command in enumerate(("upgrade all", "uptime", "date"), 2):
        console.type(command + "\r")
        console.see(f"sent #{seq}: {command}", f"#{seq}: executed by 0 of 0", "0/1>")
    assert server.process.poll() is None
    return console


def test_tab_completes_from_earlier_commands_the_latest_first(experienced: TerminalClient) -> None:
    experienced.type("u" + TAB)
    # A suggestion in grey, and the menu.
    experienced.see("0/1> uptime", "        uptime", "        upgrade all")
    experienced.type(TAB + TAB)
    experienced.see("0/1> upgrade all", "        uptime", "        upgrade all")
    experienced.type("\r")
    experienced.see("0/1> upgrade all", "sent #5: upgrade all", "#5: executed by 0 of 0", "0/1>")


def test_a_line_is_completed_and_entered_faster_than_it_is_shown(experienced: TerminalClient) -> None:
    experienced.type("da" + TAB + "\rupg" + TAB + " now\r")
    experienced.see("sent #6: upgrade all now", "#6: executed by 0 of 0", "0/1>")
    assert "sent #5: date" in experienced.rows()


def test_a_tab_can_be_typed(server: ServerProcess, console: TerminalClient) -> None:
    with RawClient(server.address) as other:
        other.hello()
        console.see("0/2>")
        console.type("a" + CTRL_Q + TAB + "b\r")
        other.expect(b"ASK 3 0 a\tb")
        console.see("0/2> a  b", "sent #3: a      b", "0/2>")


def test_ctrl_l_clears_the_screen(experienced: TerminalClient) -> None:
    experienced.type("half" + CTRL_L)
    experienced.until(lambda: experienced.rows() == ["0/1> half"])


def test_tab_completes_the_consoles_own_commands(console: TerminalClient) -> None:
    console.type(":h" + TAB)
    console.see("0/1> :help")
    console.type(CTRL_C + "ex" + TAB + "\r")
    assert console.exit_code() == 0


def test_the_completion_menu_gives_its_rows_back(experienced: TerminalClient) -> None:
    experienced.type("up" + TAB)
    experienced.see("        uptime", "        upgrade all")
    experienced.type(CTRL_C)
    experienced.see("#4: executed by 0 of 0", "0/1>")
    experienced.until(lambda: experienced.bottom_distance() == 1)


def test_the_right_arrow_accepts_a_suggestion_from_the_history(experienced: TerminalClient) -> None:
    experienced.type("upt")
    experienced.see("0/1> uptime")
    experienced.until(lambda: experienced.cursor() == (-1, len("0/1> upt")))
    # A mere suggestion is not sent.
    experienced.type("\r")
    experienced.see("0/1> upt", "sent #5: upt", "#5: executed by 0 of 0", "0/1>")
    experienced.type("upg")
    experienced.see("0/1> upgrade all")
    experienced.type(RIGHT + "\r")
    experienced.see("sent #6: upgrade all", "#6: executed by 0 of 0", "0/1>")


def test_ctrl_r_searches_earlier_commands(experienced: TerminalClient) -> None:
    experienced.type(CTRL_R + "gra")
    experienced.see("(reverse-i-search)`gra': upgrade all")
    experienced.type("\r")
    experienced.see("0/1> upgrade all")
    experienced.type("\r")
    experienced.see("sent #5: upgrade all", "#5: executed by 0 of 0", "0/1>")


def test_ctrl_c_ends_a_search_but_not_the_client(experienced: TerminalClient) -> None:
    experienced.type(CTRL_R + "gra")
    experienced.see("(reverse-i-search)`gra': upgrade all")
    experienced.type(CTRL_C)
    experienced.see("#4: executed by 0 of 0", "0/1>")


def test_history_is_kept_for_next_time_and_its_owner_alone(
    server: ServerProcess, console: TerminalClient, start: Callable[..., TerminalClient], tmp_path: Path
) -> None:
    history = tmp_path / "state" / "rankserver" / "history"
    console.type("uptime\r")
    console.see("sent #2: uptime", "#2: executed by 0 of 0", "0/1>")
    # The file is removed while the console runs.
    history.unlink()
    console.type("date\r")
    console.see("sent #3: date", "#3: executed by 0 of 0", "0/1>")
    assert history.stat().st_mode & 0o777 == 0o600
    console.type("exit\r")
    assert console.exit_code() == 0
    history.chmod(0o644)
    again = start(server.where)
    again.see("0/1>")
    assert history.stat().st_mode & 0o777 == 0o600
    again.type(UP + UP)
    again.see("0/1> date")


def test_it_works_without_a_writable_history_file(
    server: ServerProcess, start: Callable[..., TerminalClient]
) -> None:
    console = start(server.where, changes={"XDG_STATE_HOME": os.devnull})
    console.see("0/1>")
    console.type("uptime\r")
    console.see("#2: executed by 0 of 0", "0/1>")
    console.type(UP)
    console.see("0/1> uptime")


# --- the end ---


def test_exit_leaves(console: TerminalClient) -> None:
    console.type("exit\r")
    assert console.exit_code() == 0


def test_ctrl_d_leaves_from_an_empty_line_only(console: TerminalClient) -> None:
    console.type("ab" + LEFT + CTRL_D)
    console.see("0/1> a")
    console.type("\x7f" + CTRL_D)
    assert console.exit_code() == 0


def test_ctrl_c_clears_a_line_and_leaves_from_an_empty_one(
    server: ServerProcess, console: TerminalClient
) -> None:
    console.type("abc")
    console.see("0/1> abc")
    console.type(CTRL_C)
    console.see("0/1>")
    console.type(CTRL_C)
    assert console.exit_code() == 130
    assert console.rows() == [f"connected to {server.where} as me: rank 0 of 1"]
    assert not console.bottom()


def test_a_signal_leaves(console: TerminalClient) -> None:
    assert not console.is_cooked()
    console.child.kill(signal.SIGTERM)
    assert console.exit_code() == 0
    assert console.is_cooked()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_server_leaves_the_terminal_as_it_was(
    server: ServerProcess, console: TerminalClient, signum: signal.Signals
) -> None:
    console.type("half")
    console.see("0/1> half")
    server.process.send_signal(signum)
    assert console.exit_code() == 4
    said = {signal.SIGTERM: "shutdown the server is stopping", signal.SIGKILL: "connection lost"}
    assert console.rows()[-1] == f"disconnected: {said[signum]}"
    assert console.is_cooked()
    # Bracketed paste is off.
    assert console.raw.rfind(b"\x1b[?2004l") > console.raw.rfind(b"\x1b[?2004h")
    # Long lines are wrapped again.
    assert console.raw.rfind(b"\x1b[?7h") > console.raw.rfind(b"\x1b[?7l")


def test_ctrl_z_stops_it_and_fg_goes_on(server: ServerProcess, start: Callable[..., TerminalClient]) -> None:
    console = start(server.where, "--name", "me", "--delay", "0", in_shell=True)
    console.see("0/1>")
    console.type("half")
    console.see("0/1> half")
    with RawClient(server.address) as other:
        other.hello()
        console.see("0/2> half")
        console.type(CTRL_Z)
        console.until(lambda: console.rows()[-1] == "$")
        assert not console.bottom()
        assert any("Stopped" in row for row in console.rows())
        other.send(b"CMD reboot\n")
        other.settle()
        console.type("fg\r")
        console.see("cannot execute #3 from lower-ranked rank 1: reboot", "0/2> half")
        console.type("-done\r")
        other.expect(b"ASK 4 0 half-done")


def test_a_dumb_terminal_gets_plain_lines(
    server: ServerProcess, start: Callable[..., TerminalClient]
) -> None:
    console = start(server.where, changes={"TERM": "dumb"})
    console.see(f"connected to {server.where} as c1: rank 0 of 1")
    console.type("uptime\n")
    console.see("uptime", "sent #2: uptime", "#2: executed by 0 of 0")
    console.type(CTRL_C)
    assert console.exit_code() == 130
    assert b"\x1b" not in console.raw


def test_the_console_is_there_before_the_server_is(start: Callable[..., TerminalClient], closed: str) -> None:
    console = start(closed, "--reconnect")
    console.see("-/0>")
    console.type("uptime\r")
    console.until(lambda: any("cannot send 'uptime': not connected" in row for row in console.rows()))
    console.type("?\r")
    console.until(lambda: any("cannot ask who is here" in row for row in console.rows()))
    console.type("quit\r")
    assert console.exit_code() == 0
