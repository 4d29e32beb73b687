"""The ways to reach rankserver: plain TCP, TLS, and a Unix socket; and certificates for TLS."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from tests.abuse.clients import LineClient
from tests.abuse.probe import Probe, probing, trusting
from tests.abuse.subjects import RANK, LoggedServer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from harness import HostPort

TRANSPORTS: Final = ("tcp", "tls", "unix")

# Who attacks: connections that never join, members, and members that have left and stay connected.
ROLES: Final = ("stranger", "member", "former member")

C = TypeVar("C", bound=LineClient)


class Endpoint(NamedTuple):
    """A running server, and how clients reach it over one transport.

    Attributes:
        server: the server. Its own address is that of its TCP port, which has TLS if the transport has.
        address: the address of the transport.
        tls: the clients' context; None without TLS.
    """

    server: LoggedServer
    address: HostPort | str
    tls: ssl.SSLContext | None

    def client(self, make: Callable[..., C], *arguments: Any, **options: Any) -> C:
        """Return ``make(*arguments, address, ...)``, connected over this transport."""
        return make(*arguments, self.address, tls=self.tls, **options)

    def probing(self, *, refuses: bool = False) -> AbstractContextManager[Probe]:
        """Run a probe during a block, over TCP with a Unix socket; see ``probe.probing``."""
        return probing(RANK, self.server.address, tls=self.tls is not None, refuses=refuses)


@contextmanager
def serving(transport: str, clients: int, options: Sequence[str] = ()) -> Iterator[Endpoint]:
    """Run rankserver during the block, reachable over this one of ``TRANSPORTS``."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "socket")
        more = {"tcp": [], "tls": certificate(Path(folder)), "unix": ["--unix", path]}[transport]
        with LoggedServer(clients, [*more, *options]) as server:
            if transport == "unix":
                server.line()
                yield Endpoint(server, path, None)
            else:
                yield Endpoint(server, server.address, trusting() if transport == "tls" else None)


def has_openssl() -> bool:
    """Return whether there is an ``openssl`` command, which makes the certificates."""
    return shutil.which("openssl") is not None


def certificate(folder: Path) -> list[str]:
    """Make a certificate, and return the server's options for it."""
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-subj", "/CN=localhost", "-days", "2", "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    return ["--tls-cert", cert, "--tls-key", key]
