"""A client whose actions are drawn, and which keeps all frames that it has received."""

from __future__ import annotations

import fcntl
import itertools
import socket
import struct
import termios
import time
from collections.abc import Callable
from typing import Final

from rankserver.wire import frames, protocol, ranking
from rankserver.wire.frames import (
    CommandFrame,
    JoinFrame,
    LeftFrame,
    Pong,
    Submit,
    WelcomeFrame,
)
from tests.support.rawclient import READ_SIZE, RawClient
from tests.support.servers import ServerProcess
from tests.support.waiting import BOUND

# Bytes of a receive buffer that fills up soon.
SMALL: Final = 32_768
# The frames of the log.
LogFrame = JoinFrame | LeftFrame | CommandFrame


class RandomClient:
    """A client of the model. Its frames to send wait in an outbox; all received frames are kept.

    Attributes:
        sent: the frames that were sent completely, in order.
        frames: the frames that it has received, in order.
        token: the token that it joins with, if the server has tokens.
    """

    def __init__(
        self, server: ServerProcess, name: str, *, small: bool = False, token: str | None = None
    ) -> None:
        self.raw = RawClient(server.address)
        if small:
            self.raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        self.name = name
        self.token = token
        self.here = True
        self.greeted = False
        self.sent: list[frames.ClientFrame] = []
        self.frames: list[frames.ServerFrame] = []
        self._outbox = b""
        self._partial_sent = b""
        self._partial_received = b""
        self._commands = itertools.count(1)
        # The number of frames that were searched for an ASK to answer.
        self._seen = 0

    # --- its actions ---

    def hello(self) -> None:
        self.greeted = True
        self._outbox += protocol.hello(name=self.name, token=self.token)

    def command(self, *, wants_answer: bool, padding: int) -> None:
        text = f"{self.name} {next(self._commands)} {'x' * padding}"
        self._outbox += protocol.submit(text, wants_answer=wants_answer)

    def answer(self, status: str) -> None:
        """Answer the next ASK of another client, if one has arrived."""
        while self._seen < len(self.frames):
            frame = self.frames[self._seen]
            self._seen += 1
            if isinstance(frame, CommandFrame) and frame.wants_answer and sender(frame) != self.name:
                self._outbox += protocol.result(frame.seq, status)
                return

    def write(self, size: int) -> None:
        """Send the next bytes of the outbox, wherever they end."""
        data, self._outbox = self._outbox[:size], self._outbox[size:]
        self.raw.send(data)
        *lines, self._partial_sent = (self._partial_sent + data).split(b"\n")
        self.sent += [protocol.parse_client_line(line) for line in lines]

    def write_all(self) -> None:
        self.write(len(self._outbox))

    def read(self, size: int, *, wait: bool = False) -> bool:
        """Receive at most ``size`` bytes, waiting only if told to; return False at the end of the stream."""
        self.raw.sock.settimeout(BOUND if wait else 0)
        try:
            data = self.raw.sock.recv(size)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        finally:
            self.raw.sock.settimeout(BOUND)
        *lines, self._partial_received = (self._partial_received + data).split(b"\n")
        self.frames += [parsed(line) for line in lines]
        return bool(data)

    def read_until(self, done: Callable[[], bool]) -> None:
        while not done():
            assert self.read(READ_SIZE, wait=True), f"{self.name} was disconnected"

    def settle(self, mark: str) -> None:
        """Send everything, and receive the log until the server has handled all that was sent."""
        self.write_all()
        self._outbox += protocol.ping(mark)
        self.write_all()
        start = len(self.frames)
        self.read_until(lambda: Pong(mark) in self.frames[start:])

    def wait_until_received(self) -> None:
        """Wait until the server's side has all sent bytes: a reset destroys those still on our side."""
        deadline = time.monotonic() + BOUND
        while struct.unpack("i", fcntl.ioctl(self.raw.sock, termios.TIOCOUTQ, bytes(4))) != (0,):
            assert time.monotonic() < deadline, "the server does not read"

    def leave(self, how: str) -> None:
        self.here = False
        if "bye" in how:
            self._outbox += protocol.leave()
            self.write_all()
        if "half-close" in how:
            self.raw.sock.shutdown(socket.SHUT_WR)
        if how in ("close", "abort"):
            self.wait_until_received()
            self.raw.close() if how == "close" else self.raw.abort()

    def read_to_the_end(self) -> None:
        """Receive all that the server still has for us, after a departure that leaves our side open."""
        if self.raw.sock.fileno() >= 0:
            while self.read(READ_SIZE, wait=True):
                pass
            assert not self._partial_received, f"{self.name}'s stream ends in the middle of a line"

    # --- its state ---

    @property
    def has_joined(self) -> bool:
        # And there is a free place.
        return self.sent[:1] == [frames.Hello(name=self.name, token=self.token)]

    @property
    def rank_class(self) -> int:
        return int(self.token or 0)

    @property
    def welcome(self) -> WelcomeFrame | None:
        return next((frame for frame in self.frames if isinstance(frame, WelcomeFrame)), None)

    @property
    def log(self) -> list[LogFrame]:
        return [frame for frame in self.frames if isinstance(frame, LogFrame)]

    @property
    def dropped(self) -> set[int]:
        """Its asks that the server has forgotten, as it was told."""
        return {frame.seq for frame in self.frames if isinstance(frame, frames.DroppedFrame)}

    @property
    def unsent(self) -> int:
        return len(self._outbox)

    @property
    def submitted(self) -> list[str]:
        return [frame.text for frame in self.sent if isinstance(frame, Submit)]

    def rank_and_clients(self) -> tuple[int, int]:
        """Return the rank and the number of clients that this client derives from its frames."""
        assert self.welcome is not None
        me, n = self.welcome.rank, self.welcome.clients
        for frame in self.log:
            if isinstance(frame, JoinFrame | LeftFrame):
                me, n = (ranking.joined if isinstance(frame, JoinFrame) else ranking.left)(me, n, frame.ranks)
        return me, n


def parsed(line: bytes) -> frames.ServerFrame:
    frame = protocol.parse_server_line(line)
    assert frame is not None, line
    return frame


def sender(frame: CommandFrame) -> str:
    """Return the sender of a command, which its text names."""
    return frame.text.partition(" ")[0]
