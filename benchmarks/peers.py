"""What rankserver is compared with: how each peer is found, set up and started.

Every peer runs with its own defaults, except for what would make it drop messages or connections under a
burst, and what costs it time for something that nobody asked for here (see each one's ``settings``). It
leaves measuring, and what to do about a peer that is not installed, to its callers.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import harness
from harness import Address, BenchmarkError, Ceiling, RankServer, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SERVERS: Final = harness.ROOT / "benchmarks" / "servers"

# Folders of servers that are not on every user's PATH.
SYSTEM_FOLDERS: Final = ("/usr/local/sbin", "/usr/sbin")

START_SECONDS: Final = 10.0

# Seconds between two attempts to connect.
TRY_SECONDS: Final = 0.01

# Attempts to find a port that nobody else takes meanwhile.
MAX_ATTEMPTS: Final = 5

# A socket that connects to its own port succeeds; from this address it cannot.
OTHER_HOST: Final = "127.0.0.2"

# Clients that Redis has to allow on top, for connections that are just being closed.
SPARE_CLIENTS: Final = 32

# As many connections as the system allows.
NO_MAX_CLIENTS: Final = 100_000

HOST: Final = "127.0.0.1"

# The number of clients that Redis allows by default.
DEFAULT_CLIENTS: Final = 10_000

# A number of bytes that stands for no limit, where there is no word for it.
NO_LIMIT: Final = "1000000000000"

# Nothing may be dropped, nobody may be thrown out for being slow, and nobody for being silent.
REDIS: Final = """
bind HOST
port PORT
save ""
loglevel warning
tcp-backlog 4096
maxclients CLIENTS
client-output-buffer-limit pubsub 0 0 0
"""
NATS: Final = """
listen: "HOST:PORT"
max_pending: 1000000000000
write_deadline: "1h"
ping_interval: "1h"
"""
# The queue's limit is a number that is never reached, because 0, which means none, makes versions 2.0.16 to
# 2.0.20 disconnect whoever publishes. Looking for duplicates compares each receiver with all others, for each
# message; it is off in later versions. As root it would change to a user whose memory cannot be read.
MOSQUITTO: Final = """
listener PORT HOST
allow_anonymous true
user root
log_type error
set_tcp_nodelay true
max_queued_messages 2000000000
allow_duplicate_messages true
"""


class Load(NamedTuple):
    """What a peer is started for: connections that only receive, those that send, and bytes of a command."""

    receivers: int
    senders: int
    size: int

    @property
    def connections(self) -> int:
        """How many connections there are in all."""
        return self.receivers + self.senders


@dataclass(frozen=True)
class Peer:
    """One thing to compare with."""

    key: str
    name: str  # as it is shown
    one: str  # the load generator's protocol with one sender
    every: str  # and where every client sends
    settings: str  # every setting that differs from the default, and why
    install: str  # the command that installs it
    version: Callable[[], str | None]  # None if it is not installed
    start: Callable[[Load, int | None], Server]  # on this CPU; it listens when it returns
    every_pairs: bool = False  # where every client sends, it has one more connection, to receive
    most: int = NO_MAX_CLIENTS  # connections that it can reasonably have


# --- starting ---------------------------------------------------------------------------------


class Daemon(Server):
    """A server of others, in a folder of its own; it is ended with its block."""

    def __init__(
        self, name: str, command: Sequence[str], config: str, address: Address, cpu: int | None
    ) -> None:
        """Start ``command`` with a file of this configuration, and wait until it accepts connections.

        Raises:
            BenchmarkError: if it does not; the message holds what it printed.
        """
        self.address = address
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            (folder / "config").write_text(config)
            self._output = stack.enter_context((folder / "output").open("w+b"))
            program, *options = command
            super().__init__(
                name, [_find(program), *options, str(folder / "config")], cpu, output=self._output
            )
            stack.callback(super().close)
            self._await_listening()
            self._folder = stack.pop_all()

    def close(self) -> None:
        """End the server and remove its folder."""
        self._folder.close()

    def _await_listening(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._takes_connections():
                return
            if self._ends_within(TRY_SECONDS):
                raise BenchmarkError(f"{self.name} ended at once: {self._printed()}")
        raise BenchmarkError(f"{self.name} does not listen after {START_SECONDS:g} s: {self._printed()}")

    def _takes_connections(self) -> bool:
        try:
            socket.create_connection(self.address, START_SECONDS, (OTHER_HOST, 0)).close()
        except ConnectionRefusedError:
            return False
        except OSError as error:
            raise BenchmarkError(f"cannot connect to {self.name}, {error}: {self._printed()}") from error
        return True

    def _ends_within(self, seconds: float) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.returncode is not None

    def _printed(self) -> str:
        self._output.seek(0)
        return self._output.read().decode(errors="replace").strip() or "it printed nothing"


class Script(Server):
    """One of the servers in ``servers/``."""

    def __init__(self, name: str, file: str, options: Sequence[str], cpu: int | None) -> None:
        """Start it and wait until it listens.

        Raises:
            BenchmarkError: if it does not.
        """
        super().__init__(name, [sys.executable, str(SERVERS / file), *options], cpu)
        try:
            words = self.line(START_SECONDS).removeprefix("listening on ").split()
            self.address, *elsewhere = map(Address.parse, words)
            self.sending = elsewhere[0] if elsewhere else None
        except BaseException:
            self.close()
            raise


def daemon(name: str, command: Sequence[str], config: str) -> Callable[[Load, int | None], Server]:
    """Return a function that starts a server of others; ``config`` has places for what differs.

    They cannot let the system choose a port, so one is chosen here, and another if it is taken meanwhile.
    """

    def attempt(load: Load, cpu: int | None) -> Daemon | None:
        address = Address(HOST, _free_port())
        clients = max(DEFAULT_CLIENTS, load.connections + SPARE_CLIENTS)
        text = config.replace("HOST", HOST).replace("PORT", str(address.port))
        try:
            return Daemon(name, command, text.replace("CLIENTS", str(clients)), address, cpu)
        except BenchmarkError as error:
            if "address already in use" in str(error).lower():
                return None
            raise

    def start(load: Load, cpu: int | None) -> Server:
        for _ in range(MAX_ATTEMPTS):
            if daemon := attempt(load, cpu):
                return daemon
        raise BenchmarkError(f"{name} found each of {MAX_ATTEMPTS} ports taken that had just been free")

    return start


def _script(name: str, file: str, *options: str) -> Callable[[Load, int | None], Server]:
    """Return a function that starts one of the servers in ``servers/``."""
    return lambda _load, cpu: Script(name, file, options, cpu)


def _free_port() -> int:
    """Return a port on which nobody listens just now."""
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


# --- versions ---------------------------------------------------------------------------------


def _which(program: str) -> str | None:
    """Return the path of a program, if it is installed."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM_FOLDERS]))


