from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from client import console, words
from client.console import Console, ConsoleOptions
from client.exits import Exit, exit_code
from client.frontend import Status
from client.words import Line, render_text
from rankserver.asks import MAX_ASKS_PER_MEMBER
from rankserver.client import connection
from rankserver.client.aio import connect
from rankserver.client.events import AskDone, Counts
from rankserver.wire.exceptions import ConnectError, DisconnectedError, StreamError
from tests.support.puppet import PERSON, Puppet, Running, converse, join
from tests.support.rawclient import RawClient
from tests.support.servers import ServerProcess
from tests.support.waiting import run

# --- exit codes ---


@pytest.mark.parametrize(
    ("may_execute", "counts", "code"),
    [
        (2, Counts(ok=2), Exit.OK),
        (2, Counts(ok=2, refused=3), Exit.OK),
        (0, Counts(), Exit.NOBODY),
        (0, Counts(refused=3), Exit.NOBODY),
        (0, Counts(refused=3, gone=1), Exit.NOBODY),
        (2, Counts(ok=1, failed=1), Exit.NOT_ALL),
        (2, Counts(ok=1, denied=1), Exit.NOT_ALL),
        (2, Counts(ok=1, timeout=1), Exit.NOT_ALL),
        (2, Counts(ok=1, gone=1), Exit.NOT_ALL),
    ],
)
def test_an_ask_succeeds_if_all_that_may_execute_it_did(may_execute: int, counts: Counts, code: Exit) -> None:
    assert exit_code(AskDone(1, "", may_execute, counts)) is code


def test_of_several_commands_the_highest_exit_code_counts(server: ServerProcess) -> None:
    async def test(puppet: Puppet, running: Running) -> None:
        puppet.type(b"nobody")
        await puppet.sees("sent #2: nobody", "#2: executed by 0 of 0")
        with await join(server) as other:
            puppet.type(b"fail", b"fine", b"EOF")
            await puppet.sees("sent #4: fail", "sent #5: fine")
            other.send(b"RES 4 fail\nRES 5 ok\n")
            assert await running is Exit.NOT_ALL

    converse(server, test)


def test_without_any_command_the_exit_code_is_0(server: ServerProcess) -> None:
    async def test(puppet: Puppet, running: Running) -> None:
        puppet.type(b"", b" \t", b"EOF")
        assert await running is Exit.OK
        assert puppet.rest() == []

    converse(server, test)


def test_interactively_commands_do_not_affect_the_exit_code(server: ServerProcess) -> None:
    async def test(puppet: Puppet, running: Running) -> None:
        puppet.type(b"nobody", b"a\x1bb", b"EOF")
        assert await running is Exit.OK

    converse(server, test, PERSON)


# --- asking ---


def test_the_end_of_the_input_waits_for_every_outcome(server: ServerProcess) -> None:
    async def test(puppet: Puppet, running: Running) -> None:
        with await join(server) as other:
            puppet.type(b"a", b"", b"  ", b"b", b"EOF")
            await puppet.sees("sent #3: a", "sent #4: b")
            other.send(b"RES 4 ok\n")
            await puppet.sees("#4 rank 1 other: executed", "#4: executed by 1 of 1")
            assert not running.done()
        await puppet.sees("#3 rank 1 other: gone", "#3: executed by 0 of 1, gone 1")
        assert await running is Exit.NOT_ALL
        assert puppet.max_line == 65_536

    converse(server, test)


def test_an_ask_that_the_server_forgets_has_a_summary(server: ServerProcess) -> None:
    async def test(puppet: Puppet, running: Running) -> None:
        with await join(server):
            # Otherwise the name would be unknown.
            await puppet.status(lambda status: status.clients == 2)
            puppet.type(*[b"x"] * (MAX_ASKS_PER_MEMBER + 1), b"EOF")
            while not (line := await puppet.shown.get()).startswith("#"):
                assert line.startswith("sent #")
            assert line == "#3 rank 1 other: gone (the server has forgotten the command)"
            await puppet.sees("#3: executed by 0 of 1, gone 1")
        assert await running is Exit.NOT_ALL

    converse(server, test)


