"""What the C core does, as plain Python that is easy to believe: the oracle of its tests.

A client's stream is a list of frames in the order in which they are sent, and its input is all bytes of it
that are not done with. Nothing is shared, nothing is freed, and every question is answered by looking at
the lists.
"""

from __future__ import annotations

from typing import Final

from rankserver.wire import protocol
from rankserver.wire.exceptions import RemoteProtocolError

COMMAND: Final = b"CMD "
UNRANKED_BYTES: Final = 65_536  # what is read and kept of a client before it joins


def keeps_text_rule(line: bytes) -> bool:
    """Tell what the Python side of the protocol says about the bytes of a line."""
    try:
        protocol.decode_line(line)
    except RemoteProtocolError:
        return False
    return True


def is_command(line: bytes) -> bool:
    """Tell whether the core logs this line of a ranked client by itself."""
    return line.startswith(COMMAND) and line != COMMAND and keeps_text_rule(line)


class ModelClient:
    """One client: all frames that it is sent, from the first to the last, and what it sent itself."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.input = b""
        self.rank_class = 0
        self.has_joined = False
        self.is_set_aside = False
        self.is_ignored = False
        self.is_muted = False
        self.last_line = b""  # that was handed over, as it came

    @property
    def stream(self) -> bytes:
        """All bytes of the frames."""
        return b"".join(self.frames)


class ModelLog:
    """The ranked list is a list, and logging copies the frame to everybody in it."""

    def __init__(self, max_line: int) -> None:
        self.max_line = max_line
        self.seq = 0
        self.ranked: list[ModelClient] = []
        self.on_hold = False
        self.reader: ModelClient | None = None  # the one that was read last

    def rank(self, client: ModelClient) -> int:
        return self.ranked.index(client) if client in self.ranked else -1

    def join(self, client: ModelClient, rank_class: int = 0) -> None:
        client.has_joined = True
        client.rank_class = rank_class
        self.ranked.append(client)
        self.ranked.sort(key=lambda member: member.rank_class)

    def retire(self, client: ModelClient) -> None:
        self.ranked.remove(client)

    def cut(self, client: ModelClient, sent: int) -> None:
        """Retire a client that got ``sent`` bytes so far: no frame begins after them."""
        self.ranked.remove(client)
        begins = 0
        for count, frame in enumerate(client.frames):
            if begins >= sent:
                del client.frames[count:]
                break
            begins += len(frame)

    def mute(self, client: ModelClient, sent: int) -> None:
        """Send no more to a client that got ``sent`` bytes so far."""
        client.frames = [client.stream[:sent]]
        client.is_muted = True

    def private(self, client: ModelClient, frame: bytes) -> None:
        if not client.is_muted:
            client.frames.append(frame)

    def append(self, verb: bytes, text: bytes) -> int:
        self.seq += 1
        for client in self.ranked:
            self.private(client, b"%s %d %s\n" % (verb, self.seq, text))
        return self.seq

    # --- what clients send ---

    def take(self, client: ModelClient, data: bytes) -> None:
        assert not client.is_set_aside
        self.reader = client
        if not client.is_ignored:
            client.input += data

    def next_line(self, client: ModelClient) -> bytes | None:
        """Log the commands at the start of the input; stop behind the first other line."""
        if client is not self.reader or client.is_set_aside:
            return None
        while (end := client.input.find(b"\n")) >= 0:
            if end + 1 > self.longest_line(client):
                raise self._too_long(client)
            client.last_line = client.input[: end + 1]
            line = client.input[:end].removesuffix(b"\r")
            client.input = client.input[end + 1 :]
            if client in self.ranked and not self.on_hold and is_command(line):
                self.append(b"CMD", b"%d %s" % (self.rank(client), line.removeprefix(COMMAND)))
            elif line:
                return line
        if len(client.input) >= self.longest_line(client):
            raise self._too_long(client)
        return None

    def unread(self, client: ModelClient) -> None:
        client.input = client.last_line + client.input

    def longest_line(self, client: ModelClient) -> int:
        return self.max_line if client.has_joined else min(self.max_line, UNRANKED_BYTES)

    def set_aside(self, client: ModelClient) -> None:
        client.is_set_aside = bool(client.input)

    def resume(self, client: ModelClient) -> None:
        client.is_set_aside = False
        self.reader = client

    def ignore(self, client: ModelClient) -> None:
        client.input = b""
        client.is_set_aside = False
        client.is_ignored = True

    def _too_long(self, client: ModelClient) -> RemoteProtocolError:
        return RemoteProtocolError(
            protocol.TOO_LONG, f"a line is longer than {self.longest_line(client)} bytes"
        )
