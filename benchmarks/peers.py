"""The peers that rankserver is compared with: how each is found, set up and started.

Every peer runs with its own defaults, except for settings that would drop messages or connections under a
burst, and settings that cost time for features that the comparison does not use (see each one's
``settings``). Measuring, and handling of peers that are not installed, are left to the callers.
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
from harness import BenchmarkError, Ceiling, HostPort, LoopbackServer, ServerProgram

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SERVERS: Final = harness.ROOT / "benchmarks" / "servers"

# Folders with servers that are not on every user's PATH.
SYSTEM_FOLDERS: Final = ("/usr/local/sbin", "/usr/sbin")

START_SECONDS: Final = 10.0

# Seconds between two attempts to connect.
TRY_SECONDS: Final = 0.01

# Attempts to start a server on a port that was free, but that another program may take first.
MAX_ATTEMPTS: Final = 5

# A socket can connect to itself if its own port happens to be the target's. From this address it cannot.
OTHER_HOST: Final = "127.0.0.2"

# Clients that Redis must allow beyond those of the load, as closed connections count for a moment.
SPARE_CLIENTS: Final = 32

# More connections than a system allows, so this is no limit.
NO_MAX_CLIENTS: Final = 100_000

HOST: Final = "127.0.0.1"

# The number of clients that Redis allows by default.
DEFAULT_CLIENTS: Final = 10_000

# A number of bytes that is never reached, for settings that cannot say "no limit".
NO_LIMIT: Final = "1000000000000"

# No message may be dropped, and no client disconnected for being slow or silent.
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
# The limit of the queue is never reached; 0, which means no limit, makes versions 2.0.16 to 2.0.20 disconnect
# publishers. The check for duplicates, which later versions have off, compares each receiver with all others
# for each message. Without ``user root``, a server started by root would switch to a user whose memory cannot
# be read.
MOSQUITTO: Final = """
listener PORT HOST
allow_anonymous true
user root
log_type error
set_tcp_nodelay true
max_queued_messages 2000000000
allow_duplicate_messages true
"""


class PeerLoad(NamedTuple):
    """The load that a peer is started for: receivers, senders, and the bytes of a command."""

    receivers: int
    senders: int
    size: int

    @property
    def connections(self) -> int:
        """The number of all connections."""
        return self.receivers + self.senders


@dataclass(frozen=True)
class PeerServer:
    """A server to compare with."""

    key: str
    # The name in tables and plots.
    name: str
    # The load generator's protocol for one sender, and for clients that all send.
    one: str
    every: str
    # Every setting that differs from the default, and why.
    settings: str
    # The command that installs it.
    install: str
    # Returns the version, or None if the peer is not installed.
    version: Callable[[], str | None]
    # Starts the server on a CPU, and returns when it listens.
    start: Callable[[PeerLoad, int | None], ServerProgram]
    # Whether each client needs a second connection, to receive, if all clients send.
    every_pairs: bool = False
    # The most connections that it can reasonably handle.
    most: int = NO_MAX_CLIENTS


# --- starting ---------------------------------------------------------------------------------


class Daemon(ServerProgram):
    """A third-party server in its own folder; it is ended at the end of its ``with`` block."""

    def __init__(
        self, name: str, command: Sequence[str], config: str, address: HostPort, cpu: int | None
    ) -> None:
        """Start ``command`` with ``config`` in a file, and wait until it accepts connections.

        Raises:
            BenchmarkError: if it does not; the message quotes its output.
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


class Script(ServerProgram):
    """One of the servers in ``servers/``."""

    def __init__(self, name: str, file: str, options: Sequence[str], cpu: int | None) -> None:
        """Start it and wait until it listens.

        Raises:
            BenchmarkError: if it does not.
        """
        super().__init__(name, [sys.executable, str(SERVERS / file), *options], cpu)
        with self.starting():
            words = self.line(START_SECONDS).removeprefix("listening on ").split()
            self.address, *elsewhere = map(HostPort.parse, words)
            self.sending = elsewhere[0] if elsewhere else None


def daemon(name: str, command: Sequence[str], config: str) -> Callable[[PeerLoad, int | None], ServerProgram]:
    """Return a function that starts a third-party server; ``config`` has placeholders such as PORT.

    Such servers cannot let the system pick a port. It is picked here, and another one if it is taken by then.
    """

    def attempt(load: PeerLoad, cpu: int | None) -> Daemon | None:
        address = HostPort(HOST, _free_port())
        clients = max(DEFAULT_CLIENTS, load.connections + SPARE_CLIENTS)
        text = config.replace("HOST", HOST).replace("PORT", str(address.port))
        try:
            return Daemon(name, command, text.replace("CLIENTS", str(clients)), address, cpu)
        except BenchmarkError as error:
            if "address already in use" in str(error).lower():
                return None
            raise

    def start(load: PeerLoad, cpu: int | None) -> ServerProgram:
        for _ in range(MAX_ATTEMPTS):
            if daemon := attempt(load, cpu):
                return daemon
        raise BenchmarkError(f"{name} found each of {MAX_ATTEMPTS} ports taken that had just been free")

    return start


def _script(name: str, file: str, *options: str) -> Callable[[PeerLoad, int | None], ServerProgram]:
    """Return a function that starts one of the servers in ``servers/``."""
    return lambda _load, cpu: Script(name, file, options, cpu)


def _free_port() -> int:
    """Return a port that is free at the moment."""
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
    """Return a function that finds a program's version in what it prints when given ``option``."""

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

PEERS: Final[tuple[PeerServer, ...]] = (
    PeerServer(
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
        start=lambda load, cpu: LoopbackServer(load.connections, ["--max-backlog", NO_LIMIT], cpu),
    ),
    PeerServer(
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
    PeerServer(
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
    PeerServer(
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
    PeerServer(
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
    PeerServer(
        key="asyncio",
        name="asyncio streams",
        one="plain",
        every="plain-all",
        settings="A line may have 1 MiB; 4,096 connections may wait to be accepted.",
        install="pip install -e .",
        version=platform.python_version,
        start=_script("the asyncio server", "asyncio_broadcast.py"),
    ),
    PeerServer(
        key="uvloop",
        name="asyncio streams on uvloop",
        one="plain",
        every="plain-all",
        settings="The same program as with asyncio, on the other event loop.",
        install="pip install uvloop",
        version=lambda: _package_version("uvloop"),
        start=_script("the uvloop server", "asyncio_broadcast.py", "--uvloop"),
    ),
    PeerServer(
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
    PeerServer(
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
