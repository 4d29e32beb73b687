"""The loop, a turn at a time: what cannot be seen from outside. All else is in test_functional_*."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

import pytest

from rankserver.config import Config
from rankserver.loop import READ_LEAST, UNSENT
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


def test_who_says_bye_while_what_it_left_behind_is_drained_is_closed_once(tmp_path: Path) -> None:
    with closing(Server(Config(2, port=0, unix=str(tmp_path / "socket")))) as server:
        server.listen()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(tmp_path / "socket"))
            sock.sendall(b"HELLO\n")
            while not server._log.clients:
                server._turn()
            server._turn_bytes = READ_LEAST
            command = b"CMD %s\n" % (b"x" * (READ_LEAST // 4 - 5))
            # One turn finds out that it is gone, and the next reads twice: the second time the BYE.
            sock.sendall(b"PING\n" + command * 9 + b"BYE\n" + command * 9)
        while server._channels:
            server._turn()
        server._turn()
        assert server._log.seq == 11  # JOIN, nine commands, LEFT
