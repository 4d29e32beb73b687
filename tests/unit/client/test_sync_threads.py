"""The client without asyncio, used by several threads, by signal handlers, and interrupted."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from rankserver.client import (
    DisconnectedError,
    sync,
)
from rankserver.client.events import Sent
from rankserver.client.sync import SyncClient, connect
from tests.support.blocking import Later, fake
from tests.support.paths import ROOT
from tests.support.rawclient import RawClient
from tests.support.servers import ServerProcess
from tests.support.waiting import BOUND

pytestmark = pytest.mark.usefixtures("nothing_left")

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