def test_exit_does_not_wait_and_reports_open_asks(server: ServerProcess) -> None:
    async def test(puppet: Puppet, running: Running) -> None:
        with await join(server), await join(server) as third:
            puppet.type(b"a")
            await puppet.sees("sent #4: a")
            third.send(b"RES 4 ok\n")
            await puppet.sees("#4 rank 2 other: executed")
            puppet.type(b" exit ", b"b")
            assert await running is Exit.NOT_ALL
        assert puppet.rest() == ["#4: 1 of 2 answers"]

    converse(server, test)


def test_an_unsendable_command_is_reported_and_not_waited_for(server: ServerProcess) -> None:
    async def test(puppet: Puppet, running: Running) -> None:
        puppet.type(b"a\x1bb", b"\xff", b"x" * 65_536, b"y" * 65_537, b"EOF")
        assert [await puppet.complaints.get() for _ in range(4)] == [
            r"cannot send 'a\x1bb': control character U+001B at position 1; only TAB is allowed",
            "cannot send '\ufffd': the byte at offset 0 is not valid UTF-8",
            f"cannot send '{'x' * 64}'...: the line is 65541 bytes long; the limit is 65536",
            f"cannot send '{'y' * 64}'...: the line is longer than the server takes",
        ]
        assert puppet.rest() == []
        assert await running is Exit.NOT_ALL

    converse(server, test)


def test_commands_given_as_options_replace_the_input(server: ServerProcess) -> None:
    async def test(puppet: Puppet, running: Running) -> None:
        await puppet.sees("sent #2: exit", "#2: executed by 0 of 0", "sent #3: ?", "#3: executed by 0 of 0")
        assert await running is Exit.NOT_ALL
        assert puppet.complaints.get_nowait() == "cannot send: the command is empty"
        assert puppet.max_line == 0

    converse(server, test, ConsoleOptions([b"exit", b"", b"?"]))


def test_the_first_command_waits_for_others(server: ServerProcess) -> None:
    async def test(puppet: Puppet, running: Running) -> None:
        await puppet.sees("waiting for others: 0 of 2 here")
        with await join(server), RawClient(server.address) as third:
            await puppet.status(lambda status: status.clients == 2)
            assert puppet.shown.empty()
            await asyncio.to_thread(third.hello)
            await puppet.sees("sent #4: a")
            third.send(b"BYE\n")
        assert await running is Exit.NOT_ALL

    converse(server, test, ConsoleOptions([b"a"], wait_for=2))


def test_others_that_are_there_already_are_not_waited_for(server: ServerProcess) -> None:
    async def test(puppet: Puppet, running: Running) -> None:
        await puppet.sees("sent #3: a")
        other.send(b"RES 3 refused\n")
        assert await running is Exit.NOBODY

    with RawClient(server.address) as other:
        other.hello()
        converse(server, test, ConsoleOptions([b"a"], wait_for=1))


def test_a_client_that_does_not_answer_in_time_is_reported(server: ServerProcess) -> None:
    async def test(puppet: Puppet, running: Running) -> None:
        await puppet.sees("sent #3: a", "#3 rank 0 top: timed out (no answer in time)")
        await puppet.sees("#3: executed by 0 of 0, timed out at 1")
        assert await running is Exit.NOBODY

    with RawClient(server.address) as top:
        top.hello("top")
        converse(server, test, ConsoleOptions([b"a"], answer_timeout=0.05))


