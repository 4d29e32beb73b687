"""Cut a stream into lines, whole or byte by byte; a parser must give the same result for both."""

from __future__ import annotations

from rankserver.wire.lines import LineBuffer


def cut(data: bytes, *, bytewise: bool, max_line: int = 1_000) -> list[bytes]:
    """Return the lines of ``data``, which is fed whole or byte by byte."""
    buffer = LineBuffer(max_line)
    pieces = [data[i : i + 1] for i in range(len(data))] if bytewise else [data]
    return [line for piece in pieces for line in buffer.feed(piece)]
