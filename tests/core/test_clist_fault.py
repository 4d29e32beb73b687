"""The C core without memory: each call is repeated with each of its allocations failing in turn.

A call that fails must report it, change nothing, leak nothing, and succeed when it is retried.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import pytest
from cffi import FFI

from build_ext import declarations
from rankserver import clist
from rankserver import core as wrapper
from rankserver.clist import Cursor, Log
from tests.support.draining import drain
from tests.support.paths import ROOT

MAX_LINE: Final = 256
BLOCK_BYTES: Final = MAX_LINE + 256
COMMAND: Final = b"CMD %s\n" % (b"x" * 200)

# Commands of a test: two fill a block, so these fill four.
COMMANDS: Final = 8

MEMBER: Final = 7

MODULE: Final = "_clist_fault"
FAULTS: Final = "void fault_arm(long after); int fault_disarm(void); long fault_live(void);"


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Build the core again, with an allocator that can fail."""
    sources = ROOT / "rankserver"
    builder = FFI()
    builder.cdef(declarations((sources / "_clist.h").read_text()) + FAULTS)
    builder.set_source(
        MODULE,
        '#include "_clist.h"\n' + FAULTS,
        sources=[str(ROOT / "tests" / "core" / "clist_fault.c")],
        include_dirs=[str(sources)],
        extra_compile_args=["-O1", "-g"],
    )
    path = builder.compile(tmpdir=str(tmp_path_factory.mktemp("fault")))
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def lib(core: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Make the wrapper use that core, and check that no allocation is left at the end."""
    for module in (wrapper, clist):
        monkeypatch.setattr(module, "ffi", core.ffi)
        monkeypatch.setattr(module, "lib", core.lib)
    core.lib.fault_disarm()
    assert core.lib.fault_live() == 0
    yield core.lib
    core.lib.fault_disarm()
    assert core.lib.fault_live() == 0


class State(NamedTuple):
    """The observable state of a log with two cursors, and the frames that the first must be sent."""

    seq: int
    end: int
    held: int
    members: list[int]
    ranks: list[int]
    lags: list[int]
    stream: list[bytes]


class Scene:
    """A log with a member whose cursor has a private frame waiting, and a cursor that is not attached."""

    def __init__(self) -> None:
        self.log = Log(MAX_LINE, BLOCK_BYTES)
        self.ranked = self.log.open(-1)
        self.new = self.log.open(-1)
        self.log.join(MEMBER)
        self.ranked.attach(MEMBER)
        self.ranked.private(b"WELCOME\n")

    @property
    def state(self) -> State:
        self.log.check()
        members = self.log.members()
        return State(
            self.log.seq,
            self.log.end,
            self.log.held,
            members,
            [self.log.rank(member) for member in members],
            [cursor.lag() for cursor in (self.ranked, self.new)],
            [bytes(span) for span in self.ranked.peek()],
        )

    def frames(self) -> list[bytes]:
        """Return the frames that the ranked client must be sent."""
        return drain(self.ranked).splitlines()

    def feed(self, client: Cursor, data: bytes) -> list[bytes]:
        """Receive ``data`` in one piece; return the lines that are handed over."""
        client.take(data)
        return self.lines(client)

    def lines(self, client: Cursor) -> list[bytes]:
        return list(iter(lambda: self.next_line(client), None))

    def next_line(self, client: Cursor) -> bytes | None:
        return client.next_line(logs=True)


def test_a_new_log_without_memory_leaves_none_allocated(lib: Any) -> None:
    # The allocations are the log, its input buffer, its first block, and the spare block.
    for after in range(4):
        lib.fault_arm(after)
        with pytest.raises(MemoryError):
            Log(MAX_LINE, BLOCK_BYTES)
        assert lib.fault_disarm()
        assert lib.fault_live() == 0
    lib.fault_arm(4)
    Log(MAX_LINE, BLOCK_BYTES).close()
    assert not lib.fault_disarm()


@pytest.mark.parametrize(
    "call",
    [
        lambda scene: scene.log.open(-1),
        lambda scene: scene.log.retain(),
        lambda scene: scene.log.join(MEMBER + 1),
        lambda scene: scene.ranked.private(b"PONG\n"),
        lambda scene: scene.new.private(b"INFO\n"),
    ],
    ids=["open", "retain", "join", "private", "private before it is attached"],
)
def test_a_call_that_gets_no_memory_changes_nothing(call: Callable[[Scene], object], lib: Any) -> None:
    scene = Scene()
    before, live = scene.state, lib.fault_live()
    lib.fault_arm(0)
    with pytest.raises(MemoryError):
        call(scene)
    assert lib.fault_disarm()
    assert (scene.state, lib.fault_live()) == (before, live)
    call(scene)
    assert lib.fault_live() == live + 1
    scene.log.check()
    scene.log.close()


def test_an_append_that_gets_no_memory_logs_nothing(lib: Any) -> None:
    for after in itertools.count():
        scene = Scene()
        lib.fault_arm(after)
        failed = False
        for seq in range(1, COMMANDS + 1):
            before = scene.state
            try:
                scene.log.append(b"JOIN", b"%d".ljust(200) % seq)
            except MemoryError:
                failed = True
                assert scene.state == before
                assert scene.log.append(b"JOIN", b"%d".ljust(200) % seq) == seq
        assert lib.fault_disarm() == failed
        assert [frame.split()[1] for frame in scene.frames()[1:]] == [b"%d" % seq for seq in range(1, 9)]
        scene.log.close()
        assert lib.fault_live() == 0
        if not failed:
            break
    # Each block except the first failed once: the spare block is reserved for a departure.
    assert after == 3


def test_commands_that_get_no_memory_are_logged_later(lib: Any) -> None:
    data = COMMAND * COMMANDS
    for after in range(3):
        scene = Scene()
        scene.ranked.take(data)
        lib.fault_arm(after)
        with pytest.raises(MemoryError):
            scene.next_line(scene.ranked)
        assert lib.fault_disarm()
        assert scene.log.seq == 2 * (after + 1)

        before = scene.state
        lib.fault_arm(0)
        with pytest.raises(MemoryError):
            scene.next_line(scene.ranked)
        assert lib.fault_disarm()
        assert scene.state == before

        assert scene.next_line(scene.ranked) is None
        assert [frame.split()[:3] for frame in scene.frames()[1:]] == [
            [b"CMD", b"%d" % seq, b"0"] for seq in range(1, COMMANDS + 1)
        ]
        scene.log.close()
        assert lib.fault_live() == 0
    scene = Scene()
    lib.fault_arm(3)
    assert scene.feed(scene.ranked, data) == []
    assert not lib.fault_disarm()
    scene.log.close()


@pytest.mark.parametrize("pieces", [[b"CMD a\nCM"], [b"CMD a\nC", b"M"], [b"CMD a\n", b"C", b"M"]])
def test_an_incomplete_line_without_memory_is_kept_later(pieces: list[bytes], lib: Any) -> None:
    scene = Scene()
    *pieces, last = pieces
    for piece in pieces:
        scene.feed(scene.ranked, piece)
    scene.ranked.take(last)
    live, before = lib.fault_live(), None
    for _ in range(2):
        lib.fault_arm(0)
        with pytest.raises(MemoryError):
            scene.next_line(scene.ranked)
        assert lib.fault_disarm()
        assert before in (None, scene.state)
        before = scene.state
        assert (scene.log.seq, lib.fault_live()) == (1, live)
    assert scene.next_line(scene.ranked) is None
    assert scene.state == before
    assert scene.feed(scene.ranked, b"D b\nWHO\n") == [b"WHO"]
    assert scene.frames() == [b"WELCOME", b"CMD 1 0 a", b"CMD 2 0 b"]
    scene.log.close()


@pytest.mark.parametrize("begun", [b"", b"CM"])
def test_input_that_gets_no_memory_stays_where_it_is(begun: bytes, lib: Any) -> None:
    for tries_again in (False, True):
        scene = Scene()
        scene.feed(scene.ranked, begun)
        scene.ranked.take(b"CMD a\nWHO\nCM"[len(begun) :])
        before, live = scene.state, lib.fault_live()
        for _ in range(2):
            lib.fault_arm(0)
            with pytest.raises(MemoryError):
                scene.ranked.keep()
            assert lib.fault_disarm()
            assert (scene.state, lib.fault_live()) == (before, live)
        if tries_again:
            scene.ranked.keep()
            scene.feed(scene.new, b"HELLO\n")
        assert scene.lines(scene.ranked) == [b"WHO"]
        assert scene.feed(scene.ranked, b"D b\n") == []
        assert scene.frames() == [b"WELCOME", b"CMD 1 0 a", b"CMD 2 0 b"]
        scene.log.close()
        assert lib.fault_live() == 0


def test_a_begun_line_goes_on_after_keeping_it_has_failed(lib: Any) -> None:
    """The client has begun a line, but must not count as having input set aside."""
    scene = Scene()
    scene.feed(scene.ranked, b"CMD")
    scene.ranked.take(b" a")
    lib.fault_arm(0)
    with pytest.raises(MemoryError):
        scene.ranked.keep()
    assert lib.fault_disarm()
    assert scene.next_line(scene.ranked) is None
    assert scene.feed(scene.ranked, b"\n") == []
    assert scene.frames() == [b"WELCOME", b"CMD 1 0 a"]
    scene.log.close()


def test_a_begun_line_is_not_copied_to_each_read(lib: Any) -> None:
    scene = Scene()
    live = lib.fault_live()
    for piece in (b"CMD", b" a", b"b", b"c"):
        scene.feed(scene.ranked, piece)
        scene.ranked.take(b"d")
        # The line is still in its place.
        assert lib.fault_live() == live + 1
        assert scene.next_line(scene.ranked) is None
    scene.ranked.take(b"\n")
    assert lib.fault_live() == live
    assert scene.lines(scene.ranked) == [b"CMDd adbdcd"]
    scene.log.close()


def test_attaching_leaving_and_sending_need_no_memory(lib: Any) -> None:
    scene = Scene()
    scene.feed(scene.ranked, COMMAND * COMMANDS)
    scene.log.join(MEMBER + 1)
    other = scene.log.open(-1)
    lib.fault_arm(0)
    scene.new.attach(MEMBER + 1)
    other.attach(None, 0)
    assert len(scene.frames()) == 1 + COMMANDS
    scene.ranked.detach()
    scene.log.leave(MEMBER)
    scene.new.cut()
    other.mute()
    other.discard()
    scene.ranked.discard()
    scene.log.check()
    scene.log.close()
    assert not lib.fault_disarm()


def test_whole_lines_and_what_is_kept_need_no_memory(lib: Any) -> None:
    scene = Scene()
    scene.new.take(b"HELLO\nPING\n")
    scene.new.keep()
    scene.feed(scene.ranked, b"CM")
    lib.fault_arm(0)
    assert scene.feed(scene.ranked, b"D a\nWHO\n") == [b"WHO"]
    # No input is left to keep.
    scene.ranked.keep()
    assert scene.lines(scene.new) == [b"HELLO", b"PING"]
    scene.new.ignore()
    assert scene.feed(scene.new, b"WHO\nCM") == []
    assert not lib.fault_disarm()
    scene.log.close()


def test_what_is_kept_is_freed_once_it_is_input_again(lib: Any) -> None:
    scene = Scene()
    scene.frames()
    live = lib.fault_live()
    for _ in range(2):
        scene.feed(scene.ranked, b"CM")
        scene.feed(scene.ranked, b"D a")
        assert lib.fault_live() == live + 1
        scene.feed(scene.ranked, b"\n")
        assert lib.fault_live() == live
        scene.ranked.take(b"CMD a\nWHO\n")
        scene.ranked.keep()
        assert lib.fault_live() == live + 1
        assert scene.lines(scene.ranked) == [b"WHO"]
        assert lib.fault_live() == live
        scene.frames()
    scene.feed(scene.new, b"HELLO")
    assert lib.fault_live() == live + 1
    scene.new.ignore()
    assert lib.fault_live() == live
    scene.log.close()


def test_a_client_that_is_discarded_leaves_no_memory_behind(lib: Any) -> None:
    with Log(MAX_LINE, BLOCK_BYTES) as log:
        live = lib.fault_live()
        for leave in (Cursor.detach, Cursor.cut, Cursor.mute, lambda _: log.leave(MEMBER), lambda _: None):
            log.join(MEMBER)
            client = log.open(-1)
            client.private(b"INFO\n")
            client.take(b"HELLO\nCM")
            client.keep()
            client.attach(MEMBER)
            client.private(b"WELCOME\n")
            client.advance(2)
            leave(client)
            client.private(b"BYE\n")
            client.discard()
            if log.count:
                log.leave(MEMBER)
            assert lib.fault_live() == live


def test_a_log_that_is_closed_leaves_no_input_behind(lib: Any) -> None:
    scene = Scene()
    scene.feed(scene.ranked, b"CM")
    scene.new.take(b"HELLO\nCM")
    scene.new.keep()
    scene.log.close()
    assert lib.fault_live() == 0


def test_blocks_are_used_again_and_only_a_few_are_kept(lib: Any) -> None:
    scene = Scene()
    live = lib.fault_live()
    scene.feed(scene.ranked, COMMAND * 200)
    # Each block holds two commands.
    assert lib.fault_live() == live + 99
    scene.frames()
    kept = lib.fault_live()
    assert live <= kept < live + 20
    for _ in range(10):
        scene.feed(scene.ranked, COMMAND * 20)
        scene.frames()
        scene.log.check()
        assert lib.fault_live() == kept
    scene.log.close()


@pytest.mark.parametrize("call", ["line", "take", "collect"])
def test_others_input_that_cannot_be_kept_stays_where_it_is(call: str, lib: Any) -> None:
    scene = Scene()
    scene.new.take(b"HELLO\nCM")
    assert scene.new.next_line(logs=True) == b"HELLO"
    if call != "take":
        scene.new.keep()
        scene.ranked.take(b"CMD a\n")
        scene.ranked.keep()
        (other := scene.log.open(-1)).take(b"WHO\n")
    before, live = scene.state, lib.fault_live()
    calls: dict[str, Callable[[], object]] = {
        "line": lambda: scene.next_line(scene.ranked),
        "take": lambda: scene.ranked.take(b"CMD a\n"),
        "collect": scene.ranked.collect,
    }
    lib.fault_arm(0)
    with pytest.raises(MemoryError):
        calls[call]()
    assert lib.fault_disarm()
    assert (scene.state, lib.fault_live()) == (before, live)
    scene.new.unread()
    assert scene.lines(scene.new) == [b"HELLO"]
    if call != "take":
        assert scene.lines(other) == [b"WHO"]
        assert scene.lines(scene.ranked) == []
    scene.log.close()


def test_a_batch_that_gets_no_memory_changes_nothing(lib: Any) -> None:
    batch = COMMAND * COMMANDS
    for after in itertools.count():
        scene = Scene()
        before, live = scene.state, lib.fault_live()
        lib.fault_arm(after)
        try:
            scene.log.apply(MEMBER, batch)
        except MemoryError:
            assert lib.fault_disarm()
            assert (scene.state, lib.fault_live()) == (before, live)
            scene.log.apply(MEMBER, batch)
        else:
            assert not lib.fault_disarm()
            # Each block beyond the first failed once, and the spare block is left.
            assert after == 3
        assert len(scene.frames()) == 1 + COMMANDS
        scene.log.check()
        scene.log.close()
        assert lib.fault_live() == 0
        if after == 3:
            break


def log_commands(scene: Scene) -> None:
    scene.ranked.take(COMMAND * COMMANDS)
    scene.next_line(scene.ranked)


def log_asks(scene: Scene) -> None:
    for number in range(COMMANDS):
        scene.log.append(b"ASK", b"0 %d".ljust(200) % number)


@pytest.mark.parametrize("fill", [log_commands, log_asks])
def test_a_departure_can_be_logged_without_memory(lib: Any, fill: Callable[[Scene], None]) -> None:
    scene = Scene()
    lib.fault_arm(0)
    with pytest.raises(MemoryError):
        fill(scene)
    assert lib.fault_disarm()
    before = scene.log.seq
    lib.fault_arm(0)
    scene.log.reserve(200)
    assert scene.log.append(b"LEFT", b"0".ljust(200)) == scene.log.seq == before + 1
    assert not lib.fault_disarm()
    scene.log.close()
