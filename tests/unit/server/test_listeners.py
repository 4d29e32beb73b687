"""Listening and accepting with the real kernel: both families, Unix sockets and their files, and failures."""

from __future__ import annotations

import errno
import os
import resource
import selectors
import socket
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from rankserver import listeners
from rankserver.listeners import MAX_ACCEPTS, MAX_PROBE_INTERVAL, MIN_PROBE_INTERVAL, Acceptor
from rankserver.wire.exceptions import ListenError
from tests.support.waiting import BOUND

HEARTBEAT = 30.0


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


@pytest.fixture
def opened() -> Iterator[list[socket.socket]]:
    """Return a stack that is closed at the end of the test."""
    sockets: list[socket.socket] = []
    yield sockets
    listeners.close_all(sockets)


def accepts(listener: socket.socket) -> bool:
    """Return whether a connection to the listener arrives there."""
    with socket.socket(listener.family, socket.SOCK_STREAM) as client:
        client.settimeout(BOUND)
        client.connect(listener.getsockname())
        listener.settimeout(BOUND)
        connection, _ = listener.accept()
        connection.close()
    return True


def address_of(listener: socket.socket) -> str:
    return listeners.peer_name(listener.family, listener.getsockname())


# --- TCP --------------------------------------------------------------------------------------


def test_ipv4_gets_a_port_that_accepts_and_never_blocks(opened: list[socket.socket]) -> None:
    opened += listeners.open_tcp("127.0.0.1", 0)
    (listener,) = opened
    assert not listener.getblocking()
    assert address_of(listener) == f"127.0.0.1:{listener.getsockname()[1]}"
    assert accepts(listener)


@needs_ipv6
def test_ipv6_is_named_in_brackets(opened: list[socket.socket]) -> None:
    opened += listeners.open_tcp("::1", 0)
    (listener,) = opened
    assert address_of(listener) == f"[::1]:{listener.getsockname()[1]}"
    assert accepts(listener)


def resolve_to(monkeypatch: pytest.MonkeyPatch, *families: tuple[int, str]) -> None:
    """Let every host have these addresses."""
    found = [(family, socket.SOCK_STREAM, 6, "", (address, 0)) for family, address in families]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: found)


@needs_ipv6
def test_a_host_with_both_families_listens_on_both(
    monkeypatch: pytest.MonkeyPatch, opened: list[socket.socket]
) -> None:
    resolve_to(monkeypatch, (socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0"))
    opened += listeners.open_tcp("host", 0)
    assert [listener.family for listener in opened] == [socket.AF_INET6, socket.AF_INET]
    assert len({listener.getsockname()[1] for listener in opened}) == 1
    assert all(map(accepts, opened))


def test_a_port_in_use_is_named_with_what_helps(opened: list[socket.socket]) -> None:
    opened += listeners.open_tcp("127.0.0.1", 0)
    port = opened[0].getsockname()[1]
    with pytest.raises(ListenError) as caught:
        listeners.open_tcp("127.0.0.1", port)
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{port}: Address already in use; "
        "choose another port with --port (make run: PORT=...)"
    )


def test_if_one_address_is_in_use_the_others_are_closed(
    monkeypatch: pytest.MonkeyPatch, opened: list[socket.socket]
) -> None:
    opened += listeners.open_tcp("127.0.0.1", 0)
    port = opened[0].getsockname()[1]
    resolve_to(monkeypatch, (socket.AF_INET, "127.0.0.2"), (socket.AF_INET, "127.0.0.1"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ListenError, match="in use"):
            listeners.open_tcp("host", port)
    # No socket is left to the garbage collector.
    assert caught == []
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(("127.0.0.2", port))


def test_a_port_is_free_at_once_after_a_connection_on_it(opened: list[socket.socket]) -> None:
    (listener,) = listeners.open_tcp("127.0.0.1", 0)
    port = listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port), BOUND):
        listener.settimeout(BOUND)
        # The server's side closes first, so it is the one in TIME_WAIT.
        listener.accept()[0].close()
    listeners.close_all([listener])
    opened += listeners.open_tcp("127.0.0.1", port)
    assert accepts(opened[0])


def test_a_host_without_an_address_is_named() -> None:
    with pytest.raises(ListenError, match=r"^cannot listen on no\.such\.host\.invalid:5050: "):
        listeners.open_tcp("no.such.host.invalid", 5050)


