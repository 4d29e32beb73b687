"""Rows: secrets that must not reach the server's log, a network, or the commands that an agent executes."""

from __future__ import annotations

import os
import secrets
import select
import signal
import socket
import ssl
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness import Program

from tests.abuse import agents
from tests.abuse.clients import MAX_READ, MAX_WAIT, LineClient, read_all
from tests.abuse.outcome import RowOutcome
from tests.abuse.subjects import RANK, LoggedServer
from tests.abuse.transports import certificate

if TYPE_CHECKING:
    from tests.abuse.subjects import Subject

# What strangers send by mistake, with a secret in place of SECRET.
SHAPES: Final = {
    "without a space": b'HELLO{"token":"SECRET"}\n',
    "alone": b"SECRET\n",
    "as a verb": b"SECRET x\n",
    "in lower case": b'hello {"token":"SECRET"}\n',
    "as a name": b'HELLO {"name":"SECRET"}\n',
    "as a name of a wrong type": b'HELLO {"name":["SECRET"]}\n',
    "as a name that is too long": b'HELLO {"name":"SECRETSECRETSECRETSECRET"}\n',
    "as the version": b'HELLO {"proto":"SECRET"}\n',
    "with a wrong version": b'HELLO {"proto":2,"token":"SECRET"}\n',
    "as a list": b'HELLO {"token":["SECRET"]}\n',
    "as an object": b'HELLO {"token":{"SECRET":1}}\n',
    "as a field": b'HELLO {"SECRET":1,"proto":0}\n',
    "as a text": b'HELLO "SECRET"\n',
    "as JSON": b"HELLO SECRET\n",
    "without an end": b'HELLO {"token":"SECRET\n',
    "with more behind it": b'HELLO {"token":"SECRET"} x\n',
    "as a session": b'HELLO {"resume":{"session":"SECRET","seq":1}}\n',
    "as a session and token": b'HELLO {"token":"SECRET","resume":{"session":"SECRET","seq":1}}\n',
    "as the place of a session": b'HELLO {"resume":{"session":"x","seq":"SECRET"}}\n',
    "as a command": b"CMD SECRET\n",
    "as an answer": b"RES SECRET ok\n",
    "in a PING": b"PING SECRET\n",
    "not in UTF-8": b'HELLO {"token":"SECRET\xff"}\n',
    "with an escape": b'HELLO {"token":"SECRET\x1b"}\n',
    "in a wrong token": b'HELLO {"token":"SECRETx"}\n',
    "over HTTP": b"GET /?token=SECRET HTTP/1.1\r\nAuthorization: Bearer SECRET\r\n\r\n",
    "without a line end": b'HELLO {"token":"SECRET"}',
    "very often": b"SECRET" * 4000 + b"\n",
}

# The length of a part of a secret that must not appear.
PART: Final = 6

# Seconds in which a client would send its token without waiting for the banner.
SILENCE: Final = 0.5

BANNER: Final = b'INFO {"proto":1,"server":"x","max_line":65536,"auth":true,"capacity":8}\n'


def log_secrets(_subject: Subject) -> RowOutcome:
    """Send secrets in all shapes, and search the log for them, as text and as JSON."""
    outcome = RowOutcome()
    lines = leaks = 0
    for log_format in ("text", "json"):
        found, count = _leaked(log_format)
        outcome.check(not found, f"the log ({log_format}) has the secret {', '.join(found)}")
        lines, leaks = lines + count, leaks + len(found)
    outcome.figure = f"{2 * len(SHAPES)} secrets sent, {leaks} of them in {lines} lines of log"
    return outcome


def _leaked(log_format: str) -> tuple[list[str], int]:
    """Return the shapes whose secrets are in the log, and how many lines it has."""
    sent = {shape: secrets.token_urlsafe(12) for shape in SHAPES}
    with tempfile.TemporaryDirectory() as folder:
        options = ["--log-level", "debug", "--log-format", log_format]
        options += ["--token-file", str(_private(Path(folder) / "tokens", "\n".join(sent.values())))]
        with LoggedServer(64, options) as server:
            clients = [
                LineClient(RANK, server.address, hello=data.replace(b"SECRET", sent[shape].encode()))
                for shape, data in SHAPES.items()
            ]
            for client in clients:
                with suppress(OSError):
                    client.send(client.hello)
                    client.sock.shutdown(socket.SHUT_WR)
            read_all(clients, lambda: False)
            server.signal(signal.SIGTERM)
            server.wait()
            log = server.log().decode()
    found = [shape for shape, secret in sent.items() if any(part in log for part in _parts(secret))]
    return found, log.count("\n")


