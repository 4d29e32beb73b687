"""The peers of the comparison: the servers in ``benchmarks/servers/``, and how peers start and end."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final

import harness
import peers
import pytest
from harness import BenchmarkError, HostPort, Program
from peers import PEERS, PeerLoad, PeerServer

from tests.support.waiting import BOUND

COMMANDS: Final = 1_000
BY_KEY: Final = {peer.key: peer for peer in PEERS}

# The optional modules that peers import.
EXTRAS: Final = {"uvloop": "uvloop", "zeromq": "zmq"}

UNTIL_TOLD: Final = """
import argparse, signal
import harness

def measure(_):
    with harness.Program("cat", ["cat"]) as program:
        print(program.pid, flush=True)
        signal.pause()

signal.signal(signal.SIGHUP, signal.SIG_DFL)
harness.run("a benchmark", argparse.Namespace(json=True), measure, print)
"""
BROADCAST: Final = {
    "asyncio": ["asyncio_broadcast.py"],
    "uvloop": ["asyncio_broadcast.py", "--uvloop"],
    "threads": ["threads_broadcast.py"],
}


def need(key: str) -> None:
    if key in EXTRAS and importlib.util.find_spec(EXTRAS[key]) is None:
        pytest.skip(f"{key} is not installed")


class BroadcastScript:
    """One of our servers as a process whose output can be read to the end."""

    def __init__(self, *command: str) -> None:
        file, *options = command
        self.process = subprocess.Popen(
            [sys.executable, str(peers.SERVERS / file), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        words = self.process.stdout.readline().removeprefix("listening on ").split()
        self.addresses = [HostPort.parse(word) for word in words]

    def end(self) -> tuple[int, str]:
        """End it; return its exit code and what it printed after it began to listen."""
        self.process.terminate()
        out, err = self.process.communicate(timeout=BOUND)
        return self.process.returncode, out + err


class LineSocket:
    """A client of the broadcast servers."""

    def __init__(self, address: HostPort) -> None:
        self.socket = socket.create_connection(address, BOUND)
        self._file: BinaryIO = self.socket.makefile("rb")
        self.hello = self.line()

    def line(self) -> bytes:
        return self._file.readline()

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@pytest.fixture(params=BROADCAST)
def broadcast(request: pytest.FixtureRequest) -> Iterator[BroadcastScript]:
    need(request.param)
    script = BroadcastScript(*BROADCAST[request.param])
    yield script
    script.end()


@pytest.fixture
def connect(broadcast: BroadcastScript) -> Iterator[Callable[[], LineSocket]]:
    with ExitStack() as stack:

        def make() -> LineSocket:
            client = LineSocket(broadcast.addresses[0])
            stack.callback(client.close)
            return client

        yield make


def test_clients_are_told_their_rank_and_hear_all_but_themselves(connect: Callable[[], LineSocket]) -> None:
    clients = [connect() for _ in range(3)]
    assert [client.hello for client in clients] == [b"hello 0\n", b"hello 1\n", b"hello 2\n"]
    for rank, client in enumerate(clients):
        client.socket.sendall(b"from %d\n" % rank)
        for other in clients:
            if other is not client:
                assert other.line() == b"%d from %d\n" % (rank, rank)


def test_quick_lines_reach_everybody_whole_and_in_order(connect: Callable[[], LineSocket]) -> None:
    first, second, sender = connect(), connect(), connect()
    text = b"x" * 64
    lines = [b"%d %b\n" % (index, text) for index in range(COMMANDS)]
    sender.socket.sendall(b"".join(lines))
    for client in (first, second):
        assert [client.line() for _ in lines] == [b"2 " + line for line in lines]


def test_a_long_line_in_two_parts_stays_one(connect: Callable[[], LineSocket]) -> None:
    receiver, sender = connect(), connect()
    text = b"y" * 16_384
    sender.socket.sendall(text)
    sender.socket.sendall(text + b"\n")
    assert receiver.line() == b"1 " + 2 * text + b"\n"


@pytest.mark.parametrize("abrupt", [False, True], ids=["closes", "vanishes"])
def test_clients_behind_one_that_leaves_move_up(connect: Callable[[], LineSocket], *, abrupt: bool) -> None:
    head, leaver, last = connect(), connect(), connect()
    leaver.socket.sendall(b"bye\nno end of line")
    assert [head.line(), last.line()] == [b"1 bye\n", b"1 bye\n"]
    if abrupt:
        leaver.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    leaver.close()
    rank = b"2"
    # Repeat until the server has noticed.
    while rank == b"2":
        last.socket.sendall(b"still here\n")
        rank, _, text = head.line().partition(b" ")
        assert text == b"still here\n"
    assert rank == b"1"
    assert connect().hello == b"hello 2\n"


def test_it_ends_silently_while_clients_are_connected(
    broadcast: BroadcastScript, connect: Callable[[], LineSocket]
) -> None:
    connect(), connect()
    assert broadcast.end() == (-signal.SIGTERM, "")


def test_the_zeromq_proxy_passes_everything_on_and_ends() -> None:
    zmq = pytest.importorskip("zmq")
    script = BroadcastScript("zmq_proxy.py")
    receiving, sending = (f"tcp://{address.host}:{address.port}" for address in script.addresses)
    with (
        zmq.Context() as context,
        context.socket(zmq.SUB) as subscriber,
        context.socket(zmq.XPUB) as publisher,
    ):
        subscriber.rcvtimeo = publisher.rcvtimeo = int(BOUND * 1000)
        subscriber.set_hwm(0)
        publisher.set_hwm(0)
        subscriber.connect(receiving)
        subscriber.subscribe(b"")
        publisher.connect(sending)
        # The subscription has passed through the proxy.
        assert publisher.recv() == b"\1"
        texts = [b"%d" % index for index in range(COMMANDS)]
        for text in texts:
            publisher.send(text)
        assert [subscriber.recv() for _ in texts] == texts
        assert script.end() == (-signal.SIGTERM, "")


# --- the registry -----------------------------------------------------------------------------


def test_peers_have_keys_of_their_own_and_the_ceiling_is_last() -> None:
    assert len(BY_KEY) == len(PEERS)
    assert [PEERS[0].key, PEERS[-1].key] == ["rankserver", "ceiling"]


@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer.key != "ceiling"], ids=lambda peer: peer.key)
def test_a_peer_that_is_installed_listens_and_ends(peer: PeerServer) -> None:
    if peer.version() is None:
        pytest.skip(f"{peer.name} is not installed")
    with peer.start(PeerLoad(1, 1, 64), None) as server:
        for address in {server.address, server.sending or server.address}:
            socket.create_connection(address, BOUND).close()
        folder = Path(f"/proc/{server.pid}")
        assert folder.exists()
    assert not folder.exists()


def test_all_threads_run_on_the_given_cpu_and_we_do_not() -> None:
    before = os.sched_getaffinity(0)
    with BY_KEY["threads"].start(PeerLoad(1, 1, 64), max(before)) as server:
        # The server has started a thread for it.
        client = LineSocket(server.address)
        threads = [int(path.name) for path in Path(f"/proc/{server.pid}/task").iterdir()]
        assert [os.sched_getaffinity(thread) for thread in threads] == [{max(before)}] * 2
        client.close()
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("key", ["redis", "nats", "mosquitto"])
def test_a_peer_that_is_not_installed_has_no_version(
    key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(peers, "SYSTEM_FOLDERS", ())
    assert BY_KEY[key].version() is None
    with pytest.raises(BenchmarkError, match="is not installed"):
        BY_KEY[key].start(PeerLoad(1, 1, 64), None)


def fake(folder: Path, script: str) -> None:
    """Put a program in the place of NATS."""
    program = folder / "nats-server"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)


def test_a_peer_that_does_not_start_is_reported_with_its_output(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake(tmp_path, "echo no such option >&2; exit 3")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchmarkError, match="NATS ended at once: no such option"):
        BY_KEY["nats"].start(PeerLoad(1, 1, 64), None)


def test_another_port_is_tried_when_one_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(tmp_path, f"echo once more >> {tmp_path}/tries; echo bind: address already in use; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchmarkError, match="taken"):
        BY_KEY["nats"].start(PeerLoad(1, 1, 64), None)
    assert len((tmp_path / "tries").read_text().splitlines()) == peers.MAX_ATTEMPTS


def test_a_peer_that_takes_no_connection_in_time_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def late(*_: object) -> socket.socket:
        raise TimeoutError("timed out")

    fake(tmp_path, "exec /bin/sleep 60")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(socket, "create_connection", late)
    with pytest.raises(BenchmarkError, match="cannot connect to NATS, timed out: it printed nothing"):
        BY_KEY["nats"].start(PeerLoad(1, 1, 64), None)


def test_a_program_that_closes_its_output_and_stays_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "MAX_EXIT_SECONDS", 0.2)
    with (
        Program("the mute", ["sh", "-c", "exec sleep 60 >&-"]) as mute,
        pytest.raises(BenchmarkError, match="the mute has closed its output and does not end"),
    ):
        mute.line()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_benchmark_that_is_ended_ends_what_it_started(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", UNTIL_TOLD],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(harness.ROOT / "benchmarks")},
    ) as benchmark:
        assert benchmark.stdout
        started = Path("/proc", benchmark.stdout.readline().strip())
        assert started.exists()
        benchmark.send_signal(number)
        assert benchmark.wait(BOUND) == 128 + number
    assert not started.exists()
