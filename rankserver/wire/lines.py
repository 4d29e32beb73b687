"""Cuts a stream of bytes into lines, whether they come from a peer, a program or a person."""

from __future__ import annotations

from collections.abc import Iterator

from rankserver.wire.codes import TOO_LONG
from rankserver.wire.exceptions import RemoteProtocolError


class LineBuffer:
    """Cuts a stream of bytes into lines, in whatever pieces it arrives.

    Each byte is copied a constant number of times, however small the pieces are.

    Args:
        max_line: the most bytes in a line, LF included.
    """

    def __init__(self, max_line: int) -> None:
        self.max_line = max_line
        self._begun = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add ``data`` and return the lines that are complete, without LF and CR, empty ones left out.

        Raises:
            RemoteProtocolError: ``too-long``, once a line has more than ``max_line`` bytes, its LF included.
        """
        return list(self.cut(data))

    def cut(self, data: bytes) -> Iterator[bytes]:
        """Add ``data`` and yield what ``feed`` returns, raising only behind the lines before a long one.

        A change of ``max_line`` between two lines applies from the second on, and to data of later calls.
        """
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = bytes(self._begun) + lines[0]
            self._begun = bytearray(rest)
        else:
            self._begun += rest
        for line in lines:
            if len(line) >= self.max_line:
                raise self._too_long()
            if stripped := line.removesuffix(b"\r"):
                yield stripped
        if len(self._begun) > self.max_line:
            raise self._too_long()

    def _too_long(self) -> RemoteProtocolError:
        return RemoteProtocolError(TOO_LONG, f"a line is longer than {self.max_line} bytes")