def test_a_malformed_host_is_named() -> None:
    with pytest.raises(ListenError, match=r"^cannot listen on a\.\.b:5050: "):
        listeners.open_tcp("a..b", 5050)


# --- Unix sockets -----------------------------------------------------------------------------


def test_a_unix_socket_accepts_and_its_file_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "rank.sock"
    listener = listeners.open_unix(str(path))
    assert not listener.getblocking()
    assert address_of(listener) == f"unix:{path}"
    assert accepts(listener)
    listeners.close_all([listener])
    assert not path.exists()


def test_closing_tolerates_a_file_that_was_removed(tmp_path: Path) -> None:
    path = tmp_path / "rank.sock"
    listener = listeners.open_unix(str(path))
    path.unlink()
    listeners.close_all([listener])


def test_closing_leaves_a_socket_that_replaced_ours(tmp_path: Path, opened: list[socket.socket]) -> None:
    path = tmp_path / "rank.sock"
    listener = listeners.open_unix(str(path))
    path.unlink()
    opened.append(listeners.open_unix(str(path)))
    listeners.close_all([listener])
    assert path.exists()
    assert accepts(opened[0])


def test_a_file_that_a_killed_server_left_is_taken_over(tmp_path: Path, opened: list[socket.socket]) -> None:
    path = tmp_path / "rank.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
        left.listen()
    assert path.exists()
    opened.append(listeners.open_unix(str(path)))
    assert accepts(opened[0])


def test_a_unix_socket_in_use_is_named_and_left_alone(tmp_path: Path, opened: list[socket.socket]) -> None:
    path = str(tmp_path / "rank.sock")
    opened.append(listeners.open_unix(path))
    with pytest.raises(ListenError, match=f"^cannot listen on unix:{path}: Address already in use$"):
        listeners.open_unix(path)
    with pytest.raises(BlockingIOError):
        opened[0].accept()  # and its owner notices nothing
    assert accepts(opened[0])


# A socket that was bound by a process which does not listen on it yet, or never will.
KINDS = [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET]


@pytest.mark.parametrize("kind", KINDS)
def test_a_unix_socket_that_is_bound_is_left_alone(tmp_path: Path, kind: socket.SocketKind) -> None:
    path = str(tmp_path / "rank.sock")
    with socket.socket(socket.AF_UNIX, kind) as bound:
        bound.bind(path)
        with pytest.raises(ListenError, match=f"^cannot listen on unix:{path}: Address already in use$"):
            listeners.open_unix(path)
        if kind is socket.SOCK_STREAM:
            bound.listen()
            assert accepts(bound)


@pytest.mark.parametrize("kind", KINDS)
def test_closing_leaves_a_bound_socket_that_replaced_ours(tmp_path: Path, kind: socket.SocketKind) -> None:
    path = tmp_path / "rank.sock"
    listener = listeners.open_unix(str(path))
    path.unlink()
    with socket.socket(socket.AF_UNIX, kind) as bound:
        bound.bind(str(path))
        listeners.close_all([listener])
        assert path.is_socket()


def test_a_stale_file_that_another_removes_first_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[socket.socket]
) -> None:
    path = tmp_path / "rank.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    unlink = os.unlink

    def unlink_second(name: str) -> None:
        unlink(name)
        unlink(name)

    monkeypatch.setattr(os, "unlink", unlink_second)
    opened.append(listeners.open_unix(str(path)))
    assert accepts(opened[0])


def test_a_file_that_is_no_socket_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ListenError, match=f"^cannot listen on unix:{path}: Address already in use$"):
        listeners.open_unix(str(path))
    assert path.read_text() == "data"


@pytest.mark.parametrize(
    ("path", "reason"), [("missing/rank.sock", "No such file or directory"), ("x" * 200, "path too long")]
)
def test_an_impossible_path_is_named(path: str, reason: str, tmp_path: Path) -> None:
    whole = tmp_path / path
    with pytest.raises(ListenError, match=f"^cannot listen on unix:{whole}: .*{reason}$"):
        listeners.open_unix(str(whole))


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.5.6.7", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
        ("::ffff:192.0.2.1", False),
    ],
)
def test_loopback_hosts_are_recognized(host: str, expected: bool) -> None:
    assert listeners.is_loopback(host) is expected


