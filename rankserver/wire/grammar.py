"""The grammar of lines and of their single fields: the text rule, names, numbers and lists of ranks.

What is wrong with a line from a client is said without repeating any of its values, because the message also
goes to the server's log, and a client may send its token in the wrong place.

Source of every rule: docs/protocol.md.
"""

from __future__ import annotations

import re
from typing import Final

from rankserver.wire import codes
from rankserver.wire.exceptions import RemoteProtocolError

# The largest number of digits that a signed 64-bit number can have.
MAX_NUMBER_DIGITS: Final = 19
# The largest number of that many digits.
MAX_NUMBER: Final = 10**MAX_NUMBER_DIGITS - 1
# The most clients of one server, far more than one process can serve. A client keeps a bit for each of them
# for every ASK, so their number must be bounded.
MAX_CLIENTS: Final = 1_000_000
# The most characters of a bad value that an error message repeats.
MAX_SHOWN: Final = 64

NOT_A_NAME: Final = "is not 1 to 64 characters of A-Z a-z 0-9 . _ : @ -"

_NAME: Final = re.compile(r"[A-Za-z0-9._:@-]{1,64}")
# The characters up to U+00FF that the text rule allows, a byte each.
_ALLOWED: Final = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0xA0, 0x100))


def bad_frame(text: str) -> RemoteProtocolError:
    """Return the error that a frame from the other side deserves, with what is wrong."""
    return RemoteProtocolError(codes.BAD_FRAME, text)


# --- the text rule ----------------------------------------------------------------------------


def decode_line(line: bytes) -> str:
    """Decode one line (without its LF) and check the text rule.

    Raises:
        RemoteProtocolError: ``bad-frame``, for invalid UTF-8 or a control character other than TAB.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise bad_frame(f"the byte at offset {error.start} is not valid UTF-8") from None
    if not text.isprintable() and (problem := text_problem(text)):
        raise bad_frame(problem)
    return text


def text_problem(text: str) -> str | None:
    """Return what in ``text`` breaks the text rule, as one line for a person, or None. O(len(text))."""
    # Printable text has no control characters, and hardly any text is not printable.
    if text.isprintable():
        return None
    controls = text.encode("latin-1", "ignore").translate(None, _ALLOWED)
    if not controls:
        return None
    position = text.index(chr(controls[0]))
    return f"control character U+{controls[0]:04X} at position {position}; only TAB is allowed"


def is_name(text: str) -> bool:
    """Tell whether ``text`` may be a client's name."""
    return _NAME.fullmatch(text) is not None


def shown(text: str) -> str:
    """Return ``text`` quoted, in ASCII and shortened, for use in an error message."""
    quoted = ascii(text[: MAX_SHOWN + 1])
    return quoted if len(quoted) <= MAX_SHOWN + 2 else quoted[:MAX_SHOWN] + "..."


# --- numbers and ranks ------------------------------------------------------------------------


def parse_number(what: str, text: str) -> int:
    """Parse a decimal number that fits 64 bits; ``what`` names it in the message.

    Raises:
        RemoteProtocolError: ``bad-frame`` if it is anything else.
    """
    if not (len(text) <= MAX_NUMBER_DIGITS and text.isascii() and text.isdecimal()):
        raise bad_frame(f"{what} is not a number of at most {MAX_NUMBER_DIGITS} digits")
    return int(text)


def parse_ranks(text: str) -> list[range]:
    """Parse ``0,3,7-9`` into ascending spans of ranks. O(len(text)), however many ranks there are.

    Raises:
        RemoteProtocolError: ``bad-frame`` if it is anything but ascending ranks and ranges.
    """
    spans: list[range] = []
    least = 0
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low = high = parse_number("rank", first)
        if dash:
            high = parse_number("rank", last)
        if high < low or low < least:
            raise bad_frame(f"ranks {shown(text)} do not ascend")
        if high >= MAX_CLIENTS:
            raise bad_frame(f"rank {high} is not below {MAX_CLIENTS}")
        least = high + 1
        spans.append(range(low, least))
    return spans
