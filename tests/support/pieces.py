"""Cuts a stream into lines, whole or byte by byte: what a parser makes of it must be the same."""

from __future__ import annotations

from rankserver.wire.lines import LineBuffer


def cut(data: bytes, *, bytewise: bool, max_line: int = 1_000) -> list[bytes]:
    """Cut ``data`` into lines, giving it whole or byte by byte."""
    buffer = LineBuffer(max_line)
    pieces = [data[i : i + 1] for i in range(len(data))] if bytewise else [data]
    return [line for piece in pieces for line in buffer.feed(piece)]
