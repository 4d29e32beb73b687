"""Asks without a server, and with a real one where the end of the connection matters."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from rankserver.asks import MAX_ASKS_PER_MEMBER
from rankserver.client import connect
from rankserver.client.aio import Client
from rankserver.client.ask import Ask
from rankserver.client.events import Answer, AskDone, Counts, Execute
from rankserver.wire.exceptions import DisconnectedError, LocalProtocolError
from tests.support.rawclient import RawClient
from tests.support.scripted import BANNER, fake, run, take, welcome
from tests.support.servers import ServerProcess
from tests.support.waiting import BOUND

A, B, C = (Answer(9, rank, name, "ok") for rank, name in ((2, "x"), (1, "y"), (3, "x")))
DONE = AskDone(9, "up", 3, Counts(ok=3))
LOST = DisconnectedError("slow", "too slow")


def never(_ask: Ask) -> None:
    pytest.fail("the time is not over")


def open_ask() -> Ask:
    return Ask("up", never, None)


async def listed(ask: Ask) -> list[Answer]:
    return [answer async for answer in ask]


async def gave_up(waiting: Awaitable[object]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the caller looks at it
        await waiting
    return caught.value


# --- by itself ---


def test_awaiting_gives_the_ask_itself_when_it_is_done() -> None:
    async def main() -> None:
        ask = open_ask()
        waiting = asyncio.ensure_future(ask)
        for answer in (A, B, C):
            ask.add(answer)
            await asyncio.sleep(0)
            assert not waiting.done()
            assert not ask.is_done
        ask.end(DONE)
        assert await waiting is ask
        assert await ask is ask
        assert ask.is_done
        assert not ask.has_failed

    run(main())


def test_each_iteration_gives_all_answers_as_they_come() -> None:
    async def main() -> None:
        ask = open_ask()
        ask.add(A)
        one, two = aiter(ask), asyncio.create_task(listed(ask))
        assert await anext(one) == A
        waiting = asyncio.ensure_future(anext(one))
        await asyncio.sleep(0)
        assert not waiting.done()
        ask.add(B)
        assert await waiting == B
        ask.add(C)
        ask.end(DONE)
        assert [answer async for answer in one] == [C]
        assert await two == await listed(ask) == [A, B, C]

    run(main())


def test_answers_so_far_can_be_read_without_waiting() -> None:
    async def main() -> None:
        ask = open_ask()
        assert (list(ask), len(ask), ask.seq, ask.ok, ask.nobody) == ([], 0, None, False, False)
        assert repr(ask) == "<Ask 'up' open: 0 answers>"
        ask.log(9)
        for answer in (A, B, C, Answer(9, 0, "z", "refused"), Answer(9, 4, "y", "gone")):
            ask.add(answer)
        assert (ask.seq, len(ask), list(ask)[:3]) == (9, 5, [A, B, C])
        assert list(ask.by_rank) == [0, 1, 2, 3, 4]
        assert ask.by_rank[3] == C
        assert {name: [answer.rank for answer in found] for name, found in ask.by_name.items()} == {
            "z": [0],
            "y": [1, 4],
            "x": [2, 3],
        }
        assert ask.counts == Counts(ok=3, refused=1, gone=1)
        ask.end(DONE)
        assert repr(ask) == "<Ask 'up' done: 5 answers>"

    run(main())


@pytest.mark.parametrize("status", ["ok", "fail", "refused", "denied", "timeout", "gone"])
def test_each_outcome_is_counted_in_its_place(status: str) -> None:
    async def main() -> None:
        ask = open_ask()
        ask.add(A._replace(status=status))
        assert ask.counts._asdict()["failed" if status == "fail" else status] == 1
        assert sum(ask.counts) == 1

    run(main())


@pytest.mark.parametrize(
    ("done", "ok", "nobody"),
    [
        (AskDone(9, "up", 2, Counts(ok=2, refused=1)), True, False),
        (AskDone(9, "up", 2, Counts(ok=1, gone=1)), False, False),
        (AskDone(9, "up", 0, Counts(refused=1)), False, True),
        (AskDone(9, "up", 0, Counts()), False, True),
    ],
)
def test_the_result_is_known_when_the_ask_is_done(done: AskDone, ok: bool, nobody: bool) -> None:
    async def main() -> None:
        ask = open_ask()
        assert (ask.ok, ask.nobody) == (False, False)
        ask.end(done)
        assert (ask.ok, ask.nobody) == (ok, nobody)

    run(main())


def test_a_failure_is_raised_after_the_answers_that_came() -> None:
    async def main() -> None:
        ask = open_ask()
        ask.add(A)
        seen: list[Answer] = []

        async def iterate() -> None:
            async for answer in ask:
                seen.append(answer)  # noqa: PERF401 - it raises

        waiting = [asyncio.ensure_future(each) for each in (ask, iterate(), ask.logged())]
        await asyncio.sleep(0)
        ask.end(LOST)
        # Only the first end counts.
        ask.end(DONE)
        assert await asyncio.gather(*waiting, return_exceptions=True) == [LOST] * 3
        assert await gave_up(ask) is LOST
        assert seen == [A]
        assert (ask.has_failed, ask.is_done, ask.ok, ask.nobody) == (True, False, False, False)
        assert repr(ask) == "<Ask 'up' failed: 1 answers>"

    run(main())


def test_the_seq_of_an_ask_can_be_awaited() -> None:
    async def main() -> None:
        ask = open_ask()
        waiting = asyncio.create_task(ask.logged())
        ask.add(A)
        await asyncio.sleep(0)
        assert not waiting.done()
        ask.log(9)
        assert await waiting == 9
        ask.end(LOST)
        assert await ask.logged() == 9

    run(main())


def test_cancelling_one_waiter_disturbs_no_other() -> None:
    async def main() -> None:
        ask = open_ask()
        waiting = [asyncio.ensure_future(ask), asyncio.create_task(listed(ask)), asyncio.ensure_future(ask)]
        for first in (0, 1):
            await asyncio.sleep(0)
            waiting[first].cancel()
            await asyncio.wait({waiting[first]})
            ask.add(A)
        ask.end(DONE)
        assert await waiting[2] is ask

    run(main())


def test_an_ask_times_out_once_unless_it_ends_before() -> None:
    async def main() -> None:
        over: asyncio.Future[Ask] = asyncio.get_running_loop().create_future()
        early = Ask("a", never, 0.001)
        early.end(DONE)
        late = Ask("b", over.set_result, 0.001)
        assert await over is late
        # The client then decides what this means.
        assert not late.is_done

    run(main())


# --- with a server ---


@contextlib.asynccontextmanager
async def pair(server: ServerProcess, **options: bool) -> AsyncIterator[tuple[Client, Client]]:
    async with connect(server.where, name="top", **options) as top, connect(server.where, name="low") as low:  # type: ignore[arg-type]
        yield top, low


def test_every_target_gives_one_answer(shared: ServerProcess) -> None:
    async def main() -> None:
        async with (
            connect(shared.where, name="first"),
            pair(shared) as (top, low),
            pair(shared) as (deaf, other),
        ):
            low.executes(lambda command: f"{command.text}!")

            @other.executes
            async def fail(_command: Execute) -> None:
                raise ValueError("no")

            ask = await top.ask("up")
            assert [answer[1:] for answer in ask.by_rank.values()] == [
                Answer(0, 0, "first", "refused")[1:],
                Answer(0, 2, "low", "ok", out="up!")[1:],
                Answer(0, 3, "top", "denied", reason="this client executes nothing")[1:],
                Answer(0, 4, "low", "fail", reason="ValueError: no")[1:],
            ]
            assert ask.counts == Counts(ok=1, failed=1, refused=1, denied=1)
            assert [answer.rank for answer in ask.by_name["low"]] == [2, 4]
            assert (ask.ok, ask.nobody) == (False, False)
            assert (await other.ask("x")).nobody
            assert deaf.rank == 3

    run(main())


def test_many_asks_at_once_get_their_own_answers_in_order(shared: ServerProcess) -> None:
    async def main() -> None:
        async with pair(shared) as (top, low):
            low.executes(async_echo)
            asks = [top.ask(str(number)) for number in range(200)]
            await asyncio.gather(*asks)
            assert [[answer.out for answer in ask] for ask in asks] == [[str(n)] for n in range(200)]
            seqs = [ask.seq for ask in asks]
            assert seqs == sorted(seqs, key=lambda seq: seq or 0)

    run(main())


def test_an_ask_that_the_server_forgets_is_done(shared: ServerProcess) -> None:
    async def main() -> None:
        async with connect(shared.where) as top:
            with RawClient(shared.address) as deaf:
                await asyncio.to_thread(deaf.hello, "deaf")
                await top.who()  # otherwise the name would be unknown
                asks = [top.ask(str(number)) for number in range(MAX_ASKS_PER_MEMBER + 2)]
                for ask in asks[:2]:
                    (answer,) = await ask
                    assert answer == Answer(
                        ask.seq or 0, 1, "deaf", "gone", reason="the server has forgotten the command"
                    )
                    assert (ask.ok, ask.counts) == (False, Counts(gone=1))
                await asks[-1].logged()
                assert not any(ask.is_done for ask in asks[2:])

    run(main())


async def async_echo(command: Execute) -> str:
    return command.text


def test_a_missing_answer_counts_as_timeout(shared: ServerProcess) -> None:
    async def main() -> None:
        async with pair(shared) as (top, low), connect(shared.where, name="deaf"):
            low.executes(hang_unless_done)
            ask = top.ask("up", timeout=BOUND)
            async for _ in ask:
                # The ask's timer does the same.
                top._runner.expire(ask)
            assert {answer.name: answer.status for answer in ask} == {"low": "timeout", "deaf": "denied"}
            assert not ask.ok

    run(main())


def test_an_ask_not_logged_in_time_raises_even_if_logged_later(shared: ServerProcess) -> None:
    async def main() -> None:
        async with connect(shared.where) as top, connect(shared.where, jobs=2) as low:

            @low.executes
            async def echo(command: Execute) -> str:
                # The asker has already given this one up.
                while command.text == "up":
                    await asyncio.Event().wait()
                return command.text

            events = aiter(top)
            with shared.paused():
                ask = top.ask("up", timeout=0.01)
                assert isinstance(await gave_up(ask), TimeoutError)
                assert isinstance(await gave_up(ask.logged()), TimeoutError)
                later = top.ask("later")
            assert [answer.out for answer in await later] == ["later"]
            done = [await take(events, AskDone), await take(events, AskDone)]
            assert [event.text for event in done if isinstance(event, AskDone)] == ["up", "later"]
            assert ask.has_failed

    run(main())


@pytest.mark.parametrize("text", ["", "a\nb", "\x1b[2J", "x" * 65_536, "\ud800"])
def test_an_unsendable_text_is_refused(shared: ServerProcess, text: str) -> None:
    async def main() -> None:
        async with pair(shared) as (top, low):
            low.executes(async_echo)
            with pytest.raises(LocalProtocolError):
                top.ask(text, timeout=0.001)
            with pytest.raises(TypeError):
                top.ask("x", timeout="soon")  # type: ignore[arg-type]
            assert [answer.out for answer in await top.ask("up")] == ["up"]

    run(main())


def test_a_rejection_by_the_server_raises() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BANNER + welcome(0, 1))
        await reader.readuntil(b"ASK b\n")
        writer.write(b"ERR bad-frame not today\nASK 1 0 b\n")
        await reader.readuntil(b"BYE\n")
        writer.close()

    async def main() -> None:
        async with fake(script) as address, connect(address) as client:
            rejected, fine = client.ask("a"), client.ask("b")
            assert (await fine).seq == 1
            with pytest.raises(LocalProtocolError, match="not today"):
                await rejected

    run(main())


async def hang_unless_done(command: Execute) -> None:
    if command.text != "done":
        await asyncio.Event().wait()


async def kill(server: ServerProcess, _client: Client) -> str:
    server.kill()
    return ""


async def stop(server: ServerProcess, _client: Client) -> str:
    await asyncio.to_thread(server.stop)
    return "shutdown"


async def close(_server: ServerProcess, client: Client) -> str:
    await client.close()
    return ""


@pytest.mark.parametrize("end", [kill, stop, close])
@pytest.mark.parametrize("reconnect", [False, True])
def test_open_asks_raise_when_the_connection_ends(
    server: ServerProcess,
    end: Callable[[ServerProcess, Client], Coroutine[Any, Any, str]],
    *,
    reconnect: bool,
) -> None:
    async def main() -> None:
        async with pair(server, reconnect=reconnect) as (top, low):
            low.executes(hang_unless_done)
            done, logged = top.ask("done"), top.ask("logged")
            waiting = [asyncio.ensure_future(logged), asyncio.create_task(listed(logged))]
            await done
            with server.paused():
                unlogged, cmd = top.ask("unlogged"), asyncio.create_task(top.cmd("x"))
                waiting += [asyncio.ensure_future(unlogged), cmd, asyncio.create_task(top.who())]
                await asyncio.sleep(0)
                ending = asyncio.create_task(end(server, top))
                if end is kill:
                    await ending
                errors = await asyncio.gather(*waiting, return_exceptions=True) if end is not stop else []
            errors = errors or await asyncio.gather(*waiting, return_exceptions=True)
            code = await ending
            assert [error.code for error in errors[:2] if isinstance(error, DisconnectedError)] == [
                code,
                code,
            ]
            # If the server stopped, it may have logged the ask first.
            if end is not stop:
                assert {type(error) for error in errors} == {DisconnectedError}
            assert done.is_done
            assert sum(logged.counts) == len(logged) == (0 if end is close else 1)
            assert isinstance(await gave_up(logged), DisconnectedError)

    run(main())