def _find(program: str) -> str:
    path = _which(program)
    if path is None:
        raise BenchmarkError(f"{program} is not installed")
    return path


def _printed_version(program: str, option: str, pattern: str) -> Callable[[], str | None]:
    """Return a function that takes a program's version out of what it prints with an option."""

    def version() -> str | None:
        path = _which(program)
        if path is None:
            return None
        done = subprocess.run([path, option], capture_output=True, text=True, check=False)
        found = re.search(pattern, done.stdout + done.stderr)
        return found[1] if found else "unknown"

    return version


def _package_version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _zeromq_version() -> str | None:
    version = _package_version("pyzmq")
    return version and f"{importlib.import_module('zmq').zmq_version()} (pyzmq {version})"


# --- the peers --------------------------------------------------------------------------------

PEERS: Final[tuple[Peer, ...]] = (
    Peer(
        key="rankserver",
        name="rankserver",
        one="rank",
        every="rank",
        settings="No heartbeat, and only warnings are logged, as nobody asks for more; no limit to what waits"
        " for a client (max-backlog), as for the others. Not a setting, but what it does by default: on the"
        " loopback it uses Reno as congestion control where the others use what the system has. Where that"
        " is BBR, which paces, this takes about a tenth to a fifth less CPU time.",
        install="pip install -e .",
        version=lambda: _package_version("rankserver"),
        start=lambda load, cpu: RankServer(load.connections, ["--max-backlog", NO_LIMIT], cpu),
    ),
    Peer(
        key="redis",
        name="Redis pub/sub",
        one="redis",
        every="redis-all",
        settings="No snapshots (save), and only warnings are logged, as nobody asks for more; no limit to"
        " what waits for a subscriber (client-output-buffer-limit pubsub 0 0 0), and room for all connections"
        " (maxclients, tcp-backlog 4096), so that none is closed or refused.",
        install="apt-get install redis-server",
        version=_printed_version("redis-server", "--version", r"v=(\S+)"),
        start=daemon("Redis", ["redis-server"], REDIS),
    ),
    Peer(
        key="nats",
        name="NATS core",
        one="nats",
        every="nats-all",
        settings="A client may be 1 TB behind (max_pending) and for an hour (write_deadline), so"
        " that none is closed as a slow consumer and no publisher is stalled; a client is pinged once in an"
        " hour (ping_interval), so that none is closed for being silent.",
        install="apt-get install nats-server",
        version=_printed_version("nats-server", "--version", r"v(\d\S*)"),
        start=daemon("NATS", ["nats-server", "-c"], NATS),
    ),
    Peer(
        key="zeromq",
        name="ZeroMQ XSUB/XPUB proxy",
        one="zmq",
        every="zmq",
        every_pairs=True,
        settings="No high-water marks (RCVHWM and SNDHWM 0), so that nothing is dropped; 4,096 connections"
        " may wait to be accepted (BACKLOG).",
        install="pip install pyzmq",
        version=_zeromq_version,
        start=_script("the ZeroMQ proxy", "zmq_proxy.py"),
    ),
    Peer(
        key="mosquitto",
        name="Mosquitto QoS 0",
        one="mqtt",
        every="mqtt-all",
        settings="2,000,000,000 messages may wait for a client (max_queued_messages): none is dropped;"
        " messages are sent at once (set_tcp_nodelay true); a message is not compared with all others for"
        " duplicates (allow_duplicate_messages true, the default of later versions); clients need no password"
        " (allow_anonymous true); only errors are logged; it stays the user that started it, so that its"
        " memory can be read (user root).",
        install="apt-get install mosquitto",
        version=_printed_version("mosquitto", "-h", r"version (\S+)"),
        start=daemon("Mosquitto", ["mosquitto", "-c"], MOSQUITTO),
    ),
    Peer(
        key="asyncio",
        name="asyncio streams",
        one="plain",
        every="plain-all",
        settings="A line may have 1 MiB; 4,096 connections may wait to be accepted.",
        install="pip install -e .",
        version=platform.python_version,
        start=_script("the asyncio server", "asyncio_broadcast.py"),
    ),
    Peer(
        key="uvloop",
        name="asyncio streams on uvloop",
        one="plain",
        every="plain-all",
        settings="The same program as with asyncio, on the other event loop.",
        install="pip install uvloop",
        version=lambda: _package_version("uvloop"),
        start=_script("the uvloop server", "asyncio_broadcast.py", "--uvloop"),
    ),
    Peer(
        key="threads",
        name="a thread per client",
        one="plain",
        every="plain-all",
        most=1_001,
        settings="Messages are sent at once (TCP_NODELAY); 4,096 connections may wait to be accepted.",
        install="pip install -e .",
        version=platform.python_version,
        start=_script("the threads server", "threads_broadcast.py"),
    ),
    Peer(
        key="ceiling",
        name="the ceiling",
        one="ceiling",
        every="ceiling",
        settings="Prepared bytes, sent in chunks of the size that is the fastest at each point; Reno as"
        " congestion control, as rankserver.",
        install="pip install -e .",
        version=lambda: _package_version("rankserver"),
        start=lambda load, cpu: Ceiling(load.connections, load.senders, load.size, cpu),
    ),
)
