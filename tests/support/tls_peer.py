"""TLS for tests: certificates, and the client's side of a connection.

The client's side is not ``ssl.SSLSocket``, which can neither close only its sending side nor distinguish an
end that the peer announced (close_notify) from one that an attacker may have forged.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from pathlib import Path
from typing import Any, Final, NamedTuple

import trustme

HOST: Final = "127.0.0.1"
RECORD: Final = 16_384


class TlsAddress(NamedTuple):
    """The address of a server with TLS, and the certificates for its clients."""

    host: str
    port: int
    context: ssl.SSLContext


class Certificates:
    """An authority and a certificate that it issued for the server, as files in a directory.

    Attributes:
        options: the server's command-line options for these files.
        client: the context of a client that trusts the authority.
    """

    def __init__(self, directory: Path) -> None:
        self._authority = trustme.CA()
        self.ca = directory / "ca.pem"
        self.cert = directory / "server.pem"
        self.key = directory / "server.key"
        self._authority.cert_pem.write_to_path(str(self.ca))
        self.renew()
        self.options = ("--tls-cert", str(self.cert), "--tls-key", str(self.key))
        self.client = self.context()

    def renew(self, *others: str) -> None:
        """Replace the server's certificate by a new one, which is also valid for ``names``."""
        self._write(self._authority.issue_cert(HOST, "localhost", *others))

    def name_as_of_old(self, name: str) -> None:
        """Replace the server's certificate by one that has a name only as its common name."""
        self._write(self._authority.issue_cert(common_name=name))

    def _write(self, made: trustme.LeafCert) -> None:
        self.key.unlink(missing_ok=True)
        self.key.touch(mode=0o600)
        made.private_key_pem.write_to_path(str(self.key))
        made.cert_chain_pems[0].write_to_path(str(self.cert))

    def keys_of_others(self, directory: Path) -> list[Path]:
        """Write keys that belong to other certificates, one of each kind, and return the files."""
        paths = []
        for kind in trustme.KeyType:
            paths.append(directory / f"{kind.name}.key")
            made = self._authority.issue_cert(HOST, key_type=kind)
            made.private_key_pem.write_to_path(str(paths[-1]))
        return paths

    def context(self, *, identity: str | None = None) -> ssl.SSLContext:
        """Return a client context that trusts the authority, with a certificate for ``identity`` if given."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if identity is not None:
            self._authority.issue_cert(identity).configure_cert(context)
        return context


class TlsSocket:
    """A socket with TLS, as far as tests use one; everything else is delegated to the plain socket.

    Attributes:
        plain: the socket below.
        said_goodbye: whether the peer has announced the end of its stream.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str = HOST) -> None:
        self.plain = sock
        self.said_goodbye = False
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        # Decrypted bytes that were not returned yet.
        self._received = b""
        # One thread may send while another receives.
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def handshake(self) -> None:
        """Do the handshake, within the socket's timeout."""
        while not self._shakes_hands():
            data = self.plain.recv(RECORD)
            if not data:
                raise ConnectionResetError("the server closed in the handshake")
            self._incoming.write(data)

    def _shakes_hands(self) -> bool:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self._flush()
        return True

    def sendall(self, data: bytes) -> None:
        self.plain.sendall(self.encrypted(data))

    def encrypted(self, data: bytes) -> bytes:
        """Return the records that ``sendall`` would send."""
        with memoryview(data) as view, self._lock:
            done = 0
            while done < len(data):
                done += self.tls.write(view[done : done + RECORD])
            return self._outgoing.read()

    def recv(self, size: int, flags: int = 0) -> bytes:
        while not self._received and not self.said_goodbye:
            data = self.plain.recv(max(size, RECORD))
            if not data:
                return b""
            with self._lock:
                self._incoming.write(data)
                self._decrypt()
        data = self._received[:size]
        if not flags & socket.MSG_PEEK:
            self._received = self._received[size:]
        return data

    def shutdown(self, how: int) -> None:
        """Announce the end of our stream, and close the sending side."""
        if how == socket.SHUT_WR:
            self.plain.sendall(self.goodbye())
        self.plain.shutdown(how)

    def goodbye(self) -> bytes:
        """Return the record (close_notify) that announces the end of our stream."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self._outgoing.read()

    def _decrypt(self) -> None:
        try:
            while part := self.tls.read(RECORD):
                self._received += part
            self.said_goodbye = True
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLZeroReturnError:
            self.said_goodbye = True

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self.plain.sendall(data)


class SlowHandshake:
    """A client whose test decides how slowly its side of the handshake is sent."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self.tls = TlsSocket(sock, context)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.tls.do_handshake()
        self.hello = self.tls._outgoing.read()

    def finish(self, more: bytes = b"") -> bytes:
        """Read the server's part of the handshake; return ours, followed by ``more``."""
        while True:
            data = self.sock.recv(RECORD)
            if not data:
                raise ConnectionResetError("the server closed in the handshake")
            self.tls._incoming.write(data)
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.tls.do_handshake()
                finished = self.tls._outgoing.read()
                return finished + self.tls.encrypted(more)


def old_version(version: ssl.TLSVersion) -> ssl.SSLContext:
    """Return a client context that speaks only this version of TLS and trusts any server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = version
    return context


def write_private(path: Path, text: str) -> Path:
    """Write a file that only its owner may read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(text)
    return path
