"""The time that parsing a line takes at most: the bound that the server's turns rely on.

The bound is meant to be 50 ns a byte. A slow or busy machine must make no difference, so a line is compared
with something else that is done to each of its bytes, in the same process and at the same time.
"""

from __future__ import annotations

import contextlib
import gc
import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from fuzz import grammar
from fuzz.python import FailureError
from rankserver.wire import protocol
from rankserver.wire.exceptions import RemoteProtocolError

# Parsing a line from a client may take at most this many times as long as adding up its bytes, at some 5 ns a
# byte.
MAX_SUMS: Final = 10
# The same for a line from a server. It may take longer, because its fractions, ranks and names become values,
# and a client has only one server.
MAX_SERVER_SUMS: Final = 40
# The cost of any line, however short, as a number of bytes that are added up in the same time.
LINE_BYTES: Final = 4096
# The most times that a line is measured before it counts as too expensive: other programs that run meanwhile
# make it slower.
MAX_ATTEMPTS: Final = 20


class Direction(NamedTuple):
    """One direction of the protocol.

    Attributes:
        parse: parses a line.
        heads: what its lines begin with.
        max_sums: how many times as long as adding up the bytes of a line parsing it may take.
    """

    parse: Callable[[bytes], object]
    heads: Sequence[bytes]
    max_sums: int


FROM_CLIENT: Final = Direction(protocol.parse_client_line, grammar.CLIENT_HEADS, MAX_SUMS)
FROM_SERVER: Final = Direction(protocol.parse_server_line, grammar.SERVER_HEADS, MAX_SERVER_SUMS)


def parse(rng: random.Random) -> bytes:
    """Parse one long line, in either direction; return it.

    Raises:
        FailureError: that takes too long.
    """
    direction = rng.choice((FROM_CLIENT, FROM_SERVER))
    line = grammar.long_line(rng, direction.heads)
    check(direction, line)
    return line


def check(direction: Direction, line: bytes) -> None:
    """Check that parsing the line stays within the bound.

    Raises:
        FailureError: it does not.
    """
    taken = allowed = math.inf
    for _ in range(MAX_ATTEMPTS):
        taken = min(taken, seconds(direction.parse, line))
        allowed = min(allowed, direction.max_sums * seconds(sum, line + bytes(LINE_BYTES)))
        if taken <= allowed:
            return
    each, allowed = taken / len(line) * 1e9, allowed / len(line) * 1e9
    raise FailureError(f"it takes {each:.0f} ns a byte; {allowed:.0f} are allowed\ninput: {line.hex()}")


def seconds(function: Callable[[bytes], object], line: bytes) -> float:
    """Return the seconds of CPU time that a call takes; a line that is rejected counts as well.

    Python's search for cycles is left out, because the server hardly ever does it.
    """
    gc.disable()
    begin = time.thread_time()
    try:
        with contextlib.suppress(RemoteProtocolError):
            function(line)
        return time.thread_time() - begin
    finally:
        gc.enable()
