"""What the C core does, as plain Python that is easy to believe: the oracle of its tests.

A client's stream is a list of frames in the order in which they are sent. Nothing is shared, nothing
is freed, and every question is answered by looking at the lists.
"""

from __future__ import annotations

from typing import Final

from rankserver import protocol
from rankserver.clist import Fed
from rankserver.exceptions import RemoteProtocolError

COMMAND: Final = b"CMD "


def keeps_text_rule(line: bytes) -> bool:
    """Tell what the Python side of the protocol says about the bytes of a line."""
    try:
        protocol.decode_line(line)
    except RemoteProtocolError:
        return False
    return True


class ModelClient:
    """One client: all frames that it is sent, from the first to the last."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.has_joined = False

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

    def rank(self, client: ModelClient) -> int:
        return self.ranked.index(client) if client in self.ranked else -1

    def join(self, client: ModelClient) -> None:
        client.has_joined = True
        self.ranked.append(client)

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

    def private(self, client: ModelClient, frame: bytes) -> None:
        client.frames.append(frame)

    def append(self, verb: bytes, text: bytes) -> int:
        self.seq += 1
        for client in self.ranked:
            client.frames.append(b"%s %d %s\n" % (verb, self.seq, text))
        return self.seq

    def feed(self, client: ModelClient, data: bytes) -> Fed:
        """Log the commands at the start of ``data``; stop behind the first other line."""
        consumed = 0
        while (end := data.find(b"\n", consumed)) >= 0:
            if end + 1 - consumed > self.max_line:
                return Fed(consumed, None, too_long=True)
            line = data[consumed:end].removesuffix(b"\r")
            consumed = end + 1
            if line.startswith(COMMAND) and line != COMMAND and keeps_text_rule(line):
                self.append(b"CMD", b"%d %s" % (self.rank(client), line.removeprefix(COMMAND)))
            elif line:
                return Fed(consumed, line, too_long=False)
        return Fed(consumed, None, too_long=False)
