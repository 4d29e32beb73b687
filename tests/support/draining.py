"""Reading all that waits for a cursor, without a socket."""

from __future__ import annotations

from rankserver.clist import Cursor


def drain(cursor: Cursor) -> bytes:
    """Return all bytes that wait for a cursor, and advance it past them."""
    data = b""
    while spans := cursor.peek():
        piece = b"".join(spans)
        data += piece
        cursor.advance(len(piece))
    return data