def _parts(secret: str) -> list[str]:
    return [secret[begin : begin + PART] for begin in range(len(secret) - PART + 1)]


def _private(path: Path, text: str) -> Path:
    """Write a file that only its owner may read."""
    path.touch(mode=0o600)
    path.write_text(text + "\n")
    return path


# --- the client -------------------------------------------------------------------------------


def client_secrets(_subject: Subject) -> RowOutcome:
    """Try to make the real client send its token, or show its environment, where it must not."""
    outcome = RowOutcome()
    with tempfile.TemporaryDirectory() as name:
        folder, token = Path(name), secrets.token_urlsafe(12)
        attempts = {
            "without TLS to a network address": _sends_over_a_network(folder, token),
            "before the banner": _sends_before_the_banner(folder, token),
            "from a file that others may read": _sends_from_an_open_file(folder, token),
            "to a certificate without a name for it": _sends_to_an_old_certificate(folder, token),
            "from its environment to its commands": _shows_its_environment(token),
        }
    for what, leaks in attempts.items():
        outcome.check(not leaks, f"it sends its secret {what}")
    leaked = [what for what, leaks in attempts.items() if leaks]
    possible = sum(leaks is not None for leaks in attempts.values())
    outcome.figure = f"{possible - len(leaked)} of {possible} secrets kept" + "".join(
        f"; sent {what}" for what in leaked
    )
    return outcome


def _sends_over_a_network(folder: Path, token: str) -> bool | None:
    """Try an address of this machine other than the loopback's; None if it has none."""
    host = _own_address()
    return None if host is None else token.encode() in _sent(folder, token, host=host)


def _sends_before_the_banner(folder: Path, token: str) -> bool:
    return bool(_sent(folder, token, banner=b""))


def _sends_from_an_open_file(folder: Path, token: str) -> bool:
    return token.encode() in _sent(folder, token, mode=0o644)


def _sends_to_an_old_certificate(folder: Path, token: str) -> bool:
    """Try a server whose certificate names it only in the field that is no longer used for that (CN)."""
    options = certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options[1], options[3])
    return token.encode() in _sent(
        folder, token, "--tls", "--tls-ca", options[1], host="localhost", tls=context
    )


def _shows_its_environment(secret: str) -> bool:
    """Let an agent execute a command that looks at the environment of its parent."""
    with (
        RANK.start(8) as server,
        agents.commanding(server, environment=[f"AGENT_SECRET={secret}"]) as boss,
    ):
        agents.begin(boss, "cat /proc/$PPID/environ; echo done")
        told = agents.answer(boss)
    return secret.encode() in told or b"done" not in told


def _own_address() -> str | None:
    """Return an address of this machine that is not the loopback's. Nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, suppress(OSError):
        sock.connect(("192.0.2.1", 9))
        return str(sock.getsockname()[0])
    return None


def _sent(
    folder: Path,
    token: str,
    *options: str,
    host: str = "127.0.0.1",
    banner: bytes = BANNER,
    mode: int = 0o600,
    tls: ssl.SSLContext | None = None,
) -> bytes:
    """Return what the client sends to a server that needs a token, or before it ends without connecting."""
    path = _private(folder / "token", token)
    path.chmod(mode)
    with socket.create_server((host, 0)) as listener:
        where = f"{host}:{listener.getsockname()[1]}"
        command = [sys.executable, "-m", "client", where, "--token-file", str(path), "-c", "x", *options]
        with tempfile.TemporaryFile() as output, Program("the client", command, output=output) as client:
            with os.fdopen(os.pidfd_open(client.pid), "rb", buffering=0) as process:
                descriptors = [listener.fileno(), process.fileno()]
                ready, _, _ = select.select(descriptors, [], [], MAX_WAIT)
            return _received(listener, banner, tls) if descriptors[0] in ready else b""


def _received(listener: socket.socket, banner: bytes, tls: ssl.SSLContext | None) -> bytes:
    """Accept a connection, send the banner, and return what comes in the first line."""
    sock, _ = listener.accept()
    sock.settimeout(MAX_WAIT if banner else SILENCE)
    data = b""
    with suppress(OSError), tls.wrap_socket(sock, server_side=True) if tls else sock as stream:
        stream.sendall(banner)
        while b"\n" not in data and (part := stream.recv(MAX_READ)):
            data += part
    sock.close()
    return data
