"""The loop, a turn at a time: what cannot be seen from outside. All else is in test_functional_*."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from rankserver.config import Config
from rankserver.loop import UNSENT
from rankserver.server import Server
from tests.support import BOUND


def test_many_private_frames_for_one_client_do_not_all_wait_for_the_end_of_the_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with closing(Server(Config(1, port=0))) as server:
        port = int(server.listen()[0].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), BOUND) as sock, sock.makefile("rb") as stream:
            sock.sendall(b"HELLO\n")
            while not server._log.clients:
                server._turn()
            assert stream.readline().startswith(b"INFO ")
            assert stream.readline().startswith(b"WELCOME ")
            sock.sendall(b"PING\n" * (UNSENT + 1))
            with monkeypatch.context() as patch:
                patch.setattr(server, "_flush_all", lambda: None)
                server._turn()
            assert sock.recv(UNSENT * 100) == b"PONG\n" * UNSENT
            server._flush_all()
            assert sock.recv(UNSENT * 100) == b"PONG\n"
