"""Cuts a stream of bytes into lines, whether they come from a peer, a program or a person."""

from __future__ import annotations

from rankserver.wire.codes import TOO_LONG
from rankserver.wire.exceptions import RemoteProtocolError


class LineBuffer:
    """Cuts a stream of bytes into lines, in whatever pieces it arrives.

    Each byte is copied a constant number of times, however small the pieces are.
    """

    def __init__(self, max_line: int) -> None:
        self.max_line = max_line
        self._begun = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add ``data`` and return the lines that are complete, without LF and CR, empty ones left out.

        Raises:
            RemoteProtocolError: ``too-long``, once a line has more than ``max_line`` bytes, its LF included.
        """
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = bytes(self._begun) + lines[0]
            self._begun = bytearray(rest)
        else:
            self._begun += rest
        longest = max(len(self._begun), max(map(len, lines), default=-1) + 1)
        if longest > self.max_line:
            raise RemoteProtocolError(TOO_LONG, f"a line is longer than {self.max_line} bytes")
        return [stripped for line in lines if (stripped := line.removesuffix(b"\r"))]
