"""The programs in examples/ with the real server, run as described in docs/."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import groupby, pairwise
from pathlib import Path

import pytest

from tests.support.example_program import ExampleProgram
from tests.support.rawclient import RawClient
from tests.support.servers import ServerProcess
from tests.support.waiting import BOUND, read_line


@pytest.fixture
def start() -> Iterator[Callable[..., ExampleProgram]]:
    """Return a function that starts a program; programs that still run at the end are killed."""
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(ExampleProgram(*arguments))


# --- the hot standby --------------------------------------------------------------------------


@pytest.fixture
def stand_by(start: Callable[..., ExampleProgram], tmp_path: Path) -> Callable[[str, str], ExampleProgram]:
    """Return a function that starts a copy that writes to ``tmp_path / "work"`` and waits for its join."""

    def begin(where: str, name: str) -> ExampleProgram:
        arguments = (tmp_path / "work", "--server", where, "--name", name, "--every", "0.02")
        copy = start("examples/hot_standby.py", *arguments)
        assert copy.line().startswith(f"{name}: rank ")
        return copy

    return begin


def generations(work: Path) -> list[tuple[int, str]]:
    """Return the fences in the file with their users; check that they are in order, each with one user."""
    lines = [line.split() for line in work.read_text().splitlines()]
    # No number is lost or repeated.
    assert [int(number) for _, number, _ in lines] == list(range(1, len(lines) + 1))
    found = [key for key, _ in groupby((int(fence), name) for fence, _, name in lines)]
    fences = [fence for fence, _ in found]
    assert fences == sorted(set(fences)), fences
    return found


def test_each_killed_leader_is_followed_by_the_next(
    server: ServerProcess, stand_by: Callable[[str, str], ExampleProgram], tmp_path: Path
) -> None:
    names = [f"copy-{number}" for number in range(7)]
    copies = [stand_by(server.where, name) for name in names]
    copies[0].until("worked: 1 3")
    for leader, heir in pairwise(copies):
        leader.kill()
        heir.until("worked: ")
    copies[-1].kill()
    # The seq of the log frame that made it lead: seven clients joined, and then one left for each new leader.
    assert generations(tmp_path / "work") == list(zip([1, *range(8, 14)], names, strict=True))


def test_a_leader_that_slept_writes_nothing_under_its_old_fence(
    serve: Callable[..., ServerProcess], stand_by: Callable[[str, str], ExampleProgram], tmp_path: Path
) -> None:
    server = serve(8, "--heartbeat", "1")
    sleeper, heir = stand_by(server.where, "sleeper"), stand_by(server.where, "heir")
    sleeper.until("worked: 1 3")
    sleeper.stop()
    heir.until("worked: 3 ")
    sleeper.go_on()
    # It has joined again.
    slept = sleeper.until("sleeper: rank ")
    assert slept[-1] == "sleeper: rank 1, standing by"
    heir.kill()
    # Frame 4 was its JOIN, and 5 the LEFT that made the heir lead.
    sleeper.until("worked: 5 ")
    sleeper.kill()
    assert generations(tmp_path / "work") == [(1, "sleeper"), (3, "heir"), (5, "sleeper")]


@pytest.mark.parametrize("cut_off", ["1 2", "1 2 a", "1", "9 2 "])
@pytest.mark.parametrize("before", ["", "1 1 a\n"])
def test_the_heir_cuts_off_a_line_that_was_not_written_whole(
    server: ServerProcess,
    stand_by: Callable[[str, str], ExampleProgram],
    tmp_path: Path,
    before: str,
    cut_off: str,
) -> None:
    (tmp_path / "work").write_text(before + cut_off)
    with stand_by(server.where, "heir") as heir:
        number = before.count("\n") + 1
        assert heir.until("worked: ")[-1] == f"worked: {number} {number}"
    lines = (tmp_path / "work").read_text()
    assert lines.startswith(f"{before}{number} {number} heir\n")


class Relay:
    """A relay to the server. When it is cut, the server sees the end, and the client sees nothing."""

    def __init__(self, server: ServerProcess) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server = socket.create_connection((server.host, server.port))
        self._threads = [threading.Thread(target=self._forward, daemon=True)]
        self._threads[0].start()
        self.where = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.cut()
        self._listener.close()
        for thread in self._threads:
            thread.join(BOUND)
        self._client.close()
        self._server.close()

    def cut(self) -> None:
        # A second cut does nothing.
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)

    def _forward(self) -> None:
        self._client, _ = self._listener.accept()
        down = threading.Thread(target=self._pump, args=(self._server, self._client), daemon=True)
        self._threads.append(down)
        down.start()
        self._pump(self._client, self._server)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        # The connection was cut.
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)


def test_a_leader_that_is_cut_off_is_fenced_by_the_file(
    server: ServerProcess, stand_by: Callable[[str, str], ExampleProgram], tmp_path: Path
) -> None:
    with Relay(server) as relay:
        leader = stand_by(relay.where, "cut-off")
        heir = stand_by(server.where, "heir")
        leader.until("worked: 1 3")
        relay.cut()
        assert leader.until("fenced: ")[-1] == "fenced: 3 is in the file, 1 is ours"
        # The server no longer shows that it is alive.
        code, rest, error = leader.end()
        assert (code, rest) == (1, [])
        assert "a function of on_lead failed" in error
        heir.until("worked: 3 ")
        heir.kill()
    assert generations(tmp_path / "work") == [(1, "cut-off"), (3, "heir")]


def test_a_leader_cut_off_before_it_begins_does_not_begin(
    server: ServerProcess, stand_by: Callable[[str, str], ExampleProgram], tmp_path: Path
) -> None:
    with Relay(server) as relay, (tmp_path / "work").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        leader = stand_by(relay.where, "cut-off")
        heir = stand_by(server.where, "heir")
        relay.cut()
        heir.until("heir: rank 0")
        # Now either copy may be the first to lock it.
        fcntl.flock(file, fcntl.LOCK_UN)
        code, rest, _ = leader.end()
        assert (code, rest) == (1, [])
        heir.until("worked: 3 ")
        heir.kill()
    assert generations(tmp_path / "work") == [(3, "heir")]


def test_after_a_restart_of_the_server_exactly_one_works(
    serve: Callable[..., ServerProcess], stand_by: Callable[[str, str], ExampleProgram], tmp_path: Path
) -> None:
    before = serve(8)
    names = ["one", "two", "three"]
    copies = [stand_by(before.where, name) for name in names]
    copies[0].until("worked: ")
    copies[0].kill()
    copies[1].until("worked: ")
    before.kill()
    for name, copy in zip(names[1:], copies[1:], strict=True):
        copy.until(f"{name}: disconnected")
    after = serve(8, "--port", str(before.port))
    back = {name: copy.until(f"{name}: rank")[-1] for name, copy in zip(names[1:], copies[1:], strict=True)}
    assert sorted(line.partition(": ")[2] for line in back.values()) == [
        "rank 0, leading",
        "rank 1, standing by",
    ]
    leads = next(name for name, line in back.items() if line.endswith("leading"))
    copies[names.index(leads)].until("worked: 5 ")
    with RawClient(after.address) as watcher:
        watcher.hello("watcher")
        assert watcher.roster()[0] == leads
    # Or its heir works.
    for copy in sorted(copies[1:], key=lambda copy: copy is copies[names.index(leads)]):
        copy.kill()
    # Three joined and one left, so the fence was 4. The new server's log begins with 1 again, so the next
    # fence is one higher.
    assert generations(tmp_path / "work") == [(1, "one"), (4, "two"), (5, leads)]


# --- the fleet --------------------------------------------------------------------------------


@pytest.fixture
def agent(
    start: Callable[..., ExampleProgram], server: ServerProcess, tmp_path: Path
) -> Callable[..., ExampleProgram]:
    """Return a function that starts an agent in a directory with its name, and waits until it has joined."""

    def begin(name: str, allow: str | None = None) -> ExampleProgram:
        (tmp_path / name).mkdir(exist_ok=True)
        allow_file: str | Path = "examples/fleet.allow"
        if allow is not None:
            allow_file = tmp_path / f"{name}.allow"
            allow_file.write_text(allow)
        arguments = ("--exec", "program", "--allow", allow_file, "--workdir", tmp_path / name)
        started = start("-m", "client", server.where, "--name", name, *arguments, "--reconnect", "--stay")
        started.end_input()
        assert started.line().startswith(f"connected to {server.where} as {name}: rank ")
        return started

    return begin


@pytest.fixture
def operate(start: Callable[..., ExampleProgram], server: ServerProcess) -> Callable[..., ExampleProgram]:
    """Return a function that starts the operator, and waits until it has joined."""

    def begin(agents: int, *arguments: str) -> ExampleProgram:
        operator = start("examples/fleet.py", "--server", server.where, str(agents), *arguments)
        assert operator.line() == f"waiting for {agents} agent{'s' if agents > 1 else ''}"
        return operator

    return begin


def test_a_fleet_is_queried_once_all_agents_are_there(
    operate: Callable[..., ExampleProgram], agent: Callable[..., ExampleProgram]
) -> None:
    operator = operate(3)
    agents = [agent(f"web-{number}") for number in (1, 2, 3)]
    code, lines, error = operator.end()
    assert (code, lines[0], error) == (0, "uname -a: asking 3", "")
    assert sorted(lines[1:4]) == ["  web-1: executed", "  web-2: executed", "  web-3: executed"]
    uname = subprocess.check_output(["uname", "-a"], text=True)  # noqa: S607 - that of PATH, as the agents'
    assert lines[4:] == [
        "3 executed: web-1 web-2 web-3",
        f"    {uname.rstrip()}",
        "3 asked: 3 executed, 0 failed, 0 refused, 0 denied, 0 timed out, 0 gone",
    ]
    assert agents[0].until("executed #")[-1].endswith(": uname -a")


def test_agents_that_deny_fail_or_die_are_accounted_for(
    operate: Callable[..., ExampleProgram], agent: Callable[..., ExampleProgram], tmp_path: Path
) -> None:
    operator = operate(5, "cat role")
    for name in ("web-1", "web-2"):
        agent(name, "cat role")
        (tmp_path / name / "role").write_text("a web server\n\x1b[2J")
    agent("denies", "cat roles")
    dies = agent("dies", "cat role")
    # Nobody writes to it, so reading it takes for ever.
    os.mkfifo(tmp_path / "dies" / "role")
    # It has no such file.
    agent("fails", "cat role")
    assert dies.until("executing ")[-1].endswith(" from rank 0: cat role")
    dies.kill()
    code, lines, error = operator.end()
    assert (code, error) == (6, "")
    assert sorted(lines[1:6]) == [
        "  denies: denied (not allowed here: cat role)",
        "  dies: gone",
        "  fails: failed with exit code 1",
        "  web-1: executed",
        "  web-2: executed",
    ]
    assert lines[6:] == [
        "2 executed: web-1 web-2",
        "    a web server",
        r"    \x1b[2J",
        "1 denied (not allowed here: cat role): denies",
        "1 gone: dies",
        "1 failed with exit code 1: fails",
        "    cat: role: No such file or directory",
        "5 asked: 2 executed, 1 failed, 0 refused, 1 denied, 0 timed out, 1 gone",
    ]


def test_an_agent_that_takes_too_long_times_out(
    operate: Callable[..., ExampleProgram], agent: Callable[..., ExampleProgram], tmp_path: Path
) -> None:
    operator = operate(1, "cat role", "--answer-timeout", "0.1")
    agent("slow", "cat role")
    os.mkfifo(tmp_path / "slow" / "role")
    code, lines, _ = operator.end()
    assert code == 6
    assert lines[-1] == "1 asked: 0 executed, 0 failed, 0 refused, 0 denied, 1 timed out, 0 gone"


def test_an_operator_that_joins_last_is_told_to_join_first(
    start: Callable[..., ExampleProgram], server: ServerProcess, agent: Callable[..., ExampleProgram]
) -> None:
    agent("web-1")
    code, lines, error = start("examples/fleet.py", "--server", server.where, "1").end()
    assert (code, lines) == (1, [])
    assert error == "operator: rank is 1, and higher-ranked clients would refuse: start the operator first\n"


def test_a_one_shot_waits_for_a_fleet_that_joins_after_it(
    start: Callable[..., ExampleProgram], server: ServerProcess, agent: Callable[..., ExampleProgram]
) -> None:
    operator = start(
        "-m", "client", server.where, "--name", "operator", "-c", "uname -a", "--wait-for", "3", "-b"
    )
    assert operator.process.stderr is not None
    assert read_line(operator.process.stderr).endswith(b"as operator: rank 0 of 1\n")
    for name in ("web-1", "web-2"):
        agent(name)
    agent("careful", "uptime")
    code, lines, _ = operator.end()
    assert code == 6
    # Equal answers are shown once.
    assert sum("(2) web-[1-2]" in line for line in lines) == 1
    assert sum("(1) careful: denied (not allowed here: uname -a)" in line for line in lines) == 1
    assert lines[-1].endswith(": executed by 2 of 3, denied by 1")


# --- the classroom ----------------------------------------------------------------------------


@pytest.fixture
def attend(start: Callable[..., ExampleProgram], server: ServerProcess) -> Callable[..., ExampleProgram]:
    """Return a function that starts a teacher's or a pupil's program, and waits until it has joined."""

    def begin(program: str, name: str, *arguments: str) -> ExampleProgram:
        attending = start(f"examples/{program}.py", *arguments, "--server", server.where, "--name", name)
        assert attending.line().startswith(f"{name}: rank ")
        return attending

    return begin


LESSON = "examples/lesson.txt"
OPEN = "open 'https://en.wikipedia.org/wiki/Fraction'"


def test_a_lesson_from_the_first_page_to_the_table(attend: Callable[..., ExampleProgram]) -> None:
    teacher = attend("teacher", "teacher", LESSON)
    ada, bob = attend("pupil", "ada"), attend("pupil", "bob")
    assert teacher.line() == "Enter for step 1 of 5: page https://en.wikipedia.org/wiki/Fraction"
    teacher.type("")
    assert ada.until("open")[-1] == bob.until("open")[-1] == OPEN
    assert teacher.until("  2 of 2 did it")
    for question, of_ada, of_bob in (
        ("'1/2 + 1/4", "3/4", "3/4"),
        ("'2/3 of", "8", "\x1b[8m"),
        ("'1/2 + 1/3", "1", "2"),
    ):
        if "page" in teacher.until("Enter")[-1]:
            teacher.type("")
            teacher.until("Enter")
        teacher.type("")
        ada.until(question)
        ada.type(of_ada)
        # It is shown as it comes, before bob has answered.
        assert teacher.line() == f"  ada: {of_ada!r} is right"
        bob.until(question)
        bob.type(of_bob)
        assert teacher.line() == f"  bob: {of_bob!r} is {'right' if of_ada == of_bob else 'wrong'}"
        assert teacher.line() == "  2 of 2 did it, 0 too late, 0 gone"
    assert teacher.end() == (0, ["  3  ada", "  1  bob"], "")
    assert ada.until("step 5")[-1] == "step 5 is done; points: {'ada': 3, 'bob': 1}"
    assert [pupil.end()[0] for pupil in (ada, bob)] == [0, 0]


def test_the_assistant_goes_on_where_the_teacher_went(attend: Callable[..., ExampleProgram]) -> None:
    teacher = attend("teacher", "teacher", LESSON)
    assistant = attend("teacher", "assistant", LESSON)
    ada = attend("pupil", "ada")
    teacher.type("")
    teacher.until("Enter for step 2")
    teacher.type("")
    ada.until("'1/2 + 1/4 = ?'")
    ada.type("3/4")
    ada.until("step 2 is done; points: {'ada': 1}")
    teacher.until("Enter for step 3")
    teacher.type("")
    ada.until("'2/3 of 12 = ?'")
    teacher.kill()
    assert assistant.until("Enter")[-1] == "Enter for step 3 of 5: quiz 2/3 of 12 = ? | 8"
    # This answer goes to the teacher that is gone.
    ada.type("8")
    assistant.type("")
    ada.until("'2/3 of 12 = ?'")
    ada.type("8")
    assert assistant.until("  ")[-1] == "  ada: '8' is right"
    assert ada.until("step 3")[-1] == "step 3 is done; points: {'ada': 2}"


def test_pupils_cannot_command_anybody(
    attend: Callable[..., ExampleProgram], start: Callable[..., ExampleProgram], server: ServerProcess
) -> None:
    teacher = attend("teacher", "teacher", LESSON)
    ada = attend("pupil", "ada")
    eve = start(
        "-m", "client", server.where, "--name", "eve", "--wait-for", "3", "--json", "-c", '{"page": "x"}'
    )
    for name in iter(eve.line, ""):
        if '"connected"' in name:
            break
    bob = attend("pupil", "bob")
    code, lines, _ = eve.end()
    done = next(line for line in lines if '"ask_done"' in line)
    assert '"refused":2' in done and '"denied":1' in done and '"ok":0' in done  # noqa: PT018
    assert code == 6
    teacher.until("Enter")
    teacher.type("")
    assert teacher.line() == "  2 of 2 did it, 0 too late, 0 gone"
    # They have seen nothing else.
    assert ada.line() == bob.line() == OPEN


def test_a_late_or_departed_pupil_holds_nobody_up(attend: Callable[..., ExampleProgram]) -> None:
    teacher = attend("teacher", "teacher", LESSON, "--seconds", "0.2")
    ada, bob = attend("pupil", "ada"), attend("pupil", "bob")
    teacher.until("Enter")
    teacher.type("")
    teacher.until("Enter for step 2")
    bob.stop()
    teacher.type("")
    ada.until("too late")
    bob.kill()
    lines = teacher.until("  0 of 2")
    assert sorted(lines) == ["  0 of 2 did it, 1 too late, 1 gone", "  ada: timeout ''", "  bob: gone ''"]


@pytest.mark.parametrize(
    "line",
    ["vidoe http://x", "pages http://x", "page", "quiz 1", "quiz 1 |", "quiz | 2", "quiz 1 | 2 | 3"],
)
def test_a_lesson_with_a_line_that_is_no_step_does_not_begin(
    start: Callable[..., ExampleProgram], server: ServerProcess, tmp_path: Path, line: str
) -> None:
    lesson = tmp_path / "lesson"
    lesson.write_text(f"page http://x\n\n{line}\nquiz 1 | 2\n")
    error = f"{lesson}: line 3 is neither page URL nor quiz QUESTION | ANSWER: {line!r}\n"
    assert start("examples/teacher.py", lesson, "--server", server.where).end() == (1, [], error)


def test_a_lesson_that_cannot_be_read_does_not_begin(
    start: Callable[..., ExampleProgram], tmp_path: Path
) -> None:
    code, _, error = start("examples/teacher.py", tmp_path / "no").end()
    assert (code, error) == (1, f"{tmp_path / 'no'}: No such file or directory\n")


def test_blank_lines_of_a_lesson_are_no_steps(attend: Callable[..., ExampleProgram], tmp_path: Path) -> None:
    lesson = tmp_path / "lesson"
    lesson.write_bytes(b"\xef\xbb\xbfpage http://x\r\n \r\n\r\nquiz 1|2\r\n\r\n")
    teacher = attend("teacher", "teacher", str(lesson))
    for step in ("Enter for step 1 of 2: page http://x", "Enter for step 2 of 2: quiz 1|2"):
        assert teacher.until("Enter")[-1] == step
        teacher.type("")
    assert teacher.end()[::2] == (0, "")


def test_the_assistant_takes_over_when_the_teachers_input_ends(
    attend: Callable[..., ExampleProgram],
) -> None:
    teacher = attend("teacher", "teacher", LESSON)
    assistant = attend("teacher", "assistant", LESSON)
    teacher.until("Enter for step 1")
    teacher.end_input()
    assert teacher.end() == (0, ["teacher: no more input, leaving"], "")
    assert assistant.until("Enter")[-1].startswith("Enter for step 1 of 5: ")