def test_a_server_that_logs_nothing_is_not_waited_for_either(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LEAVE_TIMEOUT", 0.05)

    async def test(puppet: Puppet, running: Running) -> None:
        with server.paused():
            puppet.type(b"a", b"b", b"EOF")
            await puppet.sees("not seen in the log: a", "not seen in the log: b")
        assert await running is Exit.NOT_ALL

    converse(server, test, ConsoleOptions(answer_timeout=0.05))


def test_input_waits_while_too_many_asks_are_open(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "MAX_OPEN", 3)

    async def test(puppet: Puppet, running: Running) -> None:
        with await join(server) as other:
            puppet.type(*[b"%d" % count for count in range(9)], b"EOF")
            assert await asyncio.to_thread(other.lines, 3) == [b"ASK %d 0 %d" % (3 + n, n) for n in range(3)]
            other.send(b"PING here\n")
            assert await asyncio.to_thread(other.line) == b"PONG here"
            other.send(b"RES 4 ok\n")
            assert await asyncio.to_thread(other.line) == b"ASK 6 0 3"
            await puppet.status(lambda status: status.asks == 3 and status.answered == 0)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert puppet.rest()[-4:] == [
            "#3: 0 of 1 answers",
            "#5: 0 of 1 answers",
            "#6: 0 of 1 answers",
            "not sent: 4",
        ]

    converse(server, test)


# --- leaving ---


def test_an_interrupt_reports_how_far_everything_was(server: ServerProcess) -> None:
    async def test(puppet: Puppet, running: Running) -> None:
        with await join(server) as other, await join(server) as third:
            puppet.type(b"a", b"b")
            await puppet.sees("sent #4: a", "sent #5: b")
            other.send(b"RES 4 ok\nRES 5 ok\n")
            third.send(b"RES 4 ok\n")
            await puppet.status(lambda status: status.asks == 1 and status.answered == 1)
            puppet.rest()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert puppet.rest() == ["#5: 1 of 2 answers"]

    converse(server, test)


def test_an_interrupt_before_anything_was_sent_says_so(server: ServerProcess) -> None:
    async def main() -> None:
        puppet = Puppet()
        options = ConsoleOptions([b"a\x1b", b"b"], wait_for=1)
        script = Console(connect(server.where), puppet, partial(render_text, address=server.where), options)
        running = asyncio.create_task(script.run())
        while await puppet.shown.get() != "waiting for others: 0 of 1 here":
            pass
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert puppet.rest() == ["not sent: a\\x1b", "not sent: b"]
        assert script.code is Exit.NOT_ALL

    run(main())


def test_with_stay_it_executes_until_it_is_told_to_leave(server: ServerProcess) -> None:
    async def test(puppet: Puppet, running: Running) -> None:
        puppet.type(b"EOF")
        for number in range(2):
            top.send(b"ASK %d\n" % number)
            await puppet.sees(
                f"executing #{3 + number} from rank 0: {number}", f"executed #{3 + number}: {number}"
            )
        assert not running.done()
        running.cancel()

    with RawClient(server.address) as top:
        top.hello()
        converse(server, test, ConsoleOptions(stays=True))


def test_the_end_of_the_connection_ends_the_conversation(server: ServerProcess) -> None:
    async def test(puppet: Puppet, running: Running) -> None:
        server.process.send_signal(signal.SIGTERM)
        puppet.type(*[b"x"] * 1_000)
        assert await running is Exit.DISCONNECTED
        shown = puppet.rest()
        end = shown.index("disconnected: shutdown the server is stopping")
        assert all(line.startswith("not sent: ") for line in shown[end + 1 :])
        assert puppet.complaints.empty()

    converse(server, test)


def test_every_ask_has_a_summary_even_if_the_server_ends(server: ServerProcess) -> None:
    async def test(puppet: Puppet, running: Running) -> None:
        with await join(server), await join(server) as third:
            # Otherwise their names would be unknown.
            await puppet.status(lambda status: status.clients == 3)
            puppet.type(b"a", b"EOF")
            await puppet.sees("sent #4: a")
            third.send(b"RES 4 ok\n")
            await puppet.sees("#4 rank 2 other: executed")
            server.kill()
            assert await running is Exit.DISCONNECTED
        assert puppet.rest() == [
            "#4 rank 1 other: gone (the connection was lost)",
            "#4: executed by 1 of 2, gone 1",
            "disconnected: connection lost",
        ]

    converse(server, test)


def test_a_client_that_cannot_join_says_why(serve: Callable[..., ServerProcess]) -> None:
    async def main(where: str, expected: type[Exception]) -> None:
        puppet = Puppet()
        with pytest.raises(expected):
            await Console(
                connect(where), puppet, partial(render_text, address=where), ConsoleOptions([b"a"])
            ).run()
        assert puppet.rest() == []

    server = serve(1)
    with RawClient(server.address) as first:
        first.hello()
        run(main(server.where, DisconnectedError))
    server.stop()
    run(main(server.where, ConnectError))


def test_a_frontend_that_fails_ends_the_conversation(server: ServerProcess) -> None:
    async def test(puppet: Puppet, running: Running) -> None:
        def fail(lines: Sequence[Line]) -> None:
            raise StreamError(f"no {lines[0].text}")

        puppet.show = fail  # type: ignore[method-assign]
        puppet.type(b"a")
        with pytest.raises(StreamError, match="no sent #2: a"):
            await running

    converse(server, test)


# --- executing, ranks and status ---


def test_commands_of_higher_ranks_are_executed_and_answered(server: ServerProcess) -> None:
    async def test(puppet: Puppet, _running: Running) -> None:
        top.send(b"ASK up\nCMD down\n")
        await puppet.sees("executing #3 from rank 0: up", "executed #3: up")
        await puppet.sees("executing #4 from rank 0: down", "executed #4: down")
        lines = await asyncio.to_thread(top.lines, 4)
        assert lines[-1] == b'RES 3 1 me ok {"reason":"simulated"}'
        puppet.type(b"EOF")

    with RawClient(server.address) as top:
        top.hello()
        converse(server, test)


def test_a_new_rank_is_shown_and_the_status_is_up_to_date(server: ServerProcess) -> None:
    async def test(puppet: Puppet, _running: Running) -> None:
        assert await puppet.statuses.get() == Status(server.where, 1, 2, 0, 0, 0)
        with await join(server) as other:
            assert await puppet.statuses.get() == Status(server.where, 1, 3, 0, 0, 0)
            assert puppet.shown.empty()
            top.close()
            await puppet.sees("rank is now 0 of 2")
            assert await puppet.statuses.get() == Status(server.where, 0, 2, 0, 0, 0)
            puppet.type(b"a", b"b")
            status = await puppet.status(lambda status: status.asks == 2)
            assert status == Status(server.where, 0, 2, 2, 0, 2)
            other.send(b"RES 6 ok\n")
            assert await puppet.statuses.get() == Status(server.where, 0, 2, 1, 0, 1)
            other.send(b"RES 5 ok\n")
            assert await puppet.statuses.get() == Status(server.where, 0, 2, 0, 0, 0)
        puppet.type(b"EOF")

    with RawClient(server.address) as top:
        top.hello()
        converse(server, test)


def test_lines_that_come_together_are_shown_together(server: ServerProcess) -> None:
    async def test(puppet: Puppet, _running: Running) -> None:
        with server.paused():
            puppet.type(*[b"x"] * 1_000, b"\x1b", b"EOF")
            # Everything before the complaint was handled.
            await puppet.complaints.get()
            puppet.calls = 0
        for number in range(1_000):
            await puppet.sees(f"sent #{number + 2}: x", f"#{number + 2}: executed by 0 of 0")
        assert puppet.calls < 100

    converse(server, test)


# --- a person's questions ---


def test_a_person_can_ask_for_the_roster_and_for_help(server: ServerProcess) -> None:
    async def test(puppet: Puppet, running: Running) -> None:
        roster = ["  rank  name", "     0  top", "*    1  me"]
        puppet.type(b"?", b":who ")
        await puppet.sees(*roster, *roster)
        puppet.type(b":help")
        await puppet.sees(*words.HELP)
        puppet.type(b":\x1bx")
        assert await puppet.complaints.get() == (
            "unknown: :\\x1bx (:help lists what there is; a space before it sends it)"
        )
        puppet.type(b" :x", b"exit")
        assert await asyncio.to_thread(lambda: top.lines(2)[1]) == b"ASK 3 1  :x"
        assert await running is Exit.OK

    with RawClient(server.address) as top:
        top.hello("top")
        converse(server, test, PERSON)


@pytest.mark.parametrize("word", [b"exit", b"quit"])
def test_a_space_before_the_word_for_leaving_sends_it(server: ServerProcess, word: bytes) -> None:
    async def test(puppet: Puppet, running: Running) -> None:
        puppet.type(b" " + word)
        await puppet.sees(f"sent #2:  {word.decode()}", "#2: executed by 0 of 0")
        puppet.type(word + b" ")
        assert await running is Exit.OK

    converse(server, test, PERSON)


def test_in_a_script_every_line_is_a_command(server: ServerProcess) -> None:
    async def test(puppet: Puppet, running: Running) -> None:
        puppet.type(b"?", b":help", b"quit", b"EOF")
        await puppet.sees("sent #2: ?", "#2: executed by 0 of 0", "sent #3: :help", "#3: executed by 0 of 0")
        await puppet.sees("sent #4: quit", "#4: executed by 0 of 0")
        assert await running is Exit.NOBODY

    converse(server, test)
