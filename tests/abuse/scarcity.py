"""Row: strangers while there is hardly any memory left."""

from __future__ import annotations

import re
import resource
import socket
import ssl
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from harness import BenchmarkError

from tests.abuse.clients import LineClient, pass_time
from tests.abuse.outcome import MIB, RowOutcome
from tests.abuse.probe import trusting
from tests.abuse.subjects import RANK
from tests.abuse.transports import TRANSPORTS, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from harness import HostPort, ServerProgram

    from tests.abuse.subjects import Subject

# The members that must stay.
MEMBERS: Final = 3

# The bytes that a stranger sends without ending its line, which the server has to keep.
KEPT: Final = 60_000

# Seconds in which the server handles what the strangers have sent.
SETTLE: Final = 0.3

# Seconds that a member waits for a command.
PATIENCE: Final = 10.0


class Scarcity(NamedTuple):
    """Strangers that connect over a transport while a server may allocate only ``spare`` bytes more."""

    transport: str
    spare: int
    strangers: int

    def __str__(self) -> str:
        return f"{self.strangers} strangers, {self.transport}, {self.spare // 1024:,} KiB"


# From no memory at all to more than a reserve.
SCARCITIES: Final = tuple(
    Scarcity(transport, spare, strangers)
    for transport, spare, strangers in product(
        TRANSPORTS, [0, MIB // 4, MIB, 2 * MIB, 4 * MIB, 6 * MIB, 8 * MIB, 12 * MIB], [90, 580]
    )
)


def scarce_memory(subject: Subject, scarcities: Sequence[Scarcity] = SCARCITIES) -> RowOutcome:
    """Let strangers connect while the server's address space is limited, and count surviving members."""
    outcome = RowOutcome()
    ends: list[str] = []
    lost = shut = 0
    if subject is not RANK:
        scarcities = [scarcity for scarcity in scarcities if scarcity.transport == "tcp"]
    for scarcity in scarcities:
        try:
            kept, is_open = _survivors(subject, scarcity)
        except BenchmarkError as error:
            ends.append(str(error))
            outcome.check(False, f"{scarcity}: {error}")
            continue
        lost += MEMBERS - kept
        shut += not is_open
        outcome.check(kept == MEMBERS, f"{scarcity}: {MEMBERS - kept} of {MEMBERS} members were lost")
        outcome.check(is_open, f"{scarcity}: nobody could join afterwards")
    outcome.figure = (
        f"{len(scarcities)} times: the server ended {len(ends)} times, {lost} members were lost, and "
        f"{shut} times nobody could join afterwards"
    )
    return outcome


def _survivors(subject: Subject, scarcity: Scarcity) -> tuple[int, bool]:
    """Return how many members have stayed and got every command, and whether others can join afterwards.

    Raises:
        BenchmarkError: if the server ended.
    """
    with ExitStack() as stack:
        if subject is RANK:
            endpoint = stack.enter_context(serving(scarcity.transport, 1000))
            server: ServerProgram = endpoint.server
            connect = partial(endpoint.client, LineClient, subject)
            address = endpoint.address
        else:
            server = stack.enter_context(subject.start(1000))
            connect = partial(LineClient, subject, server.address)
            address = server.address
        members = [stack.enter_context(connect()) for _ in range(MEMBERS)]
        sender = stack.enter_context(connect(hello=subject.sending))
        for client in (*members, sender):
            client.sock.settimeout(PATIENCE)
            client.join()
        limit = _address_space(server.pid) + scarcity.spare
        resource.prlimit(server.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        with _strangers(server, address, scarcity):
            _command(sender, b"#scarce")
        resource.prlimit(server.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        _command(sender, b"#plenty")
        kept = sum(_gets(member, [b"#scarce", b"#plenty"]) for member in members)
        pass_time(server, 0)
        return kept, _can_join(connect)


@contextmanager
def _strangers(server: ServerProgram, address: HostPort | str, scarcity: Scarcity) -> Iterator[None]:
    """Let strangers connect and send what the server has to keep; they leave at the end of the block.

    None of them waits for the server, which may have stopped accepting connections.
    """
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    data = _client_hello() if scarcity.transport == "tls" else b"HELLO " + b"x" * KEPT
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.socket(family)) for _ in range(scarcity.strangers)]
        for sock in socks:
            sock.setblocking(False)
            with suppress(OSError):
                sock.connect(address)
        pass_time(server, SETTLE)
        for sock in socks:
            with suppress(OSError):
                sock.send(data)
        pass_time(server, SETTLE)
        yield


def _client_hello() -> bytes:
    """Return the first record of a TLS handshake, which makes the server compute and keep its answer."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        trusting().wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


def _command(sender: LineClient, text: bytes) -> None:
    """Send a command; the server may have dropped the sender."""
    with suppress(OSError):
        sender.command(text)


def _gets(member: LineClient, texts: Sequence[bytes]) -> bool:
    """Return whether these are the commands that a member gets."""
    while len(member.texts) < len(texts) and not member.ended:
        member.read()
    return member.texts == list(texts)


def _can_join(connect: Callable[[], LineClient]) -> bool:
    """Return whether a newcomer becomes a member."""
    with suppress(OSError, BenchmarkError), connect() as client:
        client.join()
        return True
    return False


def _address_space(pid: int) -> int:
    """Return the address space of a process in bytes (VmSize in proc_pid_status(5))."""
    found = re.search(r"VmSize:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise BenchmarkError(f"process {pid} has ended")
    return int(found[1]) * 1024