def test_a_name_is_loopback_if_all_its_addresses_are(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
    assert listeners.is_loopback("host")
    resolve_to(monkeypatch, (socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "192.0.2.1"))
    assert not listeners.is_loopback("host")


def test_whether_an_unknown_host_is_loopback_is_an_error() -> None:
    with pytest.raises(ListenError, match=r"no\.such\.host\.invalid"):
        listeners.is_loopback("no.such.host.invalid")


def test_peers_are_named_by_their_address() -> None:
    assert listeners.peer_name(socket.AF_INET, ("192.0.2.1", 40112)) == "192.0.2.1:40112"
    assert listeners.peer_name(socket.AF_INET6, ("2001:db8::1", 40112, 0, 0)) == "[2001:db8::1]:40112"
    assert listeners.peer_name(socket.AF_UNIX, "") == "unix:"


# --- accepting --------------------------------------------------------------------------------


class Turns:
    """An acceptor with its own loop, which listens on a TCP and on a Unix socket."""

    def __init__(self, stack: ExitStack, unix: Path) -> None:
        self.stack = stack
        self.selector = stack.enter_context(selectors.DefaultSelector())
        self.acceptor = Acceptor(self.selector)
        stack.callback(self.acceptor.close)
        self.addresses = self.acceptor.listen("127.0.0.1", 0, str(unix), HEARTBEAT)
        self.address = ("127.0.0.1", int(self.addresses[0].rpartition(":")[2]))
        self.unix = str(unix)

    def connect(self, family: int = socket.AF_INET) -> socket.socket:
        client = self.stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        client.settimeout(BOUND)
        client.connect(self.address if family == socket.AF_INET else self.unix)
        return client

    def turn(self) -> list[tuple[socket.socket, str, str]]:
        """Return the connections of one turn, which waits until one has arrived."""
        for key, _ in self.selector.select(BOUND):
            key.data()
        accepted = list(self.acceptor.accept())
        for sock, _, _ in accepted:
            self.stack.callback(sock.close)
        return accepted


@pytest.fixture
def turns(tmp_path: Path) -> Iterator[Turns]:
    with ExitStack() as stack:
        yield Turns(stack, tmp_path / "rank.sock")


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Let this process open no descriptor during the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_it_names_its_addresses_tcp_first(turns: Turns) -> None:
    assert turns.addresses == [f"127.0.0.1:{turns.address[1]}", f"unix:{turns.unix}"]


def test_a_tcp_connection_is_named_and_neither_blocks_nor_delays(turns: Turns) -> None:
    client = turns.connect()
    ((sock, peer, host),) = turns.turn()
    assert peer == f"127.0.0.1:{client.getsockname()[1]}"
    assert host == "127.0.0.1"
    assert not sock.getblocking()
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_kernel_gives_up_a_connection_to_a_dead_peer(turns: Turns) -> None:
    turns.connect()
    ((sock, _, _),) = turns.turn()
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == HEARTBEAT
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == HEARTBEAT
    longest = listeners.DEAD_HEARTBEATS * HEARTBEAT * 1000
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == longest


@pytest.mark.parametrize(
    ("heartbeat", "seconds"),
    [
        (0, MAX_PROBE_INTERVAL),
        (0.3, MIN_PROBE_INTERVAL),
        (30.5, 31),
        (3e6, MAX_PROBE_INTERVAL),
        (1e300, MAX_PROBE_INTERVAL),
    ],
)
def test_peers_are_probed_at_the_heartbeat_within_limits(
    heartbeat: float, seconds: int, opened: list[socket.socket]
) -> None:
    opened += listeners.open_tcp("127.0.0.1", 0, heartbeat)
    assert opened[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == seconds


def congestion_control(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


def test_connections_on_the_loopback_are_never_paced(turns: Turns) -> None:
    turns.connect()
    ((sock, _, _),) = turns.turn()
    assert congestion_control(sock) == listeners.LOOPBACK_CONGESTION


def test_other_connections_are_paced_as_the_system_does(opened: list[socket.socket]) -> None:
    opened += listeners.open_tcp("0.0.0.0", 0)
    with socket.socket() as fresh:
        assert congestion_control(opened[0]) == congestion_control(fresh)


def test_it_also_listens_where_reno_is_not_allowed(
    opened: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "LOOPBACK_CONGESTION", b"none such")
    opened += listeners.open_tcp("127.0.0.1", 0)
    with socket.socket() as fresh:
        assert congestion_control(opened[0]) == congestion_control(fresh)


def test_a_unix_connection_never_blocks(turns: Turns) -> None:
    turns.connect(socket.AF_UNIX)
    ((sock, peer, host),) = turns.turn()
    assert peer == "unix:"
    assert host == ""
    assert not sock.getblocking()


def test_nothing_is_accepted_before_its_event_is_handled(turns: Turns) -> None:
    turns.connect()
    assert list(turns.acceptor.accept()) == []
    assert len(turns.turn()) == 1
    assert list(turns.acceptor.accept()) == []


def test_a_turn_accepts_a_bounded_number_and_the_next_goes_on(turns: Turns) -> None:
    for _ in range(MAX_ACCEPTS + 3):
        turns.connect()
    assert len(turns.turn()) == MAX_ACCEPTS
    assert len(turns.turn()) == 3


def test_without_a_descriptor_it_pauses_and_loses_nobody(turns: Turns) -> None:
    turns.connect()
    turns.connect(socket.AF_UNIX)
    with no_descriptor_left():
        assert turns.turn() == []
    assert turns.acceptor.paused
    # Registered listeners would be ready all the time, and the loop would spin.
    assert len(turns.selector.get_map()) == 0
    assert list(turns.acceptor.accept()) == []
    turns.acceptor.resume()
    assert not turns.acceptor.paused
    assert len(turns.turn()) == 2


class Aborting:
    """A listener whose first connection is aborted before it is accepted, while a second one waits."""

    def __init__(self, connection: socket.socket) -> None:
        self.results: list[OSError | socket.socket] = [
            OSError(errno.ECONNABORTED, "Software caused connection abort"),
            connection,
            BlockingIOError(),
        ]

    def accept(self) -> tuple[socket.socket, str]:
        result = self.results.pop(0)
        if isinstance(result, OSError):
            raise result
        return result, ""


def test_a_connection_lost_before_its_accept_is_skipped(turns: Turns) -> None:
    ours, theirs = socket.socketpair()
    turns.stack.enter_context(ours)
    turns.stack.enter_context(theirs)
    turns.acceptor.ready.append(Aborting(ours))  # type: ignore[arg-type]
    assert [sock for sock, _, _ in turns.acceptor.accept()] == [ours]
    assert not turns.acceptor.paused


def test_accepting_ends_when_it_is_paused_and_loses_nobody(turns: Turns) -> None:
    for _ in range(3):
        turns.connect()
    for key, _ in turns.selector.select(BOUND):
        key.data()
    accepted = []
    for sock, _, _ in turns.acceptor.accept():
        turns.stack.callback(sock.close)
        accepted.append(sock)
        turns.acceptor.pause()
        turns.acceptor.pause()
    assert len(accepted) == 1
    assert len(turns.selector.get_map()) == 0
    turns.acceptor.resume()
    assert len(turns.turn()) == 2


class Failing:
    """A listener that always fails."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls = 0

    def accept(self) -> tuple[socket.socket, str]:
        self.calls += 1
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.EMFILE])
def test_a_persistent_failure_pauses_accepting(number: int, turns: Turns) -> None:
    failing = Failing(number)
    turns.acceptor.ready.append(failing)  # type: ignore[arg-type]
    assert list(turns.acceptor.accept()) == []
    assert failing.calls < 10
    assert turns.acceptor.paused
    turns.acceptor.resume()
    turns.connect()
    assert len(turns.turn()) == 1


@pytest.mark.parametrize("paused", [False, True])
def test_closing_twice_frees_the_port_and_the_file(paused: bool, turns: Turns) -> None:
    if paused:
        turns.connect()
        with no_descriptor_left():
            turns.turn()
    turns.acceptor.close()
    turns.acceptor.close()
    assert len(turns.selector.get_map()) == 0
    assert not Path(turns.unix).exists()
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(turns.address)


def test_the_port_is_given_back_if_the_unix_socket_fails(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.touch()
    with selectors.DefaultSelector() as selector, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        acceptor = Acceptor(selector)
        with pytest.raises(ListenError, match="precious"):
            acceptor.listen("127.0.0.1", port, str(path), HEARTBEAT)
        acceptor.close()
        listeners.close_all(listeners.open_tcp("127.0.0.1", port))
    assert path.exists()


def test_an_address_that_this_machine_lacks_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    addresses = [(socket.AF_INET6, ("2001:db8::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0))]
    found = [(family, socket.SOCK_STREAM, 0, "", address) for family, address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: found)
    opened = listeners.open_tcp("two", 0)
    assert [listener.family for listener in opened] == [socket.AF_INET]
    listeners.close_all(opened)
    found.pop()
    with pytest.raises(ListenError, match="cannot listen on two:0: "):
        listeners.open_tcp("two", 0)
