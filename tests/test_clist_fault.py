"""The C core when memory runs out: each call is repeated with each of its allocations failing in turn.

What may fail says so and changes nothing, works when it is tried again, and leaks nothing.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import pytest
from cffi import FFI

from rankserver import clist
from rankserver.clist import Fed, Log
from tests.support import ROOT

MAX_LINE: Final = 256
BLOCK_BYTES: Final = MAX_LINE + 256
COMMAND: Final = b"CMD %s\n" % (b"x" * 200)
COMMANDS: Final = 8  # of these: two in a block, so four blocks

MODULE: Final = "_clist_fault"
FAULTS: Final = "void fault_arm(long after); int fault_disarm(void); long fault_live(void);"


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Build the core once more, with an allocator that can fail."""
    sources = ROOT / "rankserver"
    builder = FFI()
    builder.cdef((sources / "_clist.cdef.txt").read_text() + FAULTS)
    builder.set_source(
        MODULE,
        '#include "_clist.h"\n' + FAULTS,
        sources=[str(ROOT / "tests" / "clist_fault.c")],
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
    """Put that core behind ``clist``; in the end no allocation is left."""
    monkeypatch.setattr(clist, "ffi", core.ffi)
    monkeypatch.setattr(clist, "lib", core.lib)
    core.lib.fault_disarm()
    assert core.lib.fault_live() == 0
    yield core.lib
    core.lib.fault_disarm()
    assert core.lib.fault_live() == 0


class State(NamedTuple):
    """All that can be asked of a log with two clients, and what the first of them is to be sent."""

    seq: int
    held: int
    clients: int
    ranks: list[int]
    lags: list[int]
    stream: list[bytes]


class Scene:
    """A log with a ranked client that has a private frame waiting, and one that has not joined."""

    def __init__(self) -> None:
        self.log = Log(MAX_LINE, BLOCK_BYTES)
        self.ranked = self.log.open(-1)
        self.new = self.log.open(-1)
        self.log.join(self.ranked)
        self.log.private(self.ranked, b"WELCOME\n")

    @property
    def state(self) -> State:
        self.log.check()
        clients = (self.ranked, self.new)
        return State(
            self.log.seq,
            self.log.held,
            self.log.clients,
            [self.log.rank(client) for client in clients],
            [self.log.lag(client) for client in clients],
            [bytes(span) for span in self.log.peek(self.ranked)],
        )

    def frames(self) -> list[bytes]:
        """Return the frames that the ranked client is to be sent."""
        got = b""
        while spans := self.log.peek(self.ranked):
            data = b"".join(spans)
            got += data
            self.log.advance(self.ranked, len(data))
        return got.splitlines()


def test_a_new_log_that_gets_no_memory_leaves_none_behind(lib: Any) -> None:
    for after in (0, 1):  # the log itself, and its first block
        lib.fault_arm(after)
        with pytest.raises(MemoryError):
            Log(MAX_LINE, BLOCK_BYTES)
        assert lib.fault_disarm()
        assert lib.fault_live() == 0
    lib.fault_arm(2)
    Log(MAX_LINE, BLOCK_BYTES).close()
    assert not lib.fault_disarm()


@pytest.mark.parametrize(
    "call",
    [
        lambda scene: scene.log.open(-1),
        lambda scene: scene.log.private(scene.ranked, b"PONG\n"),
        lambda scene: scene.log.private(scene.new, b"INFO\n"),
    ],
    ids=["open", "private", "private before the join"],
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
    assert after == 3  # each block but the first failed once


def test_a_feed_that_gets_no_memory_counts_what_is_logged_and_goes_on_there(lib: Any) -> None:
    data = COMMAND * COMMANDS
    for after in range(3):
        scene = Scene()
        lib.fault_arm(after)
        fed = scene.log.feed(scene.ranked, data)  # says nothing yet: some of it is logged
        assert lib.fault_disarm()
        logged = 2 * (after + 1)
        assert fed == Fed(logged * len(COMMAND), None, too_long=False)
        assert scene.log.seq == logged

        before = scene.state
        lib.fault_arm(0)
        with pytest.raises(MemoryError):
            scene.log.feed(scene.ranked, data[fed.consumed :])
        assert lib.fault_disarm()
        assert scene.state == before

        rest = scene.log.feed(scene.ranked, data[fed.consumed :])
        assert fed.consumed + rest.consumed == len(data)
        assert [frame.split()[:3] for frame in scene.frames()[1:]] == [
            [b"CMD", b"%d" % seq, b"0"] for seq in range(1, COMMANDS + 1)
        ]
        scene.log.close()
        assert lib.fault_live() == 0
    scene = Scene()
    lib.fault_arm(3)
    assert scene.log.feed(scene.ranked, data).consumed == len(data)
    assert not lib.fault_disarm()
    scene.log.close()


def test_leaving_and_sending_need_no_memory(lib: Any) -> None:
    scene = Scene()
    scene.log.feed(scene.ranked, COMMAND * COMMANDS)
    other = scene.log.open(-1)
    lib.fault_arm(0)
    scene.log.join(scene.new)
    scene.log.join(other)
    assert len(scene.frames()) == 1 + COMMANDS
    scene.log.retire(scene.ranked)
    scene.log.cut(scene.new)
    scene.log.discard(other)
    scene.log.discard(scene.ranked)
    scene.log.check()
    scene.log.close()
    assert not lib.fault_disarm()


def test_a_client_that_is_discarded_leaves_no_memory_behind(lib: Any) -> None:
    with Log(MAX_LINE, BLOCK_BYTES) as log:
        live = lib.fault_live()
        for leave in (log.retire, log.cut, lambda _: None):
            client = log.open(-1)
            log.private(client, b"INFO\n")
            log.join(client)
            log.private(client, b"WELCOME\n")
            log.advance(client, 2)
            leave(client)
            log.private(client, b"BYE\n")
            log.discard(client)
            assert lib.fault_live() == live


def test_blocks_are_used_again_and_only_a_few_are_kept(lib: Any) -> None:
    scene = Scene()
    live = lib.fault_live()
    scene.log.feed(scene.ranked, COMMAND * 200)
    assert lib.fault_live() == live + 99  # blocks of two commands each
    scene.frames()
    kept = lib.fault_live()
    assert live <= kept < live + 20
    for _ in range(10):
        scene.log.feed(scene.ranked, COMMAND * 20)
        scene.frames()
        scene.log.check()
        assert lib.fault_live() == kept
    scene.log.close()
